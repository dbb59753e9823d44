"""Rank correlations over the settings of one sweep, judged by the sign that the recipe expects."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import finite_rows
from geocollapse.papers.hypotheses import Hypothesis
from geocollapse.papers.peaks import with_peak
from geocollapse.papers.significance import decided, with_holm
from geocollapse.papers.statistics import (
    Array,
    bootstrap_interval,
    kendall,
    partial_spearman,
    permutation_p,
    spearman,
)
from geocollapse.papers.trends import mean_rank_correlation, page_p
from geocollapse.papers.verdict import Verdict, View

if TYPE_CHECKING:
    import pandas as pd

MIN_SETTINGS = 5  # in perfect order p = 1/120; four settings cannot survive Holm
RULE = (
    "Correlations: Spearman's rho of the means over seeds of each setting, with an exact "
    "permutation test, one-sided, and Holm's correction within a claim of a sweep. Holds: p ≤ 0.05 "
    "on the side fixed before the run, and the bootstrap interval of rho beyond 0; does not hold: "
    "the same on the other side; undecided otherwise, and below 5 settings."
)


def judge_sweep(
    sweep: str,
    runs: pd.DataFrame,
    hypotheses: list[Hypothesis],
    *,
    view: View = "main",
    seed: int = 0,
) -> list[Verdict]:
    """Judge the hypotheses of one sweep; Holm's correction counts those of the same claim.

    Args:
        sweep: its name.
        runs: its runs, with the column `position` of the setting and the columns of the hypotheses.
        hypotheses: what to judge.
        view: `main`, or which repetition it is.
        seed: of the bootstrap, and of the permutations above 8 settings.
    """
    tested = [_test(sweep, runs, hypothesis, view=view, seed=seed) for hypothesis in hypotheses]
    sign_of = {(h.claim, h.x, h.y): h.sign for h in hypotheses}
    return [_decided(v, sign_of[v.claim, v.x, v.y]) for v in with_holm(tested)]


def setting_means(runs: pd.DataFrame, *columns: str) -> tuple[list[Array], int]:
    """Means of ``columns`` over the seeds of each setting, and the number of runs with all.

    Empty arrays if a column was not recorded.
    """
    values = finite_rows(runs, ("position", "seed", *columns))
    means = values.groupby("position")[list(columns)].mean()
    return [means[name].to_numpy() for name in columns], len(values)


def _test(
    sweep: str, runs: pd.DataFrame, hypothesis: Hypothesis, *, view: View, seed: int
) -> Verdict:
    """The numbers of one hypothesis, before correction and decision."""
    (x, y), n_runs = setting_means(runs, hypothesis.x, hypothesis.y)
    verdict = Verdict(
        claim=hypothesis.claim,
        statement=hypothesis.statement,
        sweep=sweep,
        x=hypothesis.x,
        y=hypothesis.y,
        verdict="undecided",
        n_runs=n_runs,
        figure=f"{hypothesis.figure}-{sweep}",
        view=view,
        n_settings=len(x),
    )
    if len(x) < 2:
        return replace(verdict, note=_missing(runs, hypothesis))
    verdict = replace(
        verdict,
        effect=spearman(x, y),
        interval=bootstrap_interval(x, y, seed=seed),
        kendall=kendall(x, y),
        partial=math.nan if view == "at matched training loss" else _given_loss(runs, hypothesis),
    )
    ordered = _Trend.of(runs, hypothesis) if hypothesis.is_swept else _Means(x, y)
    verdict = replace(verdict, test=ordered.name, within_seeds=ordered.within_seeds)
    if hypothesis.sign == 0:
        return replace(verdict, p_two_sided=ordered.p(0, seed), note=_unexpected(hypothesis))
    verdict = replace(
        verdict,
        p=ordered.p(hypothesis.sign, seed),
        p_opposite=ordered.p(-hypothesis.sign, seed),
        note=_little(len(x), verdict.effect),
    )
    return with_peak(verdict, runs, hypothesis, seed=seed) if hypothesis.peak_of else verdict


@dataclass(frozen=True)
class _Means:
    """The test of two measures: permutations of the means of the settings."""

    x: Array
    y: Array
    name: str = "permutation of the settings"
    within_seeds: float = math.nan

    def p(self, sign: int, seed: int) -> float:
        return permutation_p(self.x, self.y, sign=sign, seed=seed)


@dataclass(frozen=True)
class _Trend:
    """The test of a swept value and a measure: Page's, with the seeds as blocks."""

    x: Array
    y: Array
    blocks: Array
    name: str = "Page's L"

    @classmethod
    def of(cls, runs: pd.DataFrame, hypothesis: Hypothesis) -> _Trend:
        values = finite_rows(runs, ("seed", hypothesis.x, hypothesis.y))
        x, y, blocks = (values[name].to_numpy() for name in (hypothesis.x, hypothesis.y, "seed"))
        return cls(x, y, blocks)

    @property
    def within_seeds(self) -> float:
        return mean_rank_correlation(self.x, self.y, self.blocks)

    def p(self, sign: int, seed: int) -> float:
        return page_p(self.x, self.y, self.blocks, sign=sign, seed=seed)


def _given_loss(runs: pd.DataFrame, hypothesis: Hypothesis) -> float:
    """Rho of the means given the log of the training loss: progress alone can correlate them."""
    (x, y, loss), _ = setting_means(runs, hypothesis.x, hypothesis.y, "train_loss")
    if len(x) < 4 or not (loss > 0).all():
        return math.nan
    return partial_spearman(x, y, np.log(loss))


def _unexpected(hypothesis: Hypothesis) -> str:
    """The reason why a correlation is reported and not judged."""
    return (
        f"No sign is expected: the recipe has no claims.expected_signs.{hypothesis.key}. Reported "
        "are rho, its interval and a two-sided p; nothing can hold."
    )


def _little(n_settings: int, effect: float) -> str:
    """The reason why a test cannot decide, if there is one."""
    if math.isnan(effect):
        return "The same value at every setting has no correlation."
    if n_settings < MIN_SETTINGS:
        return f"{n_settings} settings: below {MIN_SETTINGS} a verdict is always undecided."
    return ""


def _decided(verdict: Verdict, sign: int) -> Verdict:
    """Decide a hypothesis by the corrected p of either side and the interval of rho."""
    if (verdict.n_settings or 0) < MIN_SETTINGS:
        return verdict
    low, high = sorted((sign * verdict.interval[0], sign * verdict.interval[1]))
    found = decided(verdict)
    clear = low > 0 if found.verdict == "holds" else high < 0
    return found if clear else verdict


def _missing(runs: pd.DataFrame, hypothesis: Hypothesis) -> str:
    """The reason why there is nothing to test."""
    if runs.empty:
        return "No run to judge."
    absent = [
        name for name in (hypothesis.x, hypothesis.y) if name not in runs or runs[name].isna().all()
    ]
    if absent:
        return f"Not recorded: {', '.join(absent)}."
    words = [x for x in (hypothesis.x, hypothesis.y) if any(isinstance(v, str) for v in runs[x])]
    if words:
        return f"No numbers, so no order: {', '.join(words)}."
    return "A single setting has no correlation."
