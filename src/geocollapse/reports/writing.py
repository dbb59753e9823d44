"""The report of a sweep written into its folder: page, figures and table from one record."""

from __future__ import annotations

import json
from pathlib import Path

from geocollapse.charts.paper import save
from geocollapse.experiments.results.tables import write_table
from geocollapse.papers.verdict import to_json
from geocollapse.reports.sweep_page import render
from geocollapse.reports.sweep_report import SweepReport, read_report
from geocollapse.runtime.files import write_whole


def write_report(folder: str | Path, *, seed: int = 0) -> SweepReport:
    """Write report.html, figures/*.png and *.pdf, table.csv and verdicts.json into a sweep folder.

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
    verdicts = {"schema_version": 1, "verdicts": [to_json(v) for v in report.verdicts]}
    written = json.dumps(verdicts, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_whole({report.results.folder / "verdicts.json": written.encode("utf-8")})
    write_whole({report.path: render(report).encode("utf-8")})
    return report
