"""Verdicts on the edge of stability and on drift-adjusted learning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geocollapse.experiments.results.tables import GC, SweepResults, converged, finished
from geocollapse.papers.margins import Margin, Scale, corrected, worst
from geocollapse.papers.matched import at_matched_loss
from geocollapse.papers.ordered import Trend, judge_trends
from geocollapse.papers.principal_flow.claims import (
    COMPLEXITY_AT_EDGE,
    DAL_POWER,
    LOWEST_PEAK,
    RATE_AND_SHARPNESS,
    REACHES_EDGE,
    STAYS,
)
from geocollapse.papers.verdict import VIEWS, Verdict
from geocollapse.papers.within_runs import seed_means

if TYPE_CHECKING:
    import pandas as pd

RATIO = "dynamics.edge_ratio"
SHARPNESS = "dynamics.sharpness"
PEAK_SHARPNESS = "peak_sharpness"
LOSS_RISES = "loss_rises"
_RATE = "swept.training.learning_rate"
_POWER = "swept.training.dal.power"

_OF_RATE = (
    Trend(
        RATE_AND_SHARPNESS.name,
        _RATE,
        PEAK_SHARPNESS,
        -1,
        "a larger rate lowers the largest sharpness of training",
        "edge-training",
    ),
    Trend(RATE_AND_SHARPNESS.name, _RATE, GC, -1, "a larger rate lowers GC", "edge-settings"),
)
_OF_POWER = (
    Trend(
        DAL_POWER.name,
        _POWER,
        LOSS_RISES,
        -1,
        "a smaller power lets the training loss rise more often",
        "edge-training",
    ),
    Trend(
        DAL_POWER.name,
        _POWER,
        "test_accuracy",
        -1,
        "a smaller power has a higher test accuracy",
        "edge-settings",
    ),
)


def judge(results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]:
    """Every verdict that the sweep allows.

    Runs that did not converge are left out, but for those of DAL: a power that does not train is
    what its claim is about.

    Args:
        results: a sweep folder as read by `read_sweep`.
        seed: of sampled orders, above 8 settings.
    """
    verdicts: list[Verdict] = []
    for sweep in results.sweeps:
        done = with_history(finished(results.of_sweep(sweep)), results.history)
        runs = converged(done)
        if _RATE in runs:
            gradient_descent = runs[runs["training.optimizer"] == "sgd"]
            verdicts += corrected(list(judge_edge(sweep, gradient_descent, results.history)))
            verdicts += judge_trends(sweep, runs, _OF_RATE, seed=seed)
            matched = at_matched_loss(runs, results.history, [GC])
            verdicts += judge_trends(
                sweep, matched, _OF_RATE[1:], view="at matched training loss", seed=seed
            )
        if _POWER in runs:
            verdicts += judge_trends(sweep, done, _OF_POWER, seed=seed)
    return tuple(sorted(verdicts, key=lambda verdict: VIEWS.index(verdict.view)))


def with_history(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The runs with two columns from their histories, NaN where these say nothing.

    `peak_sharpness`: the largest after the start; `loss_rises`: the share of records whose training
    loss is above that of the record before.
    """
    peaks = []
    rises = []
    for run_id in runs["run_id"]:
        record = history[history["run_id"] == run_id].sort_values("step")
        sharpness = record[record["step"] > 0][SHARPNESS] if SHARPNESS in record else record["step"]
        peaks.append(float(sharpness.astype(float).max()) if SHARPNESS in record else np.nan)
        losses = record["train_loss"].to_numpy(dtype=float) if "train_loss" in record else []
        rises.append(float(np.mean(np.diff(losses) > 0.0)) if len(losses) > 1 else np.nan)
    return runs.assign(**{PEAK_SHARPNESS: peaks, LOSS_RISES: rises})


