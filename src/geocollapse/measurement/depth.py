"""Several layers for the eye: a table with one row a layer, and the measures against depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from geocollapse.estimate import Estimate
from geocollapse.measurement.layer import LayerMeasurement
from geocollapse.measurement.table import rendered, rtol_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS: dict[str, Callable[[LayerMeasurement], float | None]] = {
    "GC": lambda layer: layer.geometric_complexity.value,
    "+-% at 95 %": lambda layer: _half_width(layer.geometric_complexity),
    "GC / var": lambda layer: layer.gc_per_variance,
    "GCol": lambda layer: layer.geometric_collapse.value,
    "CDNV": lambda layer: layer.neural_collapse.cdnv,
    "NC1": lambda layer: layer.neural_collapse.nc1,
    "NC2 norms": lambda layer: layer.neural_collapse.nc2_equinorm,
    "NC2 angles": lambda layer: layer.neural_collapse.nc2_equiangular,
    "NC3": lambda layer: layer.neural_collapse.nc3,
    "NC4": lambda layer: layer.neural_collapse.nc4,
}
Measure = Callable[[LayerMeasurement], "Estimate | float"]

# Each panel: label of its axis with the unit, and its lines. Only what has one unit shares an axis.
_PANELS: tuple[tuple[str, dict[str, Measure]], ...] = (
    (
        "geometric complexity\n[(feature unit / input unit)$^2$]",
        {"geometric complexity, 95 % interval": lambda layer: layer.geometric_complexity},
    ),
    (
        "complexity, free of the feature scale\n[1 / (input unit)$^2$]",
        {
            "per feature variance": lambda layer: layer.gc_per_variance,
            "geometric collapse, 95 % interval": lambda layer: layer.geometric_collapse,
        },
    ),
    (
        "neural collapse\n[no unit]",
        {
            "CDNV": lambda layer: layer.neural_collapse.cdnv,
            "NC1": lambda layer: layer.neural_collapse.nc1,
            "CDNV, bias corrected": lambda layer: layer.neural_collapse.cdnv_bias_corrected,
        },
    ),
)
# Okabe and Ito (2008), safe for the colour-blind, each with a shape of its own.
_MARKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"))


def depth_table(layers: Sequence[LayerMeasurement]) -> str:
    """One row a layer, in the order asked for."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=_title(layers), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    for name in ("features", *_COLUMNS):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in layers:
        values = [measure(layer) for measure in _COLUMNS.values()]
        cells = ["-" if value is None or math.isnan(value) else f"{value:.3g}" for value in values]
        table.add_row(escape(layer.layer or "output"), str(layer.features.shape[1]), *cells)
    return rendered(table, _notes(layers))


def depth_figure(layers: Sequence[LayerMeasurement]) -> Figure:
    """Geometric complexity, geometric collapse, CDNV and NC1 against the layers, in the order asked
    for; log axes.
    """
    from matplotlib.figure import Figure

    width = max(3.6, 0.3 * len(layers))  # inches of a panel: every name of a layer has its place
    figure = Figure(figsize=(len(_PANELS) * width, 4.2), layout="constrained")
    axes = figure.subplots(1, len(_PANELS), squeeze=False)[0]
    names = [layer.layer or "output" for layer in layers]
    for axis, (label, lines) in zip(axes, _PANELS, strict=True):
        missing: list[str] = []
        for (name, measure), mark in zip(lines.items(), _MARKS):
            missing += _draw_line(axis, name, [measure(layer) for layer in layers], mark)
        axis.set(
            xlabel="\n".join(["layer", *missing]),
            ylabel=label,
            yscale="log",
            xlim=(-0.5, len(layers) - 0.5),
        )
        axis.set_xticks(range(len(layers)), names, rotation=90)
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False, fontsize=8, borderpad=0.2
        )
    figure.suptitle(_title(layers), fontsize=11)
    return figure


def _half_width(estimate: Estimate) -> float:
    """Of the 95 % interval on the log scale, in per cent of the value."""
    low, high = estimate.interval()
    return 100.0 * (math.sqrt(high / low) - 1.0) if low > 0.0 else math.nan


def _draw_line(
    axis: Axes, name: str, measured: Sequence[Estimate | float], mark: tuple[str, str]
) -> list[str]:
    """One measure of all layers, with its interval where it has one; what a log axis cannot show is
    returned.
    """
    colour, shape = mark
    drawn = [(x, value) for x, value in enumerate(measured) if 0.0 < float(value) < math.inf]
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
        label=name,
    )
    n_missing = len(measured) - len(points)
    return [f"{name}: 0 or undefined at {n_missing} of {len(measured)}"] if n_missing else []


def _interval(value: Estimate | float) -> tuple[float, float]:
    """The 95 % interval of an estimate; a point where there is none."""
    if isinstance(value, Estimate) and not math.isnan(value.interval()[0]):
        return value.interval()
    return float(value), float(value)


def _title(layers: Sequence[LayerMeasurement]) -> str:
    first = layers[0]
    split = f", {first.kept.context.split}" if first.kept.context.split else ""
    accuracy = "" if first.accuracy is None else f", accuracy {first.accuracy:.4g}"
    return f"{len(layers)} layers: {len(first.features)} examples{split}, {len(first.class_names)} classes{accuracy}"


def _notes(layers: Sequence[LayerMeasurement]) -> list[str]:
    """Every warning once; of which layers, where it is not said of all."""
    notes = rtol_note(layers)
    for warning in dict.fromkeys(warning for layer in layers for warning in layer.warnings):
        concerned = [layer.layer or "output" for layer in layers if warning in layer.warnings]
        notes.append(
            warning if len(concerned) == len(layers) else f"{', '.join(concerned)}: {warning}"
        )
    return notes
