"""The figures that papers describe as data, drawn from the tables of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.charts.chart import Chart, Panel
from geocollapse.experiments.results.tables import SweepResults
from geocollapse.papers.claims import Figure, PanelColumns, Paper
from geocollapse.reports.effects import DRAWN as EFFECTS
from geocollapse.reports.effects import effects, paths
from geocollapse.reports.panels import (
    BAND,
    HOLLOW,
    SETTINGS,
    by_sweep,
    histories,
    ordinal,
    scatter,
    scatters,
)
from geocollapse.reports.record_points import columns_of, record_points, with_equality
from geocollapse.reports.wording import words

if TYPE_CHECKING:
    import pandas as pd

_DRAWN = {
    "settings": SETTINGS,
    "points": f"One point per run, at the end of training. {HOLLOW}",
    "records": f"One point per record, from initialisation to the end of training. {HOLLOW}",
    "training": BAND,
    "effects": EFFECTS,
    "paths": EFFECTS,
}
_OVER_SWEEPS = {"effects": effects, "paths": paths}


def paper_charts(papers: Iterable[Paper], results: SweepResults) -> Iterator[Chart]:
    """The figures of the papers: one for each sweep, or one over all runs; empty ones included."""
    figures = [figure for paper in papers for figure in paper.figures]
    for sweep in results.sweeps:
        runs = _done(results.of_sweep(sweep))
        for figure in figures:
            if not figure.over_folder:
                panels = _panels(figure, runs, results.history)
                title = f"{figure.title}: {words(sweep)}"
                yield _chart(figure, f"{figure.name}-{sweep}", title, panels)
    for figure in figures:
        if figure.over_folder:
            groups = by_sweep(_done(results.runs), results.settings)
            found = (_against(groups, drawn) for drawn in figure.panels)
            if figure.kind in _OVER_SWEEPS:
                found = (_OVER_SWEEPS[figure.kind](results, drawn) for drawn in figure.panels)
            panels = itertools.chain.from_iterable(found)
            yield _chart(figure, figure.name, figure.title, panels)


def _chart(figure: Figure, name: str, title: str, panels: Iterable[Panel]) -> Chart:
    caption = f"{figure.caption} {_DRAWN[figure.kind]}".strip()
    return Chart(name, title, caption, tuple(panels))


def _panels(figure: Figure, runs: pd.DataFrame, history: pd.DataFrame) -> Iterator[Panel]:
    """The panels of one sweep whose columns were recorded."""
    swept = [
        name for name in runs.columns if name.startswith("swept.") and runs[name].nunique() > 1
    ]
    for drawn in figure.panels:
        found: Iterable[Panel]
        if figure.kind == "training":
            found = histories(runs, history, tuple(columns_of(drawn.y, history)))
        elif figure.kind == "records":
            found = record_points(runs, history, drawn)
        elif figure.kind == "settings":
            found = [panel for key in swept for panel in ordinal(runs, key, drawn.y)]
        else:
            found = scatters(runs, (drawn.x, drawn.y))
        for panel in found:
            yield _with_level(panel, drawn)


def _against(groups: pd.DataFrame, drawn: PanelColumns) -> Iterator[Panel]:
    for panel in scatter(groups, drawn.x, drawn.y):
        yield _with_level(panel, drawn)


def _with_level(panel: Panel, drawn: PanelColumns) -> Panel:
    """The panel with its reference line, as long as its series."""
    if drawn.is_equality:
        return with_equality(panel)
    if drawn.level is None:
        return panel
    x = np.concatenate([series.x for series in panel.series])
    ends = np.array([x.min(), x.max()])
    return replace(panel, curve=(ends, np.full(2, drawn.level), drawn.level_name))


def _done(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"] == "done"]
