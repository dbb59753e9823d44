"""The page of a reproduction: one HTML file with all it needs, and Markdown with its figures."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from geocollapse.charts.paper import png
from geocollapse.papers.collapse_transfer.experiments import BUILT_ONLY
from geocollapse.reports.environment import template
from geocollapse.reports.reproduction import Reproduction
from geocollapse.reports.reproduction_answer import answer, details, learning_rate_sign
from geocollapse.reports.reproduction_lessons import HEADINGS, Lesson, conclusions, lessons
from geocollapse.reports.reproduction_table import Tables
from geocollapse.runtime.files import write_whole


@dataclass(frozen=True)
class ReproductionPage:
    """The sentences, tables and figures of the page, computed once.

    Attributes:
        found: the reproduction.
        answer: the first paragraph, in sentences.
        details: further sentences on the claims.
        learned: the sweeps with target classes, for what the paper does not say.
        tables: of each row, in its order.
        figures: PNG files, by recipe and name of the chart.
    """

    found: Reproduction
    answer: list[str]
    details: list[str]
    learned: list[Lesson]
    tables: list[Tables]
    figures: dict[tuple[str, str], bytes]

    @classmethod
    def of(cls, found: Reproduction) -> ReproductionPage:
        """The page of a reproduction."""
        figures = {
            (row.experiment.recipe, chart.name): png(chart)
            for row in found.stored
            for chart in row.charts
        }
        tables = [Tables.of(row) for row in found.rows]
        return cls(found, answer(found), details(found), lessons(found), tables, figures)

    @property
    def lessons(self) -> list[str]:
        """What the paper does not say, in sentences."""
        return conclusions(self.learned)

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
            details=self.details,
            counts=[_stored(self.found, is_published=published) for published in (True, False)],
            sections=list(zip(self.found.rows, self.tables, strict=True)),
            learning_rate_sign=learning_rate_sign(self.found),
            learned=self.learned,
            lessons=self.lessons,
            lesson_headings=HEADINGS,
            built_only=BUILT_ONLY,
            images=images,
        )
        return f"{text.rstrip()}\n".encode()


def _stored(found: Reproduction, *, is_published: bool) -> str:
    """How many experiments of the paper, or of this project, are stored: ``9 of 11``."""
    own = [row for row in found.rows if row.experiment.is_published == is_published]
    return f"{sum(row.report is not None for row in own)} of {len(own)}"
