import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import complexity as reference
from torch import nn

from geocollapse import squared_jacobian_norms
from geocollapse.jacobian import ProbePlan, track

ESTIMATORS = ["rademacher", "gaussian", "orthogonal", "outputs"]


def small_net(p=6, d=5, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 9), nn.Tanh(), nn.Linear(9, p), nn.ReLU(), nn.Linear(p, p)).double()


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6))
@settings(max_examples=25)
def test_linear_map_gives_the_frobenius_norm(p, d, seed):
    f = nn.Linear(d, p).double()
    x = torch.randn(4, d, generator=torch.Generator().manual_seed(seed)).double()
    expected = f.weight.detach().square().sum().expand(4)
    torch.testing.assert_close(squared_jacobian_norms(f, x), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        squared_jacobian_norms(f, x, estimator="orthogonal", n_probes=p), expected, rtol=1e-10, atol=0
    )
    torch.testing.assert_close(
        squared_jacobian_norms(f, x, estimator="outputs", n_probes=p), expected, rtol=1e-10, atol=0
    )


@pytest.mark.parametrize(("p", "d"), [(4, 7), (9, 3)])  # reverse mode, forward mode
def test_exact_agrees_with_both_references(p, d):
    f, x = small_net(p, d), torch.randn(5, d).double()
    torch.testing.assert_close(squared_jacobian_norms(f, x), reference.squared_norms(f, x), rtol=1e-10, atol=0)
    numeric = reference.finite_difference_squared_norms(lambda z: f(z).detach(), x)
    torch.testing.assert_close(squared_jacobian_norms(f, x), numeric, rtol=1e-6, atol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n_probes", [1, 3])
def test_unbiased_with_the_stated_variance(estimator, n_probes):
    f, x, repeats = small_net(), torch.randn(2, 5).double(), 20_000
    many = x[:1].expand(repeats, -1)
    draws = squared_jacobian_norms(f, many, estimator=estimator, n_probes=n_probes, seed=1)
    exact = reference.squared_norms(f, x[:1])[0]
    one = reference.probe_variance(f, x[:1], estimator)[0]
    p = 6
    variance = one / n_probes
    if estimator in ("orthogonal", "outputs"):
        variance = variance * (p - n_probes) / (p - 1)
    assert abs(float(draws.mean() - exact)) < 4 * float((variance / repeats).sqrt())
    assert float(draws.var()) == pytest.approx(float(variance), rel=0.08)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_reported_variance_is_unbiased(estimator):
    f, repeats = small_net(), 20_000
    leaf = track(torch.randn(1, 5).double().expand(repeats, -1))
    norms = ProbePlan(estimator, 3).norms(f(leaf), leaf, torch.arange(repeats), 3, f=f)
    assert float(norms.variances.mean()) == pytest.approx(float(norms.values.var()), rel=0.05)


def test_a_probe_that_only_serves_the_variance_does_not_move_the_value():
    f, leaf = small_net(), track(torch.randn(8, 5).double())
    plan, indices = ProbePlan("rademacher", 0), torch.arange(8)
    one = plan.norms(f(leaf), leaf, indices, 1, f=f)
    two = plan.norms(f(leaf), leaf, indices, 2, f=f, n_counted=1)
    torch.testing.assert_close(one.values, two.values)
    assert bool(one.variances.isnan().all())
    assert bool(two.variances.isfinite().all())


def test_input_scale_gives_the_norm_for_each_raw_pixel():
    torch.manual_seed(0)
    std = torch.tensor([0.2, 0.5, 1.5], dtype=torch.float64)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten()).double()
    pixels = torch.rand(3, 3, 5, 5).double()
    whole = reference.squared_norms(lambda z: net(z / std[:, None, None]), pixels)
    leaf = track(pixels / std[:, None, None])
    for estimator, n_probes in (("exact", 1), ("orthogonal", 36)):
        norms = ProbePlan(estimator, 0, std).norms(net(leaf), leaf, torch.arange(3), n_probes, f=net, keep_graph=True)
        torch.testing.assert_close(norms.scaled, whole, rtol=1e-9, atol=0)


@given(st.integers(0, 10**6))
@settings(max_examples=10)
def test_degree_two_in_f_and_rotation_invariant(seed):
    f, x = small_net(), torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)).double()
    q, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed + 1)).double())
    whole = squared_jacobian_norms(f, x)
    torch.testing.assert_close(squared_jacobian_norms(lambda z: 3 * f(z), x), 9 * whole)
    torch.testing.assert_close(squared_jacobian_norms(lambda z: f(z) @ q, x), whole)


def test_in_place_layers_and_any_shape():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True))
    x = torch.randn(2, 2, 6, 6)
    before = x.clone()
    torch.testing.assert_close(
        squared_jacobian_norms(net, x), reference.squared_norms(net.double(), x), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"estimator": "exakt"}, ValueError, "estimator: expected one of exact, .*got 'exakt'"),
        ({"n_probes": 0, "estimator": "rademacher"}, ValueError, "n_probes: expected a whole number of at least 1, got 0"),
        ({"n_probes": 9, "estimator": "orthogonal"}, ValueError, "n_probes: expected at most n_features = 6"),
        ({"x": torch.arange(5)[None]}, TypeError, r"inputs: expected a floating tensor .* got torch.int64; do inputs.float"),
        ({"f": lambda x: (x, x)}, TypeError, "features: expected one floating tensor, got tuple"),
        ({"f": lambda x: x.sum(dim=0)}, ValueError, r"features: expected one row for each of 2 examples, got shape \(5,\)"),
        ({"f": lambda x: x / 0}, ValueError, "features: expected finite numbers, got NaN or infinity in 2 of 2"),
        ({"f": nn.BatchNorm1d(5)}, RuntimeError, r"model: expected evaluation mode, got batch normalisation .* model.eval\(\)"),
        ({"f": nn.Sequential(nn.Dropout())}, RuntimeError, "or dropout in training mode in '0'"),
        ({"f": nn.BatchNorm1d(5, track_running_stats=False).eval()}, RuntimeError, "without running statistics"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    settings_ = {"f": small_net().float(), "x": torch.randn(2, 5), **call}
    with pytest.raises(error, match=message):
        squared_jacobian_norms(settings_.pop("f"), settings_.pop("x"), **settings_)


def test_a_map_that_ignores_its_input_has_norm_zero():
    assert squared_jacobian_norms(lambda x: torch.ones(len(x), 2), torch.randn(3, 4)).tolist() == [0, 0, 0]
