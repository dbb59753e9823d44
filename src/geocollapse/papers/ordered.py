"""Trends of a measure over a swept value, judged by Page's test within blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import finite_rows
from geocollapse.papers.significance import decided, with_holm
from geocollapse.papers.trends import mean_rank_correlation, page_p
from geocollapse.papers.verdict import Verdict, View

if TYPE_CHECKING:
    import pandas as pd

MIN_SETTINGS = 3  # three in the same order in each of three seeds have p = 1/216
MIN_BLOCKS = 2
RULE = (
    "Trends: Page's test orders the settings within each block, a seed unless the claim says more; "
    "p is one-sided, with Holm's correction within a claim of a sweep. Holds: p ≤ 0.05 on the side "
    "fixed before the run; does not hold: the same on the other side; undecided otherwise, and "
    f"below {MIN_SETTINGS} settings or {MIN_BLOCKS} blocks."
)


@dataclass(frozen=True)
class Trend:
    """One column that is expected to rise or fall with another.

    Attributes:
        claim: name of the claim.
        x: column of the swept value.
        y: column of the measure.
        sign: +1 or -1, fixed before the run.
        statement: the trend, in words.
        figure: start of the name of the chart that shows it.
        blocks: columns whose values in common make a block, within which x is ordered.
    """

    claim: str
    x: str
    y: str
    sign: int
    statement: str
    figure: str
    blocks: tuple[str, ...] = ("seed",)


def judge_trends(
    sweep: str, runs: pd.DataFrame, trends: Sequence[Trend], *, view: View = "main", seed: int = 0
) -> list[Verdict]:
    """One verdict for each trend; Holm's correction counts those of the same claim.

    Args:
        sweep: its name.
        runs: its runs, with the columns of the trends.
        trends: what to judge.
        view: `main`, or which repetition it is.
        seed: of sampled orders, above 8 settings.
    """
    tested = [_test(sweep, runs, trend, view=view, seed=seed) for trend in trends]
    return [decided(verdict) for verdict in with_holm(tested)]


def _test(sweep: str, runs: pd.DataFrame, trend: Trend, *, view: View, seed: int) -> Verdict:
    """The numbers of a trend, before correction and decision."""
    values = finite_rows(runs, (trend.x, trend.y, *trend.blocks))
    verdict = Verdict(
        claim=trend.claim,
        statement=trend.statement,
        sweep=sweep,
        x=trend.x,
        y=trend.y,
        verdict="undecided",
        n_runs=len(values),
        figure=f"{trend.figure}-{sweep}",
        view=view,
        n_settings=int(values[trend.x].nunique()) if len(values) else 0,
        effect_name="mean rho within blocks",
        test="Page's L",
    )
    if values.empty:
        missing = f"Not recorded: {trend.x} with {trend.y}."
        return replace(verdict, note="No run converged." if runs.empty else missing)
    blocks = values.groupby(list(trend.blocks)).ngroup().to_numpy()
    if len(np.unique(blocks)) < MIN_BLOCKS or (verdict.n_settings or 0) < MIN_SETTINGS:
        note = f"Below {MIN_SETTINGS} settings or {MIN_BLOCKS} blocks nothing is decided."
        return replace(verdict, note=note)
    x = values[trend.x].to_numpy()
    y = values[trend.y].to_numpy()
    return replace(
        verdict,
        effect=mean_rank_correlation(x, y, blocks),
        p=page_p(x, y, blocks, sign=trend.sign, seed=seed),
        p_opposite=page_p(x, y, blocks, sign=-trend.sign, seed=seed),
    )
