"""Rank correlations over the settings of one sweep, with the signs that the recipe expects."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import GC, GCOL, NC, TARGET_NC
from geocollapse.multiple_tests import holm
from geocollapse.papers.collapse_transfer.expectations import Hypothesis
from geocollapse.papers.statistics import (
    Array,
    bootstrap_interval,
    kendall,
    partial_spearman,
    permutation_p,
    permutations,
    spearman,
    spearman_rows,
)
from geocollapse.papers.trends import mean_rank_correlation, page_p
from geocollapse.papers.verdict import Outcome, Verdict, View

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
MIN_SETTINGS = 5  # in perfect order p = 1/120; four settings cannot survive Holm
_ROUNDING = 1e-12  # 6 * (1/120) is 0.05, whatever its last bit


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
    verdicts: list[Verdict] = []
    for claim in dict.fromkeys(verdict.claim for verdict in tested):
        family = [(v, h.sign) for v, h in zip(tested, hypotheses) if v.claim == claim]
        expected = holm([v.p for v, _ in family])
        opposite = holm([v.p_opposite for v, _ in family])
        for (verdict, sign), p, q in zip(family, expected, opposite):
            verdicts.append(_decide(replace(verdict, p_holm=p, p_opposite=q), sign))
    return verdicts


def setting_means(runs: pd.DataFrame, *columns: str) -> tuple[list[Array], int]:
    """Means of ``columns`` over the seeds of each setting, and the number of runs with all.

    Empty arrays if a column was not recorded.
    """
    values = _numbers(runs, columns)
    means = values.groupby("position")[list(columns)].mean()
    return [means[name].to_numpy() for name in columns], len(values)


def _numbers(runs: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """Position, seed and ``columns`` of the runs that have finite numbers in all of them."""
    import pandas as pd

    wanted = list(dict.fromkeys(("position", "seed", *columns)))
    if not set(wanted) <= set(runs.columns):
        return pd.DataFrame(columns=wanted, dtype=float)
    values = runs[wanted].apply(pd.to_numeric, errors="coerce").astype(float)
    return values.replace([math.inf, -math.inf], math.nan).dropna()


def part_whole_note(runs: pd.DataFrame, *, seed: int = 0) -> str:
    """A note on the part of the correlation of GC and GCol that is arithmetic.

    GC is the numerator of GCol = GC/d^2, which defines the distance d^2 of a run. The note has
    rho(log GC, log d^2), and as the null rho(GC, GC/d^2_pi) over permutations pi of the settings'
    distances.
    """
    if not {GC, GCOL} <= set(runs.columns):
        return ""
    (gc, distance), _ = setting_means(runs.assign(distance=runs[GC] / runs[GCOL]), GC, "distance")
    if len(gc) < 3 or not (gc > 0).all() or not (distance > 0).all():
        return ""
    alone = spearman(np.log(gc), np.log(distance))
    orders = permutations(len(gc), seed=seed)
    null = spearman_rows(np.broadcast_to(gc, orders.shape), gc / distance[orders])
    if np.isnan(alone) or np.isnan(null).all():
        return ""
    low, high = np.nanquantile(null, [0.025, 0.975])
    return (
        f"GC is the numerator of GCol: rho of log GC with log distance^2 alone {alone:+.2f}; "
        f"of GC with GCol under permuted distances {np.nanmean(null):+.2f} on average, "
        f"95 % in [{low:+.2f}, {high:+.2f}]."
    )


def opposite_sign_note(runs: pd.DataFrame) -> str:
    """A note with rho of source NC with source GC and with target NC: their signs can differ."""
    pairs = {"source GC with source NC": (GC, NC), "source NC with target NC": (NC, TARGET_NC)}
    values = {
        name: spearman(*setting_means(runs, *pair)[0])
        for name, pair in pairs.items()
        if _enough(runs, *pair)
    }
    text = ", ".join(f"{name} {rho:+.2f}" for name, rho in values.items() if not math.isnan(rho))
    return f"For comparison, rho of {text}." if text else ""


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
    return replace(
        verdict,
        p=ordered.p(hypothesis.sign, seed),
        p_opposite=ordered.p(-hypothesis.sign, seed),
        note=_little(len(x), verdict.effect),
    )


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
        values = _numbers(runs, (hypothesis.x, hypothesis.y))
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


def _decide(verdict: Verdict, sign: int) -> Verdict:
    """Decide a hypothesis by the corrected p of either side and the interval of rho."""
    low, high = sorted((sign * verdict.interval[0], sign * verdict.interval[1]))
    outcome: Outcome = "undecided"
    if (verdict.n_settings or 0) >= MIN_SETTINGS:
        if verdict.p_holm <= LEVEL + _ROUNDING and low > 0:
            outcome = "holds"
        elif verdict.p_opposite <= LEVEL + _ROUNDING and high < 0:
            outcome = "does not hold"
    return replace(verdict, verdict=outcome)


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


def _enough(runs: pd.DataFrame, x: str, y: str) -> bool:
    return len(setting_means(runs, x, y)[0][0]) > 1
