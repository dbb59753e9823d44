"""`geocollapse report`: page, figures and table of a sweep folder, with verdicts on its claims."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from geocollapse.cli.answer import Answer, as_text

if TYPE_CHECKING:
    from geocollapse.cli.schemas import ReportDict
    from geocollapse.reports.sweep_report import SweepReport


def report(
    folder: Annotated[
        Path,
        Argument(
            metavar="DIR", help="A folder of `geocollapse sweep`, or of `rank --report` again."
        ),
    ],
    store: Annotated[
        Path | None,
        Option(metavar="OUT", help="First copy the sweep to OUT without weights, compressed."),
    ] = None,
) -> Answer:
    """Write the report of a sweep folder.

    report.html (self-contained), figures/*.png and *.pdf, table.csv and verdicts.json, made from
    the folder alone: weights are not needed. A folder with ranking.json gets the report of the
    ranking again. With --store the copy gets the report.
    """
    from geocollapse.experiments.results import stored
    from geocollapse.reports.writing import write_report

    if (folder / "ranking.json").is_file():
        return _of_ranking(folder)
    written = write_report(stored.store(folder, store) if store else folder)
    result = report_json(written)
    return Answer(
        json=dict(result),
        text=report_text(written),
        rows=[dict(verdict) for verdict in result["verdicts"]],
    )


def _of_ranking(folder: Path) -> Answer:
    """The report of a ranking from its ranking.json."""
    from geocollapse.measures import SCORES
    from geocollapse.reports.ranking_report import read_ranking, write_ranking

    ranking = read_ranking(folder)
    page = write_ranking(folder, ranking, scores=SCORES)
    result: ReportDict = {
        "schema_version": 1,
        "report": str(page),
        "table": str(folder / "ranking.csv"),
        "figures": sorted(str(path) for path in (folder / "figures").glob("*.png")),
        "verdicts": [],
        "problems": [],
    }
    return Answer(json=dict(result), text=f"{ranking['advice']}\nreport: {page.resolve()}")


def report_json(written: SweepReport) -> ReportDict:
    """The JSON form of a report."""
    from geocollapse.papers.verdict import to_json

    return {
        "schema_version": 1,
        "report": str(written.path),
        "table": str(written.table),
        "figures": [str(path) for path in written.figures],
        "verdicts": [to_json(verdict) for verdict in written.verdicts],
        "problems": list(written.results.problems),
    }


def report_text(written: SweepReport) -> str:
    """The verdicts as a table, problems, and the path of the page."""
    from geocollapse.reports.verdict_grid import not_judged_text, verdict_table

    table = verdict_table(written)
    verdicts = [as_text(table)] if table.row_count else []
    problems = [f"problem: {problem}" for problem in written.results.problems]
    lines = [*verdicts, *not_judged_text(written), *problems]
    return "\n".join([*lines, f"report: {written.path.resolve()}"])
