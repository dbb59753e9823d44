"""Margins, the ramp loss, the margin risk, and geometric complexity over the squared margin."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import margin as reference
from torch import nn

import geocollapse as geo
from geocollapse.bounds import (
    MarginQuantile,
    empirical_margin_risk,
    margin_normalised,
    margins,
    ramp_loss,
)
from geocollapse.bounds import margin as margin_module

LOGITS = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(60) % 5


def network(seed=0, n_classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, n_classes)).double()


def right_data(model, n=200, share_wrong=0.0):
    """Inputs with the labels that the model gives them, but for a share of wrong ones."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1)).double()
    y = model(x).argmax(dim=1)
    n_wrong = round(share_wrong * n)
    y[:n_wrong] = (y[:n_wrong] + 1) % 3
    return x, y


# Margins and the ramp loss


def test_margins_agree_with_the_reference():
    torch.testing.assert_close(margins(LOGITS, LABELS), reference.margins(LOGITS, LABELS))


def test_a_tie_has_margin_0_and_counts_as_an_error():
    tied = margins(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([0]))
    assert tied.tolist() == [0.0]
    assert float(empirical_margin_risk(tied, gamma=0.5)) == 1.0


def test_a_masked_class_never_competes():
    z = torch.tensor([[1.0, -math.inf, 0.0]])
    assert margins(z, torch.tensor([0])).tolist() == [1.0]


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_margins_scale_with_the_logits_and_do_not_see_a_constant(seed, scale, constant):
    z = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed)).double()
    y = torch.arange(12) % 4
    torch.testing.assert_close(margins(scale * z + constant, y), scale * margins(z, y))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.05, 5.0))
def test_the_margin_risk_lies_between_two_counts(seed, gamma):
    z = torch.randn(40, 4, generator=torch.Generator().manual_seed(seed)).double()
    m = margins(z, torch.arange(40) % 4)
    risk = float(empirical_margin_risk(m, gamma))
    assert float((m <= 0).double().mean()) <= risk <= float((m < gamma).double().mean())
    assert risk == pytest.approx(sum(reference.ramp(float(v), gamma) for v in m) / 40, abs=1e-12)
    assert float(empirical_margin_risk(3 * m, 3 * gamma)) == pytest.approx(risk, abs=1e-12)
    assert float(empirical_margin_risk(m, 2 * gamma)) >= risk


def test_the_ramp_loss_is_lipschitz():
    m = torch.linspace(-2, 2, 401).double()
    slopes = ramp_loss(m, 0.5).diff() / m.diff()
    assert float(slopes.min()) == pytest.approx(-2.0)
    assert float(slopes.max()) == 0.0


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3, 1), [0, 0, 0], "at least one example and two classes"),
        (torch.zeros(0, 3), [], "at least one example and two classes"),
        (torch.tensor([[1.0, math.nan]]), [0], "expected a margin .* got 1 - nan at row 0"),
        (torch.tensor([[math.nan, 1.0]]), [0], "expected a margin .* got nan - 1 at row 0"),
        (torch.zeros(2, 3), [0, 3], "labels: expected 0 to 2"),
        (torch.zeros(2, 3), [-1, 0], "labels: expected 0 to 2"),
        (torch.full((1, 2), math.inf), [0], "expected a margin .* got inf - inf at row 0"),
    ],
)
def test_what_has_no_margin_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        margins(logits, torch.tensor(labels, dtype=torch.int64))


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_that_is_not_positive_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma: expected a positive margin"):
        ramp_loss(torch.ones(2), gamma)


@pytest.mark.parametrize(
    "taken",
    [
        lambda m: ramp_loss(m, 1.0),
        lambda m: empirical_margin_risk(m, 1.0),
        lambda m: MarginQuantile.of(m, 0.5),
        lambda m: margin_normalised(geo.Estimate(1.0, 0.1, n_samples=3), m, 0.5),
    ],
)
@pytest.mark.parametrize(
    ("margin", "message"),
    [
        (
            torch.tensor([1.0, math.nan, 2.0]),
            r"margin: expected numbers, got NaN \(first at row 1\)",
        ),
        (torch.ones(3, 2), r"margin: expected shape \(n,\) .* got \(3, 2\)"),
        (torch.tensor(1.0), r"margin: expected shape \(n,\) .* got \(\)"),
        (torch.ones(0), r"with at least one example, got \(0,\)"),
    ],
)
def test_what_is_no_list_of_margins_is_refused(taken, margin, message):
    with pytest.raises(ValueError, match=message):
        taken(margin)


# The quantile and its error


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.93])
def test_the_quantile_agrees_with_the_reference_and_torch(share):
    m = margins(LOGITS, LABELS)
    found = MarginQuantile.of(m, share).value
    assert found == pytest.approx(reference.quantile(m, share), abs=1e-12)
    assert found == pytest.approx(float(torch.quantile(m, share)), abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan, "a"])
def test_a_level_outside_0_and_1_is_refused(share):
    with pytest.raises(ValueError, match="share: expected the level of a quantile.*do share=0.1"):
        MarginQuantile.of(torch.ones(3), share)
    with pytest.raises(ValueError, match="gamma: expected the level of a quantile.*do gamma=0.1"):
        geo.margin_complexity(network(), right_data(network()), gamma=share)


def test_the_error_of_the_quantile_is_that_of_resampled_margins():
    g = torch.Generator().manual_seed(3)
    drawn = torch.randn(400, 2000, generator=g).double().exp()
    found = [MarginQuantile.of(row, 0.1) for row in drawn]
    spread = torch.tensor([q.value for q in found]).std()
    mean_error = torch.tensor([q.stderr for q in found]).mean()
    assert float(mean_error / spread) == pytest.approx(1.0, abs=0.1)


