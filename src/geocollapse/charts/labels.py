"""Names and units of the columns of a sweep: on an axis, in a table, in a legend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geocollapse.experiments.results.tables import ACCURACY, TARGET_NC
from geocollapse.measures import MEASURES


@dataclass(frozen=True)
class Label:
    """The name, unit and short name of a column."""

    name: str
    unit: str
    short: str


# Columns that are no measures, or whose name says more here than that of the measure. All other
# columns of measures have the names of ``geocollapse.measures``.
LABELS: Mapping[str, Label] = {
    "source.accuracy": Label("training accuracy", "share", "accuracy"),
    TARGET_NC: Label("target neural collapse", MEASURES["cdnv"].unit, "target NC"),
    ACCURACY: Label("5-shot target accuracy", "share", "5-shot accuracy"),
    "target.accuracy.nearest_mean.1.value": Label(
        "1-shot target accuracy", "share", "1-shot accuracy"
    ),
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


def label_of(column: str) -> Label | None:
    """The label of a column, or None for one that is neither a measure nor listed above.

    Examples:
        >>> label_of("target.geometric_collapse.value").short
        'target GCol'
    """
    name = _plain(column)
    if name in LABELS:
        return LABELS[name]
    population, _, key = name.partition(".")
    measure = MEASURES.get(key.removesuffix(".value"))
    if measure is None or population not in ("source", "target"):
        return None
    prefix = "target " if population == "target" else ""
    return Label(prefix + measure.full_name, measure.unit, prefix + measure.short)


def axis_label(column: str) -> str:
    """Name and unit of a column, or the column itself if it has no label.

    Examples:
        >>> axis_label("swept.training.batch_size")
        'batch size [examples]'
    """
    label = label_of(column)
    return f"{label.name} [{label.unit}]" if label else _plain(column)


def short_name(column: str) -> str:
    """Short name of a column, or the words of its last part if it has no label.

    Examples:
        >>> short_name("source.cdnv"), short_name("swept.model.args.base_width")
        ('NC', 'base width')
    """
    label = label_of(column)
    return label.short if label else _plain(column).rpartition(".")[2].replace("_", " ")


def setting_label(setting: str) -> str:
    """A setting with the short names of what it sets.

    Examples:
        >>> setting_label("training.learning_rate = 0.1, training.batch_size = 32")
        'learning rate 0.1, batch size 32'
    """
    pairs = [part.partition(" = ") for part in setting.split(", ")]
    return ", ".join(f"{short_name(key)} {value}" for key, _, value in pairs)


def shown_value(value: object) -> str:
    """A swept value without trailing zeros: 8.0 is 8."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(column: str) -> str:
    return column.removeprefix("swept.")
