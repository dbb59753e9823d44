"""The optimizers: laws of siblings A and D for the steps, and torch's contract for optimizers."""

import copy
import io
import math
import re
import warnings

import numpy as np
import pytest
import torch
from laws import assert_close
from reference.dynamics import ONE, START
from torch import nn

from geocollapse.dynamics import sharpness
from geocollapse.estimate import GeocollapseWarning
from geocollapse.optimizers import DAL, Corridor
from landscapes import Point, loss_of, mlp, resnet, text_classifier, vector
from landscapes import vision_transformer as vit


def closure_of(model, loss, optimizer, *, backward):
    def closure():
        value = loss(model)
        if backward:
            optimizer.zero_grad()
            value.backward()
        return value

    return closure


def take(optimizer, model, loss, n_steps=1):
    """Steps by closure, in the form that the optimizer expects."""
    for _ in range(n_steps):
        backward = isinstance(optimizer, Corridor)
        optimizer.step(closure_of(model, loss, optimizer, backward=backward))
    return vector({name: p.detach().clone() for name, p in model.named_parameters()})


def one_dimension(x):
    return nn.Parameter(torch.tensor([x], dtype=torch.float64))


class Scalar(nn.Module):
    def __init__(self, *x):
        super().__init__()
        self.x = nn.Parameter(torch.tensor(x, dtype=torch.float64))


# ---- corridor learning rate


def test_corridor_step_is_the_one_derived_by_hand():
    point = Point()
    optimizer = Corridor(point.parameters())
    found = take(optimizer, point, lambda p: loss_of(ONE)(p) + 2)
    g = ONE.gradient(START)
    h = (ONE.loss(START) + 2) / (g @ g)
    assert_close(found, START - h * g)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([h])


def test_one_step_reaches_the_tip_of_a_cone():
    point = Point()
    found = take(Corridor(point.parameters()), point, lambda p: 3 * p().norm())
    assert np.abs(found).max() < 1e-15


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("c", [0.3, 5.0])
def test_powers_shrink_by_one_over_k(k, c):
    model = Scalar(1.7)
    optimizer = Corridor(model.parameters())
    for step in range(1, 5):
        found = take(optimizer, model, lambda m: c * m.x.abs().pow(k).sum())
        assert_close(found, [1.7 * (1 - 1 / k) ** step])


def test_scaling_the_loss_leaves_the_step_unchanged_unless_f_star_is_set():
    def end(factor, **settings):
        model, loss = mlp()
        optimizer = Corridor(model.parameters(), **settings)
        return take(optimizer, model, lambda m: factor * loss(m), 3)

    assert_close(end(1.0), end(37.0), rtol=1e-8)
    assert np.abs(end(1.0, f_star=0.1) - end(37.0, f_star=0.1)).max() > 1e-3
    assert np.abs(end(1.0, eps=0.1) - end(37.0, eps=0.1)).max() > 1e-3


def test_it_cycles_above_an_unknown_f_star_and_converges_with_it():
    def loss(m):
        return m.x.square().sum() / 2 + 0.1

    model = Scalar(0.4)
    optimizer = Corridor(model.parameters())
    path = [take(optimizer, model, loss)[0] for _ in range(3)]
    assert path == pytest.approx([-0.05, 1.975, 0.9369], abs=1e-4)
    known = Scalar(0.4)
    assert abs(take(Corridor(known.parameters(), f_star=0.1), known, loss, 40)[0]) < 1e-7
    capped = Scalar(0.4)
    assert abs(take(Corridor(capped.parameters(), max_lr=0.5), capped, loss, 60)[0]) < 1e-7


def sps(loss, f_star, squares, c=1.0, eta_max=math.inf, smoothing=None, before=None):
    """Loizou et al. (2021): min((E - f*)/(c ||g||^2), eta_max), with their smoothing of eta_max."""
    if smoothing is not None and before is not None:
        eta_max = min(eta_max, smoothing * before)
    return min((loss - f_star) / (c * squares), eta_max)


