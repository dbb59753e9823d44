"""The page of a reproduction: one HTML file with all it needs, and Markdown with its figures."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from geocollapse.charts.paper import png
from geocollapse.papers.collapse_transfer.claims import CLAIMS
from geocollapse.papers.verdict import Verdict
from geocollapse.reports.environment import template
from geocollapse.reports.reproduction import Reproduction
from geocollapse.reports.reproduction_answer import answer, learning_rate_sign, lessons
from geocollapse.runtime.files import write_whole

_BY_METHODS = {claim.name for claim in CLAIMS if claim.judged_by == "methods"}


@dataclass(frozen=True)
class ReproductionPage:
    """The sentences and figures of the page, computed once.

    Attributes:
        found: the reproduction.
        answer: one sentence for each claim.
        lessons: what the paper does not say.
        figures: PNG files, by recipe and name of the chart.
    """

    found: Reproduction
    answer: list[str]
    lessons: list[str]
    figures: dict[tuple[str, str], bytes]

    @classmethod
    def of(cls, found: Reproduction) -> ReproductionPage:
        """The page of a reproduction."""
        figures = {
            (row.experiment.recipe, chart.name): png(chart)
            for row in found.stored
            for chart in row.charts
        }
        return cls(found, answer(found), lessons(found), figures)

    def write_html(self, path: Path) -> None:
        """Write the page with its figures inside."""
        images = {
            key: f"data:image/png;base64,{base64.b64encode(figure).decode()}"
            for key, figure in self.figures.items()
        }
        write_whole({path: self._rendered("reproduction.html.jinja", images)})

    def write_markdown(self, path: Path, figures: Path) -> None:
        """Write the page as Markdown, with its figures beside it.

        Args:
            path: of the page.
            figures: folder of the figures, below that of the page.
        """
        files = {key: figures / f"{'-'.join(key)}.png" for key in self.figures}
        images = {key: file.relative_to(path.parent).as_posix() for key, file in files.items()}
        write_whole({file: self.figures[key] for key, file in files.items()})
        write_whole({path: self._rendered("reproduction.md.jinja", images)})

    def _rendered(self, name: str, images: dict[tuple[str, str], str]) -> bytes:
        text = template(name).render(
            found=self.found,
            preset=self.found.rows[0].preset,
            answer=self.answer,
            learning_rate_sign=learning_rate_sign(self.found),
            lessons=self.lessons,
            images=images,
            statement=_statement,
        )
        return f"{text.rstrip()}\n".encode()


def _statement(verdict: Verdict) -> str:
    """What is judged; the method of sampling first."""
    return (
        f"{verdict.x}: {verdict.statement}" if verdict.claim in _BY_METHODS else verdict.statement
    )
