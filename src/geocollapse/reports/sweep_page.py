"""The page of a sweep: one HTML file with all it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geocollapse.charts.chart import Chart
from geocollapse.charts.page import plotly_panels
from geocollapse.papers.claims import Claim
from geocollapse.papers.registry import claims_of
from geocollapse.papers.verdict import Verdict, View
from geocollapse.reports.environment import template
from geocollapse.reports.origin import provenance, recipe_text
from geocollapse.reports.repetitions import same_pair
from geocollapse.reports.run_table import run_table, runs_sentence, warnings
from geocollapse.reports.verdict_grid import VerdictGrid, not_judged
from geocollapse.reports.wording import MISSING, count_sentence

if TYPE_CHECKING:
    from geocollapse.reports.sweep_report import SweepReport


@dataclass(frozen=True)
class ClaimView:
    """One claim as the page shows it.

    Attributes:
        number: its place on the page.
        claim: what is claimed.
        views: repetitions of its verdicts, in their order.
        rows: each main verdict with its repetitions; None where a view has none.
        charts: the figures that show it.
    """

    number: int
    claim: Claim
    views: tuple[View, ...]
    rows: tuple[tuple[Verdict, tuple[Verdict | None, ...]], ...]
    charts: tuple[Chart, ...]

    @classmethod
    def of(
        cls, number_: int, claim: Claim, verdicts: Iterable[Verdict], drawn: Iterable[Chart]
    ) -> ClaimView:
        """Gather the verdicts and figures of one claim."""
        own = [verdict for verdict in verdicts if verdict.claim == claim.name]
        views = tuple(dict.fromkeys(verdict.view for verdict in own if verdict.view != "main"))
        again = {(same_pair(verdict), verdict.view): verdict for verdict in own}
        return cls(
            number_,
            claim,
            views,
            tuple(
                (verdict, tuple(again.get((same_pair(verdict), view)) for view in views))
                for verdict in own
                if verdict.view == "main"
            ),
            tuple(chart for chart in drawn if chart.name.startswith(claim.figures)),
        )


def render(report: SweepReport) -> str:
    """The page as text."""
    from jinja2.utils import htmlsafe_json_dumps
    from plotly.offline import get_plotlyjs

    results = report.results
    claims = claims_of(report.papers)
    missing = not_judged(report.verdicts, claims)
    headings, rows = run_table(results)
    panels = {chart.name: plotly_panels(chart) for chart in report.charts}
    return template("sweep.html.jinja").render(
        recipe=results.recipe,
        is_game=results.recipe.get("kind") == "game",
        n_seeds=results.runs["seed"].nunique(),
        counted=count_sentence(report.verdicts),
        missing=MISSING,
        papers=report.papers,
        has_correlations=any(claim.judged_by == "correlation" for claim in claims.values()),
        runs_sentence=runs_sentence(results),
        grid=VerdictGrid.of(report.verdicts, claims),
        claims=[
            ClaimView.of(place, claim, report.verdicts, report.charts)
            for place, claim in enumerate(claims.values(), start=1)
            if claim.name not in missing
        ],
        not_judged=[
            (place, claim, missing[claim.name])
            for place, claim in enumerate(claims.values(), start=1)
            if claim.name in missing
        ],
        histories=[c for c in report.charts if c.name.startswith(("curves", "training"))],
        runs=rows,
        run_headings=headings,
        failed=results.runs[results.runs["status"] == "failed"].to_dict("records"),
        problems=results.problems,
        warnings=warnings(results),
        provenance=provenance(results),
        recipe_text=recipe_text(results.recipe),
        plotly_js=get_plotlyjs(),
        panels_json=htmlsafe_json_dumps(panels, allow_nan=False),
    )
