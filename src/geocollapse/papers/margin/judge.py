"""Verdicts on geometric complexity over the squared margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geocollapse.experiments.results.tables import LOGITS_GC, SweepResults, converged, finished
from geocollapse.papers.correlations import judge_sweep
from geocollapse.papers.hypotheses import Pair, expected_signs
from geocollapse.papers.margin.claims import (
    EXCESS,
    GAP,
    GENERALISATION,
    MARGIN_GC,
    RANDOM_LABELS,
)
from geocollapse.papers.ordered import Trend, judge_trends
from geocollapse.papers.significance import noted_over_sweeps
from geocollapse.papers.verdict import Verdict, View

if TYPE_CHECKING:
    import pandas as pd

_SHARE = "data.random_labels"
PAIRS = (
    Pair("margin_complexity_gap", MARGIN_GC, GAP, "higher GC/margin² goes with a larger gap"),
    Pair(
        "margin_complexity_excess_risk",
        MARGIN_GC,
        EXCESS,
        "higher GC/margin² goes with a larger excess risk",
    ),
    Pair("logits_gc_gap", LOGITS_GC, GAP, "higher GC of the logits goes with a larger gap"),
    Pair(
        "logits_gc_excess_risk",
        LOGITS_GC,
        EXCESS,
        "higher GC of the logits goes with a larger excess risk",
    ),
)


def judge(results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]:
    """Every verdict that the sweep allows, of converged runs; then those of all finished ones.

    Values are those at the end of training: each run has reached the training accuracy of the
    recipe and has trained as long again. Their training errors still differ, as `train_error` in
    the records says.

    Args:
        results: a sweep folder as read by `read_sweep`.
        seed: of bootstraps and sampled orders.
    """
    verdicts: list[Verdict] = []
    done = finished(results.runs)
    reached = converged(results.runs)
    views: dict[View, pd.DataFrame] = {"main": reached}
    if len(reached) < len(done):
        views["with non-converged runs"] = done
    for view, runs in views.items():
        of_view: list[Verdict] = []
        for sweep in results.sweeps:
            members = results.of_sweep(sweep)
            members = members[members["run_id"].isin(runs["run_id"])]
            of_view += _judged(results, sweep, members, view=view, seed=seed)
        verdicts += noted_over_sweeps(of_view)
    return tuple(verdicts)


def _judged(
    results: SweepResults, sweep: str, runs: pd.DataFrame, *, view: View, seed: int
) -> list[Verdict]:
    """The verdicts on one sweep."""
    signs = expected_signs(results.recipe)
    figure = GENERALISATION.figures[0]
    hypotheses = [pair.hypothesis(GENERALISATION.name, figure, signs) for pair in PAIRS]
    verdicts = judge_sweep(sweep, runs, hypotheses, view=view, seed=seed)
    sign = signs.get(_SHARE, 0)
    if sign and f"swept.{_SHARE}" in runs.columns:
        verdicts += judge_trends(sweep, runs, _trends(sign), view=view, seed=seed)
    return verdicts


def _trends(sign: int) -> list[Trend]:
    """The trends over the share of random labels."""
    direction = "raise" if sign > 0 else "lower"
    return [
        Trend(
            RANDOM_LABELS.name,
            f"swept.{_SHARE}",
            column,
            sign,
            f"more random labels {direction} {words}",
            RANDOM_LABELS.figures[0],
        )
        for column, words in (
            (MARGIN_GC, "GC/margin²"),
            (LOGITS_GC, "GC of the logits"),
            (GAP, "the gap"),
            (EXCESS, "the excess risk"),
        )
    ]
