"""The gradient norm of the training loss as a penalty."""

import math
import pickle
from copy import deepcopy

import pytest
import torch
from laws import assert_close
from torch import distributed, nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from geocollapse.dynamics import implicit_bias, implicit_flow
from geocollapse.regularizers import GradientNorm, checkpoint_context

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 3


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def normalised_net():
    torch.manual_seed(0)
    layers = (nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    return nn.Sequential(*layers).double().train()


def trained(model):
    return [p for p in model.parameters() if p.requires_grad]


def norm_of(model, x=X, y=Y):
    """||grad C||^2 with a graph, from the definition."""
    found = torch.autograd.grad(F.cross_entropy(model(x), y), trained(model), create_graph=True)
    return sum(z.square().sum() for z in found)


def gradient_of(loss, model, **settings):
    found = torch.autograd.grad(loss, trained(model), allow_unused=True, **settings)
    parameters = trained(model)
    rows = [torch.zeros_like(p) if z is None else z for z, p in zip(found, parameters, strict=True)]
    return torch.cat([row.reshape(-1) for row in rows])


def micro_batches(m):
    return [(X[rows], Y[rows]) for rows in torch.arange(12).tensor_split(m)]


# ---- value and gradient


@pytest.mark.parametrize("m", [1, 2, 5, 12])
def test_value_and_gradient_are_those_of_the_definition(m):
    model = net()
    penalty = GradientNorm(0.3, n_micro_batches=m)
    output, loss = penalty(model, F.cross_entropy, X, Y)
    expected = torch.stack([norm_of(model, x, y) for x, y in micro_batches(m)]).mean()
    torch.testing.assert_close(output, model(X))
    assert_close(loss.detach(), 0.3 * expected.detach())
    assert_close(penalty.last.value, expected.detach())
    assert_close(gradient_of(loss, model), 0.3 * gradient_of(expected, model))


def test_weight_of_a_quarter_rate_is_the_implicit_regulariser():
    """The step of the penalised loss is the velocity of the flow that plain steps follow."""
    model = net()

    def part(x, y):
        return lambda m: F.cross_entropy(m(x), y)

    losses = [part(x, y) for x, y in micro_batches(3)]
    penalty = GradientNorm(0.2 / 4, n_micro_batches=3)
    output, loss = penalty(model, F.cross_entropy, X, Y)
    found = gradient_of(F.cross_entropy(output, Y) + loss, model)
    expected = implicit_flow(model, losses, lr=0.2)
    assert_close(-found, torch.cat([z.reshape(-1) for z in expected.values()]))
    bias = implicit_bias(model, losses, lr=0.2)
    assert_close(penalty.last.value, bias.mini_batch_norm)
    assert_close(loss.detach(), bias.penalty)


@pytest.mark.parametrize("m", [1, 2])
def test_gradcheck_in_all_parameters(m):
    class Penalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = net()

        def forward(self):
            return GradientNorm(1.0, n_micro_batches=m)(self.model, F.cross_entropy, X, Y)[1]

    module = Penalised()
    names = [name for name, _ in module.named_parameters()]

    def norm(*parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), ())

    values = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert gradcheck(norm, values)


def test_the_output_carries_the_gradient_of_the_loss():
    """One backward pass of loss and penalty writes the sum of both gradients."""
    model = net()
    output, loss = GradientNorm(0.1)(model, F.cross_entropy, X, Y)
    (F.cross_entropy(output, Y) + loss).backward()
    expected = gradient_of(F.cross_entropy(model(X), Y) + 0.1 * norm_of(model), model)
    assert_close(torch.cat([p.grad.reshape(-1) for p in trained(model)]), expected)


def test_explicit_steps_shrink_the_norm():
    model, plain = net(), net()
    penalty = GradientNorm(10.0)
    for _ in range(60):
        output, loss = penalty(model, F.cross_entropy, X, Y)
        step(model, F.cross_entropy(output, Y) + loss)
        step(plain, F.cross_entropy(plain(X), Y))
    assert norm_of(model).item() < 0.5 * norm_of(plain).item()


