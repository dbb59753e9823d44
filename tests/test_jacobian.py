from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import complexity as reference
from torch import nn

from geocollapse.features import CallableMap, FeatureMap, Layer
from geocollapse.jacobian import ProbePlan, examples_that_fit, squared_jacobian_norms
from maps import Twice, small_net

STD = torch.tensor([0.3, 0.7, 1.1, 0.9], dtype=torch.float64)
ESTIMATORS = ["rademacher", "gaussian", "orthogonal", "input", "outputs"]


def probe(plan, f, x, n_probes, **settings):
    return plan.probe(*CallableMap(f).enter(x), torch.arange(len(x)), n_probes, **settings).norms[0]


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6))
@settings(max_examples=25)
def test_linear_map_gives_the_frobenius_norm(p, d, seed):
    f = nn.Linear(d, p).double()
    x = torch.randn(4, d, generator=torch.Generator().manual_seed(seed)).double()
    expected = f.weight.detach().square().sum().expand(4)
    torch.testing.assert_close(squared_jacobian_norms(f, x), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        squared_jacobian_norms(f, x, estimator="orthogonal", n_probes=p),
        expected,
        rtol=1e-10,
        atol=0,
    )
    torch.testing.assert_close(
        squared_jacobian_norms(f, x, estimator="outputs", n_probes=p), expected, rtol=1e-10, atol=0
    )


@pytest.mark.parametrize(("p", "d"), [(4, 7), (9, 3)])  # reverse mode, forward mode
def test_exact_agrees_with_both_references(p, d):
    f = small_net(p, d)
    x = torch.randn(5, d).double()
    torch.testing.assert_close(
        squared_jacobian_norms(f, x), reference.squared_norms(f, x), rtol=1e-10, atol=0
    )
    numeric = reference.finite_difference_squared_norms(lambda z: f(z).detach(), x)
    torch.testing.assert_close(squared_jacobian_norms(f, x), numeric, rtol=1e-6, atol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n_probes", [1, 3])
def test_unbiased_with_the_stated_variance(estimator, n_probes):
    f = small_net()
    x = torch.randn(2, 5).double()
    repeats = 20_000
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
    f = small_net()
    repeats = 20_000
    x = torch.randn(1, 5).double().expand(repeats, -1)
    norms = probe(ProbePlan(estimator, 3), f, x, 3)
    assert float(norms.variances.mean()) == pytest.approx(float(norms.values.var()), rel=0.05)


def test_a_probe_that_only_serves_the_variance_does_not_move_the_value():
    f = small_net()
    x = torch.randn(8, 5).double()
    plan = ProbePlan("rademacher", 0)
    one = probe(plan, f, x, 1)
    two = probe(plan, f, x, 2, n_counted=1)
    torch.testing.assert_close(one.values, two.values)
    assert bool(one.variances.isnan().all())
    assert bool(two.variances.isfinite().all())


def test_input_scale_gives_the_norm_for_each_raw_pixel():
    torch.manual_seed(0)
    std = torch.tensor([0.2, 0.5, 1.5], dtype=torch.float64)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten()).double()
    pixels = torch.rand(3, 3, 5, 5).double()
    whole = reference.squared_norms(lambda z: net(z / std[:, None, None]), pixels)
    x = pixels / std[:, None, None]
    for estimator, n_probes in (("exact", 1), ("orthogonal", 36), ("masked", 36 * 75)):
        norms = probe(ProbePlan(estimator, 0, std), net, x, n_probes)
        torch.testing.assert_close(norms.scaled, whole, rtol=1e-9, atol=0)
    norms = probe(ProbePlan("input", 0, std), net, x, 3000)
    torch.testing.assert_close(norms.scaled, whole, rtol=0.1, atol=0)


@given(st.integers(0, 10**6))
@settings(max_examples=10)
def test_degree_two_in_f_and_rotation_invariant(seed):
    f = small_net()
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)).double()
    q, _ = torch.linalg.qr(
        torch.randn(6, 6, generator=torch.Generator().manual_seed(seed + 1)).double()
    )
    whole = squared_jacobian_norms(f, x)
    torch.testing.assert_close(squared_jacobian_norms(lambda z: 3 * f(z), x), 9 * whole)
    torch.testing.assert_close(squared_jacobian_norms(lambda z: f(z) @ q, x), whole)


def test_in_place_layers_and_any_shape():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True))
    x = torch.randn(2, 2, 6, 6)
    before = x.clone()
    torch.testing.assert_close(
        squared_jacobian_norms(net, x),
        reference.squared_norms(net.double(), x),
        rtol=1e-5,
        atol=1e-6,
    )
    assert torch.equal(x, before)


@pytest.mark.parametrize("n_directions", [1, 3, 6])
def test_aligned_is_unbiased_with_the_stated_variance(n_directions):
    f = small_net()
    x = torch.randn(1, 5).double()
    repeats = 20_000
    basis = torch.linalg.qr(torch.randn(6, n_directions).double())[0]
    plan = replace(ProbePlan("aligned", 1), bases=(basis,))
    norms = probe(plan, f, x.expand(repeats, -1), 2)
    exact = reference.squared_norms(f, x)[0]
    one = reference.aligned_variance(f, x, basis)[0]
    assert abs(float(norms.values.mean() - exact)) < 4 * float((one / 2 / repeats).sqrt())
    assert float(norms.values.var()) == pytest.approx(float(one) / 2, rel=0.08)
    assert float(norms.variances.mean()) == pytest.approx(float(one) / 2, rel=0.05)


