"""What a column is called on an axis, with its unit, and in a table."""

from __future__ import annotations

from dataclasses import dataclass

from geocollapse.experiments.results.tables import (
    ACCURACY,
    GC,
    GC_PER_VARIANCE,
    GCOL,
    NC,
    TARGET_NC,
)


@dataclass(frozen=True)
class Label:
    """A quantity's name, unit and short name."""

    name: str
    unit: str
    short: str


LABELS = {
    GC: Label("geometric complexity", "(feature unit / input unit)²", "GC"),
    GC_PER_VARIANCE: Label("GC / total feature variance", "1 / input unit²", "GC / variance"),
    "source.gc_pixel": Label(
        "GC per unit of the raw pixel", "(feature unit / pixel unit)²", "GC pixel"
    ),
    GCOL: Label("geometric collapse", "1 / input unit²", "GCol"),
    NC: Label("neural collapse NC", "CDNV, no unit", "NC"),
    TARGET_NC: Label("target neural collapse", "CDNV, no unit", "target NC"),
    ACCURACY: Label("5-shot target accuracy", "share", "5-shot accuracy"),
    "source.poincare_ratio.max": Label(
        "largest Poincaré ratio", "input unit²", "largest Poincaré ratio"
    ),
    "target.accuracy.nearest_mean.1.value": Label(
        "1-shot target accuracy", "share", "1-shot accuracy"
    ),
    "source.cdnv_bias_corrected": Label(
        "neural collapse, bias-corrected", "CDNV, no unit", "NC corrected"
    ),
    "source.nc1": Label("within-class variability NC1", "no unit", "NC1"),
    "source.accuracy": Label("training accuracy", "share", "accuracy"),
    "train_loss": Label("training loss", "nat", "loss"),
    "train_accuracy": Label("training accuracy", "share", "train accuracy"),
    "learning_path_flatness": Label(
        "learning-path flatness", "(nat / parameter unit)²", "flatness"
    ),
    "training.learning_rate": Label("learning rate", "parameter unit² / nat", "learning rate"),
    "training.batch_size": Label("batch size", "examples", "batch size"),
    "training.weight_decay": Label("L2 weight decay", "nat / parameter unit²", "weight decay"),
    "training.gc_penalty.weight": Label(
        "weight of the GC penalty", "nat (input unit / feature unit)²", "GC penalty"
    ),
}


def axis_label(column: str) -> str:
    """Quantity and unit, e.g. ``batch size [examples]``; the dotted name itself where the quantity
    is not known.

    Examples:
        >>> axis_label("swept.training.batch_size")
        'batch size [examples]'
    """
    label = LABELS.get(column.removeprefix("swept."))
    return f"{label.name} [{label.unit}]" if label else column.removeprefix("swept.")


def short_name(column: str) -> str:
    """The symbol or the words of a table's cell."""
    label = LABELS.get(column.removeprefix("swept."))
    return (
        label.short if label else column.removeprefix("swept.").rpartition(".")[2].replace("_", " ")
    )


def setting_label(setting: str) -> str:
    """A setting in the words of a legend.

    Examples:
        >>> setting_label("training.learning_rate = 0.1, training.batch_size = 32")
        'learning rate 0.1, batch size 32'
    """
    pairs = [part.partition(" = ") for part in setting.split(", ")]
    return ", ".join(f"{short_name(key)} {value}" for key, _, value in pairs)


def shown_value(value: object) -> str:
    """A swept value without digits that say nothing: 8.0 is 8."""
    return f"{value:g}" if isinstance(value, float) else str(value)
