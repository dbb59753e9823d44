"""`geocollapse report`: page, figures and table of a sweep folder, with verdicts on its claims."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from geocollapse.cli.answer import Answer, as_text

if TYPE_CHECKING:
    from geocollapse.cli.schemas import ReportDict
    from geocollapse.reports.sweep_report import SweepReport


def report(
    folder: Annotated[Path, Argument(metavar="DIR", help="A folder of `geocollapse sweep`.")],
) -> Answer:
    """Write the report of a sweep folder.

    report.html (self-contained), figures/*.png and *.pdf, and table.csv, made from the folder
    alone: weights are not needed.
    """
    from geocollapse.reports.writing import write_report

    written = write_report(folder)
    result = report_json(written)
    return Answer(
        json=dict(result),
        text=report_text(written),
        rows=[dict(verdict) for verdict in result["verdicts"]],
    )


def report_json(written: SweepReport) -> ReportDict:
    """The JSON form of a report."""
    from geocollapse.estimate import strict_json

    return {
        "schema_version": 1,
        "report": str(written.path),
        "table": str(written.table),
        "figures": [str(path) for path in written.figures],
        "verdicts": [strict_json(asdict(verdict)) for verdict in written.verdicts],
        "problems": list(written.results.problems),
    }


def report_text(written: SweepReport) -> str:
    """The verdicts as a table, problems, and the path of the page."""
    from geocollapse.reports.verdict_grid import not_judged_text, verdict_table

    problems = [f"problem: {problem}" for problem in written.results.problems]
    lines = [as_text(verdict_table(written)), *not_judged_text(written), *problems]
    return "\n".join([*lines, f"report: {written.path.resolve()}"])
