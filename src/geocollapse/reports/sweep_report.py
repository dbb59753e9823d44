"""The report of a sweep folder: read once, judged once, and written from one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from geocollapse.charts.chart import Chart
from geocollapse.charts.paper import save
from geocollapse.experiments.results.tables import SweepResults, read_sweep, write_table
from geocollapse.papers.claims import Paper
from geocollapse.papers.registry import judge, papers_of
from geocollapse.papers.verdict import Verdict
from geocollapse.reports.sweep_charts import charts
from geocollapse.reports.sweep_page import render
from geocollapse.runtime.files import write_whole


class FailedRun(TypedDict):
    """A run that ended without a final measurement."""

    run_id: str
    failed_step: int | None
    error: str | None


@dataclass(frozen=True)
class SweepReport:
    """Everything that a report of a sweep says; page, table, JSON and figures are made from it.

    Attributes:
        results: the tables of the sweep.
        papers: the papers that its recipe is judged by.
        verdicts: on their claims.
        charts: figures that the sweep has data for.
    """

    results: SweepResults
    papers: tuple[Paper, ...]
    verdicts: tuple[Verdict, ...]
    charts: Sequence[Chart]

    @property
    def path(self) -> Path:
        """The page: one file with all it needs, to be opened without a network."""
        return self.results.folder / "report.html"

    @property
    def table(self) -> Path:
        """The table of the runs."""
        return self.results.folder / "table.csv"

    @property
    def figures(self) -> list[Path]:
        """The files of the figures."""
        return sorted((self.results.folder / "figures").glob("*"))

    @property
    def failures(self) -> list[FailedRun]:
        """The runs that failed."""
        from pandas import isna

        runs = self.results.runs
        failed = runs[runs["status"] == "failed"].to_dict("records")
        return [
            {
                "run_id": str(run["run_id"]),
                "failed_step": None if isna(run["failed_step"]) else int(run["failed_step"]),
                "error": None if isna(run["error"]) else str(run["error"]),
            }
            for run in failed
        ]


def read_report(folder: str | Path, *, seed: int = 0) -> SweepReport:
    """Read and judge a sweep folder, with or without its weights.

    Args:
        folder: a sweep folder.
        seed: of bootstraps and sampled permutations.

    Raises:
        FileNotFoundError: ``folder`` is not a sweep folder.
        ValueError: its recipe is judged by an unknown paper, or a file is of a newer version.
    """
    results = read_sweep(folder)
    return SweepReport(
        results, papers_of(results.recipe), judge(results, seed=seed), charts(results)
    )


def write_report(folder: str | Path, *, seed: int = 0) -> SweepReport:
    """Write report.html, figures/*.png and *.pdf and table.csv into a sweep folder.

    They are made from the folder alone. Cost: about half a second a figure; there are four times
    the number of sweeps and a few more.

    Args:
        folder: a sweep folder, with or without weights.
        seed: of bootstraps and sampled permutations.

    Raises:
        FileNotFoundError: ``folder`` is not a sweep folder.
        ValueError: its recipe is judged by an unknown paper, or a file is of a newer version.
    """
    report = read_report(folder, seed=seed)
    write_table(report.results)
    for chart in report.charts:
        save(chart, report.results.folder / "figures")
    write_whole({report.path: render(report).encode("utf-8")})
    return report