def step(model, loss):
    for p, z in zip(trained(model), torch.autograd.grad(loss, trained(model)), strict=True):
        p.data -= 0.1 * z


# ---- lazily


def mean_gradient(model, calls, **settings):
    penalty = GradientNorm(1.0, **settings)
    return torch.stack(
        [
            gradient_of(loss, model) if loss.requires_grad else torch.zeros(67).double()
            for loss in (penalty(model, F.cross_entropy, X, Y)[1] for _ in range(calls))
        ]
    )


def test_every_has_the_same_mean():
    model = net()
    expected = gradient_of(norm_of(model), model)
    draws = mean_gradient(model, 6, every=3)
    assert_close(draws.mean(dim=0), expected)
    assert [bool(row.abs().max() > 0) for row in draws] == [True, False, False] * 2


def test_a_share_of_the_batch_has_the_expectation_of_drawing_without_replacement():
    """The mean over steps is ||g||^2 + (N - B)/(N - 1) Gamma/B, in value and gradient."""
    model = net()
    each = [lambda m, k=k: F.cross_entropy(m(X[k : k + 1]), Y[k : k + 1]) for k in range(12)]
    expected = implicit_bias(model, each).expected_norm(3)
    penalty = GradientNorm(1.0, batch_fraction=0.25)
    values = []
    for _ in range(400):
        penalty(model, F.cross_entropy, X, Y)
        values.append(penalty.last.value)
    values = torch.tensor(values)
    error = float(values.std()) / 20
    assert abs(float(values.mean()) - expected) < 4 * error
    whole = norm_of(model).item()
    assert abs(float(values.mean()) - whole) > 8 * error  # not that of the whole batch


def test_micro_batches_have_the_expectation_of_drawing_without_replacement():
    model = net()
    each = [lambda m, k=k: F.cross_entropy(m(X[k : k + 1]), Y[k : k + 1]) for k in range(12)]
    expected = implicit_bias(model, each).expected_norm(4)
    penalty = GradientNorm(1.0, n_micro_batches=3)
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(200):
        rows = torch.randperm(12, generator=generator)
        penalty(model, F.cross_entropy, X[rows], Y[rows])
        values.append(penalty.last.value)
    values = torch.tensor(values)
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / 200**0.5


def test_last_is_unweighted_with_an_error_over_micro_batches():
    model = net()
    penalty = GradientNorm(1e-2, every=2)
    assert penalty.last is None
    _, loss = penalty(model, F.cross_entropy, X, Y)
    assert_close(loss.detach(), 2e-2 * penalty.last.value)
    assert math.isnan(penalty.last.stderr)
    assert penalty(model, F.cross_entropy, X, Y)[1].item() == 0.0
    split = GradientNorm(1e-2, n_micro_batches=4)
    split(model, F.cross_entropy, X, Y)
    norms = torch.stack([norm_of(model, x, y) for x, y in micro_batches(4)]).detach()
    assert_close(split.last.stderr, norms.std() / 2)
    assert split.last.n_samples == 4


def test_zero_weight_measures_and_adds_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    penalty = GradientNorm(0.0)
    torch.manual_seed(1)
    output, loss = penalty(model, F.cross_entropy, X, Y)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(output, model(X))  # drawn at random as without the penalty
    assert torch.equal(after, torch.rand(1))
    assert loss.item() == 0.0
    assert not loss.requires_grad
    assert penalty.last.value > 0.0


def test_step_count_is_state():
    model = net()
    penalty = GradientNorm(1e-2, every=2, batch_fraction=0.5)
    penalty(model, F.cross_entropy, X, Y)
    resumed = GradientNorm(1e-2, every=2, batch_fraction=0.5)
    resumed.load_state_dict(penalty.state_dict())
    assert resumed(model, F.cross_entropy, X, Y)[1].item() == 0.0
    penalty(model, F.cross_entropy, X, Y)
    a, b = (one(model, F.cross_entropy, X, Y)[1].item() for one in (resumed, penalty))
    assert a == b > 0.0
    for copied in (deepcopy(penalty), pickle.loads(pickle.dumps(penalty))):
        assert int(copied.step) == 3


