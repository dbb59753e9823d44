"""Laws by which geometric complexity enters everyday training, each with a negative control."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import regularisers as reference
from torch import nn

import geocollapse as geo
from geocollapse.bounds import transfer_inequality


def curve(seed, width=32):
    """A smooth random function of one variable."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1)).double()


def dense(*widths, seed=0, bias=True, activation=nn.Tanh):
    torch.manual_seed(seed)
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).double()


# Arc length and Dirichlet energy


def arc_length_and_energy(f, n=4001):
    """The length of the graph over [0, 1] as a polygon, and the integral of f'^2 as GC."""
    x = torch.linspace(0, 1, n).double()[:, None]
    with torch.no_grad():
        y = f(x)[:, 0]
    length = float((x[1:, 0] - x[:-1, 0]).hypot(y[1:] - y[:-1]).sum())
    middles = (x[1:] + x[:-1]) / 2
    energy = geo.geometric_complexity(f, middles, layer="", estimator="exact").value
    return length, energy


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.floats(0.1, 5.0))
def test_arc_length_is_at_most_one_plus_half_the_dirichlet_energy(seed, scale):
    f = curve(seed)
    with torch.no_grad():
        f[2].weight.mul_(scale)
    length, energy = arc_length_and_energy(f)
    assert 1.0 <= length <= 1.0 + 0.5 * energy


def test_the_factor_one_half_of_the_arc_length_is_the_least():
    """The negative control: with 0.45 a flat line of small slope breaks the inequality."""
    f = nn.Linear(1, 1).double()
    with torch.no_grad():
        f.weight.fill_(0.3)
    length, energy = arc_length_and_energy(f)
    assert length <= 1.0 + 0.5 * energy
    assert length > 1.0 + 0.45 * energy


# Noise


def white_noise(n_draws, n, d):
    """Draws (n_draws, n, d) whose second moments at each example are exactly the identity."""
    e = torch.randn(n_draws, n, d, generator=torch.Generator().manual_seed(0)).double()
    moments = torch.einsum("kni,knj->nij", e, e) / n_draws
    factor = torch.linalg.cholesky(moments)
    return torch.linalg.solve_triangular(factor, e.permute(1, 2, 0), upper=False).permute(2, 0, 1)


def noise_error(f, x, s, n_draws=4000, *, coefficient=1.0):
    """E||f(x + e) - f(x)||^2 - s^2 GC over white e of deviation s, with pairs e and -e."""
    gc = geo.geometric_complexity(f, x, layer="", estimator="exact").value
    e = s * white_noise(n_draws, *x.shape)
    with torch.no_grad():
        moved = (f(x + e) - f(x)).square().sum(dim=-1)
        mirrored = (f(x - e) - f(x)).square().sum(dim=-1)
    return float(0.5 * (moved + mirrored).mean()) - coefficient * s**2 * gc


def test_input_noise_adds_its_variance_times_gc_up_to_the_fourth_order():
    f = dense(3, 16, 2)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
    errors = [abs(noise_error(f, x, s)) for s in (0.2, 0.1, 0.05)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders[-1] == pytest.approx(4.0, abs=0.15)


@pytest.mark.parametrize("coefficient", [0.5, 1.2])
def test_a_wrong_coefficient_of_the_noise_law_leaves_the_second_order(coefficient):
    f = dense(3, 16, 2)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
    errors = [abs(noise_error(f, x, s, coefficient=coefficient)) for s in (0.1, 0.05)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


def test_a_squared_loss_also_gains_where_residuals_meet_the_laplacian():
    """E||f(x + e) - y||^2 - ||f(x) - y||^2 = s^2 (GC + mean <f - y, Laplacian f>) + O(s^4)."""
    f = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = torch.linspace(-1, 1, 6).double()[:, None]
    gc = geo.geometric_complexity(f, x, layer="", estimator="exact").value
    curvature = torch.stack([torch.autograd.functional.hessian(lambda v: f(v).sum(), v) for v in x])
    e = white_noise(2000, *x.shape)
    with torch.no_grad():
        residual = torch.where(x > 0, 1.0, -1.0)  # y = f - residual
        added = float((residual * curvature[:, :, 0]).mean())

        def gain(s):
            after = sum((f(x + sign * s * e) - f(x) + residual).square() for sign in (1, -1)) / 2
            return float((after - residual.square()).sum(dim=-1).mean())

        errors = [abs(gain(s) - s**2 * (gc + added)) for s in (0.1, 0.05)]
        without = [abs(gain(s) - s**2 * gc) for s in (0.1, 0.05)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.15)
    assert math.log2(without[0] / without[1]) == pytest.approx(2.0, abs=0.15)


def test_of_a_linear_map_the_noise_law_is_exact():
    f = nn.Linear(3, 2).double()
    assert noise_error(f, torch.randn(2, 3).double(), 1.0, 500) == pytest.approx(0.0, abs=1e-10)


# The transfer inequality


NETWORKS = {
    "tanh": dense(4, 7, 5, 3),
    "relu": dense(4, 7, 5, 3, activation=nn.ReLU),
    "wide": dense(4, 64, 3, activation=nn.Softplus),
    "no bias": dense(4, 6, 3, bias=False),
    "one layer": dense(4, 3),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("output", [0, "loss"])
def test_both_sides_agree_with_the_reference(name, output):
    model = NETWORKS[name]
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).double()

    def scalar(z):
        labels = torch.zeros(len(z), dtype=torch.int64)
        return z[:, 0] if output == 0 else nn.functional.cross_entropy(z, labels, reduction="none")

    found = transfer_inequality(model, x, scalar)
    for row, left, right in zip(x, found.input_norms * found.factors, found.parameter_norms):
        expected = reference.transfer_sides(model, row, scalar)
        assert (float(left), float(right)) == pytest.approx(expected, rel=1e-8)
    assert bool((found.ratios <= 1.0 + 1e-12).all())
    assert 0.0 < found.ratio <= 1.0 + 1e-12


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_the_ratio_never_exceeds_one(seed, hidden):
    model = dense(5, *hidden, 1, seed=seed)
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed)).double()
    assert bool((transfer_inequality(model, x).ratios <= 1.0 + 1e-9).all())


