"""The ground: gradients, Hessian products and eigenvalues of any loss of a module, and flows."""

import warnings

import numpy as np
import pytest
import torch
from laws import assert_close, assert_order
from reference import dynamics as reference
from reference.dynamics import ONE, START
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.utils.checkpoint import checkpoint

from geocollapse import dynamics
from geocollapse.dynamics import gradient, hessian_vector_product, landscape, sharpness
from geocollapse.dynamics.eigenvalues import dense_hessian
from geocollapse.estimate import GeocollapseWarning
from landscapes import (
    Point,
    Tilted,
    cross_entropy,
    loss_of,
    mlp,
    random_tree,
    resnet,
    text_classifier,
    tree_of,
    vector,
    vision_transformer,
)

METHODS = ("double_backward", "forward_over_reverse", "finite_difference")
MODELS = {"mlp": mlp, "vit": vision_transformer, "text": text_classifier}


def state_of(model):
    """Everything of a model and of torch that must be as before."""
    named = [(n, t.detach().clone()) for n, t in model.state_dict().items()]
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    return named, flags, [m.training for m in model.modules()], torch.get_rng_state()


def assert_same_state(before, after):
    for (name, a), (other, b) in zip(before[0], after[0], strict=True):
        assert name == other
        assert torch.equal(a, b)
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])


def test_gradient_is_the_one_derived_by_hand():
    found = gradient(Point(), loss_of(ONE))
    assert_close(vector(found), ONE.gradient(START))


@pytest.mark.parametrize("method", METHODS)
def test_hessian_product_is_the_one_derived_by_hand(method):
    v = np.array([1.0, -2.0, 0.5])
    found = hessian_vector_product(Point(), loss_of(ONE), tree_of(v), method=method)
    assert_close(vector(found), ONE.hessian(START) @ v, rtol=1e-8)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS[1:])
def test_methods_agree(name, method):
    model, loss = MODELS[name]()
    v = random_tree(model)
    expected = vector(hessian_vector_product(model, loss, v))
    found = vector(hessian_vector_product(model, loss, v, method=method))
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_methods_agree_with_batch_normalisation(batch_norm):
    model, loss = resnet()
    v = random_tree(model)
    a, b = (
        vector(hessian_vector_product(model, loss, v, method=method, batch_norm=batch_norm))
        for method in METHODS[:2]
    )
    assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a)


def test_batch_normalisation_in_training_mode_is_refused():
    model, loss = resnet()
    with pytest.raises(RuntimeError, match="no batch normalisation in training mode.*running"):
        gradient(model, loss)
    model.eval()
    assert gradient(model, loss)
    with pytest.raises(ValueError, match="batch_norm: expected 'refuse', 'running' or 'batch'"):
        gradient(model, loss, batch_norm="train")


def test_running_statistics_are_those_of_evaluation_mode():
    model, loss = resnet()
    found = vector(gradient(model, loss, batch_norm="running"))
    assert_close(found, vector(gradient(model.eval(), loss)))


def test_statistics_of_the_batch_are_those_of_training():
    model, loss = resnet()
    found = vector(gradient(model, loss, batch_norm="batch"))
    loss(model).backward()
    assert_close(found, vector({n: p.grad for n, p in model.named_parameters()}))


def test_hessian_product_in_bfloat16_autocast():
    net, _ = mlp()
    net = net.float()
    x = torch.randn(8, 5)
    labels = torch.arange(8) % 3

    def loss(model):
        with torch.autocast("cpu", torch.bfloat16):
            return nn.functional.cross_entropy(model(x), labels)

    v = random_tree(net)
    exact = vector(
        hessian_vector_product(net, lambda m: nn.functional.cross_entropy(m(x), labels), v)
    )
    for method in METHODS[:2]:
        found = vector(hessian_vector_product(net, loss, v, method=method))
        assert np.linalg.norm(found - exact) < 0.03 * np.linalg.norm(exact)
    with pytest.raises(TypeError, match="coarser rounding drowns a finite difference.*bfloat16"):
        hessian_vector_product(net, loss, v, method="finite_difference")