# ---- batch normalisation


def test_batch_norm_is_refused_running_or_of_the_batch():
    model = normalised_net()
    with pytest.raises(RuntimeError, match="got '1'; do batch_norm='running'"):
        GradientNorm()(model, F.cross_entropy, X, Y)
    expected = norm_of(deepcopy(model)).detach()
    penalty = GradientNorm(1.0, batch_norm="batch")
    output, loss = penalty(model, F.cross_entropy, X, Y)
    assert_close(loss.detach(), expected)
    once = normalised_net()
    torch.testing.assert_close(output, once(X))
    torch.testing.assert_close(model[1].running_mean, once[1].running_mean)  # one update
    assert int(model[1].num_batches_tracked) == 1
    running = GradientNorm(1.0, batch_norm="running")
    _, loss = running(model, F.cross_entropy, X, Y)
    assert int(model[1].num_batches_tracked) == 2
    assert_close(loss.detach(), norm_of(model.eval()).detach())


def test_micro_batches_have_statistics_of_their_own():
    model = normalised_net()
    parts = [norm_of(deepcopy(model), x, y) for x, y in micro_batches(3)]
    _, loss = GradientNorm(1.0, n_micro_batches=3, batch_norm="batch")(model, F.cross_entropy, X, Y)
    assert_close(loss.detach(), torch.stack(parts).mean().detach())
    assert int(model[1].num_batches_tracked) == 1
    before = model[1].running_mean.clone()
    model(X + 1.0)
    loss.backward()  # its graph does not see the update
    assert not torch.equal(before, model[1].running_mean)


def test_micro_batches_of_one_example_have_no_statistics():
    words = "x: expected at least 2 examples in each micro-batch .* got 1; do larger batches"
    penalty = GradientNorm(1.0, n_micro_batches=3, batch_norm="batch")
    model = normalised_net()
    penalty(model, F.cross_entropy, X, Y)
    with pytest.raises(ValueError, match=words):  # of the last part alone, and not at first
        penalty(model, F.cross_entropy, X[:5], Y[:5])
    with pytest.raises(ValueError, match=words):
        GradientNorm(1.0, batch_fraction=0.1, batch_norm="batch")(model, F.cross_entropy, X, Y)
    pixels = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    x = torch.randn(3, 1, 3, 3)  # the negative control: statistics over pixels
    assert float(penalty(pixels, F.cross_entropy, x, Y[:3])[1].detach()) > 0.0


# ---- networks


def logits_loss(output, y):
    return F.cross_entropy(getattr(output, "logits", output), y)


def image_net(name, **sizes):
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3, **sizes).double()


