"""The verdicts on an experiment as tables: what holds, what it withstands, how large it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geocollapse.charts.labels import short_name
from geocollapse.experiments.results.tables import converged
from geocollapse.papers.collapse_transfer.claims import CLAIMS
from geocollapse.papers.hypotheses import expected_signs
from geocollapse.papers.verdict import Verdict, View
from geocollapse.reports.repetitions import repeated
from geocollapse.reports.reproduction import Row
from geocollapse.reports.wording import MISSING, signed, words

if TYPE_CHECKING:
    from geocollapse.experiments.results.tables import SweepResults
    from geocollapse.reports.sweep_report import SweepReport

MATCHED: View = "at matched training loss"
PER_VARIANCE: View = "GC divided by feature variance"
WITH_OTHERS: View = "with non-converged runs"
_KIND = {claim.name: claim.judged_by for claim in CLAIMS}
_MIN_GIVEN = 4  # settings, for a correlation given a third quantity


@dataclass(frozen=True)
class Line:
    """A correlation on the page.

    Attributes:
        verdict: the main one.
        outcome: it in words; `not judged` where no sign is expected.
        matched: its repetition at matched training loss, with rho.
        per_variance: its repetition with GC divided by the feature variance, with rho.
        given_loss: rho given the log of the training loss, or why there is none.
        size: what the second quantity is at the strongest setting over the weakest.
    """

    verdict: Verdict
    outcome: str
    matched: str
    per_variance: str
    given_loss: str
    size: str


@dataclass(frozen=True)
class Tables:
    """The verdicts on an experiment, by how they are passed.

    Attributes:
        lines: correlations.
        summary: how many of them hold, here and at matched training loss.
        thresholds: main verdicts by a threshold over all runs.
        methods: verdicts on ways of sampling: the main ones, then those with all runs.
        has_sweeps: true if the lines are of several sweeps.
        notes: sentences below the tables.
    """

    lines: tuple[Line, ...]
    summary: str
    thresholds: tuple[Verdict, ...]
    methods: tuple[Verdict, ...]
    has_sweeps: bool
    notes: tuple[str, ...]

    @classmethod
    def of(cls, row: Row) -> Tables:
        """The tables of a stored experiment; empty ones without a sweep."""
        if row.report is None:
            return cls((), "", (), (), has_sweeps=False, notes=())
        lines = [_line(v, row.report) for v in row.verdicts if _KIND[v.claim] == "correlation"]
        views = (row.verdicts, row.of_view(WITH_OTHERS))
        return cls(
            tuple(lines),
            _summary(lines),
            tuple(v for v in row.verdicts if _KIND[v.claim] == "threshold"),
            tuple(v for of_view in views for v in of_view if _KIND[v.claim] == "methods"),
            has_sweeps=len({line.verdict.sweep for line in lines}) > 1,
            notes=tuple(_notes(row, row.report)),
        )


def outcome(verdict: Verdict) -> str:
    """The verdict in words: a pair without an expected sign is not judged."""
    return verdict.verdict if math.isnan(verdict.p_two_sided) else "not judged"


def strongest_over_weakest(results: SweepResults, verdict: Verdict) -> float:
    """The mean over seeds of the second quantity, at the strongest setting over the weakest.

    Settings are in the order of the swept values, turned round where the recipe expects the
    measure to rise with them. Only converged runs count. NaN without two settings.
    """
    runs = converged(results.of_sweep(verdict.sweep))
    if verdict.y not in runs:
        return math.nan
    means = runs.groupby("position")[verdict.y].mean().dropna().sort_index()
    if len(means) < 2 or means.iloc[0] <= 0 or means.iloc[-1] <= 0:
        return math.nan
    swept = [name for name in runs.columns if name.startswith("swept.")]
    key = (verdict.x if verdict.x in swept else swept[0]).removeprefix("swept.")
    ratio = float(means.iloc[-1] / means.iloc[0])
    return 1.0 / ratio if expected_signs(results.recipe).get(key, 0) > 0 else ratio


def _summary(lines: Sequence[Line]) -> str:
    """How many of the judged correlations hold, and how many of these at matched loss."""
    judged = [line for line in lines if line.outcome != "not judged"]
    holding = [line for line in judged if line.outcome == "holds"]
    kept = sum(line.matched.startswith("holds") for line in holding)
    n_against = sum(line.outcome == "does not hold" for line in judged)
    against = f"; {n_against} the other way" if n_against else ""
    return (
        f"{len(holding)} of {len(judged)} hold, {kept} of them also at matched training loss"
        f"{against}."
    )


def _line(verdict: Verdict, report: SweepReport) -> Line:
    ratio = strongest_over_weakest(report.results, verdict)
    return Line(
        verdict,
        outcome(verdict),
        _again(repeated(verdict, MATCHED, report.verdicts)),
        _again(repeated(verdict, PER_VARIANCE, report.verdicts)),
        given_loss(verdict),
        MISSING if math.isnan(ratio) else f"{short_name(verdict.y)} x {_factor(ratio)}",
    )


def _factor(ratio: float) -> str:
    """Two decimals, or two digits of a small factor and three of a large one."""
    return f"{ratio:.2f}" if 0.1 <= ratio < 10 else f"{ratio:.{2 if ratio < 0.1 else 3}g}"


def _again(verdict: Verdict | None) -> str:
    """A repetition in a cell."""
    if verdict is None or math.isnan(verdict.effect):
        return MISSING
    return f"{outcome(verdict)}, {signed(verdict.effect)}"


def given_loss(verdict: Verdict) -> str:
    """Rho given the training loss. Without it, one of the two has the order of the loss."""
    is_enough = (verdict.n_settings or 0) >= _MIN_GIVEN
    if math.isnan(verdict.partial) and not math.isnan(verdict.effect) and is_enough:
        return f"{MISSING}: the loss has the same order"
    return signed(verdict.partial)


def _notes(row: Row, report: SweepReport) -> Iterator[str]:
    """What changes with the runs that did not converge, and how many images a study has."""
    changed = [
        f"{_statement(verdict)}: {again.verdict}"
        for verdict in row.verdicts
        for again in [repeated(verdict, WITH_OTHERS, report.verdicts)]
        if again is not None and again.verdict != verdict.verdict
    ]
    if row.of_view(WITH_OTHERS):
        said = "; ".join(changed) if changed else "no verdict changes"
        yield f"With the runs that did not converge: {said}."
    runs = report.results.runs
    if len(report.results.sampling) and "measuring.max_samples" in runs:
        sizes = sorted({int(size) for size in runs["measuring.max_samples"].dropna()})
        yield f"The full value is that of {' or '.join(map(str, sizes))} images."


def _statement(verdict: Verdict) -> str:
    """What is judged, with its sweep or its method."""
    if _KIND[verdict.claim] == "methods":
        return verdict.x
    if verdict.sweep == "all runs":
        return verdict.statement
    return f"{verdict.statement} ({words(verdict.sweep)})"