def judge_edge(sweep: str, runs: pd.DataFrame, history: pd.DataFrame) -> Iterator[Verdict]:
    """Judge if the sharpness reaches the edge of stability, and stays there, at every rate.

    Reached: the largest ratio of sharpness and edge after the start. Stays: the median ratio from
    the first record at which it is reached to the step of the stopping rule. Over the same records
    GC at the last one is compared with that at the first. The verdict is that of the rate that
    speaks most against the claim.
    """
    edges = [
        _edge_of(history[history["run_id"] == run_id], float(stop))
        for run_id, stop in zip(runs["run_id"], runs["stop_step"], strict=True)
    ]
    runs = runs.assign(**{name: [getattr(e, name) for e in edges] for name in _AtEdge._fields})
    verdict = Verdict(
        claim=REACHES_EDGE.name,
        statement=f"at every rate the sharpness reaches {LOWEST_PEAK:g} of 2/h",
        sweep=sweep,
        x="peak",
        y=RATIO,
        verdict="undecided",
        n_runs=0,
        figure=f"edge-training-{sweep}",
        effect_name="sharpness / (2/h)",
        note="No converged run recorded the sharpness.",
    )
    yield _over_rates(verdict, runs, LOWEST_PEAK, None)
    low, high = STAYS
    verdict = replace(
        verdict,
        statement=f"once there, the sharpness stays between {low:g} and {high:g} of 2/h",
        x="middle",
        note="No converged run reached the edge before the stopping rule.",
    )
    yield _over_rates(verdict, runs, low, high)
    verdict = replace(
        verdict,
        claim=COMPLEXITY_AT_EDGE.name,
        statement="at every rate GC falls between reaching the edge and the stopping rule",
        x="growth",
        y=GC,
        effect_name="ratio of GC",
    )
    yield _over_rates(verdict, runs, None, 1.0, scale="ratio")


def _over_rates(
    verdict: Verdict,
    runs: pd.DataFrame,
    low: float | None,
    high: float | None,
    *,
    scale: Scale = "linear",
) -> Verdict:
    """The verdict of the rate that speaks most against a claim of all of them.

    It is on the column ``x`` of the verdict, with one value a seed at each rate.
    """
    judged: list[Verdict] = []
    known = runs[np.isfinite(runs[verdict.x].astype(float))]
    for rate, own in known.groupby(_RATE):
        at_rate = replace(verdict, n_runs=len(known), n_settings=known[_RATE].nunique())
        at_rate = replace(at_rate, note=f"At rate {rate:g}.")
        ratios = seed_means(own, verdict.x)
        if low is not None:
            judged.append(Margin(low, 1, scale).judged(at_rate, ratios))
        if high is not None:
            judged.append(Margin(high, -1, scale).judged(at_rate, ratios))
    return worst(judged) if judged else verdict


class _AtEdge(NamedTuple):
    """One run at the edge of stability; NaN where it does not say.

    Attributes:
        peak: the largest ratio of sharpness and edge after the start.
        middle: the median one from the first record at the edge to the step of the stopping rule.
        growth: GC at the last of these records over that at the first.
    """

    peak: float = np.nan
    middle: float = np.nan
    growth: float = np.nan


def _edge_of(record: pd.DataFrame, stop: float) -> _AtEdge:
    """What a run's records say of the edge."""
    if RATIO not in record:
        return _AtEdge()
    record = record[record["step"] > 0].sort_values("step")
    ratios = record[RATIO].to_numpy(dtype=float)
    at_edge = ratios >= LOWEST_PEAK
    peak = float(np.nanmax(ratios)) if np.isfinite(ratios).any() else np.nan
    if not at_edge.any():
        return _AtEdge(peak)
    first = int(np.argmax(at_edge))
    kept = (np.arange(len(ratios)) >= first) & (record["step"].to_numpy() <= stop)
    if not kept.any():
        return _AtEdge(peak)
    gc = record[GC].to_numpy(dtype=float)[kept] if GC in record else np.full(1, np.nan)
    growth = float(gc[-1] / gc[0]) if len(gc) > 1 and gc[0] > 0.0 else np.nan
    return _AtEdge(peak, float(np.nanmedian(ratios[kept])), growth)
