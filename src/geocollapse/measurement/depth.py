"""Several layers against depth: a table with one row a layer, and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geocollapse.estimate import Estimate
from geocollapse.measurement.layer import READERS, LayerMeasurement
from geocollapse.measurement.table import asked_for, population_of, rendered, rtol_note
from geocollapse.measures import MEASURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = (
    "geometric_complexity",
    "gc_per_variance",
    "geometric_collapse",
    "cdnv",
    "nc1",
    "nc2_equinorm",
    "nc2_equiangular",
    "nc3",
    "nc4",
)
_HALF_WIDTH = "+-% at 95 %"  # of the interval of geometric complexity, in the column after it


@dataclass(frozen=True)
class _Panel:
    """One panel of the figure: its axis label and the names of its measures, of one unit."""

    label: str
    measures: tuple[str, ...]


_PANELS = (
    _Panel(
        "geometric complexity\n[(feature unit / input unit)$^2$]",
        ("geometric_complexity",),
    ),
    _Panel(
        "complexity, free of the feature scale\n[1 / (input unit)$^2$]",
        ("gc_per_variance", "geometric_collapse"),
    ),
    _Panel("neural collapse\n[no unit]", ("cdnv", "nc1", "cdnv_bias_corrected")),
)
# Okabe and Ito (2008), safe for the colour-blind, each with a shape of its own.
_MARKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"))


def depth_table(layers: Sequence[LayerMeasurement]) -> str:
    """A table with one row a layer, in the order asked for."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=_title(layers), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    first, *others = (MEASURES[name].heading for name in _COLUMNS)
    for heading in ("features", first, _HALF_WIDTH, *others):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in layers:
        cells = [f"{value:.3g}" if _is_defined(value) else "-" for value in _row(layer)]
        table.add_row(escape(_name(layer)), str(layer.features.shape[1]), *cells)
    return rendered(table, _notes(layers))


def depth_figure(layers: Sequence[LayerMeasurement]) -> Figure:
    """A figure of complexity and collapse against the layers, in the order asked for; log axes."""
    from matplotlib.figure import Figure

    width = max(3.6, 0.3 * len(layers))  # inches of a panel, enough for the name of every layer
    figure = Figure(figsize=(len(_PANELS) * width, 4.2), layout="constrained")
    axes = figure.subplots(1, len(_PANELS), squeeze=False)[0]
    for axis, panel in zip(axes, _PANELS, strict=True):
        _draw_panel(axis, panel, layers)
    figure.suptitle(_title(layers), fontsize=11)
    return figure


def _row(layer: LayerMeasurement) -> list[float | None]:
    """The numbers of a row of the table."""
    values = [READERS[name](layer) for name in _COLUMNS]
    first, *others = (None if value is None else float(value) for value in values)
    return [first, _half_width(layer.geometric_complexity), *others]


def _is_defined(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _half_width(estimate: Estimate) -> float:
    """Half the 95 % interval on the log scale, in per cent of the value."""
    low, high = estimate.interval()
    return 100.0 * (math.sqrt(high / low) - 1.0) if low > 0.0 else math.nan


def _draw_panel(axis: Axes, panel: _Panel, layers: Sequence[LayerMeasurement]) -> None:
    """Draw one line a measure; a line below the axis counts values that it cannot show."""
    missing: list[str] = []
    for name, mark in zip(panel.measures, _MARKS):
        values = [READERS[name](layer) for layer in layers]
        has_interval = any(isinstance(value, Estimate) for value in values)
        legend = MEASURES[name].legend + (", 95 % interval" if has_interval else "")
        missing += _draw_line(axis, legend, values, mark)
    axis.set(
        xlabel="\n".join(["layer", *missing]),
        ylabel=panel.label,
        yscale="log",
        xlim=(-0.5, len(layers) - 0.5),
    )
    axis.set_xticks(range(len(layers)), [_name(layer) for layer in layers], rotation=90)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False, fontsize=8, borderpad=0.2
    )


def _draw_line(
    axis: Axes, legend: str, values: Sequence[Estimate | float | None], mark: tuple[str, str]
) -> list[str]:
    """Draw a measure of all layers, with its intervals; returns a note on values left out."""
    colour, shape = mark
    drawn = [
        (x, value)
        for x, value in enumerate(values)
        if value is not None and 0.0 < float(value) < math.inf
    ]
    points = [(x, float(value), *_interval(value)) for x, value in drawn]
    errors = [[y - low for _, y, low, _ in points], [high - y for _, y, _, high in points]]
    axis.errorbar(
        [x for x, *_ in points],
        [y for _, y, *_ in points],
        yerr=errors if any(high > low for _, _, low, high in points) else None,
        color=colour,
        marker=shape,
        markersize=4,
        linewidth=1.3,
        capsize=2,
        label=legend,
    )
    n_missing = len(values) - len(points)
    return [f"{legend}: 0 or undefined at {n_missing} of {len(values)}"] if n_missing else []


def _interval(value: Estimate | float) -> tuple[float, float]:
    """The 95 % interval of an estimate; the value itself at both ends where there is none."""
    if isinstance(value, Estimate) and not math.isnan(value.interval()[0]):
        return value.interval()
    return float(value), float(value)


def _name(layer: LayerMeasurement) -> str:
    return layer.layer or "output"


def _title(layers: Sequence[LayerMeasurement]) -> str:
    first = layers[0]
    split = f", {first.kept.context.split}" if first.kept.context.split else ""
    accuracy = "" if first.accuracy is None else f", accuracy {first.accuracy:.4g}"
    data = f"{len(first.features)} examples{split}, {len(first.class_names)} classes"
    estimator = first.geometric_complexity.estimator
    about = f"{estimator} probes, intervals for {population_of(first)}"
    return f"{len(layers)} layers: {data}{accuracy}; {about}"


def _notes(layers: Sequence[LayerMeasurement]) -> list[str]:
    """Every warning once, with the names of its layers unless all have it."""
    notes = rtol_note(layers)
    told = [warning for layer in layers for warning in asked_for(layer.warnings)]
    for warning in dict.fromkeys(told):
        concerned = [_name(layer) for layer in layers if warning in layer.warnings]
        is_of_all = len(concerned) == len(layers)
        notes.append(warning if is_of_all else f"{', '.join(concerned)}: {warning}")
    return notes
