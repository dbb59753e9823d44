"""Inner peaks of a measure over ordered settings, for claims that another measure mirrors them.

Any two monotone measures have a rank correlation of +1 or -1. A claim that one mirrors the peak of
the other needs that peak first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import finite_rows
from geocollapse.papers.hypotheses import Hypothesis
from geocollapse.papers.significance import is_significant
from geocollapse.papers.trends import page_p
from geocollapse.papers.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

MIN_SIDE = 3  # settings from the peak to each foot: two have p = 1/8 in three seeds
RULE = (
    "Peaks: an error or loss has an inner peak if, in the order of the settings, it rises to the "
    "highest one from the lowest before it and falls from there to the lowest after it, by Page's "
    f"test with the seeds as blocks over at least {MIN_SIDE} settings on each side, the peak among "
    "them. Its p is the larger of both sides, times the settings that each side could have ended "
    "at, times the settings that could have been the peak. Complexity mirrors the peak if it rises "
    "and falls over the same settings, by the same test. The p of a claim on peaks is the largest "
    "of the correlation's, the peak's and the mirror's; above 0.05 for the peak, there is nothing "
    "to mirror, and the claim is undecided."
)


@dataclass(frozen=True)
class Peak:
    """An inner peak of a measure over the settings of a sweep.

    Attributes:
        start: position of the lowest setting before it.
        top: position of the peak.
        end: position of the lowest setting after it.
        p: that there is no inner peak, corrected for the search.
    """

    start: int
    top: int
    end: int
    p: float


def find_peak(runs: pd.DataFrame, column: str, *, seed: int = 0) -> Peak | None:
    """The inner peak of a measure that stands out of the seeds the most; None if there is none.

        p = min over tops k of n_k max(n_i p_rise(i..k), n_j p_fall(k..j)),    at most 1

    with i the lowest mean over seeds at least two settings before k and j the lowest at least two
    after it, p_rise and p_fall of Page's test within seeds, n_k the number of settings that have
    two on each side, n_i and n_j those that can be i and j. Only a k with the highest mean from i
    to j is a top. For a measure that falls, rises, or falls and then rises, p is at most a level in
    at most that share of sweeps.

    Source: Page (1963); Berger (1982) for the larger p of both sides; Bonferroni for the search.

    Args:
        runs: of one sweep, with `seed` and with `position` in the order of the settings.
        column: the measure.
        seed: of sampled orders, above 8 settings on a side.
    """
    values = finite_rows(runs, ("position", "seed", column))
    means = values.groupby("position")[column].mean().sort_index()
    inner = means.index[MIN_SIDE - 1 : len(means) - MIN_SIDE + 1]
    found: list[Peak] = []
    for top in inner:
        before = means[means.index < top].iloc[: -(MIN_SIDE - 2)]
        after = means[means.index > top].iloc[MIN_SIDE - 2 :]
        start, end = before.idxmin(), after.idxmin()
        if means[top] < means[start:end].max():
            continue
        rise = _trend_p(values, column, (start, top), sign=+1, seed=seed)
        fall = _trend_p(values, column, (top, end), sign=-1, seed=seed)
        p = len(inner) * max(len(before) * rise, len(after) * fall)
        found.append(Peak(int(start), int(top), int(end), min(1.0, p)))
    return min(found, key=lambda peak: peak.p, default=None)


def mirrored_p(
    runs: pd.DataFrame, column: str, peak: Peak, *, sign: int = 1, seed: int = 0
) -> float:
    """The p of a measure that rises and falls over the settings where another one does.

    Sign -1 is for the reverse: it falls where the other rises, and rises where the other falls.
    The settings are those of the other measure, so nothing is searched for.

    Source: Page (1963); Berger (1982) for the larger p of both sides.

    Args:
        runs: of one sweep, with `position` and `seed`.
        column: the measure.
        peak: of the other one.
        sign: +1 for the same direction, -1 for the reverse.
        seed: of sampled orders, above 8 settings on a side.
    """
    values = finite_rows(runs, ("position", "seed", column))
    return max(
        _trend_p(values, column, (peak.start, peak.top), sign=sign, seed=seed),
        _trend_p(values, column, (peak.top, peak.end), sign=-sign, seed=seed),
    )


def with_peak(
    verdict: Verdict, runs: pd.DataFrame, hypothesis: Hypothesis, *, seed: int = 0
) -> Verdict:
    """The verdict with p of either side no smaller than those of the peak and of its mirror.

    Args:
        verdict: a correlation with its p, before correction and decision.
        runs: of the sweep.
        hypothesis: with words for the measure that peaks, its second one.
        seed: of sampled orders.
    """
    verdict = replace(verdict, test=f"{verdict.test}; Page's L for the peak")
    peak = find_peak(runs, hypothesis.y, seed=seed)
    if peak is None or not is_significant(peak.p):
        remark = f"no peak of {hypothesis.peak_of}: nothing to mirror"
        return replace(verdict, p=1.0, p_opposite=1.0, remark=remark)
    same, reverse = (
        mirrored_p(runs, hypothesis.x, peak, sign=side * hypothesis.sign, seed=seed)
        for side in (1, -1)
    )
    return replace(
        verdict,
        p=float(np.max([verdict.p, peak.p, same])),
        p_opposite=float(np.max([verdict.p_opposite, peak.p, reverse])),
    )


def _trend_p(
    values: pd.DataFrame, column: str, ends: tuple[int, int], *, sign: int, seed: int
) -> float:
    """The p of a rise (sign +1) or fall (-1) from one setting to another; 1 without any order."""
    side = values[values["position"].between(*ends)]
    x, y, blocks = (side[name].to_numpy() for name in ("position", column, "seed"))
    p = page_p(x, y, blocks, sign=sign, seed=seed)
    return 1.0 if np.isnan(p) else p
