"""A figure as data, so that paper and page show the same points under the same labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scale = Literal["linear", "log"]
Axis = Literal["x", "y"]
AXES: tuple[Axis, Axis] = ("x", "y")
_FINER = ((1, 2, 5), (1, 2, 3, 5, 7))  # steps of a decade
_ROUNDING = 1e-5  # relative: values as near as this are drawn as one


@dataclass(frozen=True)
class Mark:
    """How one setting is drawn: by colour and shape, so that colour alone carries no meaning."""

    colour: str
    matplotlib: str
    plotly: str
    text: str


# Okabe and Ito (2008), safe for colour-blind readers; the pale yellow comes last.
MARKS = (
    Mark("#0072B2", "o", "circle", "●"),
    Mark("#D55E00", "s", "square", "■"),
    Mark("#009E73", "^", "triangle-up", "▲"),
    Mark("#CC79A7", "D", "diamond", "◆"),
    Mark("#E69F00", "v", "triangle-down", "▼"),
    Mark("#56B4E9", "p", "pentagon", "⬟"),
    Mark("#000000", "*", "star", "★"),
    Mark("#F0E442", "h", "hexagon", "⬢"),
    Mark("#8C564B", "X", "x", "✖"),
)


def mark(position: int) -> Mark:
    """The mark of the setting at ``position``; from the ninth on, colours get other shapes."""
    colour = MARKS[position % len(MARKS)]
    shape = MARKS[(position + position // len(MARKS)) % len(MARKS)]
    return replace(shape, colour=colour.colour)


@dataclass(frozen=True)
class Series:
    """Points or a line in one panel.

    Attributes:
        label: its name in the legend and on hover.
        mark: its colour and shape.
        x: positions (n,).
        y: values (n,).
        low: lower end of a band (line) or error bar (points), (n,).
        high: upper end.
        x_low: left end of a horizontal error bar (points), (n,).
        x_high: right end.
        hollow: points of runs that did not converge, (n,).
        line: points are joined by a line.
        dashed: a run of the line did not converge.
        listed: it is named in the legend; False where the axis says what it is.
    """

    label: str
    mark: Mark
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    x_low: Array | None = None
    x_high: Array | None = None
    hollow: NDArray[np.bool_] | None = None
    line: bool = False
    dashed: bool = False
    listed: bool = True

    def error_bar(self, axis: Axis) -> Array | None:
        """Lengths of the error bars below and above the points (2, n), 0 where one is unknown."""
        low, high = (self.x_low, self.x_high) if axis == "x" else (self.low, self.high)
        if low is None or high is None:
            return None
        values = self.x if axis == "x" else self.y
        lengths: Array = np.stack([values - low, high - values])
        return np.maximum(np.nan_to_num(lengths), 0.0)


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        x_label: quantity and unit.
        y_label: quantity and unit.
        series: points and lines.
        x_scale: linear or log.
        y_scale: linear or log.
        ticks: names of the positions 0, 1, ... of an ordinal x axis.
        curve: a grey reference line: its x, its y and its name.
        title: what one panel of several says.
        shaded_above: the part of the panel above this y is shaded.
    """

    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    ticks: tuple[str, ...] = ()
    curve: tuple[Array, Array, str] | None = None
    title: str = ""
    shaded_above: float | None = None


@dataclass(frozen=True)
class Chart:
    """A figure: file name, title, caption and panels."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]

    @property
    def legend(self) -> list[tuple[str, Mark]]:
        """Each label once, in the order of drawing; none of a series that is not listed."""
        drawn = [series for panel in self.panels for series in panel.series]
        return list({series.label: series.mark for series in drawn if series.listed}.items())


def log_ticks(panel: Panel, axis: Axis) -> list[float]:
    """Round numbers inside a log axis.

    Steps of 1, 2, 5 within two decades, whole decades above, or 1, 3 where these are few; finer
    steps where all are few, and even ones where these are few too. At least three where the values
    differ.
    """
    values = np.concatenate([getattr(series, axis) for series in panel.series])
    values = values[np.isfinite(values) & (values > 0)]
    if values.size == 0:
        return [1.0]
    low = float(values.min())
    high = float(values.max())
    decades = math.log10(high / low)
    every = max(1, round(decades / 5))
    exponents = [
        k
        for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        if k % every == 0
    ]
    for steps in _FINER if decades < 2 else ((1,), (1, 3), *_FINER):
        ticks = [
            tick
            for k in exponents
            for step in steps
            if low <= (tick := float(f"{step}e{k}")) <= high
        ]
        if len(ticks) > 2:
            return ticks
    return _even_ticks(low, high)


def level_limits(panel: Panel) -> tuple[float, float] | None:
    """Limits of a y axis where rounding would fill it; None where the values differ."""
    values = np.concatenate([series.y for series in panel.series])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    low = float(values.min())
    high = float(values.max())
    size = max(abs(low), abs(high))
    if not size > 0.0 or high - low > _ROUNDING * size:
        return None
    return low - 0.1 * size, high + 0.1 * size


def _even_ticks(low: float, high: float) -> list[float]:
    """At least three multiples of a round step between low and high."""
    if high <= low * (1 + 1e-6):
        return [float(f"{low:.3g}")]
    longest = (high - low) / 3
    decade = 10.0 ** math.floor(math.log10(longest))
    step = max(width * decade for width in (1, 2, 5) if width * decade <= longest)
    multiples = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [float(f"{multiple * step:.6g}") for multiple in multiples]