@pytest.mark.parametrize("method", METHODS)
def test_a_model_is_handed_back_as_it_was(method):
    torch.manual_seed(0)
    layers = (nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 2))
    model = nn.Sequential(*layers).double().train()
    model[0].bias.requires_grad_(False)
    x = torch.randn(5, 4).double()
    before = state_of(model)
    v = random_tree(model)
    hessian_vector_product(
        model, lambda m: m(x).square().mean(), v, method=method, batch_norm="batch"
    )
    assert_same_state(before, state_of(model))

    def fails(m):
        m.eval()
        m(x)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        hessian_vector_product(model, fails, v, method=method, batch_norm="batch")
    assert_same_state(before, state_of(model))


def test_dropout_draws_the_same_in_every_evaluation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2)).double()
    x = torch.randn(5, 4).double()
    with landscape(model, lambda m: m(x).square().mean()) as found:
        assert float(found.value()) == float(found.value())
    v = random_tree(model)
    products = [
        vector(hessian_vector_product(model, lambda m: m(x).square().mean(), v, method=method))
        for method in METHODS
    ]
    assert np.allclose(products[0], products[1], rtol=1e-9)
    assert np.allclose(products[0], products[2], rtol=1e-6, atol=1e-8)


def test_gradients_and_products_pass_gradcheck():
    point = Point()
    with landscape(point, loss_of(ONE)) as found:
        at = [tensor.clone().requires_grad_() for tensor in found.point.values()]

        def value(*tensors):
            return found.evaluate(dict(zip(found.point, tensors, strict=True)))

        assert torch.autograd.gradcheck(value, at)
        assert torch.autograd.gradgradcheck(value, at)


