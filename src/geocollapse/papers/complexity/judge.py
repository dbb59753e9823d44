"""Verdicts on the regularisers of geometric complexity, and on double descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from geocollapse.experiments.results.tables import (
    GC,
    LOGITS_GC,
    SweepResults,
    converged,
    finished,
)
from geocollapse.papers.complexity.claims import (
    DOUBLE_DESCENT,
    REGULARISERS,
    TEST_ERROR,
    TEST_LOSS,
)
from geocollapse.papers.correlations import judge_sweep
from geocollapse.papers.hypotheses import Pair, expected_signs
from geocollapse.papers.matched import at_matched_loss
from geocollapse.papers.ordered import Trend, judge_trends
from geocollapse.papers.significance import noted_over_sweeps
from geocollapse.papers.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

PAIRS = (
    Pair(
        "logits_gc_test_error",
        LOGITS_GC,
        TEST_ERROR,
        "higher GC of the logits goes with more errors",
        peak_of="the test error",
    ),
    Pair(
        "logits_gc_test_loss",
        LOGITS_GC,
        TEST_LOSS,
        "higher GC of the logits goes with a higher loss",
        peak_of="the test loss",
    ),
)
_AT_LOSS = [LOGITS_GC, GC]
_SWEPT = "swept."


def judge(results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]:
    """Every verdict that the sweep allows.

    Regularisers are judged at the end of converged runs (`main`), and at matched training loss;
    double descent at the end of all finished runs, and only where the test error or loss has an
    inner peak over the settings.

    Args:
        results: a sweep folder as read by `read_sweep`.
        seed: of bootstraps and sampled orders.
    """
    signs = expected_signs(results.recipe)
    verdicts: list[Verdict] = []
    matched: list[Verdict] = []
    for sweep in results.sweeps:
        runs = results.of_sweep(sweep)
        reached = converged(runs)
        trends = _trends(runs, signs)
        if trends:
            verdicts += judge_trends(sweep, reached, trends, seed=seed)
            level = at_matched_loss(reached, results.history, _AT_LOSS)
            matched += judge_trends(
                sweep, level, trends, view="at matched training loss", seed=seed
            )
        verdicts += _double_descent(sweep, finished(runs), signs, seed)
    return (*noted_over_sweeps(verdicts), *noted_over_sweeps(matched))


def _trends(runs: pd.DataFrame, signs: Mapping[str, int]) -> list[Trend]:
    """Both complexities over the swept keys whose sign the recipe expects."""
    swept = [name for name in runs.columns if name.startswith(_SWEPT)]
    return [
        Trend(
            REGULARISERS.name,
            name,
            column,
            signs[name.removeprefix(_SWEPT)],
            f"{_direction(signs[name.removeprefix(_SWEPT)])} {_words(name)} lowers {measure}",
            REGULARISERS.figures[1],
        )
        for name in swept
        if signs.get(name.removeprefix(_SWEPT), 0)
        for column, measure in ((LOGITS_GC, "GC of the logits"), (GC, "GC of the embedding"))
    ]


def _double_descent(
    sweep: str, runs: pd.DataFrame, signs: Mapping[str, int], seed: int
) -> list[Verdict]:
    """The correlations of complexity and test error, where the recipe expects one."""
    figure = DOUBLE_DESCENT.figures[0]
    hypotheses = [
        pair.hypothesis(DOUBLE_DESCENT.name, figure, signs)
        for pair in PAIRS
        if signs.get(pair.key, 0)
    ]
    return judge_sweep(sweep, runs, hypotheses, seed=seed) if hypotheses else []


def _direction(sign: int) -> str:
    return "larger" if sign < 0 else "smaller"


def _words(name: str) -> str:
    """The swept key in words: `swept.training.l2_penalty` is `l2 penalty`."""
    key = name.removeprefix(_SWEPT).partition(".")[2]
    return key.removesuffix(".weight").replace("_", " ").replace(".", " ")
