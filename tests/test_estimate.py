import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from geocollapse.estimate import Estimate, paired, strict_json, total_variance
from geocollapse.influence import Influence
from geocollapse.numerics import check_finite


def test_log_interval_is_multiplicative_student():
    e = Estimate(2.0, 0.3, n_samples=20, dof=19)
    low, high = e.interval(0.9)
    t = stats.t.ppf(0.95, 19)
    assert high == pytest.approx(2.0 * math.exp(t * 0.15), rel=1e-12)
    assert low * high == pytest.approx(4.0, rel=1e-12)


def test_linear_interval_is_symmetric():
    low, high = Estimate(0.5, 0.1, n_samples=600, dof=599, scale="linear").interval()
    assert 0.5 - low == pytest.approx(high - 0.5)
    assert high - 0.5 == pytest.approx(stats.t.ppf(0.975, 599) * 0.1, rel=1e-12)


@pytest.mark.parametrize("hits", [0, 1, 7, 40])
def test_a_share_has_the_interval_of_wilson(hits):
    n = 40
    share = hits / n
    e = Estimate(share, math.sqrt(share * (1 - share) / n), n_samples=n, scale="share")
    assert e.interval(0.9) == pytest.approx(
        tuple(stats.binomtest(hits, n).proportion_ci(0.9, method="wilson")), abs=1e-12
    )
    assert all(math.isnan(x) for x in Estimate(math.nan, math.nan, 9, scale="share").interval())


def with_influence(value, terms, *, labels=(0, 0, 1, 1), ids=(0, 1, 2, 3), **settings):
    influence = Influence(torch.tensor(terms).double(), torch.tensor(labels), torch.tensor(ids))
    stderr, dof = influence.spread()
    return Estimate(value, stderr, n_samples=4, dof=dof, influence=influence, **settings)


def test_paired_estimates_subtract_example_by_example():
    a = with_influence(2.0, [0.3, -0.3, 0.1, -0.1])
    b = with_influence(1.5, [0.3, -0.3, 0.2, -0.2])
    difference = paired(a, b)
    assert difference.value == pytest.approx(0.5)
    assert difference.stderr == pytest.approx(math.sqrt(0.02))
    assert difference.stderr < b.stderr
    ratio = paired(a, b, scale="log")
    assert ratio.value == pytest.approx(math.log(2.0 / 1.5))
    assert ratio.stderr == pytest.approx(math.sqrt(2 * 0.05**2 + 2 * (0.1 / 2 - 0.2 / 1.5) ** 2))
    assert (ratio.scale, ratio.estimator) == ("linear", "paired")
    same = paired(a, a)
    assert (same.value, same.stderr, same.interval()) == (0.0, 0.0, (0.0, 0.0))
    assert math.isnan(paired(a, with_influence(0.0, [0.0] * 4), scale="log").value)


def test_what_cannot_be_paired_is_refused():
    a = with_influence(2.0, [0.3, -0.3, 0.1, -0.1])
    for other in ({"ids": (0, 1, 2, 4)}, {"labels": (0, 1, 1, 1)}):
        with pytest.raises(ValueError, match="b: expected an estimate of the examples of a, got"):
            paired(a, with_influence(2.0, [0.3, -0.3, 0.1, -0.1], **other))
    with pytest.raises(ValueError, match=r"b: expected an estimate that knows the influence .* do"):
        paired(a, Estimate(1.0, 0.1, 4))
    with pytest.raises(ValueError, match="scale: expected 'linear' or 'log', got 'share'"):
        paired(a, a, scale="share")


def test_degrees_of_freedom_follow_the_fourth_moments():
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(4000, generator=generator).double()
    classes = torch.arange(4000) % 4
    light = Influence(terms, classes, classes).spread()
    assert light[0] == pytest.approx(math.sqrt(4000), rel=0.03)
    assert light[1] == pytest.approx(4000, rel=0.1)
    heavy = Influence(terms**3, classes, classes).spread()
    assert heavy[1] < 1000
    few = torch.zeros(4000).double()
    few[:4] = 1.0
    assert Influence(few, classes * 0, classes).spread()[1] == pytest.approx(2 * 4, rel=0.01)


def test_infinite_dof_is_normal():
    assert Estimate(0.0, 1.0, n_samples=1, scale="linear").interval()[1] == pytest.approx(
        1.959963984540054
    )


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 2.0), st.floats(0.5, 0.98))
def test_wider_level_wider_interval(value, relative, level):
    e = Estimate(value, relative * value, n_samples=50, dof=49)
    low, high = e.interval(level)
    wide_low, wide_high = e.interval(level + 0.01)
    assert 0 < wide_low < low < value < high < wide_high


def test_undefined_and_exact_values():
    assert Estimate(0.0, 0.0, n_samples=5).interval() == (0.0, 0.0)
    assert all(math.isnan(x) for x in Estimate(1.0, math.nan, n_samples=1).interval())


def test_level_out_of_range():
    with pytest.raises(
        ValueError, match=r"level: expected a number between 0 and 1, got 95; do interval"
    ):
        Estimate(1.0, 0.1, n_samples=5).interval(95)


def test_json_is_strict():
    e = Estimate(math.nan, math.inf, n_samples=3, largest_share=0.5)
    text = json.dumps(
        strict_json({"e": e, "a": np.float64("nan"), "t": torch.tensor([1.0, math.inf])}),
        allow_nan=False,
    )
    assert json.loads(text)["t"] == [1.0, None]
    assert json.loads(text)["e"]["value"] is None
    assert float(Estimate(2.5, 0.1, 3)) == 2.5


def test_satterthwaite_of_equal_terms():
    stderr, dof = total_variance([4.0, 4.0], [9.0, 9.0])
    assert (stderr, dof) == (pytest.approx(math.sqrt(8)), pytest.approx(18.0))
    assert total_variance([0.0], [3.0]) == (0.0, math.inf)


def test_check_finite_counts_rows():
    x = torch.ones(4, 3)
    check_finite("features", x)
    x[2, 1] = math.nan
    with pytest.raises(
        ValueError,
        match=r"features: expected finite numbers, got NaN or infinity in 1 of 4 .* row 2",
    ):
        check_finite("features", x)
