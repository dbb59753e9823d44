"""The figures of a sweep, made from its tables; a quantity that no run recorded has no panel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.charts.chart import Array, Chart, Panel, Scale, Series, mark
from geocollapse.charts.labels import axis_label, setting_label, shown_value
from geocollapse.experiments.results.tables import ACCURACY, GC, GCOL, NC, TARGET_NC, SweepResults
from geocollapse.papers.collapse_transfer.poincare import RATIO
from geocollapse.reports.bound_charts import bound, bounds_through_training
from geocollapse.reports.sampling_chart import sampling
from geocollapse.reports.wording import words

if TYPE_CHECKING:
    import pandas as pd

HOLLOW = "Hollow: not converged."
_BAND = (
    "Line: mean over seeds; band: lowest to highest seed; until the first seed of a setting ends. "
    "Dashed: a seed did not converge."
)
_LINEAR = (ACCURACY, "train_accuracy")


def charts(results: SweepResults) -> list[Chart]:
    """Every figure that the sweep has data for: sweep by sweep, then those over all runs."""
    done = results.runs[results.runs["status"] == "done"]
    found: list[Chart] = []
    for sweep in results.sweeps:
        members = results.of_sweep(sweep)
        members = members[members["status"] == "done"]
        found += [
            gc_and_collapse(sweep, members),
            settings(sweep, members),
            transfer(sweep, members),
            curves(sweep, members, results.history),
            training(sweep, members, results.history),
        ]
    found += [
        poincare(done, results),
        bound(done, results.history, HOLLOW),
        sampling(results.sampling, done),
    ]
    if not results.sweeps:
        found.append(bounds_through_training(done, results.history))
    return [chart for chart in found if chart.panels]


def gc_and_collapse(sweep: str, runs: pd.DataFrame) -> Chart:
    """GC against GCol and NC, one point per run."""
    return Chart(
        f"gc-and-collapse-{sweep}",
        f"GC against geometric and neural collapse: {words(sweep)}",
        f"One point per run, at the end of training. {HOLLOW}",
        _scatters(runs, (GC, GCOL), (GC, NC)),
    )


def settings(sweep: str, runs: pd.DataFrame) -> Chart:
    """GC, GCol and NC over the swept values in their order."""
    swept = [name for name in runs.columns if name.startswith("swept.")]
    panels = [panel for key in swept for y in (GC, GCOL, NC) for panel in _ordinal(runs, key, y)]
    return Chart(
        f"settings-{sweep}",
        f"What the {words(sweep)} does to GC, GCol and NC",
        "One point per run, at the end of training; swept values in their order, not to scale. "
        f"{HOLLOW}",
        tuple(panels),
    )


def transfer(sweep: str, runs: pd.DataFrame) -> Chart:
    """Source GC against target NC and few-shot accuracy, and source NC against target NC."""
    return Chart(
        f"transfer-{sweep}",
        f"Source geometry against transfer: {words(sweep)}",
        f"One point per run, at the end of training; bars: 95 % interval over episodes. {HOLLOW}",
        _scatters(runs, (GC, TARGET_NC), (GC, ACCURACY), (NC, TARGET_NC)),
    )


def curves(sweep: str, runs: pd.DataFrame, history: pd.DataFrame) -> Chart:
    """GC, GCol and NC through training."""
    return Chart(
        f"curves-{sweep}",
        f"GC, geometric collapse and NC through training: {words(sweep)}",
        _BAND,
        _histories(runs, history, (GC, GCOL, NC)),
    )


def training(sweep: str, runs: pd.DataFrame, history: pd.DataFrame) -> Chart:
    """Training loss, learning-path flatness and few-shot accuracy through training."""
    return Chart(
        f"training-{sweep}",
        f"Training loss, flatness and transfer through training: {words(sweep)}",
        _BAND,
        _histories(runs, history, ("train_loss", "learning_path_flatness", ACCURACY)),
    )


def poincare(runs: pd.DataFrame, results: SweepResults) -> Chart:
    """The largest Poincaré ratio through training, and NC against GCol with c from these runs."""
    first = results.settings.drop_duplicates("run_id")[["run_id", "sweep"]]
    groups = runs.merge(first, on="run_id", how="left")
    groups = groups.assign(label=groups["sweep"].fillna("base setting").map(words))
    groups = groups.assign(
        mark=groups["label"].map({name: i for i, name in enumerate(groups["label"].unique())})
    )
    against = _scatter(groups, GCOL, NC)
    if against and RATIO in runs and runs[RATIO].notna().any():
        c = float(runs[RATIO].max())
        gcol = np.array([runs[GCOL].min(), runs[GCOL].max()])
        against = [replace(against[0], curve=(gcol, c * gcol, f"NC = c GCol, c = {c:.3g}"))]
    panels = [*_run_lines(groups, results.history, RATIO), *against]
    return Chart(
        "poincare-ratio",
        "Does one Poincaré constant serve all runs?",
        "First the largest Var/GC of a class, a line per run; then NC against GCol, a point per "
        "run, with c the largest ratio of these runs, so that no point can lie above the line. "
        f"{HOLLOW}",
        tuple(panels),
    )


def _scatters(runs: pd.DataFrame, *pairs: tuple[str, str]) -> tuple[Panel, ...]:
    groups = runs.assign(label=runs["setting"].map(setting_label), mark=runs["position"])
    return tuple(panel for pair in pairs for panel in _scatter(groups, *pair))


def _scatter(groups: pd.DataFrame, x: str, y: str) -> list[Panel]:
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
        [Panel(axis_label(x), axis_label(y), series, x_scale="log", y_scale=_scale(y))]
        if series
        else []
    )


def _ordinal(runs: pd.DataFrame, key: str, y: str) -> Iterator[Panel]:
    """y over the swept values in their order."""
    if y not in runs or key not in runs:
        return
    values = list(runs.dropna(subset=[key]).sort_values("position")[key].unique())
    shown = runs.dropna(subset=[key])
    shown = shown.assign(
        label=shown["setting"].map(setting_label),
        mark=shown["position"],
        place=shown[key].map(values.index),
    )
    for panel in _scatter(shown, "place", y):
        yield replace(
            panel,
            x_label=axis_label(key),
            x_scale="linear",
            ticks=tuple(shown_value(value) for value in values),
        )


def _histories(
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


def _run_lines(groups: pd.DataFrame, history: pd.DataFrame, column: str) -> list[Panel]:
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


def _drawable(runs: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Rows whose values are finite and, on a log axis, positive."""
    shown = runs.assign(**{x: runs[x].astype(float), y: runs[y].astype(float)})
    shown = shown[np.isfinite(shown[x]) & np.isfinite(shown[y])]
    shown = shown[(shown[x] > 0) | (x == "place")]
    return shown[(shown[y] > 0) | (_scale(y) == "linear")]


def _scale(column: str) -> Scale:
    return "linear" if column in _LINEAR else "log"


def _array(values: pd.Series) -> Array:
    return np.asarray(values, dtype=np.float64)


def _flags(values: pd.Series) -> np.ndarray:
    return np.asarray(values, dtype=bool)
