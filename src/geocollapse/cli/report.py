"""`geocollapse report`: page, figures and table of a sweep folder, with the verdicts on the claims."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from geocollapse.cli.answer import Answer, as_text

if TYPE_CHECKING:
    from geocollapse.cli.schemas import ReportDict


def report(
    folder: Annotated[Path, Argument(metavar="DIR", help="A folder of `geocollapse sweep`.")],
) -> Answer:
    """Write the report of a sweep folder.

    report.html (self-contained), figures/*.png and *.pdf, and table.csv, from what lies in the
    folder: weights are not needed.
    """
    result = make_report(folder)
    return Answer(
        json=dict(result),
        text=report_text(result),
        rows=[dict(verdict) for verdict in result["verdicts"]],
    )


def make_report(folder: Path) -> ReportDict:
    """Write the report of ``folder``; its JSON form."""
    from geocollapse.estimate import strict_json
    from geocollapse.experiments.results.tables import read_sweep
    from geocollapse.papers.collapse_transfer.judge import judge
    from geocollapse.reports.sweep_page import write_report

    page = write_report(folder)
    results = read_sweep(folder)
    return {
        "report": str(page),
        "table": str(folder / "table.csv"),
        "figures": sorted(str(path) for path in (folder / "figures").glob("*")),
        "verdicts": [strict_json(asdict(verdict)) for verdict in judge(results)],
        "problems": list(results.problems),
    }


def report_text(result: ReportDict) -> str:
    """The verdicts as a table, and where the report is."""
    from geocollapse.reports.sweep_page import verdict_table

    page = Path(result["report"])
    problems = [f"problem: {problem}" for problem in result["problems"]]
    return "\n".join([as_text(verdict_table(page.parent)), *problems, f"report: {page.resolve()}"])
