"""The page of a reproduction: one HTML file with all it needs, and Markdown with its figures."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

from geocollapse.charts.chart import Chart
from geocollapse.charts.paper import png
from geocollapse.papers.collapse_transfer.claims import CLAIMS
from geocollapse.papers.verdict import Verdict
from geocollapse.reports.environment import template
from geocollapse.reports.reproduction import Reproduction, Row
from geocollapse.reports.reproduction_answer import answer, learning_rate_sign, lessons
from geocollapse.runtime.files import write_whole

_BY_METHODS = {claim.name for claim in CLAIMS if claim.judged_by == "methods"}


def write_html(found: Reproduction, path: Path) -> None:
    """Write the page with its figures inside."""

    def embedded(_: Row, chart: Chart) -> str:
        return f"data:image/png;base64,{base64.b64encode(png(chart)).decode()}"

    write_whole({path: _render(found, "reproduction.html.jinja", embedded).encode("utf-8")})


def write_markdown(found: Reproduction, path: Path, figures: Path) -> None:
    """Write the page as Markdown, with its figures beside it.

    Args:
        found: the reproduction.
        path: of the page.
        figures: folder of the figures, below that of the page.
    """

    def beside(row: Row, chart: Chart) -> str:
        file = figures / f"{row.experiment.recipe}-{chart.name}.png"
        write_whole({file: png(chart)})
        return file.relative_to(path.parent).as_posix()

    write_whole({path: _render(found, "reproduction.md.jinja", beside).encode("utf-8")})


def _render(found: Reproduction, name: str, image: Callable[[Row, Chart], str]) -> str:
    images = {
        (row.experiment.recipe, chart.name): image(row, chart)
        for row in found.stored
        for chart in row.charts
    }
    text = template(name).render(
        found=found,
        preset=found.rows[0].preset,
        answer=answer(found),
        learning_rate_sign=learning_rate_sign(found),
        lessons=lessons(found),
        images=images,
        statement=_statement,
    )
    return text.rstrip() + "\n"


def _statement(verdict: Verdict) -> str:
    """What is judged; the method of sampling first."""
    return (
        f"{verdict.x}: {verdict.statement}" if verdict.claim in _BY_METHODS else verdict.statement
    )
