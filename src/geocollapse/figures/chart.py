"""Chart: a figure as data, so that paper and page show the same points under the same labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mark:
    """How one setting is drawn: a colour and a shape, so that colour alone never carries the meaning."""

    colour: str
    matplotlib: str
    plotly: str
    text: str


# Okabe and Ito (2008), safe for the colour-blind; the pale yellow comes last.
MARKS = (
    Mark("#0072B2", "o", "circle", "●"),
    Mark("#D55E00", "s", "square", "■"),
    Mark("#009E73", "^", "triangle-up", "▲"),
    Mark("#CC79A7", "D", "diamond", "◆"),
    Mark("#E69F00", "v", "triangle-down", "▼"),
    Mark("#56B4E9", "p", "pentagon", "⬟"),
    Mark("#000000", "*", "star", "★"),
    Mark("#F0E442", "h", "hexagon", "⬢"),
)


def mark(position: int) -> Mark:
    """The mark of the setting at ``position``: from the ninth on, the colours come round with other shapes."""
    colour, shape = MARKS[position % len(MARKS)], MARKS[(position + position // len(MARKS)) % len(MARKS)]
    return replace(shape, colour=colour.colour)


@dataclass(frozen=True)
class Series:
    """Points or a line in one panel.

    Attributes:
        label: what it is, in the legend and on hover.
        mark: its colour and shape.
        x: positions (n,).
        y: values (n,).
        low: lower end of a band (line) or error bar (points), (n,).
        high: upper end.
        hollow: points of runs that did not converge, (n,).
        line: joined by a line, not separate points.
        dashed: a line of which a run did not converge.
    """

    label: str
    mark: Mark
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    hollow: NDArray[np.bool_] | None = None
    line: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        x_label: quantity and unit.
        y_label: quantity and unit.
        series: what is drawn.
        x_scale: linear or log.
        y_scale: linear or log.
        ticks: names of the positions 0, 1, ... of an ordinal x axis.
        curve: a grey reference line: its x, its y and what it is.
    """

    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    ticks: tuple[str, ...] = ()
    curve: tuple[Array, Array, str] | None = None


@dataclass(frozen=True)
class Chart:
    """A figure: its file name, what it shows, how to read it, and its panels."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]

    @property
    def legend(self) -> list[tuple[str, Mark]]:
        """Each label once, in the order of drawing."""
        entries = {series.label: series.mark for panel in self.panels for series in panel.series}
        return list(entries.items())


def log_ticks(panel: Panel, axis: Literal["x", "y"]) -> list[float]:
    """Round numbers for a log axis: 1, 2, 5 within two decades, whole decades above, fewer of them above six."""
    values = np.concatenate([getattr(series, axis) for series in panel.series])
    values = values[np.isfinite(values) & (values > 0)]
    if values.size == 0:
        return [1.0]
    low, high = float(np.log10(values.min())), float(np.log10(values.max()))
    steps = (1, 2, 5) if high - low < 2 else (1,)
    decades = range(math.floor(low) - 1, math.ceil(high) + 2)
    sparse = [k for k in decades if k % max(1, round((high - low) / 5)) == 0]
    ticks = [float(f"{step}e{decade}") for decade in sparse for step in steps]
    inside = [tick for tick in ticks if low - 0.1 <= math.log10(tick) <= high + 0.1]
    return inside if len(inside) > 1 else _fine_ticks(10**low, 10**high)


def _fine_ticks(low: float, high: float) -> list[float]:
    """Three values of two digits for an axis of less than a factor of two."""
    return sorted({float(f"{value:.2g}") for value in np.geomspace(low, high, 3)})