def sps_path(n_steps=20, **settings):
    """The parameters after each step of SPS, and its rates, by autograd alone."""
    model, loss = mlp()
    path, rates = [], []
    for _ in range(n_steps):
        value = loss(model)
        gradients = torch.autograd.grad(value, list(model.parameters()))
        squares = sum(float(g.square().sum()) for g in gradients)
        before = rates[-1] if rates else None
        rates.append(sps(value.item(), 0.01, squares, before=before, **settings))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= rates[-1] * gradient
        path.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    return torch.stack(path), rates


def test_steps_are_those_of_sps_with_c_1_and_not_of_its_defaults():
    model, loss = mlp()
    optimizer = Corridor(model.parameters(), f_star=0.01, max_lr=3.0)
    path, rates = [], []
    for _ in range(20):
        take(optimizer, model, loss)
        path.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        rates.append(optimizer.param_groups[0]["lr"])
    expected, its_rates = sps_path(eta_max=3.0)
    np.testing.assert_allclose(rates, its_rates, rtol=1e-11)
    torch.testing.assert_close(torch.stack(path), expected, rtol=1e-11, atol=1e-12)
    defaults, its_rates = sps_path(c=0.5, smoothing=2.0)
    assert not np.allclose(rates, its_rates, rtol=0.1)
    assert not torch.allclose(path[-1], defaults[-1], rtol=0.01)


def test_equal_to_ali_g():
    """Berrada et al. (2020): min(E/(||g||^2 + delta), max_lr), with their delta 1e-5."""
    model, loss = mlp()
    value = loss(model)
    value.backward()
    point = vector(dict(model.named_parameters()))
    g = vector({name: p.grad for name, p in model.named_parameters()})
    optimizer = Corridor(model.parameters(), eps=1e-5)
    optimizer.step(loss=value)
    found = vector(dict(model.named_parameters()))
    expected = point - value.item() / (g @ g + 1e-5) * g
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-14)


def test_first_step_is_that_of_pytorch_optimizers_ali_g():
    """It sums the norm in float32, which is the difference that is left."""
    package = pytest.importorskip("pytorch_optimizer", reason="pip install pytorch_optimizer")
    model, loss = mlp()
    start = vector(dict(model.named_parameters())).copy()
    ours = take(Corridor(model.parameters(), eps=1e-6), model, loss)
    model, loss = mlp()
    value = loss(model)
    value.backward()
    package.AliG(model.parameters()).step(lambda: value.item())
    theirs = vector(dict(model.named_parameters()))
    assert np.linalg.norm(ours - theirs) < 2e-6 * np.linalg.norm(ours - start)


def test_forty_steps_are_those_of_pytorch_optimizers_ali_g_with_the_same_largest_rate():
    package = pytest.importorskip("pytorch_optimizer", reason="pip install pytorch_optimizer")
    model, loss = mlp()
    start = vector(dict(model.named_parameters())).copy()
    ours = take(Corridor(model.parameters(), max_lr=0.5, eps=1e-6), model, loss, n_steps=40)
    model, loss = mlp()
    rival = package.AliG(model.parameters(), max_lr=0.5)
    for _ in range(40):
        value = loss(model)
        rival.zero_grad()
        value.backward()
        rival.step(value.item)
    theirs = vector(dict(model.named_parameters()))
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(ours - start)


def test_max_lr_is_ali_g_with_a_limit():
    model, loss = mlp()
    optimizer = Corridor(model.parameters(), max_lr=0.05)
    take(optimizer, model, loss)
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_the_norm_runs_over_all_groups():
    whole, loss = mlp()
    parts, _ = mlp()
    one = Corridor(whole.parameters())
    groups = [{"params": [p]} for p in parts.parameters()]
    two = Corridor(groups)
    assert_close(take(one, whole, loss, 3), take(two, parts, loss, 3))
    assert len({group["lr"] for group in two.param_groups}) == 1