def test_aligned_probes_vary_less_where_features_vary_along_the_jacobian():
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(40, 3))[0], torch.linalg.qr(torch.randn(20, 3))[0]

    def f(x):  # features vary along J's left vectors
        return x @ v * torch.tensor([5.0, 3.0, 2.0]) @ u.T

    x = torch.randn(2000, 20)
    found = squared_jacobian_norms(f, x, estimator="aligned")
    plain = squared_jacobian_norms(f, x, estimator="rademacher")
    assert float(found.mean()) == pytest.approx(38.0, rel=0.02)
    assert float(found.std()) < 0.3 * float(
        plain.std()
    )  # the principal directions are those of a sample


@pytest.mark.parametrize("n_entries", [1, 7, 30])
def test_masked_is_unbiased_with_the_stated_variance(n_entries):
    f = small_net()
    x = torch.randn(1, 5).double()
    repeats = 20_000
    norms = probe(ProbePlan("masked", 1), f, x.expand(repeats, -1), n_entries)
    exact = reference.squared_norms(f, x)[0]
    variance = reference.masked_variance(f, x, n_entries)[0]
    assert abs(float(norms.values.mean() - exact)) <= 4 * float(
        (variance / repeats).sqrt()
    ) + 1e-9 * float(exact)
    assert float(norms.values.var()) == pytest.approx(float(variance), rel=0.08, abs=1e-20)
    if n_entries > 1:
        assert float(norms.variances.mean()) == pytest.approx(float(variance), rel=0.05, abs=1e-20)


@pytest.mark.parametrize("estimator", ["input", "rademacher", "masked", "exact"])
def test_all_layers_from_one_pass(estimator):
    model = small_net()
    x = torch.randn(6, 5).double()
    layers = [Layer("0"), Layer("2"), Layer("")]
    plan = ProbePlan(estimator, 4)
    indices = torch.arange(6)
    together = plan.probe(*FeatureMap(model, layers).enter(x), indices, 2)
    for layer, norms, features in zip(layers, together.norms, together.features, strict=True):
        alone = plan.probe(*FeatureMap(model, [layer]).enter(x), indices, 2)
        torch.testing.assert_close(norms.values, alone.norms[0].values, rtol=1e-12, atol=0)
        assert torch.equal(features, alone.features[0])
        assert not features.requires_grad
    torch.testing.assert_close(together.output, model(x).detach())


@pytest.mark.parametrize("batch_first", [True])
def test_input_probes_of_attention(batch_first):
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first).double().eval()
    x = torch.randn(1, 4, 8).double()
    exact = reference.squared_norms(block, x)[0]
    draws = squared_jacobian_norms(block, x.expand(4000, -1, -1), estimator="input")
    assert abs(float(draws.mean() - exact)) < 4 * float(draws.std()) / 4000**0.5
    assert torch.backends.mha.get_fastpath_enabled()


def test_memory_limit_sends_examples_in_parts_that_fit():
    sizes = []

    def f(x):
        sizes.append(len(x))
        return (x @ weight).tanh()

    weight = torch.randn(50, 40)
    x = torch.randn(64, 50)
    one = (
        50 + 40 + 2 * 50
    ) * 4  # the leaf, the output that tanh saves, and two gradients of the leaf's size
    whole = squared_jacobian_norms(f, x)
    sizes.clear()
    parts = squared_jacobian_norms(f, x, memory_limit=20 * one)
    torch.testing.assert_close(parts, whole)
    assert sizes == [
        2,
        2,
        2,
        1,
        2,
        20,
        20,
        20,
        4,
    ]  # rows are independent; one and two to count; parts of 20
    assert examples_that_fit(*CallableMap(f).enter(x), 1000 * one) == 1000


def test_a_map_that_ignores_its_input_has_norm_zero():
    assert squared_jacobian_norms(lambda x: torch.ones(len(x), 2), torch.randn(3, 4)).tolist() == [
        0,
        0,
        0,
    ]


def test_exact_falls_back_to_rows_without_forward_mode():
    f = lambda x: torch.cat([Twice.apply(x)] * 3, dim=1)  # noqa: E731
    assert squared_jacobian_norms(f, torch.randn(3, 4)).tolist() == [48, 48, 48]


class Tokens(nn.Module):
    """A convolution whose positions become tokens, so gradients arrive with channels last."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.tanh(self.norm(self.first(x)).flatten(2).transpose(1, 2)).flatten(1)


@pytest.mark.parametrize("estimator", ["exact", "rademacher"])
def test_one_example_alone_has_the_norm_it_has_among_others(estimator):
    """torch mixes up the entries of the gradient of a single example in batch normalisation."""
    torch.manual_seed(0)
    model = Tokens().double().eval()
    x = torch.randn(3, 3, 4, 4).double()
    model.norm.running_var.uniform_(0.5, 2)
    together = squared_jacobian_norms(model, x, estimator=estimator)
    alone = [
        squared_jacobian_norms(model, x[i : i + 1], indices=torch.tensor([i]), estimator=estimator)
        for i in range(3)
    ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize(("estimator", "n_probes"), [("outputs", 10), ("exact", 1), ("masked", 40)])
def test_half_precision_rounds_no_scale(estimator, n_probes):
    """In bfloat16 the norms of a linear map are those of its rounded weight, for any scale."""
    f = nn.Linear(4, 10, bias=False).bfloat16()
    weight = f.weight.detach().double()
    norms = probe(ProbePlan(estimator, 0, STD), f, torch.randn(5, 4).bfloat16(), n_probes)
    torch.testing.assert_close(norms.values, weight.square().sum().expand(5), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        norms.scaled, (weight / STD).square().sum().expand(5), rtol=1e-12, atol=0
    )


def test_aligned_directions_have_length_one_in_half_precision():
    features = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    (basis,) = ProbePlan("aligned").fitted(lambda x: ([x], None), features).bases
    torch.testing.assert_close(basis.mT @ basis, torch.eye(10), rtol=0, atol=1e-5)
