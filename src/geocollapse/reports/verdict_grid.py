"""The main verdicts by pair and sweep, on the page and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from geocollapse.charts.labels import short_name
from geocollapse.papers.claims import Claim
from geocollapse.papers.registry import claims_of
from geocollapse.papers.verdict import Verdict
from geocollapse.reports.wording import count_sentence, effect_size, words

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
        """Lay out verdicts; ``claims`` are those of the report, by name."""
        main = [verdict for verdict in verdicts if verdict.view == "main"]
        columns = tuple(dict.fromkeys(verdict.sweep for verdict in main))
        cells = {(v.claim, pair_name(v, claims[v.claim]), v.sweep): v for v in main}
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


def pair_name(verdict: Verdict, claim: Claim) -> str:
    """The two quantities of a verdict in short, e.g. ``GC, GCol``."""
    if verdict.x in claim.pairs:
        return claim.pairs[verdict.x]
    if claim.judged_by == "methods":
        return f"{verdict.x}, {short_name(verdict.y)}"
    x = "swept value" if verdict.x.startswith("swept.") else short_name(verdict.x)
    return f"{x}, {short_name(verdict.y)}"


def verdict_table(report: SweepReport) -> Table:
    """The main verdicts of a report as a table for the terminal."""
    from rich.table import Table

    claims = claims_of(report.papers)
    grid = VerdictGrid.of(report.verdicts, claims)
    effects = "; ".join(dict.fromkeys(claim.effect for claim in claims.values()))
    citations = " and of ".join(paper.citation for paper in report.papers)
    table = Table(
        title=f"Verdicts on the claims of {citations}",
        caption=f"{count_sentence(report.verdicts)} Numbers: {effects}.",
    )
    for heading in ("claim", "pair", *(words(name) for name in grid.columns)):
        table.add_column(heading)
    for row in grid.rows:
        shown = [
            f"[{_STYLES[v.verdict]}]{v.verdict}[/]{_beside(v)}" if v else "" for v in row.cells
        ]
        table.add_row(str(row.number), row.pair, *shown)
    return table


def _beside(verdict: Verdict) -> str:
    """The remark on a verdict, or the size of its effect."""
    return f"; {verdict.remark}" if verdict.remark else f" {effect_size(verdict)}"