def test_a_group_with_its_own_limit():
    model, loss = mlp()
    body, head = model[0], model[2]
    frozen = body.weight.detach().clone()
    groups = [{"params": body.parameters(), "max_lr": 0.0}, {"params": head.parameters()}]
    optimizer = Corridor(groups)
    take(optimizer, model, loss)
    assert torch.equal(body.weight, frozen)
    assert optimizer.param_groups[0]["lr"] == 0.0 < optimizer.param_groups[1]["lr"]


def test_a_loss_below_f_star_takes_no_step_and_says_so_once():
    model = Scalar(1.0)
    optimizer = Corridor(model.parameters(), f_star=2.0)
    with pytest.warns(GeocollapseWarning, match="no step, as the loss 1 is below f_star = 2"):
        found = take(optimizer, model, lambda m: m.x.square().sum())
    assert found.tolist() == [1.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take(optimizer, model, lambda m: m.x.square().sum())
    assert optimizer.param_groups[0]["lr"] == 0.0


def test_a_loss_of_f_star_itself_is_the_end_and_says_nothing():
    model = Scalar(3.0)
    found = take(Corridor(model.parameters(), f_star=3.0), model, lambda m: m.x.sum())
    assert found.tolist() == [3.0]


@pytest.mark.parametrize("build", [Corridor, DAL])
def test_a_zero_gradient_takes_no_step_and_warns_once(build):
    model = Scalar(0.0)
    optimizer = build(model.parameters())
    with pytest.warns(GeocollapseWarning, match="no step, as the gradient is zero") as seen:
        found = take(optimizer, model, lambda m: m.x.square().sum() + 1)
    assert seen[0].filename == __file__
    assert found.tolist() == [0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take(optimizer, model, lambda m: m.x.square().sum() + 1)


# ---- drift-adjusted learning


def quadratic(*eigenvalues):
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    return lambda m: 0.5 * (values * m.x**2).sum()


def test_dal_step_is_the_one_derived_by_hand():
    for p in (0.5, 0.75, 1.0):
        point = Point()
        optimizer = DAL(point.parameters(), p=p)
        found = take(optimizer, point, loss_of(ONE))
        g = ONE.gradient(START)
        curvature = np.linalg.norm(ONE.hessian(START) @ g) / np.linalg.norm(g)
        assert optimizer.param_groups[0]["curvature"] == pytest.approx(curvature)
        assert_close(found, START - min(2 / curvature**p, 5.0) * g)


def test_dal_is_at_or_above_the_edge_of_stability():
    for seed in range(5):
        model, loss = mlp(seed)
        largest = sharpness(model, loss, which="magnitude", tolerance=1e-8).largest
        optimizer = DAL(model.parameters(), max_lr=None)
        take(optimizer, model, loss)
        assert optimizer.param_groups[0]["lr"] >= 2 / abs(largest) * (1 - 1e-9)


def test_dal_reflects_a_quadratic_of_one_dimension_for_ever():
    model = Scalar(0.7)
    optimizer = DAL(model.parameters())
    path = [take(optimizer, model, quadratic(3.0))[0] for _ in range(4)]
    assert path == pytest.approx([-0.7, 0.7, -0.7, 0.7])


def test_small_powers_diverge_where_nothing_holds_the_rate():
    def end(max_lr, n_steps=60):
        model = Scalar(1.0, 1.0)
        optimizer = DAL(model.parameters(), p=0.5, max_lr=max_lr)
        return np.abs(take(optimizer, model, quadratic(4.0, 0.5), n_steps)).max()

    assert end(None) > 10.0
    assert end(0.4) < 1e-3


def test_only_the_first_power_is_invariant_to_the_scale_of_the_loss():
    def end(p, factor):
        model, loss = mlp()
        return take(DAL(model.parameters(), p=p, max_lr=None), model, lambda m: factor * loss(m))

    assert_close(end(1.0, 1.0), end(1.0, 9.0), rtol=1e-8)
    assert np.abs(end(0.5, 1.0) - end(0.5, 9.0)).max() > 1e-3


def test_products_at_every_third_step_alone():
    model, loss = mlp()
    optimizer = DAL(model.parameters(), every=3)
    seen = []
    for _ in range(7):
        take(optimizer, model, loss)
        seen.append(optimizer.param_groups[0]["curvature"])
    assert len(set(seen)) == 3
    assert seen[0] == seen[2] != seen[3] == seen[5] != seen[6]


def test_no_curvature_and_no_limit_is_refused():
    model = Scalar(1.0)
    with pytest.raises(RuntimeError, match="max_lr: expected a limit where the loss has no curv"):
        take(DAL(model.parameters(), max_lr=None), model, lambda m: m.x.sum())
    assert take(DAL(model.parameters()), model, lambda m: m.x.sum()).tolist() == [-4.0]


def test_dal_writes_the_gradients():
    model, loss = mlp()
    expected, _ = mlp()
    loss(expected).backward()
    take(DAL(model.parameters()), model, loss)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        assert_close(p.grad, q.grad)
        assert not p.grad.requires_grad


def test_a_closure_that_frees_the_graph_is_refused():
    model, loss = mlp()
    optimizer = DAL(model.parameters())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="closure: expected a loss whose graph is kept"):
        optimizer.step(closure_of(model, loss, optimizer, backward=True))
    with pytest.raises(RuntimeError, match="closure: expected a loss with its graph, got one with"):
        optimizer.step(lambda: loss(model).detach())
    assert all(torch.equal(before[name], z) for name, z in model.state_dict().items())


# ---- both


OPTIMIZERS = {
    "corridor": lambda p: Corridor(p, max_lr=1.0),
    "dal": lambda p: DAL(p, p=0.75, max_lr=1.0, every=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_ends_like_one_that_is_not(name):
    model, loss = mlp()
    optimizer = OPTIMIZERS[name](model.named_parameters())
    take(optimizer, model, loss, 4)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file)
    other, _ = mlp(seed=1)
    other.load_state_dict(weights)
    resumed = OPTIMIZERS[name](other.named_parameters())
    resumed.load_state_dict(state)
    assert resumed.state_dict() == optimizer.state_dict()
    found, expected = take(resumed, other, loss, 7), take(optimizer, model, loss, 7)
    assert found.tobytes() == expected.tobytes()
    assert resumed.state_dict() == optimizer.state_dict()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_foreach_gives_the_same_steps(name):
    ends = []
    for foreach in (True, False):
        model, loss = mlp()
        optimizer = OPTIMIZERS[name](model.parameters())
        for group in optimizer.param_groups:
            group["foreach"] = foreach
        ends.append(take(optimizer, model, loss, 5))
    assert_close(ends[0], ends[1])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("make", [mlp, resnet, vit, text_classifier])
def test_networks_are_trained(name, make):
    model, loss = make()
    optimizer = OPTIMIZERS[name](model.parameters())
    for group in optimizer.param_groups:
        group["max_lr"] = 0.1
    first = float(loss(model).detach())
    take(optimizer, model, loss, 8)
    assert float(loss(model).detach()) < first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_under_autocast(name):
    net, _ = mlp()
    net = net.float()
    x = torch.randn(8, 5)
    labels = torch.arange(8) % 3

    def loss(model):
        with torch.autocast("cpu", torch.bfloat16):
            return nn.functional.cross_entropy(model(x), labels)

    optimizer = OPTIMIZERS[name](net.parameters())
    first = float(loss(net).detach())
    take(optimizer, net, loss, 10)
    assert float(loss(net).detach()) < first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_half_precision_gradients_are_summed_in_float32(name):
    parameter = nn.Parameter(torch.full((5000,), 0.01, dtype=torch.bfloat16))
    optimizer = OPTIMIZERS[name]([parameter])
    model = nn.Module()
    model.x = parameter
    take(optimizer, model, lambda m: m.x.float().square().sum())
    expected = 0.25 if name == "corridor" else 1.0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sparse_gradients_are_refused_by_name(name):
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1)).double()
    optimizer = OPTIMIZERS[name](model.named_parameters())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="got a sparse one at '0.weight'; do build"):
        take(optimizer, model, lambda m: m(torch.tensor([1, 2])).sum().square())
    assert all(torch.equal(before[name], z) for name, z in model.state_dict().items())


