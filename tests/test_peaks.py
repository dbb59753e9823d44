"""Inner peaks over settings: where they are, how sure they are, and what is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geocollapse.papers.peaks import Peak, find_peak, mirrored_p

SIDE = 1.0 / 6.0**3  # three settings in the same order in three seeds


def runs(*seeds: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"position": position, "seed": seed, "y": value}
            for seed, values in enumerate(seeds)
            for position, value in enumerate(values)
        ]
    )


def test_the_peak_of_five_settings_has_the_p_of_its_worse_side() -> None:
    peak = find_peak(runs(*[[1.0, 2.0, 3.0, 2.5, 0.5]] * 3), "y")
    assert peak == Peak(start=0, top=2, end=4, p=pytest.approx(SIDE))
    one_seed = find_peak(runs([1.0, 2.0, 3.0, 2.5, 0.5]), "y")
    assert one_seed is not None
    assert one_seed.p == pytest.approx(1.0 / 6.0)


def test_the_search_over_tops_and_feet_is_paid_for() -> None:
    """Seven settings have 3 tops; from the fourth there are 2 settings to begin and to end at."""
    peak = find_peak(runs(*[[1.0, 2.0, 3.0, 4.0, 3.5, 2.5, 1.5]] * 3), "y")
    assert peak == Peak(start=0, top=3, end=6, p=pytest.approx(3 * 2 / 24.0**3))


def test_a_second_descent_is_found_behind_the_first() -> None:
    curve = [9.0, 6.0, 2.0, 3.0, 4.0, 5.0, 3.5, 2.5, 1.0]
    peak = find_peak(runs(curve, curve, curve), "y")
    assert peak is not None
    assert (peak.start, peak.top, peak.end) == (2, 5, 8)
    assert peak.p < 0.01


@pytest.mark.parametrize(
    "curve",
    [
        [5.0, 4.0, 3.0, 2.0, 1.0],
        [1.0, 2.0, 3.0, 4.0, 5.0],
        [5.0, 2.0, 1.0, 2.0, 5.0],
        [1.0, 2.0, 3.0, 1.0],
        [2.0] * 5,
    ],
)
def test_no_inner_peak(curve: list[float]) -> None:
    peak = find_peak(runs(curve, curve, curve), "y")
    assert peak is None or peak.p == 1.0


def test_a_measure_that_was_not_recorded_has_no_peak() -> None:
    assert find_peak(runs([1.0, 2.0, 3.0, 2.0, 1.0]), "z") is None


@pytest.mark.parametrize(
    "means", [[0.0] * 7, [3.0, 2.5, 2.0, 1.5, 1.0, 0.5, 0.0], [0.0] * 5 + [-5.0, -9.0]]
)
def test_noise_alone_has_a_peak_in_few_sweeps(means: list[float]) -> None:
    rng = np.random.default_rng(0)
    found = [find_peak(runs(*(rng.normal(size=(3, 7)) + means).tolist()), "y") for _ in range(100)]
    assert sum(peak is not None and peak.p <= 0.05 for peak in found) <= 5


def test_a_mirror_rises_and_falls_over_the_same_settings() -> None:
    peak = Peak(start=0, top=2, end=4, p=0.01)
    up = runs(*[[1.0, 2.0, 3.0, 2.0, 1.0]] * 3)
    down = runs(*[[3.0, 2.0, 1.0, 2.0, 3.0]] * 3)
    assert mirrored_p(up, "y", peak) == pytest.approx(SIDE)
    assert mirrored_p(down, "y", peak, sign=-1) == pytest.approx(SIDE)
    assert mirrored_p(up, "y", peak, sign=-1) == 1.0
    rising = runs(*[[1.0, 2.0, 3.0, 4.0, 5.0]] * 3)
    assert mirrored_p(rising, "y", peak) == mirrored_p(rising, "y", peak, sign=-1) == 1.0
