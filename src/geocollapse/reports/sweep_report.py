"""The report of a sweep folder as one record: read once, judged once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from geocollapse.charts.chart import Chart
from geocollapse.experiments.results.tables import SweepResults, read_sweep
from geocollapse.papers.claims import Paper
from geocollapse.papers.registry import judge, papers_of
from geocollapse.papers.verdict import Verdict
from geocollapse.reports.sweep_charts import charts


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