def test_one_layer_with_one_output_has_equality():
    model = dense(4, 1)
    found = transfer_inequality(model, torch.randn(9, 4).double())
    torch.testing.assert_close(found.ratios, torch.ones(9).double())


def test_without_the_operator_norms_the_inequality_is_false():
    """The negative control: A_l is needed, sums of 1 + ||h||^2 alone lie above."""
    model = dense(4, 16, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4.0)
    x = torch.randn(9, 4).double()
    found = transfer_inequality(model, x)
    with torch.no_grad():
        sums = 2.0 + x.square().sum(dim=1) + model[:2](x).square().sum(dim=1)
    wrong = found.input_norms * sums / found.parameter_norms
    assert bool((wrong > 1.0).any())
    assert bool((found.ratios <= 1.0).all())


def test_activations_in_place_and_float32_are_no_matter():
    x = torch.randn(5, 4).double()
    plain = dense(4, 6, 1, activation=nn.ReLU)
    in_place = dense(4, 6, 1, activation=lambda: nn.ReLU(inplace=True))
    a, b = (transfer_inequality(m, x).ratios for m in (plain, in_place))
    torch.testing.assert_close(a, b)
    single = transfer_inequality(plain.float(), x.float()).ratios
    torch.testing.assert_close(single, a, rtol=1e-4, atol=1e-5)


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        return self.last(x + torch.tanh(self.first(x)))


TWICE = nn.Linear(4, 4)


def tied_biases():
    model = dense(4, 4, 4, 1).float()
    model[2].bias = model[0].bias
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(1, 1, 1), "Conv2d in 'the model itself'"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1)), "LayerNorm in '1'"),
        (nn.ReLU(), "no linear layer"),
        (Shortcut(), "a shortcut"),
        (nn.Sequential(TWICE, nn.Tanh(), TWICE, nn.Linear(4, 1)), "used twice"),
        (tied_biases(), "used twice"),
        (nn.Linear(4, 2), "scalar: expected a function of the output"),
    ],
)
def test_what_is_no_dense_network_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        transfer_inequality(model, torch.randn(3, 4))


def test_a_shared_weight_would_make_the_right_side_wrong():
    """The reason for the refusal: the gradient of a shared weight has a cross term."""
    x = torch.randn(1, 4).double()
    apart = dense(4, 4, 4, 1)
    apart[2].load_state_dict(apart[0].state_dict())
    found = float(transfer_inequality(apart, x).parameter_norms)
    shared = nn.Sequential(apart[0], nn.Tanh(), apart[0], nn.Tanh(), apart[4])
    gradients = torch.autograd.grad(shared(x).sum(), list(shared.parameters()))
    assert abs(sum(float(g.square().sum()) for g in gradients) / found - 1.0) > 0.01


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    x = torch.randn(3, 4)
    x[1, 2] = value
    for model in (nn.Linear(4, 1), dense(4, 6, 1).float()):
        with pytest.raises(ValueError, match=r"inputs: expected finite .* \(first at row 1\)"):
            transfer_inequality(model, x)
        with torch.no_grad():
            next(model.parameters())[0] = value
        with pytest.raises(ValueError, match=r"model: expected finite parameters.*weight"):
            transfer_inequality(model, torch.randn(3, 4))


def test_a_gradient_that_overflows_is_refused():
    model = dense(2, 2, 2, 1, bias=False, activation=nn.Identity).float()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1e30)
    with pytest.raises(ValueError, match="gradient: expected finite"):
        transfer_inequality(model, torch.zeros(3, 2))


def test_the_model_is_handed_back():
    model = dense(4, 6, 1)
    transfer_inequality(model, torch.randn(3, 4).double())
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model[0]._forward_hooks


def test_the_transfer_inequality_takes_one_vector_an_example():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    refused = (
        (torch.zeros(0, 4), ValueError, r"inputs: expected shape .* got \(0, 4\)"),
        (torch.tensor(1.0), ValueError, r"inputs: expected shape .* got \(\)"),
        (torch.ones(4), ValueError, r"inputs: expected one vector for each .* got shape \(4,\)"),
        (torch.ones(3, 5, 4), ValueError, r"one vector for each of 3 .* got shape \(3, 5, 4\)"),
        (torch.ones(3, 4).long(), TypeError, "inputs: expected a floating .* got torch.int64"),
        ([[1.0] * 4], TypeError, "inputs: expected a floating tensor .* got list"),
    )
    for inputs, error, words in refused:
        with pytest.raises(error, match=words):
            transfer_inequality(model, inputs)


def test_the_transfer_inequality_of_an_unused_layer_is_refused():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x):
            return x.sum(dim=1, keepdim=True)

    with pytest.raises(ValueError, match="got no linear layer in the forward pass"):
        transfer_inequality(Unused(), torch.ones(3, 4))


def test_a_scalar_that_is_no_tensor_with_a_gradient_is_refused():
    model = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"scalar: expected \(3,\) numbers .* got float"):
        transfer_inequality(model, torch.ones(3, 4), lambda z: 1.0)
    with pytest.raises(ValueError, match=r"got shape \(3,\), without a gradient"):
        transfer_inequality(model, torch.ones(3, 4), lambda z: z.argmax(dim=1))