def assert_is_gradient(model, x, y, criterion, **settings):
    """The directional derivative of the penalty is that of its own value, by differences."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # the same running statistics in every call
    value = GradientNorm(1.0, **settings)(model, criterion, x, y)[1]
    found = torch.autograd.grad(value, trained(model), allow_unused=True)
    torch.manual_seed(1)
    along = [torch.randn_like(p) for p in trained(model)]
    pairs = zip(found, along, strict=True)
    slope = sum(float((z * v).sum()) for z, v in pairs if z is not None)
    ends = []
    for sign in (1, -1):
        moved = deepcopy(model)
        for p, v in zip(trained(moved), along, strict=True):
            p.data += sign * 1e-6 * v
        ends.append(GradientNorm(1.0, **settings)(moved, criterion, x, y)[1].item())
    assert_close(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_resnet_with_batch_norm(batch_norm):
    model = image_net("resnet10t", stem_width=8, channels=(8, 8, 8, 8)).train()
    model.requires_grad_(True)
    smooth = deepcopy(model)
    for name, module in list(smooth.named_modules()):
        if isinstance(module, nn.ReLU):
            smooth.set_submodule(name, nn.Softplus())
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    assert_is_gradient(smooth, x, torch.arange(4) % 3, F.cross_entropy, batch_norm=batch_norm)
    output, loss = GradientNorm(batch_norm=batch_norm)(model, F.cross_entropy, x, Y[:4])
    (F.cross_entropy(output, Y[:4]) + loss).backward()
    assert model.training


@pytest.mark.parametrize("settings", [{}, {"n_micro_batches": 2}], ids=str)
def test_vision_transformer(settings):
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
    model = image_net("vit_tiny_patch16_224", **sizes)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    assert_is_gradient(model, x, Y[:4], F.cross_entropy, **settings)


def test_hugging_face_classifier():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "intermediate_size": 8, "num_labels": 3}
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, **sizes)
    model = BertForSequenceClassification(config).double().eval()
    ids = torch.randint(1, 20, (4, 6))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    assert_is_gradient(model, batch, Y[:4], logits_loss)
    output, loss = GradientNorm(n_micro_batches=2)(model, logits_loss, batch, Y[:4])
    assert output.logits.shape == (4, 3)
    assert loss.item() > 0.0


def test_bfloat16_autocast():
    model = net().float()
    x = X.float()
    exact = GradientNorm(1.0)(model, F.cross_entropy, x, Y)[1]
    with torch.autocast("cpu", torch.bfloat16):
        output, rounded = GradientNorm(1.0)(model, F.cross_entropy, x, Y)
    assert (output.dtype, rounded.dtype) == (torch.bfloat16, torch.float32)
    assert rounded.item() == pytest.approx(exact.item(), rel=0.05)
    a, b = (gradient_of(loss, model) for loss in (exact, rounded))
    assert float((a - b).norm() / a.norm()) < 0.1


def test_compiled_model():
    model = net()
    expected = GradientNorm(1.0)(model, F.cross_entropy, X, Y)[1]
    compiled = torch.compile(model, backend="aot_eager")
    for settings in ({}, {"batch_fraction": 0.5}):
        output, loss = GradientNorm(1.0, **settings)(compiled, F.cross_entropy, X, Y)
        torch.testing.assert_close(output, model(X))
        loss.backward()
    assert_close(GradientNorm(1.0)(compiled, F.cross_entropy, X, Y)[1], expected.detach())
    model[0] = torch.compile(model[0], backend="aot_eager")
    with pytest.raises(RuntimeError, match="no compiled module inside .* got '0'"):
        GradientNorm()(model, F.cross_entropy, X, Y)


def test_a_step_that_is_compiled_as_a_whole():
    model = net()
    expected, inside = GradientNorm(1.0), GradientNorm(1.0)

    def step(penalty, x):
        output, loss = penalty(model, F.cross_entropy, 2 * x, Y)
        return F.cross_entropy(output, Y) + loss

    compiled = torch.compile(step, backend="aot_eager")
    for _ in range(2):
        assert_close(compiled(inside, X).detach(), step(expected, X).detach())


def test_checkpointed_activations():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            context = {"use_reentrant": False, "context_fn": checkpoint_context}
            return self.net[1:](checkpoint(self.net[0], x, **context))

    model = Checkpointed()
    _, loss = GradientNorm(1.0)(model, F.cross_entropy, X, Y)
    assert_close(gradient_of(loss, model), gradient_of(norm_of(net_of := model.net), net_of))


def averaged_gradients(rank, folder):
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(net())
    half = slice(6 * rank, 6 * rank + 6)
    output, loss = GradientNorm(1.0)(model, F.cross_entropy, X[half], Y[half])
    (F.cross_entropy(output, Y[half]) + loss).backward()
    grads = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    torch.save(grads, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_two_micro_batches(tmp_path):
    torch.multiprocessing.spawn(averaged_gradients, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    model = net()
    output, loss = GradientNorm(1.0, n_micro_batches=2)(model, F.cross_entropy, X, Y)
    assert_close(first, gradient_of(F.cross_entropy(output, Y) + loss, model))


# ---- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight: expected a number of at least 0, got -1.0"),
        ({"n_micro_batches": 0}, "n_micro_batches: expected at least 1, got 0"),
        ({"batch_fraction": 1.5}, r"batch_fraction: expected a share in \(0, 1\], got 1.5"),
        ({"every": 0}, "every: expected a number of steps of at least 1, got 0"),
        (
            {"batch_norm": "eval"},
            "batch_norm: expected 'refuse', 'running' or 'batch', got 'eval'",
        ),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GradientNorm(**settings)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x):
        return 2.0 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_ctx, gradient):
        return 2.0 * gradient


def test_losses_without_second_derivatives_are_refused():
    words = "loss: expected a loss with second derivatives, got .*; do replace it by operations"
    with pytest.raises(NotImplementedError, match=words):
        GradientNorm()(net(), lambda z, y: F.cross_entropy(Once.apply(z), y), X, Y)


def test_bad_calls():
    model = net()
    penalty = GradientNorm()

    def refused(error, message, criterion=F.cross_entropy, x=X, y=Y, model=model):
        with pytest.raises(error, match=message):
            penalty(model, criterion, x, y)

    refused(ValueError, r"loss: expected a 0-d tensor, got shape \(12,\)", unreduced)
    refused(TypeError, "loss: expected a floating tensor, got float", lambda *_: 1.0)
    refused(ValueError, "loss: expected a finite number, got nan", x=X * torch.nan)
    refused(ValueError, "loss: expected a gradient path", lambda z, _y: z.detach().sum())
    refused(ValueError, r"targets: expected .* each of 12 examples, got shape \(3,\)", y=Y[:3])
    refused(ValueError, "targets: expected .* got NoneType", y=None)
    refused(ValueError, "x: expected a batch of at least one example", x=X[:0], y=Y[:0])
    refused(ValueError, "trained parameters, got none", model=net().requires_grad_(False))
    refused(TypeError, r"model: expected a torch\.nn\.Module, got function", model=lambda x: x)
    refused(TypeError, "got DataParallel", model=nn.DataParallel(net()))
    with torch.no_grad():
        refused(RuntimeError, r"expected gradients to be on, got torch.no_grad\(\)")
    with pytest.raises(ValueError, match="n_micro_batches: expected at most 3, .* got 4"):
        GradientNorm(n_micro_batches=4)(model, F.cross_entropy, X[:3], Y[:3])
    sparse = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    refused(
        RuntimeError,
        "dense gradients, got sparse ones in '0'",
        x=Y[:, None].repeat(1, 2),
        model=sparse,
    )
    assert int(penalty.step) == 0
    penalty(model, F.cross_entropy, X, Y)
    refused(ValueError, "loss: expected a finite number, got nan", x=X * torch.nan)
    assert int(penalty.step) == 1


def unreduced(z, y):
    return F.cross_entropy(z, y, reduction="none")


def test_each_model_is_looked_at_once():
    model = net()
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    penalty = GradientNorm()
    for _ in range(3):
        penalty(model, F.cross_entropy, X, Y)
    assert len(runs) == 4  # one look at the first call
    model[0].bias.requires_grad_(False)
    penalty(model, F.cross_entropy, X, Y)
    assert len(runs) == 6


def test_a_parameter_that_the_loss_does_not_see_counts_zero():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()
            self.spare = nn.Linear(2, 2)

        def forward(self, x):
            return self.net(x)

    _, loss = GradientNorm(1.0)(Spare(), F.cross_entropy, X, Y)
    assert_close(loss.detach(), norm_of(net()).detach())


def test_state_is_as_before_the_call():
    model = net()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    GradientNorm(n_micro_batches=2)(model, F.cross_entropy, X, Y)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
