"""The main verdicts by pair and sweep, on the page and as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from geocollapse.charts.labels import short_name
from geocollapse.papers.claims import Claim
from geocollapse.papers.registry import claims_of
from geocollapse.papers.verdict import Verdict
from geocollapse.reports.wording import (
    MISSING,
    count_sentence,
    effect_size,
    interval,
    p_value,
    words,
)

if TYPE_CHECKING:
    from rich.table import Table

    from geocollapse.reports.sweep_report import SweepReport

_STYLES = {"holds": "green", "does not hold": "red", "undecided": "dim"}


class GridRow(NamedTuple):
    """One pair of a claim; its number is its place among the claims of the report."""

    number: int
    claim: str
    pair: str
    cells: tuple[Verdict | None, ...]


@dataclass(frozen=True)
class VerdictGrid:
    """The main verdicts: a row for each pair, a column for each sweep."""

    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]

    @classmethod
    def of(cls, verdicts: Iterable[Verdict], claims: Mapping[str, Claim]) -> VerdictGrid:
        """Lay out the verdicts on ``claims``, which are those of the report, by name.

        Claims without data have no row; they keep their numbers.
        """
        passed = [v for v in verdicts if v.view == "main" and v.claim in claims]
        with_data = {verdict.claim for verdict in passed if verdict.n_runs}
        main = [verdict for verdict in passed if verdict.claim in with_data]
        columns = tuple(dict.fromkeys(verdict.sweep for verdict in main))
        names = _swept_names(main)
        cells = {(v.claim, pair_name(v, claims[v.claim], names), v.sweep): v for v in main}
        numbers = {name: number for number, name in enumerate(claims, start=1)}
        pairs = dict.fromkeys((claim, pair) for claim, pair, _ in cells)
        return cls(
            columns,
            tuple(
                GridRow(
                    numbers[claim],
                    claim,
                    pair,
                    tuple(cells.get((claim, pair, name)) for name in columns),
                )
                for claim, pair in pairs
            ),
        )


def pair_name(verdict: Verdict, claim: Claim, swept: Mapping[tuple[str, str], str]) -> str:
    """The two quantities of a verdict in short, e.g. ``GC, GCol``.

    Args:
        verdict: to be named.
        claim: that it is on.
        swept: names of the swept values, by sweep and key, where a sweep has several.
    """
    if verdict.x in claim.pairs:
        return claim.pairs[verdict.x]
    if claim.judged_by == "methods":
        return f"{verdict.x}, {short_name(verdict.y)}"
    x = short_name(verdict.x)
    if verdict.x.startswith("swept."):
        x = swept.get((verdict.sweep, verdict.x), "swept value")
    return f"{x}, {short_name(verdict.y)}"


def _swept_names(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], str]:
    """A name for each key of a sweep over a grid; a sweep over one key needs none."""
    keys: dict[str, dict[str, None]] = {}
    for verdict in verdicts:
        if verdict.x.startswith("swept."):
            keys.setdefault(verdict.sweep, {})[verdict.x] = None
    named = {}
    for sweep, of_sweep in keys.items():
        short = [short_name(key) for key in of_sweep]
        for key, name in zip(of_sweep, short):
            if len(short) > 1:
                named[sweep, key] = name if short.count(name) == 1 else key.removeprefix("swept.")
    return named


def not_judged(verdicts: Iterable[Verdict], claims: Mapping[str, Claim]) -> dict[str, str]:
    """The claims of a report without data, each with the reasons."""
    missing = {}
    passed = [verdict for verdict in verdicts if verdict.view == "main"]
    for name in claims:
        own = [verdict for verdict in passed if verdict.claim == name]
        if not any(verdict.n_runs for verdict in own):
            notes = dict.fromkeys(verdict.note for verdict in own)
            missing[name] = " ".join(notes) or "No sweep of this folder has settings to compare."
    return missing


def not_judged_text(report: SweepReport) -> list[str]:
    """One line for the claims of a report without data; none if there are none."""
    claims = claims_of(report.papers)
    missing = not_judged(report.verdicts, claims)
    numbers = {name: number for number, name in enumerate(claims, start=1)}
    said = (f"claim {numbers[name]} ({name}): {reason}" for name, reason in missing.items())
    return [f"without data: {'; '.join(said)}"] if missing else []


def verdict_table(report: SweepReport) -> Table:
    """The main verdicts of a report as a table for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    claims = claims_of(report.papers)
    grid = VerdictGrid.of(report.verdicts, claims)
    effects = "; ".join(dict.fromkeys(claim.effect for claim in claims.values()))
    citations = " and of ".join(paper.citation for paper in report.papers)
    table = Table(
        title=f"Verdicts on the claims of {citations}",
        caption=f"{count_sentence(report.verdicts)} Numbers: {effects}.{_unexpected(report)}",
    )
    for heading in ("claim", "pair", *(words(name) for name in grid.columns)):
        table.add_column(escape(heading))
    for row in grid.rows:
        shown = [
            f"[{_STYLES[v.verdict]}]{v.verdict}[/]{escape(_beside(v))}" if v else ""
            for v in row.cells
        ]
        table.add_row(str(row.number), escape(row.pair), *shown)
    return table


def _unexpected(report: SweepReport) -> str:
    """The pairs whose correlation is reported and not judged, for the caption."""
    if all(math.isnan(verdict.p_two_sided) for verdict in report.verdicts):
        return ""
    return (
        " A pair with a two-sided p has no expected sign in the recipe (claims.expected_signs), so "
        "it cannot hold."
    )


def _beside(verdict: Verdict) -> str:
    """The remark on a verdict, or its effect with p; without an expected sign the interval too."""
    if not math.isnan(verdict.p_two_sided):
        p = p_value(verdict.p_two_sided)
        return f" {effect_size(verdict)} {interval(verdict.interval)}, two-sided p {p}"
    if verdict.remark:
        return f"; {verdict.remark}"
    p = p_value(verdict.p_holm)
    if p == MISSING:
        return f" {effect_size(verdict)}"
    return f" {effect_size(verdict)}, p{'' if p.startswith('<') else '='}{p.replace(' ', '')}"
