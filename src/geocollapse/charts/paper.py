"""Charts drawn by matplotlib: PNG for screens and PDF for papers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocollapse.charts.chart import Chart, Panel, Series, level_limits, log_ticks
from geocollapse.charts.palette import as_palette_png
from geocollapse.measurement.figure import save_figure
from geocollapse.runtime.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_LINE_HEIGHT = 0.19  # inches, of a legend
_TICK_LETTERS = 32  # of 9 points, below a panel, with gaps
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a swept value may hold a dollar sign
}


def save(chart: Chart, folder: Path) -> tuple[Path, Path]:
    """Write ``<name>.png`` and ``<name>.pdf`` into ``folder`` and return both paths.

    Each appears when it is complete. The files hold no date: the same chart gives the same bytes.
    """
    from matplotlib import rc_context

    png = folder / f"{chart.name}.png"
    pdf = folder / f"{chart.name}.pdf"
    with rc_context(STYLE):
        figure = draw(chart)
        with written_whole(png) as partial:
            partial.write_bytes(_png(figure, dpi=110))
        figure.set_layout_engine("none")  # keep the layout: making it is half of the time
        with written_whole(pdf) as partial:
            figure.savefig(partial, format="pdf", metadata={"CreationDate": None})
    return png, pdf


def png(chart: Chart) -> bytes:
    """The chart as the bytes of a PNG, the same each time."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        return _png(draw(chart), dpi=110)


def _png(figure: Figure, *, dpi: int) -> bytes:
    """A figure as a PNG with a palette, which takes a quarter of the space of one without."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    return as_palette_png(drawn)


def save_as(chart: Chart, path: Path) -> None:
    """Write the chart to one file: PNG, PDF or SVG, by the ending of ``path``."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        save_figure(draw(chart), path)


def draw(chart: Chart) -> Figure:
    """The chart as a matplotlib figure: panels in rows of three, four in two rows; one legend."""
    from matplotlib.figure import Figure

    n_panels = len(chart.panels)
    n_columns = 2 if n_panels == 4 else min(3, n_panels)
    n_rows = -(-n_panels // n_columns)
    figure = Figure(figsize=(max(3.4 * n_columns, 5.2), 2.9 * n_rows + 0.8), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel, ax in zip(chart.panels, axes):
        _draw_panel(panel, ax)
    for ax in axes[n_panels:]:
        ax.set_visible(False)
    figure.suptitle(chart.title, fontsize=11)
    n_lines = _draw_legend(chart, figure)
    figure.set_figheight(figure.get_figheight() + _LINE_HEIGHT * max(0, n_lines - 2))
    return figure


def _draw_panel(panel: Panel, ax: Axes) -> None:
    for series in panel.series:
        (_draw_line if series.line else _draw_points)(series, ax)
    if panel.curve is not None:
        x, y, _ = panel.curve
        ax.plot(x, y, color="#888888", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    x_label, y_label = (label.replace(" [", "\n[") for label in (panel.x_label, panel.y_label))
    if panel.shaded_above is not None:
        top = max(ax.get_ylim()[1], panel.shaded_above)
        ax.axhspan(panel.shaded_above, top, color="#888888", alpha=0.12, linewidth=0, zorder=0)
    if panel.title:
        ax.set_title(panel.title, fontsize=9, loc="left")
    ax.set(xlabel=x_label, ylabel=y_label, xscale=panel.x_scale, yscale=panel.y_scale)
    if panel.x_scale == "log":
        _tick_log(ax.xaxis, log_ticks(panel, "x"))
    else:
        ax.locator_params(axis="x", nbins=6)
        _write_plainly(ax.xaxis)
    if panel.y_scale == "log":
        _tick_log(ax.yaxis, log_ticks(panel, "y"))
    else:
        _write_plainly(ax.yaxis)
    limits = level_limits(panel)
    if limits is not None:
        ax.set_ylim(*limits)
    if panel.ticks:
        ax.set_xticks(range(len(panel.ticks)), panel.ticks, rotation=_rotation(panel.ticks))
        ax.set_xlim(-0.5, len(panel.ticks) - 0.5)


def _rotation(ticks: Sequence[str]) -> int:
    """The angle at which names of ticks do not touch, in degrees."""
    longest = max(map(len, ticks))
    fitting = _TICK_LETTERS / len(ticks)
    if longest < fitting:
        return 0
    return 45 if longest < 2 * fitting else 90


def _tick_log(axis: Axis, ticks: list[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(ticks))
    _write_plainly(axis)
    axis.set_minor_locator(NullLocator())


def _write_plainly(axis: Axis) -> None:
    """Whole numbers at the ticks: a common offset or factor would stand in the way of a label."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_line(series: Series, ax: Axes) -> None:
    look: dict[str, Any] = {
        "color": series.mark.colour,
        "linestyle": "--" if series.dashed else "-",
    }
    ax.plot(
        series.x, series.y, marker=series.mark.matplotlib, markersize=3.5, linewidth=1.3, **look
    )
    if series.low is not None and series.high is not None:
        ax.fill_between(
            series.x, series.low, series.high, color=series.mark.colour, alpha=0.18, linewidth=0
        )


def _draw_points(series: Series, ax: Axes) -> None:
    hollow = np.zeros(len(series.x), dtype=bool) if series.hollow is None else series.hollow
    faces = ["white" if empty else series.mark.colour for empty in hollow]
    ax.errorbar(
        series.x,
        series.y,
        xerr=series.error_bar("x"),
        yerr=series.error_bar("y"),
        fmt="none",
        ecolor=series.mark.colour,
        elinewidth=0.8,
        zorder=2,
    )
    ax.scatter(
        series.x,
        series.y,
        s=30,
        marker=series.mark.matplotlib,
        facecolors=faces,
        edgecolors=series.mark.colour,
        linewidths=1.2,
        zorder=3,
    )


def _draw_legend(chart: Chart, figure: Figure) -> int:
    """Draw one legend below all panels; return its number of lines."""
    from matplotlib.lines import Line2D

    entries = [
        Line2D(
            [],
            [],
            color=mark.colour,
            marker=mark.matplotlib,
            linestyle="",
            markersize=6,
            label=f" {label}" if label.startswith("_") else label,  # else it is left out
        )
        for label, mark in chart.legend
    ]
    entries += [
        Line2D([], [], color="#888888", linestyle="--", label=panel.curve[2])
        for panel in chart.panels
        if panel.curve is not None
    ]
    unique = list({str(entry.get_label()): entry for entry in entries}.values())
    if not unique:
        return 0
    longest = max(len(str(entry.get_label())) for entry in unique)
    fitting = int(
        13 * figure.get_figwidth() / (longest + 7)
    )  # about 13 letters an inch at 9 points
    n_lines = -(-len(unique) // max(1, fitting))
    figure.legend(handles=unique, loc="outside lower center", ncols=-(-len(unique) // n_lines))
    return n_lines
