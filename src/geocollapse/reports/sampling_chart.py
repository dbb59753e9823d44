"""The figure of a sampling study: sampled estimates of GC against the full value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.charts.chart import Chart, Panel, Series, mark

if TYPE_CHECKING:
    import pandas as pd

_X_LABELS = {
    "examples": "number of examples [examples]",
    "outputs": "sampled outputs of every example [outputs]",
    "probes": "random probes of every example [probes]",
    "entries": "kept entries of every Jacobian [share]",
}
_APART = 0.012  # of a decade of x: between the marks of two stages


def sampling(estimates: pd.DataFrame, runs: pd.DataFrame) -> Chart:
    """Estimates divided by the full value over the size of the sample, at each stage of training.

    A panel for each way of sampling, and one with the coverage of all intervals.
    """
    complete = estimates.dropna(subset=["full", "value", "low", "high"])
    complete = complete[complete["full"] != 0]
    panels: list[Panel] = []
    if len(complete):
        complete = complete.merge(_stages(runs), on="run_id")
        complete = complete.join(_named_sizes(complete))
        complete = complete.assign(
            ratio=complete["value"] / complete["full"],
            covered=(complete["low"] <= complete["full"]) & (complete["full"] <= complete["high"]),
        )
        panels = [_panel(str(way), group) for way, group in complete.groupby("way", sort=False)]
        panels.append(_coverage(complete))
    return Chart(
        "sampling",
        "Sampled estimates of GC against the full value",
        "Points: median estimate, divided by the full value; bars: the middle 95 % of the "
        "estimates. Last panel: share of the 95 % intervals that hold the full value.",
        tuple(panels),
    )


def _stages(runs: pd.DataFrame) -> pd.DataFrame:
    """How far each run was trained: to its end, or to the limit of steps before that."""
    limits = runs["training.max_steps"].astype(float)
    ended = runs["converged"].astype(bool)
    names = [
        "end of training" if end else f"step {limit:,.0f}" for end, limit in zip(ended, limits)
    ]
    order = np.where(ended, np.inf, limits)
    stages = runs[["run_id"]].assign(stage=names, place=order)
    return stages.assign(place=stages["place"].rank(method="dense").astype(int) - 1)


def _named_sizes(estimates: pd.DataFrame) -> pd.DataFrame:
    """The way of sampling and its size: ``examples 50`` is 50 examples."""
    named = estimates["method"].str.extract(r"^(?P<way>.*?)(?: (?P<size>[0-9.e-]+))?$")
    sizes = named["size"].astype(float).fillna(estimates["n_samples"].astype(float))
    return named.assign(size=sizes)


def _by_stage(estimates: pd.DataFrame) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """The estimates of each stage, with its place and name."""
    for place, group in estimates.groupby("place"):
        yield int(str(place)), str(group["stage"].iloc[0]), group


def _panel(way: str, estimates: pd.DataFrame) -> Panel:
    """Estimates by one way of sampling, a mark for each stage."""
    series = []
    for place, stage, group in _by_stage(estimates):
        ratios = group.groupby("size")["ratio"]
        low, middle, high = (ratios.quantile(q).to_numpy() for q in (0.025, 0.5, 0.975))
        sizes = np.unique(group["size"].to_numpy(dtype=float))
        series.append(Series(stage, mark(place), sizes * 10 ** (_APART * place), middle, low, high))
    edges = np.array([estimates["size"].min(), estimates["size"].max()], dtype=float)
    return Panel(
        _X_LABELS.get(way, way),
        "GC / full GC [no unit]",
        tuple(series),
        x_scale="log",
        curve=(edges, np.ones(2), "full value"),
    )


def _coverage(estimates: pd.DataFrame) -> Panel:
    """The share of intervals that hold the full value, for each method and stage."""
    methods = list(estimates["method"].unique())
    series = []
    for place, stage, group in _by_stage(estimates):
        shares = group.groupby("method")["covered"].mean().reindex(methods)
        x = np.arange(len(methods), dtype=float)
        series.append(Series(stage, mark(place), x, shares.to_numpy(dtype=float)))
    ends = np.array([-0.5, len(methods) - 0.5])
    return Panel(
        "way and size of sampling [examples, outputs, probes, share]",
        "intervals that hold the full value [share]",
        tuple(series),
        ticks=tuple(methods),
        curve=(ends, np.full(2, 0.95), "nominal 0.95"),
    )
