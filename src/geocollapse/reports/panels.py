"""Panels from the tables of a sweep: points, settings in order, lines through training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.charts.chart import Array, Panel, Scale, Series, mark
from geocollapse.charts.labels import (
    SIGNED_LOSS,
    axis_label,
    label_of,
    setting_label,
    shown_value,
)
from geocollapse.experiments.results.tables import ACCURACY
from geocollapse.reports.wording import words

if TYPE_CHECKING:
    import pandas as pd

HOLLOW = "Hollow: not converged."
BAND = (
    "Line: mean over seeds; band: lowest to highest seed; until the first seed of a setting ends. "
    "Dashed: a seed did not converge."
)
SETTINGS = (
    "Line: mean over the seeds of a setting that converged, over all where none did; band: lowest "
    "to highest of them. Points: single runs at the end of training; hollow: not converged. Swept "
    "values in their order, not to scale."
)
_LINEAR_UNITS = ("share", "cosine", SIGNED_LOSS)
_PLACE = "place"  # of a swept value in its order
_RUN_MARK = 5  # light blue, behind the line of the means


def scatters(runs: pd.DataFrame, *pairs: tuple[str, str]) -> tuple[Panel, ...]:
    """A panel for each pair (x, y) of columns, a series for each setting of a sweep."""
    groups = runs.assign(label=runs["setting"].map(setting_label), mark=runs["position"])
    return tuple(panel for pair in pairs for panel in scatter(groups, *pair))


def scatter(groups: pd.DataFrame, x: str, y: str) -> list[Panel]:
    """One panel of y against x, a series for each `label`; none if a column was not recorded."""
    if not {x, y} <= set(groups.columns):
        return []
    shown = _drawable(groups, x, y)
    low = y.replace(".value", ".ci95.0")
    high = y.replace(".value", ".ci95.1")
    bars = y == ACCURACY and {low, high} <= set(shown.columns)
    series = tuple(
        Series(
            str(label),
            mark(int(group["mark"].iloc[0])),
            _array(group[x]),
            _array(group[y]),
            _array(group[low]) if bars else None,
            _array(group[high]) if bars else None,
            hollow=_flags(~group["converged"].astype(bool)),
        )
        for label, group in shown.sort_values("mark", kind="stable").groupby("label", sort=False)
    )
    return (
        [Panel(axis_label(x), axis_label(y), series, x_scale=_scale(x), y_scale=_scale(y))]
        if series
        else []
    )


def ordinal(runs: pd.DataFrame, key: str, y: str) -> Iterator[Panel]:
    """y over the swept values in their order.

    One line of seed means with its band, and a point for each run. Where settings share a value of
    `key`, as in a grid, only points: a mean would mix the settings.
    """
    if y not in runs or key not in runs:
        return
    shown = runs.dropna(subset=[key])
    values = list(shown.sort_values("position")[key].unique())
    is_grid = shown["setting"].nunique() != len(values)
    shown = shown.assign(
        label=shown["setting"].map(setting_label) if is_grid else "one run",
        mark=shown["position"] if is_grid else _RUN_MARK,
        place=shown[key].map(values.index),
    )
    for panel in scatter(shown, _PLACE, y):
        points = panel.series
        if not is_grid:
            points = (_mean_over_seeds(_drawable(shown, _PLACE, y), y), *points)
        yield replace(
            panel,
            x_label=axis_label(key),
            series=tuple(replace(series, listed=is_grid) for series in points),
            ticks=tuple(shown_value(value) for value in values),
        )


def _mean_over_seeds(runs: pd.DataFrame, y: str) -> Series:
    """Mean and range over the converged seeds of each setting; over all where none converged."""
    converged = runs["converged"].astype(bool)
    any_of = converged.groupby(runs[_PLACE]).transform("any")
    seeds = runs[converged | ~any_of].groupby(_PLACE)[y]
    means = seeds.mean()
    return Series(
        "mean over seeds",
        mark(0),
        np.asarray(means.index, dtype=np.float64),
        _array(means),
        _array(seeds.min()),
        _array(seeds.max()),
        line=True,
    )


def histories(
    runs: pd.DataFrame, history: pd.DataFrame, columns: tuple[str, ...]
) -> tuple[Panel, ...]:
    """One panel for each column, a line for each setting."""
    panels = []
    for column in columns:
        if column in history:
            lines = [
                _seed_band(runs[runs["position"] == i], history, column)
                for i in sorted(set(runs["position"]))
            ]
            series = tuple(line for line in lines if line is not None)
            if series:
                panels.append(
                    Panel(
                        "training step + 1 [steps]",
                        axis_label(column),
                        series,
                        x_scale="log",
                        y_scale=_scale(column),
                    )
                )
    return tuple(panels)


def _seed_band(runs: pd.DataFrame, history: pd.DataFrame, column: str) -> Series | None:
    """Mean and range over the seeds of a setting, on the steps that all of them reach."""
    records = [
        history[history["run_id"] == run_id].dropna(subset=[column]) for run_id in runs["run_id"]
    ]
    records = [record for record in records if len(record)]
    if not records:
        return None
    first = max(record["step"].min() for record in records)
    last = min(record["step"].max() for record in records)
    steps = np.unique(np.concatenate([record["step"] for record in records]))
    steps = steps[(steps >= first) & (steps <= last)].astype(float)
    values = np.stack(
        [np.interp(steps, record["step"], record[column].astype(float)) for record in records]
    )
    return Series(
        setting_label(runs["setting"].iloc[0]),
        mark(int(runs["position"].iloc[0])),
        steps + 1,
        values.mean(axis=0),
        values.min(axis=0),
        values.max(axis=0),
        line=True,
        dashed=not bool(runs["converged"].all()),
    )


def run_lines(groups: pd.DataFrame, history: pd.DataFrame, column: str) -> list[Panel]:
    """One line per run through training, a colour for each `label`."""
    if column not in history:
        return []
    series = []
    for _, run in groups.iterrows():
        record = history[(history["run_id"] == run["run_id"]) & (history[column] > 0)]
        if len(record):
            series.append(
                Series(
                    run["label"],
                    mark(int(run["mark"])),
                    _array(record["step"]) + 1,
                    _array(record[column]),
                    line=True,
                    dashed=not bool(run["converged"]),
                )
            )
    return (
        [
            Panel(
                "training step + 1 [steps]",
                axis_label(column),
                tuple(series),
                x_scale="log",
                y_scale="log",
            )
        ]
        if series
        else []
    )


def by_sweep(runs: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """The runs with the name of their first sweep as `label`, and a mark for each."""
    first = settings.drop_duplicates("run_id")[["run_id", "sweep"]]
    groups = runs.merge(first, on="run_id", how="left")
    groups = groups.assign(label=groups["sweep"].fillna("base setting").map(words))
    places = {name: place for place, name in enumerate(groups["label"].unique())}
    return groups.assign(mark=groups["label"].map(places))


def _drawable(runs: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Rows whose values are finite and, on a log axis, positive."""
    shown = runs.assign(**{x: runs[x].astype(float), y: runs[y].astype(float)})
    shown = shown[np.isfinite(shown[x]) & np.isfinite(shown[y])]
    shown = shown[(shown[x] > 0) | (_scale(x) == "linear")]
    return shown[(shown[y] > 0) | (_scale(y) == "linear")]


def _scale(column: str) -> Scale:
    """Log, but for shares, cosines and signed quantities."""
    label = label_of(column)
    is_linear = column == _PLACE or (label is not None and label.unit in _LINEAR_UNITS)
    return "linear" if is_linear else "log"


def _array(values: pd.Series) -> Array:
    return np.asarray(values, dtype=np.float64)


def _flags(values: pd.Series) -> np.ndarray:
    return np.asarray(values, dtype=bool)