class Counting(nn.Module):
    """Its output depends on a buffer that each forward pass changes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3).double())
        self.register_buffer("count", torch.ones(()).double())

    def forward(self):
        self.count.mul_(2.0)
        return (self.count * self.weight).square().sum()


@pytest.mark.parametrize("method", METHODS)
def test_every_evaluation_starts_from_the_same_buffers(method):
    model = Counting()
    v = {"weight": torch.arange(3).double()}
    with landscape(model, lambda m: m()) as found:
        assert float(found.value()) == float(found.value()) == 12.0
        for _ in range(2):
            assert_close(found.hessian(method=method)(v)["weight"], 8.0 * v["weight"], rtol=1e-8)
    assert model.count.item() == 1.0


def test_weight_decay_over_the_models_own_parameters_is_seen():
    model, loss = mlp()

    def decayed(m):
        return loss(m) + 0.5 * sum(p.square().sum() for p in m.parameters() if p.requires_grad)

    v = random_tree(model)
    plain = vector(hessian_vector_product(model, loss, v))
    assert_close(vector(hessian_vector_product(model, decayed, v)), plain + vector(v))


def test_a_compiled_model_and_tied_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    x = torch.randn(4, 3).double()
    v = random_tree(model)
    plain = hessian_vector_product(model, lambda m: m(x).square().sum(), v)
    assert list(plain) == ["0.weight", "0.bias", "2.bias"]
    other = hessian_vector_product(torch.compile(model), lambda m: m(x).square().sum(), v)
    assert_close(vector(other), vector(plain))


def test_padding_has_no_curvature():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Tanh(), nn.Linear(3, 1)).double()
    ids = torch.tensor([[1, 2, 0], [3, 0, 0]])
    v = random_tree(model)
    found = [
        hessian_vector_product(model, lambda m: m(ids).square().sum(), v, method=method)
        for method in METHODS
    ]
    for product in found:
        assert not product["0.weight"][0].any()
        assert np.allclose(vector(product), vector(found[0]), rtol=1e-6, atol=1e-7)


def bad_losses():
    x = torch.randn(4, 5).double()
    yield lambda m: m(x).sum().item(), TypeError, "got float; do return the loss itself"
    yield lambda m: m(x).sum(dim=1), ValueError, r"0-d tensor, got shape \(4,\); do loss.mean()"
    yield lambda m: m(x).sum() * torch.nan, ValueError, "finite number, got nan"
    yield lambda m: m(x).sum() / 0.0, ValueError, "finite number, got"
    yield lambda m: m[0](x).sum(), ValueError, r"none to '2.weight' and 1 more; do requires_grad_"
    yield lambda m: m(x).detach().sum(), ValueError, "none to '0.weight'"
    yield lambda m: m(x).sum().long(), TypeError, "got torch.int64"


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("number", range(7))
def test_bad_losses_are_refused(number, method):
    torch.manual_seed(0)
    loss, error, words = list(bad_losses())[number]
    model, _ = mlp()
    before = state_of(model)
    with pytest.raises(error, match=words):
        use(method, model, loss)
    assert_same_state(before, state_of(model))


def use(method, model, loss):
    v = random_tree(model)
    return (
        hessian_vector_product(model, loss, v, method=method) if method else gradient(model, loss)
    )


def test_bad_requests_are_refused():
    model, loss = mlp()
    with pytest.raises(ValueError, match="method: expected one of double_backward"):
        hessian_vector_product(model, loss, random_tree(model), method="exact")
    with pytest.raises(ValueError, match=r"got a difference at '0.bias'; do {name"):
        hessian_vector_product(model, loss, {})
    wrong = random_tree(model) | {"0.bias": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"shape \(7,\) at '0.bias', got \(2,\)"):
        hessian_vector_product(model, loss, wrong)
    with pytest.raises(ValueError, match="expected trained parameters, got none"):
        gradient(model.requires_grad_(False), loss)
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got function"):
        gradient(lambda x: x, loss)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


def test_operations_that_are_differentiable_only_once():
    model = nn.Linear(3, 1, bias=False).double()

    def loss(m):
        return Once.apply(m.weight).sum()

    v = random_tree(model)
    for method in METHODS[:2]:
        with pytest.raises(NotImplementedError, match="second derivatives.*finite_difference"):
            hessian_vector_product(model, loss, v, method=method)
    found = hessian_vector_product(model, loss, v, method="finite_difference")
    assert_close(found["weight"], 6 * model.weight.detach() * v["weight"], rtol=1e-7)


class Checkpointed(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=False)


def test_checkpointed_attention_is_recomputed_from_the_same_parameters():
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).double()
    x = torch.randn(3, 5, 8).double()
    v = random_tree(block)
    plain = vector(hessian_vector_product(block, lambda m: m(x).pow(3).sum(), v))
    model = Checkpointed(block)
    of_model = {f"block.{name}": z for name, z in v.items()}
    for method in ("double_backward", "finite_difference"):
        found = hessian_vector_product(model, lambda m: m(x).pow(3).sum(), of_model, method=method)
        assert np.allclose(vector(found), plain, rtol=1e-6, atol=1e-6)
    with pytest.raises(NotImplementedError, match="saved tensor hooks.*double_backward"):
        hessian_vector_product(
            model, lambda m: m(x).pow(3).sum(), of_model, method="forward_over_reverse"
        )


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_gradients_are_on_inside(without):
    model, loss = mlp()
    expected = vector(gradient(model, loss))
    with without():
        assert_close(vector(gradient(model, loss)), expected)


def test_a_linear_loss_has_no_curvature():
    model = nn.Linear(3, 1).double()
    x = torch.ones(2, 3).double()
    found = hessian_vector_product(model, lambda m: m(x).sum(), random_tree(model))
    assert not vector(found).any()
    assert sharpness(model, lambda m: m(x).sum(), k=2).values.tolist() == [0.0, 0.0]


# ---- eigenvalues


def wide_quadratic(values):
    """A loss of 200 parameters with a Hessian of given eigenvalues, in a random basis."""
    values = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(200, 200, dtype=torch.float64, generator=generator))[0]
    matrix = (basis * values) @ basis.T
    model = nn.Linear(200, 1, bias=False).double()
    return model, lambda m: 0.5 * m.weight[0] @ matrix @ m.weight[0], basis


def test_top_eigenvalues_of_a_known_hessian():
    values = [9.0, 5.0, *np.linspace(1.0, -2.0, 197), -7.0]
    model, loss, basis = wide_quadratic(values)
    found = sharpness(model, loss, k=2, tolerance=1e-10)
    assert_close(found.values, [9.0, 5.0], rtol=1e-9)
    assert found.largest == pytest.approx(9.0)
    assert float(found.residuals.max()) < 1e-7
    for k, tree in enumerate(found.vectors):
        assert abs(float(tree["weight"][0] @ basis[:, k])) == pytest.approx(1.0)
    by_size = sharpness(model, loss, k=2, which="magnitude", tolerance=1e-10)
    assert_close(by_size.values, [9.0, -7.0], rtol=1e-9)


def test_eigenvalues_of_a_small_model_are_those_of_its_whole_hessian():
    found = sharpness(Point(), loss_of(ONE), k=3)
    values = np.linalg.eigvalsh(ONE.hessian(START))[::-1]
    assert_close(found.values, values.copy())
    with landscape(Point(), loss_of(ONE)) as here:
        assert_close(dense_hessian(here.hessian(), here.point), ONE.hessian(START))


@pytest.mark.parametrize(
    ("make", "trained"),
    [(mlp, ""), (vision_transformer, "0.attn.qkv"), (text_classifier, "attention.self")],
)
def test_sharpness_of_a_network_is_that_of_its_whole_hessian(make, trained):
    model, loss = make()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained in name)
    with landscape(model, loss) as here:
        whole = torch.linalg.eigvalsh(dense_hessian(here.hessian(), here.point))
    found = sharpness(model, loss, k=2, tolerance=1e-8)
    assert_close(found.values, whole.flip(0)[:2], rtol=1e-6)


def test_a_start_from_the_eigenvector_saves_products():
    model, loss = vision_transformer()
    first = sharpness(model, loss)
    again = sharpness(model, loss, start=first.vectors[0])
    assert again.n_products < first.n_products
    assert again.largest == pytest.approx(first.largest, rel=1e-4)


def test_sharpness_of_a_resnet_with_running_statistics():
    model, loss = resnet()
    expected = sharpness(model.eval(), loss).largest
    assert sharpness(model.train(), loss, batch_norm="running").largest == pytest.approx(expected)


def test_eigenvalues_that_do_not_converge_are_refused():
    model, loss, _ = wide_quadratic([1.0] * 100 + list(np.linspace(0.999, 1.001, 100)))
    with pytest.raises(RuntimeError, match="max_products: expected 3 eigenvalues to converge"):
        sharpness(model, loss, k=3, tolerance=1e-12, max_products=30)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_eigenvalues_are_those_of_curvlinops_and_eigsh():
    curvlinops = pytest.importorskip("curvlinops")
    net, _ = mlp()
    x = torch.randn(8, 5, dtype=torch.float64)
    y = torch.arange(8) % 3
    operator = curvlinops.HessianLinearOperator(
        net, nn.CrossEntropyLoss(), list(net.parameters()), [(x, y)]
    )
    expected, _ = eigsh(operator.to_scipy(dtype=np.float64), k=3, which="LA", tol=1e-12)
    found = sharpness(net, cross_entropy(x, y), k=3, tolerance=1e-10)
    assert_close(np.sort(found.values), np.sort(expected), 1e-7)


def test_products_that_are_not_symmetric_are_refused():
    model = nn.Linear(60, 1, bias=False).double()
    with pytest.raises(RuntimeError, match="expected a symmetric Hessian"):
        sharpness(model, lambda m: Tilted.apply(m.weight))


def test_coarse_products_are_warned_of():
    model = nn.Linear(60, 1, bias=False)

    def loss(m):
        return (m.weight.bfloat16().float() * torch.linspace(1, 2, 60) * m.weight).sum()

    model.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", GeocollapseWarning)
        found = sharpness(model, lambda m: (m.weight**2 * torch.linspace(1, 2, 60)).sum())
    assert found.largest == pytest.approx(4.0, rel=1e-4)
    with pytest.raises(GeocollapseWarning, match="a residual of"):
        sharpness(model, lambda m: loss(m) * 1.0, tolerance=1e-9)


def test_bad_requests_for_eigenvalues():
    with pytest.raises(ValueError, match="k: expected 1 to 3, the number of parameters, got 4"):
        sharpness(Point(), loss_of(ONE), k=4)
    with pytest.raises(ValueError, match="which: expected 'largest' or 'magnitude'"):
        sharpness(Point(), loss_of(ONE), which="smallest")
    with pytest.raises(ValueError, match="finite second derivatives"):
        sharpness(nn.Linear(2, 1, bias=False), lambda m: (m.weight * 0).abs().sqrt().sum() + 1)


# ---- flows


def test_flow_is_of_fourth_order():
    end = reference.follow(lambda x: -ONE.gradient(x), START, 1.0)

    def error(h):
        with landscape(Point(), loss_of(ONE)) as found:
            here = dynamics.flow(found.descent, found.point, 1.0, n_steps=round(1 / h))
        return np.linalg.norm(vector(here) - end)

    assert_order(error, 4, steps=(0.1, 0.05, 0.025))


def one_step_error(coefficient):
    """Error of one step of gradient descent against the flow of E + c h ||grad E||^2."""

    def error(h):
        step = START - h * ONE.gradient(START)
        field = lambda x: reference.modified_descent(ONE, x, h, coefficient)  # noqa: E731
        return np.linalg.norm(step - reference.follow(field, START, h))

    return error


def test_master_formula_gives_the_modified_loss_of_gradient_descent():
    h = 0.1
    with landscape(Point(), loss_of(ONE)) as found:
        field = dynamics.modified_flow(found.descent, None, h)(found.point)
    assert_close(vector(field), reference.modified_descent(ONE, START, h))


def test_gradient_descent_follows_its_modified_flow():
    def error(h):
        with landscape(Point(), loss_of(ONE)) as found:
            field = dynamics.modified_flow(found.descent, None, h)
            end = dynamics.flow(field, found.point, h, n_steps=20)
        return np.linalg.norm(vector(end) - (START - h * ONE.gradient(START)))

    assert_order(error, 3)
    assert_order(one_step_error(0.25), 3)
    assert_order(one_step_error(0.125), 2)  # the wrong coefficient
    assert_order(one_step_error(0.0), 2)


def test_master_formula_with_a_second_order_term():
    """The midpoint rule has F2 = 1/2 DF1 F1: its modified flow is F1 itself."""

    def midpoint(h):
        return START - h * ONE.gradient(START - h / 2 * ONE.gradient(START))

    with landscape(Point(), loss_of(ONE)) as found:

        def f2(at):
            product = found.hessian(at)(found.gradient(at))
            return {name: z / 2 for name, z in product.items()}

        modified = dynamics.modified_flow(found.descent, f2, 0.05)(found.point)
        assert_close(vector(modified), -ONE.gradient(START))
        wrong = dynamics.modified_flow(found.descent, None, 0.05)(found.point)
        assert np.linalg.norm(vector(wrong) + ONE.gradient(START)) > 1e-3

    def error(h):
        return np.linalg.norm(midpoint(h) - reference.follow(lambda x: -ONE.gradient(x), START, h))

    assert_order(error, 3)


def test_flow_of_a_network_by_forward_mode():
    model, loss = vision_transformer()
    with landscape(model, loss) as found:
        field = dynamics.modified_flow(found.descent, None, 0.1)(found.point)
        g = found.gradient()
        expected = -vector(g) - 0.05 * vector(found.hessian()(g))
    assert_close(vector(field), expected, rtol=1e-8)


def test_bad_flows_are_refused():
    with pytest.raises(ValueError, match="n_steps: expected at least 1, got 0"):
        dynamics.flow(lambda at: at, {"x": torch.ones(1)}, 1.0, n_steps=0)
    with pytest.raises(ValueError, match="lr: expected a step size of at least 0, got -1"):
        dynamics.modified_flow(lambda at: at, None, -1.0)
