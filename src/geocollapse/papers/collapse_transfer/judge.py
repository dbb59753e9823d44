"""All verdicts on a sweep: those of the main view, and repetitions that test their robustness."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from geocollapse.experiments.results.tables import (
    GC,
    GCOL,
    TARGET_NC,
    SweepResults,
    converged,
    finished,
)
from geocollapse.papers.collapse_transfer.claims import CLAIMS
from geocollapse.papers.collapse_transfer.expectations import Expectations
from geocollapse.papers.collapse_transfer.notes import opposite_sign_note, part_whole_note
from geocollapse.papers.collapse_transfer.poincare import judge_bound, judge_ratio
from geocollapse.papers.collapse_transfer.sampling import judge_sampling
from geocollapse.papers.correlations import judge_sweep
from geocollapse.papers.hypotheses import Hypothesis
from geocollapse.papers.matched import at_matched_loss
from geocollapse.papers.significance import noted_over_sweeps
from geocollapse.papers.verdict import VIEWS, Verdict, View

if TYPE_CHECKING:
    import pandas as pd

_ORDER = {claim.name: place for place, claim in enumerate(CLAIMS)}


def judge(results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]:
    """Every verdict that the sweep allows: those of the view `main`, then the repetitions.

    Failed and unfinished runs are never judged, and only the view `with non-converged runs` counts
    those that did not reach the stopping rule. Cost: a few hundred milliseconds for three
    sweeps of five settings.

    Source: definitions 5, "Verdicts".

    Args:
        results: a sweep folder as read by `read_sweep`.
        seed: of the bootstrap, and of the permutations above 8 settings.
    """
    done = finished(results.runs)
    reached = converged(results.runs)
    verdicts: list[Verdict] = []
    for view in VIEWS:
        if view == "with non-converged runs" and len(reached) == len(done):
            continue
        runs = done if view == "with non-converged runs" else reached
        verdicts += _correlations(results, runs, view=view, seed=seed)
        if view in ("main", "with non-converged runs"):
            verdicts += _over_all_runs(results, runs, view=view)
    return tuple(sorted(verdicts, key=lambda v: (VIEWS.index(v.view), _ORDER[v.claim])))


def _correlations(
    results: SweepResults, runs: pd.DataFrame, *, view: View, seed: int
) -> list[Verdict]:
    """The correlations of each sweep."""
    expected = Expectations.of(results.recipe)
    verdicts: list[Verdict] = []
    for sweep in results.sweeps:
        members = results.of_sweep(sweep)
        swept = [
            name.removeprefix("swept.") for name in members.columns if name.startswith("swept.")
        ]
        has_target = TARGET_NC in members and bool(members[TARGET_NC].notna().any())
        hypotheses = expected.hypotheses(swept, has_target=has_target)
        if view == "GC divided by feature variance":
            hypotheses = [
                hypothesis.per_variance() for hypothesis in hypotheses if hypothesis.speaks_of_gc
            ]
        members = members[members["run_id"].isin(runs["run_id"])]
        if view == "at matched training loss":
            members = at_matched_loss(members, results.history, _recorded(hypotheses))
        judged = judge_sweep(sweep, members, hypotheses, view=view, seed=seed)
        verdicts += [_annotated(verdict, members, seed=seed) for verdict in judged]
    return noted_over_sweeps(verdicts)


def _recorded(hypotheses: list[Hypothesis]) -> list[str]:
    """Columns of the hypotheses that change during training."""
    names = (name for hypothesis in hypotheses for name in (hypothesis.x, hypothesis.y))
    return [name for name in dict.fromkeys(names) if not name.startswith("swept.")]


def _annotated(verdict: Verdict, runs: pd.DataFrame, *, seed: int) -> Verdict:
    """The verdict with the note that the definitions ask for beside two of the pairs."""
    note = ""
    if (verdict.x, verdict.y) == (GC, GCOL):
        note = part_whole_note(runs, seed=seed)
    if (verdict.x, verdict.y) == (GC, TARGET_NC):
        note = opposite_sign_note(runs)
    return replace(verdict, note=" ".join(filter(None, [verdict.note, note])))


def _over_all_runs(results: SweepResults, runs: pd.DataFrame, *, view: View) -> list[Verdict]:
    """The claims judged by thresholds: every run of the folder counts."""
    expected = Expectations.of(results.recipe)
    sampling = results.sampling[results.sampling["run_id"].isin(runs["run_id"])]
    return [
        judge_ratio(runs, results.history, factor=expected.poincare_factor, view=view),
        judge_bound(runs, results.history, view=view),
        *judge_sampling(
            sampling, coverage=expected.coverage, relative_error=expected.relative_error, view=view
        ),
    ]