def test_missing_gradients_are_refused_by_name():
    model, _ = mlp()
    optimizer = Corridor(model.named_parameters())
    with pytest.raises(RuntimeError, match="got none at 4, the first '0.weight'; do loss.backward"):
        optimizer.step(loss=1.0)
    with pytest.raises(RuntimeError, match="the first 'parameter 0 of group 0'"):
        Corridor(model.parameters()).step(loss=1.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_gradient_path_is_refused_by_name(name):
    model, loss = mlp()
    model.register_parameter("spare", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    optimizer = OPTIMIZERS[name](model.named_parameters())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="each of 5, got none at 1, the first 'spare'; do"):
        take(optimizer, model, loss)
    assert all(torch.equal(before[name], z) for name, z in model.state_dict().items())


def test_frozen_parameters_alone_are_refused():
    parameter = nn.Parameter(torch.ones(2), requires_grad=False)
    with pytest.raises(RuntimeError, match="expected some that require a gradient, got 1 frozen"):
        Corridor([parameter]).step(loss=1.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_stay_as_they_are(name):
    model, loss = mlp()
    spare = nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = OPTIMIZERS[name]([*model.parameters(), spare])
    take(optimizer, model, loss)
    assert spare.tolist() == [1.0, 1.0]


BAD_LOSSES = {
    "got nan; do look": lambda m: m.x.sum() * math.nan,
    "got inf": lambda m: m.x.sum() / 0.0,
    r"0-d tensor, got shape \(2,\)": lambda m: m.x * 1.0,
    "expected the loss of the batch, got NoneType": lambda m: None,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("words", BAD_LOSSES)
def test_bad_losses_are_refused_before_parameters_change(name, words):
    model = Scalar(1.0, 2.0)
    model.x.grad = torch.ones(2).double()
    optimizer = OPTIMIZERS[name](model.parameters())
    with pytest.raises((ValueError, TypeError), match=words):
        optimizer.step(lambda: BAD_LOSSES[words](model))
    assert model.x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_that_are_not_finite_are_refused(name):
    model = Scalar(0.0, 2.0)
    optimizer = OPTIMIZERS[name](model.parameters())
    with pytest.raises(RuntimeError, match="expected finite gradients, got a squared norm of"):
        take(optimizer, model, lambda m: m.x.sqrt().sum())
    assert model.x.tolist() == [0.0, 2.0]


def test_a_step_needs_a_closure_or_a_loss():
    model, loss = mlp()
    optimizer = Corridor(model.parameters())
    with pytest.raises(ValueError, match="either a closure or a loss, got none"):
        optimizer.step()
    with pytest.raises(ValueError, match="either a closure or a loss, got both"):
        optimizer.step(lambda: loss(model), loss=1.0)


SETTINGS = {
    "f_star: expected a finite loss, got nan": lambda p: Corridor(p, f_star=math.nan),
    "max_lr: expected at least 0, got -1": lambda p: Corridor(p, max_lr=-1),
    "eps: expected at least 0, got -1": lambda p: Corridor(p, eps=-1),
    "p: expected at least 0, got nan": lambda p: DAL(p, p=math.nan),
    "every: expected a number of steps of at least 1, got 0": lambda p: DAL(p, every=0),
}


@pytest.mark.parametrize("words", SETTINGS)
def test_bad_settings_are_refused(words):
    with pytest.raises(ValueError, match=re.escape(words)):
        SETTINGS[words]([one_dimension(1.0)])


class OnlyOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_dal_refuses_operations_without_a_second_derivative():
    model = Scalar(1.0, 2.0)
    with pytest.raises(NotImplementedError, match="once_differentiable; do use Corridor"):
        take(DAL(model.parameters()), model, lambda m: OnlyOnce.apply(m.x).sum())
    assert model.x.tolist() == [1.0, 2.0]
    take(Corridor(model.parameters()), model, lambda m: OnlyOnce.apply(m.x).sum())
    assert model.x.tolist() == pytest.approx([0.5, 1.0])
