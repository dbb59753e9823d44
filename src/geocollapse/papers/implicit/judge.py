"""Verdicts on implicit and explicit gradient regularisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import GC, SweepResults, converged
from geocollapse.papers.implicit.claims import EXPLICIT, GRADIENT_NORM
from geocollapse.papers.implicit.ratio import judge_ratio
from geocollapse.papers.margins import Margin, corrected
from geocollapse.papers.matched import at_matched_loss
from geocollapse.papers.ordered import Trend, judge_trends
from geocollapse.papers.significance import decided, with_holm
from geocollapse.papers.statistics import Array, mean_interval
from geocollapse.papers.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

NORM = "dynamics.mini_batch_norm"
TEST = "test_accuracy"
_RATE = "training.learning_rate"
_BATCH = "training.batch_size"
_WEIGHT = "training.gradient_penalty.weight"
_AT_LOSS = [NORM, GC]
_LIKE_RATE = 4.0  # a weight of h/4 is the implicit regulariser of the rate h

_SETTINGS = "implicit-settings"
_IN_BATCH = ("seed", _BATCH)
_IN_RATE = ("seed", _RATE)
_OF_GRID = (
    Trend(
        GRADIENT_NORM.name,
        _RATE,
        NORM,
        -1,
        "at a batch size and loss, a larger rate lowers the mini-batch gradient norm",
        _SETTINGS,
        _IN_BATCH,
    ),
    Trend(
        GRADIENT_NORM.name,
        _RATE,
        GC,
        -1,
        "at a batch size and loss, a larger rate lowers GC",
        _SETTINGS,
        _IN_BATCH,
    ),
    Trend(
        GRADIENT_NORM.name,
        _BATCH,
        GC,
        1,
        "at a rate and loss, a smaller batch lowers GC",
        _SETTINGS,
        _IN_RATE,
    ),
    Trend(
        GRADIENT_NORM.name,
        _RATE,
        TEST,
        1,
        "at a batch size, a larger rate has the higher test accuracy at the end",
        _SETTINGS,
        _IN_BATCH,
    ),
)
_OF_WEIGHT = (
    Trend(
        EXPLICIT.name,
        f"swept.{_WEIGHT}",
        NORM,
        -1,
        "at a loss, a larger weight lowers the mini-batch gradient norm",
        _SETTINGS,
    ),
    Trend(
        EXPLICIT.name,
        f"swept.{_WEIGHT}",
        TEST,
        1,
        "a larger weight has the higher test accuracy at the end",
        _SETTINGS,
    ),
)


def judge(results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]:
    """Every verdict that the sweep allows; runs that did not converge are left out.

    Gradient norms and GC are taken at matched training loss, test accuracy at the end.

    Args:
        results: a sweep folder as read by `read_sweep`.
        seed: of sampled orders.
    """
    verdicts: list[Verdict] = []
    for sweep in results.sweeps:
        runs = converged(results.of_sweep(sweep))
        matched = at_matched_loss(runs, results.history, _AT_LOSS)
        if {f"swept.{_RATE}", f"swept.{_BATCH}"} <= set(runs.columns):
            verdicts += judge_trends(sweep, matched, _OF_GRID, seed=seed)
            verdicts += _of_ratio(sweep, matched, seed)
        if f"swept.{_WEIGHT}" in runs:
            verdicts += judge_trends(sweep, matched, _OF_WEIGHT, seed=seed)
            everywhere = converged(results.runs)
            verdicts += corrected(list(_recovered(sweep, runs, everywhere)))
    return tuple(verdicts)


def _of_ratio(sweep: str, runs: pd.DataFrame, seed: int) -> list[Verdict]:
    """The verdicts on the ratio of rate and batch size, with Holm's correction."""
    judged = [
        judge_ratio(sweep, runs, y, words, seed=seed)
        for y, words in ((GC, "GC, at one loss,"), (TEST, "test accuracy"))
    ]
    return [decided(verdict) for verdict in with_holm(judged)]


def _recovered(sweep: str, runs: pd.DataFrame, everywhere: pd.DataFrame) -> Iterator[Verdict]:
    """Judge if the weight that stands for the largest rate raises test accuracy, seed by seed.

    The rate is the largest one of the folder at the same batch size; the weight is the one of the
    sweep nearest to a quarter of it, so that nothing is chosen by its result.
    """
    verdict = Verdict(
        claim=EXPLICIT.name,
        statement="the penalty that stands for the largest rate raises test accuracy",
        sweep=sweep,
        x="penalty",
        y=TEST,
        verdict="undecided",
        n_runs=0,
        figure=f"{_SETTINGS}-{sweep}",
        effect_name="gain in test accuracy",
        note="No converged run of a larger rate, or none with test accuracy.",
    )
    if runs.empty or TEST not in runs:
        yield verdict
        return
    rate = float(runs[_RATE].iloc[0])
    batch = runs[_BATCH].iloc[0]
    plain = everywhere[(everywhere[_BATCH] == batch) & (everywhere[_WEIGHT] == 0.0)]
    largest = float(plain[_RATE].max()) if len(plain) else rate
    weights = np.array(sorted(w for w in runs[_WEIGHT].unique() if w > 0.0))
    if largest <= rate or not len(weights):
        yield verdict
        return
    weight = float(weights[np.argmin(np.abs(weights - largest / _LIKE_RATE))])
    base = _by_seed(plain[plain[_RATE] == rate])
    penalised = _by_seed(runs[runs[_WEIGHT] == weight])
    large = _by_seed(plain[plain[_RATE] == largest])
    seeds = sorted(base.keys() & penalised.keys() & large.keys())
    gains = np.array([penalised[seed] - base[seed] for seed in seeds])
    of_rate = np.array([large[seed] - base[seed] for seed in seeds])
    verdict = replace(
        verdict,
        n_runs=3 * len(seeds),
        remark=f"rate {largest:g} gains {np.mean(of_rate):+.3f}{_share(gains, of_rate)}"
        if seeds
        else "",
        note=f"Weight {weight:g} at rate {rate:g}, beside rate {largest:g} without a penalty.",
    )
    yield Margin(0.0, 1).judged(verdict, gains)


def _share(gains: Array, of_rate: Array) -> str:
    """The share of the rate's gain that the penalty has, in words; none where the rate has none.

    mean(a)/mean(b) over the seeds, with Student's interval of its linearised terms
    (a - share b)/mean(b).
    """
    mean = float(of_rate.mean())
    if not mean > 0.0:
        return ""
    share = float(gains.mean()) / mean
    _, (low, high) = mean_interval(share + (gains - share * of_rate) / mean)
    return f", {share:.0%} [{low:.0%}, {high:.0%}] of it"


def _by_seed(runs: pd.DataFrame) -> dict[int, float]:
    """The test accuracy of each seed that recorded it."""
    known = runs.dropna(subset=[TEST])
    return {int(s): float(value) for s, value in zip(known["seed"], known[TEST], strict=True)}
