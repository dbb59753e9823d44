import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from geocollapse.estimate import Estimate, strict_json, total_variance
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
