"""One figure for many sweeps: what each does to a measure, relative to its weakest setting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.charts.chart import Panel, Series, mark
from geocollapse.charts.labels import short_name
from geocollapse.experiments.results.tables import SweepResults, converged
from geocollapse.papers.claims import PanelColumns
from geocollapse.papers.hypotheses import expected_signs
from geocollapse.reports.wording import words

if TYPE_CHECKING:
    import pandas as pd

DRAWN = "Line: geometric mean over seeds; band: lowest to highest seed."


def effects(results: SweepResults, drawn: PanelColumns) -> Iterator[Panel]:
    """A measure over that of the weakest setting, a line a sweep; none if it was not recorded.

    The settings of a sweep are in the order of the swept values, turned round where the recipe
    expects the measure to rise with them: from weak to strong. Only converged runs count.
    """
    signs = expected_signs(results.recipe)
    lines = (
        _line(name, number, results.of_sweep(name), drawn.y, signs.get(_key(results, name), -1))
        for number, name in enumerate(results.sweeps)
    )
    series = tuple(line for line in lines if line is not None)
    if series:
        yield Panel(
            "setting, from weakest to strongest",
            f"{short_name(drawn.y)} / weakest",
            series,
            y_scale="log",
        )


def _key(results: SweepResults, sweep: str) -> str:
    """The swept key; the first one of a grid."""
    columns = results.of_sweep(sweep).columns
    swept = (name.removeprefix("swept.") for name in columns if name.startswith("swept."))
    return next(swept, "")


def _line(name: str, number: int, runs: pd.DataFrame, column: str, sign: int) -> Series | None:
    """The relative measure of one sweep; None without two settings that have it."""
    if column not in runs:
        return None
    done = converged(runs)
    table = done.pivot_table(index="seed", columns="position", values=column).astype(float)
    table = table[sorted(table.columns, reverse=sign > 0)]
    table = table.where(table > 0).dropna()
    if table.shape[0] == 0 or table.shape[1] < 2:
        return None
    ratios = np.log(table.to_numpy())
    ratios = ratios - ratios[:, :1]
    return Series(
        words(name),
        mark(number),
        np.arange(ratios.shape[1], dtype=np.float64),
        np.exp(ratios.mean(axis=0)),
        np.exp(ratios.min(axis=0)),
        np.exp(ratios.max(axis=0)),
        line=True,
    )
