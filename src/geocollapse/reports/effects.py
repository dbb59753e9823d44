"""One figure for many sweeps: what each does to a measure, relative to its weakest setting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.charts.chart import Array, Panel, Series, mark
from geocollapse.charts.labels import axis_label, short_name
from geocollapse.experiments.results.tables import SweepResults, converged
from geocollapse.papers.claims import PanelColumns
from geocollapse.papers.hypotheses import expected_signs
from geocollapse.papers.matched import at_loss, at_matched_loss
from geocollapse.reports.wording import words

if TYPE_CHECKING:
    import pandas as pd

DRAWN = "Line: geometric mean over seeds; band: lowest to highest seed."
_LOSS = "train_loss"
_N_LEVELS = 13  # of the training loss, along a path


def effects(results: SweepResults, drawn: PanelColumns) -> Iterator[Panel]:
    """A measure over that of the weakest setting, a line a sweep; none if it was not recorded.

    The settings of a sweep are in the order of the swept values, turned round where the recipe
    expects the measure to rise with them: from weak to strong. Only converged runs count; where the
    panel is matched, at the lowest training loss that all runs of their sweep reach.
    """
    series = []
    for number, (name, runs, sign) in enumerate(_sweeps(results)):
        if drawn.is_matched:
            runs = at_matched_loss(runs, results.history, [drawn.y])
        ratios = _ratios(runs, drawn.y, sign)
        if ratios is not None:
            series.append(_line(name, number, np.arange(ratios.shape[1], dtype=float), ratios))
    if series:
        yield Panel(
            "setting, from weakest to strongest",
            f"{short_name(drawn.y)} / weakest",
            tuple(series),
            y_scale="log",
            title="at matched training loss" if drawn.is_matched else "at the end",
        )


def paths(results: SweepResults, drawn: PanelColumns) -> Iterator[Panel]:
    """A measure at the strongest over that at the weakest setting, at equal training losses.

    A line a sweep, over the losses from initialisation to the lowest that the converged runs of
    both settings reach; none if the measure was not recorded through training.
    """
    series = []
    for number, (name, runs, sign) in enumerate(_sweeps(results)):
        found = _path(runs, results.history, drawn.y, sign)
        if found is not None:
            series.append(_line(name, number, *found))
    if series:
        yield Panel(
            axis_label(_LOSS),
            f"{short_name(drawn.y)}, strongest / weakest",
            tuple(series),
            x_scale="log",
            y_scale="log",
        )


def _sweeps(results: SweepResults) -> Iterator[tuple[str, pd.DataFrame, int]]:
    """Each sweep with its converged runs and the sign that the recipe expects of a measure."""
    signs = expected_signs(results.recipe)
    for name in results.sweeps:
        runs = results.of_sweep(name)
        swept = (key.removeprefix("swept.") for key in runs.columns if key.startswith("swept."))
        yield name, converged(runs), signs.get(next(swept, ""), -1)


def _ratios(runs: pd.DataFrame, column: str, sign: int) -> Array | None:
    """Logarithms of a measure over that of the weakest setting (n_seeds, n_settings).

    None without two settings that have it.
    """
    if column not in runs:
        return None
    table = runs.pivot_table(index="seed", columns="position", values=column).astype(float)
    table = table[sorted(table.columns, reverse=sign > 0)]
    table = table.where(table > 0).dropna()
    if table.shape[0] == 0 or table.shape[1] < 2:
        return None
    logs = np.log(table.to_numpy())
    return np.asarray(logs - logs[:, :1])


def _path(
    runs: pd.DataFrame, history: pd.DataFrame, column: str, sign: int
) -> tuple[Array, Array] | None:
    """Training losses (n,), and logarithms of strongest over weakest there (n_seeds, n)."""
    if not {column, _LOSS} <= set(history.columns) or runs["position"].nunique() < 2:
        return None
    ends = sorted(runs["position"].unique(), reverse=sign > 0)
    weakest, strongest = (runs[runs["position"] == ends[i]].set_index("seed") for i in (0, -1))
    seeds = weakest.index.intersection(strongest.index)
    pairs = [
        [_records(history, runs.loc[seed, "run_id"], column) for runs in (weakest, strongest)]
        for seed in seeds
    ]
    records = [record for pair in pairs for record in pair]
    if not records or any(record.empty for record in records):
        return None
    first = min(float(record[_LOSS].iloc[0]) for record in records)
    last = max(float(record[_LOSS].min()) for record in records)
    if not first > last > 0.0:
        return None
    levels = np.geomspace(first, last, _N_LEVELS)
    logs = [[np.log(_at_levels(record, levels, column)) for record in pair] for pair in pairs]
    return levels, np.stack([strong - weak for weak, strong in logs])


def _records(history: pd.DataFrame, run_id: str, column: str) -> pd.DataFrame:
    """The records of a run where its measure is positive, in order."""
    records = history[(history["run_id"] == run_id) & (history[column] > 0)]
    return records.dropna(subset=[_LOSS]).sort_values("step")


def _at_levels(record: pd.DataFrame, levels: Array, column: str) -> Array:
    return np.concatenate([at_loss(record, float(level), [column]) for level in levels])


def _line(name: str, number: int, x: Array, logs: Array) -> Series:
    """The line of a sweep: the mean of the seeds' logarithms, and their range."""
    return Series(
        words(name),
        mark(number),
        x,
        np.exp(logs.mean(axis=0)),
        np.exp(logs.min(axis=0)),
        np.exp(logs.max(axis=0)),
        line=True,
    )
