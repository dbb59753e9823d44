"""A measurement for the eye: a table in the terminal, a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from geocollapse.estimate import Estimate
from geocollapse.measurement.layer import SUGGESTED_RTOL, LayerMeasurement

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 100
_POOLS = {"mean": "mean over positions", "cls": "first token", "last": "last token"}
_WIDEST = 240  # a table is as wide as its columns need


def as_text(layer: LayerMeasurement) -> str:
    """The table that ``print(measurement)`` shows."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(title_of(layer)), title_justify="left", box=box.SIMPLE_HEAD, min_width=70
    )
    for name, justify in (
        ("measure", "left"),
        ("value", "right"),
        ("95 % interval", "right"),
        ("read as", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in _rows(layer):
        table.add_row(*row)
    return rendered(table, [*rtol_note([layer]), *layer.warnings])


def rendered(table: Table, notes: Sequence[str]) -> str:
    """A table and the notes under it as plain text."""
    from rich.console import Console

    lines = []
    for width, parts in ((_WIDEST, [table]), (_WIDTH, [f"note: {note}" for note in notes])):
        console = Console(width=width, color_system=None)
        with console.capture() as capture:
            for part in parts:
                console.print(part, highlight=False, markup=False)
        lines += capture.get().splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip()


def rtol_note(layers: Sequence[LayerMeasurement]) -> list[str]:
    """How many examples the usual precision would have probed, where it is fewer than were."""
    needed, n_examples = [layer.samples_for_rtol for layer in layers], len(layers[0].features)
    n_needed = max(n_examples if n is None else n for n in needed)
    if n_needed == n_examples:
        return []
    return [f"rtol={SUGGESTED_RTOL} would have probed {n_needed} of {n_examples} examples"]


def title_of(layer: LayerMeasurement) -> str:
    split = f", {layer.kept.context.split}" if layer.kept.context.split else ""
    name = layer.layer or "the model's output"
    pool = layer.kept.context.preprocessing.get("pool")
    name += f" ({_POOLS[pool]})" if pool else ""
    n_examples, n_features = layer.features.shape
    return f"{name}: {n_examples} examples{split}, {len(layer.class_names)} classes, {n_features} features"


def _rows(layer: LayerMeasurement) -> list[tuple[str, str, str, str]]:
    nc, gc = layer.neural_collapse, layer.geometric_complexity
    bound, free = layer.bounds["5"], layer.label_free
    rows: list[tuple[str, float | Estimate | None, str]] = [
        ("accuracy", layer.accuracy, "of the model's own classifier"),
        ("geometric complexity", gc, f"mean ||J||_F^2 of {gc.n_samples} examples"),
        ("  per raw pixel", layer.gc_pixel, "free of the input normalisation"),
        ("  per feature variance", layer.gc_per_variance, "free of the feature scale"),
        ("geometric collapse", layer.geometric_collapse, "GC over squared distances of means"),
        ("neural collapse (CDNV)", nc.cdnv, "variance over squared distances"),
        ("  bias corrected", nc.cdnv_bias_corrected, "for few samples a class"),
        ("  directional", nc.directional_cdnv, "variance between two means only"),
        ("Poincare ratio, largest", layer.poincare_ratio["max"], "Var / GC of a class"),
        ("NC1", nc.nc1, f"within over between, rank {nc.nc1_rank}"),
        ("NC2 equinorm", nc.nc2_equinorm, "0: means of equal length"),
        ("NC2 equiangularity", nc.nc2_equiangular, "0: equal angles"),
        ("NC2 maximal angle", nc.nc2_max_angle, "0: a simplex"),
        ("NC3", nc.nc3, "classifier against class means, 0 to 2"),
        ("NC4", nc.nc4, "disagreement with the nearest mean"),
        ("nearest-mean error", nc.nearest_mean_error, "with the means of the same examples"),
        ("  bound, 5 shots", bound.best, "vacuous" if bound.vacuous else "on the error"),
        ("RankMe", free.rankme, f"directions in use, of at most {min(layer.features.shape)}"),
        ("effective rank", free.effective_rank, "the same of the covariance"),
        ("alpha-ReQ", free.alpha_req, "eigenvalue i of it falls as i^-alpha"),
        ("feature norm", free.feature_norm, "mean length of a feature vector"),
    ]
    if _is_imbalanced(layer):
        rows.insert(10, ("  pooled", nc.nc1_pooled, "samples, not classes, weigh the same"))
    return [(name, *_cells(value), note) for name, value, note in rows]


def _is_imbalanced(layer: LayerMeasurement) -> bool:
    """Definitions 2: show both forms of NC1 where they differ by more than 1 %."""
    nc = layer.neural_collapse
    return abs(nc.nc1_pooled - nc.nc1) > 0.01 * abs(nc.nc1)


def _cells(value: float | Estimate | None) -> tuple[str, str]:
    """A number and its 95 % interval, as far as there are any."""
    if value is None or math.isnan(value):
        return "-", ""
    if not isinstance(value, Estimate):
        return f"{value:.4g}", ""
    low, high = value.interval()
    return f"{value.value:.4g}", "" if math.isnan(low) else f"{low:.4g} to {high:.4g}"