# Geometric complexity over the squared margin


def test_margin_complexity_agrees_with_the_reference():
    model = network()
    x, y = right_data(model, 40)
    found = geo.margin_complexity(model, (x, y), 0.2, estimator="exact")
    assert found.value == pytest.approx(reference.margin_complexity(model, x, y, 0.2), rel=1e-10)
    assert found.layer == ""


@pytest.mark.parametrize("scale", [0.01, 3.0, 1e4])
def test_margin_complexity_is_invariant_to_the_scale_of_the_logits(scale):
    model = network()
    data = right_data(model)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[2].weight.mul_(scale)
        scaled[2].bias.mul_(scale)
    a = geo.margin_complexity(model, data)
    b = geo.margin_complexity(scaled, data)
    assert b.value == pytest.approx(a.value, rel=1e-10)
    assert b.stderr == pytest.approx(a.stderr, rel=1e-8)
    gc = [geo.geometric_complexity(m, data[0], layer="").value for m in (model, scaled)]
    assert gc[1] == pytest.approx(scale**2 * gc[0], rel=1e-10, abs=0.0)  # the negative control


def test_margin_complexity_does_not_see_a_constant_of_all_logits():
    model = network()
    data = right_data(model)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved[2].bias.add_(7.0)
    a, b = (geo.margin_complexity(m, data, estimator="exact").value for m in (model, moved))
    assert b == pytest.approx(a, rel=1e-10)


def test_an_untrained_classifier_has_none_and_says_why():
    model = network()
    found = geo.margin_complexity(model, right_data(model, share_wrong=0.5))
    assert math.isnan(found.value)
    assert math.isnan(found.stderr)
    assert any("undefined, the margin at the quantile 0.1 is -" in note for note in found.warnings)


def test_a_lower_level_divides_by_a_smaller_margin():
    model = network()
    data = right_data(model)
    low, high = (geo.margin_complexity(model, data, g, estimator="exact") for g in (0.05, 0.5))
    assert low.value > high.value


def test_the_margins_are_those_of_all_examples_whatever_is_probed():
    model = network()
    x, y = right_data(model, 400)
    part = geo.margin_complexity(model, (x, y), max_samples=250)
    whole = geo.geometric_complexity(model, (x, y), layer="", max_samples=250)
    gamma = MarginQuantile.of(margins(model(x), y), 0.1).value
    assert part.n_samples == 250
    assert part.value == pytest.approx(whole.value / gamma**2, rel=1e-10)
    assert part.stderr == pytest.approx(whole.stderr / gamma**2, rel=1e-10)


def test_the_model_is_handed_back_as_it_was():
    model = network().train()
    geo.margin_complexity(model, right_data(model))
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_a_model_with_one_output_is_refused():
    model = network(n_classes=1)
    x = torch.randn(8, 4).double()
    with pytest.raises(ValueError, match="two classes"):
        geo.margin_complexity(model, (x, torch.zeros(8, dtype=torch.int64)))


def mean_of(values, population="distribution"):
    """The mean of (n,) numbers as an Estimate of them."""
    n = len(values)
    return geo.Estimate(
        float(values.mean()),
        float(values.std()) / math.sqrt(n),
        n,
        dof=n - 1,
        population=population,
        values=values,
    )


def covered(*, n=1000, n_draws=400, population="distribution"):
    """How often the interval of a sample holds the value of the distribution behind it."""
    model = network(5)
    g = torch.Generator().manual_seed(7)
    many = torch.randn(20_000, 4, generator=g).double()
    with torch.no_grad():
        truth_margins = margins(model(many), model(many).argmax(dim=1))
    norms = geo.squared_jacobian_norms(model, many)
    truth = float(norms.mean()) / reference.quantile(truth_margins, 0.3) ** 2
    hits = 0
    for _ in range(n_draws):
        rows = torch.randint(len(many), (n,), generator=g)
        values = norms[rows].double()
        gc = mean_of(values, population)
        low, high = margin_normalised(gc, truth_margins[rows], 0.3).interval()
        hits += low <= truth <= high
    return hits / n_draws


def test_the_interval_about_the_distribution_has_the_error_of_both():
    assert covered() == pytest.approx(0.95, abs=0.03)


def test_without_the_error_of_gamma_it_covers_far_too_little():
    """The negative control: the interval about the data set is no interval about the law."""
    assert covered(population="dataset") < 0.5


POWERS = (-1.0, 2.0)  # the squared norm as a power of the margin: both covariances, large


def error_over_spread(power, *, n=2000, n_resamples=1000, part=1.0):
    """The relative standard error over the spread of log(GC/gamma^2) among resampled examples."""
    g = torch.Generator().manual_seed(5)
    margin = (0.5 * torch.randn(n, generator=g).double()).exp()
    norms = margin**power
    rows = torch.arange(round(part * n))
    found = margin_normalised(mean_of(norms[rows]), margin, 0.5, rows=rows)
    draws = torch.randint(n, (n_resamples, n), generator=g)
    gamma = margin[draws].quantile(0.5, dim=1)
    spread = (norms[draws[:, : len(rows)]].mean(dim=1) / gamma**2).log().std()
    return found.stderr / found.value / float(spread)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("part", [1.0, 0.4])
def test_the_error_counts_the_covariance_of_complexity_and_margins(power, part):
    assert error_over_spread(power, part=part) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_without_the_covariance_or_with_its_sign_flipped_the_error_is_another(
    power, sign, monkeypatch
):
    """The negative control."""
    covariance = margin_module._covariance
    monkeypatch.setattr(margin_module, "_covariance", lambda *given: sign * covariance(*given))
    assert error_over_spread(power) != pytest.approx(1.0, abs=0.1)
