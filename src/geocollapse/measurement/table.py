"""The measurement of one layer as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from geocollapse.estimate import Estimate
from geocollapse.measurement.layer import READERS, SUGGESTED_RTOL, LayerMeasurement
from geocollapse.measures import MEASURES

if TYPE_CHECKING:
    from rich.table import Table

_ROWS = (
    "accuracy",
    "geometric_complexity",
    "gc_pixel",
    "gc_per_variance",
    "geometric_collapse",
    "per_pixel.geometric_collapse",
    "cdnv",
    "cdnv_bias_corrected",
    "directional_cdnv",
    "poincare_ratio.max",
    "nc1",
    "nc1_pooled",
    "nc2_equinorm",
    "nc2_equiangular",
    "nc2_max_angle",
    "nc3",
    "nc4",
    "nearest_mean_error",
    "nearest_mean_bound.5.best",
    "label_free.rankme",
    "label_free.effective_rank",
    "label_free.alpha_req",
    "label_free.feature_norm",
)
_POOLS = {"mean": "mean over positions", "cls": "first token", "last": "last token"}
# measures that are tried for every layer; why one is undefined is told in the JSON alone
_UNASKED = (
    "input_covariance_lambda_max: ",
    "alpha_req: ",
    "estimates: no interval",
)
_CORRECTED = (
    "intervals for examples like these allow for few examples of a class, the values beside them "
    "do not"
)
_VISIBLE = 0.5  # standard errors between a value and the middle of its interval
_NOTE_WIDTH = 100
_MAX_TABLE_WIDTH = 240  # a table is as wide as its columns need, up to here


def as_text(layer: LayerMeasurement) -> str:
    """The table that ``print(measurement)`` shows."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(title_of(layer)), title_justify="left", box=box.SIMPLE_HEAD, min_width=70
    )
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("for\nexamples")
    table.add_column("read as")
    facts = _facts(layer)
    for name in _ROWS:
        if name == "nc1_pooled" and not _is_imbalanced(layer):
            continue
        measure = MEASURES[name]
        label = f"  {measure.label}" if measure.under else measure.label
        table.add_row(label, *_cells(layer, name), measure.read_as.format(**facts))
    notes = [*rtol_note([layer]), *_correction_note(layer), *asked_for(layer.warnings)]
    return rendered(table, notes)


def rendered(table: Table, notes: Sequence[str]) -> str:
    """A table and the notes under it as plain text."""
    from rich.console import Console

    lines = []
    texts = [f"note: {note}" for note in notes]
    for width, parts in ((_MAX_TABLE_WIDTH, [table]), (_NOTE_WIDTH, texts)):
        console = Console(width=width, color_system=None)
        with console.capture() as capture:
            for part in parts:
                console.print(part, highlight=False, markup=False)
        lines += capture.get().splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip()


def asked_for(notes: Sequence[str]) -> list[str]:
    """The notes for a reader of the table, without those on measures that it need not have."""
    return [note for note in notes if not note.startswith(_UNASKED)]


def rtol_note(layers: Sequence[LayerMeasurement]) -> list[str]:
    """A note on how many examples the suggested precision needs, if fewer than were probed."""
    n_examples = len(layers[0].features)
    needed = [layer.samples_for_rtol for layer in layers]
    n_needed = max(n_examples if n is None else n for n in needed)
    if n_needed == n_examples:
        return []
    return [f"rtol={SUGGESTED_RTOL} would have probed {n_needed} of {n_examples} examples"]


def title_of(layer: LayerMeasurement) -> str:
    """The layer and the data that it was measured on, in one line."""
    context = layer.kept.context
    name = layer.layer or "the model's output"
    pooled = f" ({_POOLS[context.pool]})" if context.pool else ""
    split = f", {context.split}" if context.split else ""
    n_examples, n_features = layer.features.shape
    data = f"{n_examples} examples{split}, {len(layer.class_names)} classes"
    return f"{name}{pooled}: {data}, {n_features} features"


def population_of(layer: LayerMeasurement) -> str:
    """What intervals of geometric complexity speak about: the examples at hand."""
    return f"these {layer.kept.context.n_population} examples"


def _facts(layer: LayerMeasurement) -> dict[str, object]:
    """Values that the last column speaks of."""
    return {
        "n_probed": layer.geometric_complexity.n_samples,
        "nc1_rank": layer.nc1_rank,
        "bound": "vacuous" if layer.bounds["5"].vacuous else "on the error",
        "max_rank": min(layer.features.shape),
    }


def _is_imbalanced(layer: LayerMeasurement) -> bool:
    """True if both forms of NC1 are to be shown, as they differ by over 1 % (definitions 2)."""
    return abs(layer.nc1_pooled - layer.nc1) > 0.01 * abs(layer.nc1)


def _cells(layer: LayerMeasurement, name: str) -> tuple[str, str, str]:
    """A number, its 95 % interval and what that speaks about; empty where there is none."""
    value = READERS[name](layer)
    if value is None or math.isnan(value):
        return "-", "", ""
    estimate = value if isinstance(value, Estimate) else layer.estimates.get(name)
    low, high = (math.nan, math.nan) if estimate is None else estimate.interval()
    if estimate is None or math.isnan(low):
        return f"{float(value):.4g}", "", ""
    is_of_data = estimate.population == "dataset"
    about = f"these {layer.kept.context.n_population}" if is_of_data else "like these"
    return f"{float(value):.4g}", f"{low:.4g} to {high:.4g}", about


def _correction_note(layer: LayerMeasurement) -> list[str]:
    """A note where an interval is centred on another value than the one beside it."""
    for name in _ROWS:
        value = READERS[name](layer)
        estimate = layer.estimates.get(name)
        if estimate is None or value is None or isinstance(value, Estimate):
            continue
        if abs(estimate.value - value) > _VISIBLE * estimate.stderr:
            return [_CORRECTED]
    return []
