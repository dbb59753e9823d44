"""Charts as plotly figures: one per panel, so that panels stack on a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from typing_extensions import TypedDict

from geocollapse.charts.chart import (
    AXES,
    Array,
    Chart,
    Panel,
    Scale,
    Series,
    level_limits,
    log_ticks,
)

_GREY = "#888888"
_AXIS = {
    "gridcolor": "#e9ecef",
    "zeroline": False,
    "linecolor": "#adb5bd",
    "ticks": "outside",
    "tickcolor": "#adb5bd",
    "automargin": True,
    "exponentformat": "power",
}


class PlotlyFigure(TypedDict):
    """A plotly figure as plain data for strict JSON."""

    data: list[dict[str, object]]
    layout: dict[str, object]


def plotly_panels(chart: Chart) -> list[PlotlyFigure]:
    """Each panel as a plotly figure.

    They have no legends: the page shows one for all panels of a chart.
    """
    return [{"data": list(_traces(panel)), "layout": _layout(panel)} for panel in chart.panels]


def _traces(panel: Panel) -> Iterator[dict[str, object]]:
    if panel.curve is not None:
        x, y, name = panel.curve
        line = {"color": _GREY, "width": 1.5, "dash": "dash"}
        yield {
            "type": "scatter",
            "mode": "lines",
            "x": _plain(x),
            "y": _plain(y),
            "name": name,
            "line": line,
        }
    for series in panel.series:
        if series.line and series.low is not None and series.high is not None:
            yield _band(series)
        yield _line(series) if series.line else _points(series)


def _band(series: Series) -> dict[str, object]:
    """The range over seeds: along the upper edge and back along the lower one."""
    low = np.asarray(series.low)
    high = np.asarray(series.high)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _plain(np.concatenate([series.x, series.x[::-1]])),
        "y": _plain(np.concatenate([high, low[::-1]])),
        "fill": "toself",
        "fillcolor": _transparent(series.mark.colour, 0.18),
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


def _line(series: Series) -> dict[str, object]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": series.label,
        "x": _plain(series.x),
        "y": _plain(series.y),
        "line": {
            "color": series.mark.colour,
            "width": 1.8,
            "dash": "dash" if series.dashed else "solid",
        },
        "marker": {"symbol": series.mark.plotly, "size": 6, "color": series.mark.colour},
    }


def _points(series: Series) -> dict[str, object]:
    hollow = np.zeros(len(series.x), dtype=bool) if series.hollow is None else series.hollow
    trace: dict[str, object] = {
        "type": "scatter",
        "mode": "markers",
        "name": series.label,
        "x": _plain(series.x),
        "y": _plain(series.y),
        "text": ["not converged" if empty else "" for empty in hollow],
        "marker": {
            "symbol": series.mark.plotly,
            "size": 9,
            "color": ["#ffffff" if empty else series.mark.colour for empty in hollow],
            "line": {"color": series.mark.colour, "width": 1.8},
        },
    }
    for axis in AXES:
        bar = series.error_bar(axis)
        if bar is not None:
            trace[f"error_{axis}"] = {
                "type": "data",
                "symmetric": False,
                "array": _plain(bar[1]),
                "arrayminus": _plain(bar[0]),
                "color": series.mark.colour,
                "thickness": 1,
                "width": 0,
            }
    return trace


def _layout(panel: Panel) -> dict[str, object]:
    x_axis = _axis(panel.x_label, panel.x_scale)
    y_axis = _axis(panel.y_label, panel.y_scale)
    if panel.x_scale == "log":
        x_axis |= _named_ticks(log_ticks(panel, "x"))
    if panel.y_scale == "log":
        y_axis |= _named_ticks(log_ticks(panel, "y"))
    limits = level_limits(panel)
    if limits is not None:
        y_axis |= {"range": list(np.log10(limits) if panel.y_scale == "log" else limits)}
    if panel.ticks:
        x_axis |= {"tickvals": list(range(len(panel.ticks))), "ticktext": list(panel.ticks)}
        x_axis |= {"range": [-0.5, len(panel.ticks) - 0.5]}
    return {
        "shapes": [] if panel.shaded_above is None else [_shade(panel, panel.shaded_above)],
        "xaxis": x_axis,
        "yaxis": y_axis,
        "showlegend": False,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#343a40"},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hovermode": "closest",
    }


def _shade(panel: Panel, low: float) -> dict[str, object]:
    """The part of a panel above ``low``, in grey below the lines."""
    tops = [float(np.nanmax(series.y)) for series in panel.series]
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": low,
        "y1": max([low, *tops]),
        "fillcolor": _transparent(_GREY, 0.12),
        "line": {"width": 0},
        "layer": "below",
    }


def _axis(label: str, scale: Scale) -> dict[str, object]:
    """An axis with its unit on a line of its own."""
    title = {"text": label.replace(" [", "<br>["), "font": {"size": 11.5}}
    return {**_AXIS, "title": title, "type": scale}


def _named_ticks(ticks: list[float]) -> dict[str, object]:
    """Ticks as plain numbers: plotly would write a tick at 50 as a small 5."""
    return {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _plain(values: Array) -> list[float | None]:
    """A list for strict JSON; None, a gap, for values that are not finite."""
    return [float(value) if np.isfinite(value) else None for value in values]


def _transparent(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
