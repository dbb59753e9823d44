"""The figures of the nearest-mean bound: at the end of every run, and through training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.charts.chart import Chart, Panel, Series, mark
from geocollapse.papers.collapse_transfer.poincare import error_and_bound
from geocollapse.reports.panels import HOLLOW

if TYPE_CHECKING:
    import pandas as pd

_BOUNDS = {
    "general": "general bound",
    "published": "published bound",
    "directional": "directional bound",
    "gc_empirical": "bound by GC, no guarantee",
}
_ERROR = "nearest-mean error"


def bound(runs: pd.DataFrame, history: pd.DataFrame) -> Chart:
    """Measured error against the nearest-mean bound, at the end of every run."""
    last = history[history["run_id"].isin(runs["run_id"])].groupby("run_id").tail(1)
    compared = error_and_bound(last)
    compared = compared[compared["bound"] > 0]
    empty = compared["run_id"].map(~runs.set_index("run_id")["converged"].astype(bool))
    series = tuple(
        Series(
            str(name),
            mark(i),
            group["bound"].to_numpy(dtype=float),
            group["error"].to_numpy(dtype=float),
            hollow=empty[group.index].to_numpy(dtype=bool),
        )
        for i, (name, group) in enumerate(compared.groupby("compared", sort=False))
    )
    smallest = min(float(compared["bound"].min()), 0.1) if len(compared) else 0.1
    line = np.geomspace(smallest, 1.0, 50)
    panel = Panel(
        "nearest-mean bound [share; 1 and above is vacuous]",
        "measured error [share]",
        series,
        x_scale="log",
        curve=(line, line, "error = bound, up to 1"),
    )
    return Chart(
        "bound",
        "Nearest-mean error against its bound",
        f"One point per run, at the end of training; points must lie below the grey line. {HOLLOW}",
        (panel,) if series else (),
    )


def bounds_through_training(runs: pd.DataFrame, history: pd.DataFrame) -> Chart:
    """Every bound and the error that it bounds, over the training of one setting."""
    records = history[history["run_id"].isin(runs["run_id"])]
    return Chart(
        "bounds-through-training",
        "The nearest-mean error and its bounds through training",
        "Line: median over seeds; band: lowest to highest seed, at the steps that all seeds "
        "recorded. The last point is the end of each run, at the median of their last steps. "
        "Shaded: a bound of 1 or more is vacuous. A step at which a seed makes no error has no "
        "point: a log axis has no 0. The class means are those of the examples that are "
        "classified, so the error of test images is not that of a classifier made from training "
        "images.",
        tuple(_panels(records)),
    )


def _panels(records: pd.DataFrame) -> Iterator[Panel]:
    """Errors of class means and of few shots, each with its bounds."""
    for title, error, bounds in _errors(records):
        values = {_ERROR: error} | {
            name: records[f"{bounds}.{key}"].astype(float)
            for key, name in _BOUNDS.items()
            if f"{bounds}.{key}" in records
        }
        series = [
            line
            for place, (name, column) in enumerate(values.items())
            if (line := _over_seeds(name, place, records, column)) is not None
        ]
        if len(series) > 1:
            yield Panel(
                "training step + 1 [steps]",
                "error and bounds [share]",
                tuple(series),
                x_scale="log",
                y_scale="log",
                title=title,
                shaded_above=1.0,
            )


def _errors(records: pd.DataFrame) -> Iterator[tuple[str, pd.Series, str]]:
    """Title, errors, and the start of the columns of their bounds."""
    for population, title in (("source", "training images"), ("target", "test images")):
        if f"{population}.nearest_mean_error" in records:
            errors = records[f"{population}.nearest_mean_error"].astype(float)
            yield (
                f"{title}, by their own class means",
                errors,
                f"{population}.nearest_mean_bound.inf",
            )
    ways = ("target.n_way", "target.n_classes")
    if not set(ways) <= set(records.columns) or not (records[ways[0]] == records[ways[1]]).all():
        return
    for shots in ("5", "1"):
        accuracy = f"target.accuracy.nearest_mean.{shots}.value"
        if accuracy in records:
            errors = 1.0 - records[accuracy].astype(float)
            title = f"test images, by {shots}-shot means"
            yield title, errors, f"target.nearest_mean_bound.{shots}"


def _over_seeds(name: str, place: int, records: pd.DataFrame, column: pd.Series) -> Series | None:
    """Median and range over the runs, on the steps that all of them recorded and at their ends."""
    table = records.assign(value=column, step=_with_common_end(records)).pivot_table(
        index="step", columns="run_id", values="value", aggfunc="last"
    )
    table = table[(table > 0).all(axis="columns")]
    if table.empty:
        return None
    return Series(
        name,
        mark(place),
        table.index.to_numpy(dtype=float) + 1,
        table.median(axis="columns").to_numpy(),
        table.min(axis="columns").to_numpy(),
        table.max(axis="columns").to_numpy(),
        line=True,
    )


def _with_common_end(records: pd.DataFrame) -> pd.Series:
    """The steps of the records; those of the last records are the median of all runs."""
    last = ~records.duplicated("run_id", keep="last")
    return records["step"].astype(float).mask(last, float(records.loc[last, "step"].median()))
