"""Names and units of the columns of a sweep: on an axis, in a table, in a legend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from geocollapse.experiments.results.tables import ACCURACY, TARGET_NC
from geocollapse.measures import MEASURES


@dataclass(frozen=True)
class Label:
    """The name, unit and short name of a column."""

    name: str
    unit: str
    short: str


SIGNED_LOSS = "nat, either sign"
_CURVATURE = "nat / parameter unit²"
_SQUARED = "(nat / parameter unit)²"

# How training moves: `measuring.dynamics`, and what judges make of it.
_DYNAMICS: Mapping[str, Label] = {
    "dynamics.learning_rate": Label("rate of the step", "parameter unit² / nat", "rate"),
    "dynamics.gradient_norm": Label("gradient norm", "nat / parameter unit", "gradient norm"),
    "dynamics.curvature": Label("curvature along the gradient", _CURVATURE, "curvature"),
    "dynamics.drift_ratio": Label("drift ratio", "no unit", "drift ratio"),
    "dynamics.linearity_defect": Label("linearity defect", "no unit", "linearity defect"),
    "dynamics.straightness": Label("cosine of successive gradients", "cosine", "straightness"),
    "dynamics.sharpness": Label("sharpness", _CURVATURE, "sharpness"),
    "dynamics.edge_ratio": Label("sharpness / (2 / rate)", "no unit", "sharpness / edge"),
    "dynamics.mini_batch_norm": Label("mini-batch gradient norm²", _SQUARED, "mini-batch norm"),
    "dynamics.mean_gradient_norm": Label(
        "squared norm of the mean gradient", _SQUARED, "mean gradient norm"
    ),
    "dynamics.mini_batch_variance": Label(
        "variance of mini-batch gradients", _SQUARED, "mini-batch variance"
    ),
    "peak_sharpness": Label("largest sharpness of training", _CURVATURE, "peak sharpness"),
    "loss_rises": Label("records with a higher training loss", "share", "loss rises"),
}

# Two tasks in either order: `measuring.order_effect`, with the number of steps in the column.
_ORDER: Mapping[str, Label] = {
    "norm": Label("order effect", "parameter unit", "order effect"),
    "predicted_norm": Label("predicted order effect", "parameter unit", "bracket"),
    "cosine": Label("cosine with the bracket", "cosine", "cosine"),
    "gap": Label("gap of task 1", SIGNED_LOSS, "gap of task 1"),
    "predicted_gap": Label("predicted gap of task 1", SIGNED_LOSS, "bracket along g_1"),
    "total_gap": Label("gap of both tasks", SIGNED_LOSS, "gap of both tasks"),
    "predicted_total_gap": Label(
        "predicted gap of both tasks", SIGNED_LOSS, "bracket along g_1 + g_2"
    ),
    "forgetting": Label("forgetting of task 1", SIGNED_LOSS, "forgetting"),
    "forgetting_first_order": Label("forgetting to first order", SIGNED_LOSS, "first order"),
    "forgetting_second_order": Label("forgetting to second order", SIGNED_LOSS, "second order"),
}
_MEASURED = ("norm", "cosine", "gap", "total_gap", "forgetting")
_OF_STEPS = re.compile(r"order_effect\.steps\.(\d+|\*)\.(\w+)")

_GC_UNIT = "(logit unit / input unit)²"
_MARGINS = {
    "margin.geometric_complexity.value": Label("GC of the logits", _GC_UNIT, "GC of the logits"),
    "margin.margin_complexity.value": Label(
        "GC of the logits / margin²", "1 / input unit²", "GC/margin²"
    ),
    "margin.gamma": Label("margin at the quantile", "logit unit", "margin"),
    "margin.train_error": Label("training error", "share", "training error"),
    "margin.train_risk": Label("training margin risk", "share", "margin risk"),
    "margin.test_error": Label("test error", "share", "test error"),
    "margin.gap": Label("generalisation gap", "share", "gap"),
    "margin.excess_risk": Label("excess risk", "share", "excess risk"),
    "transfer_inequality_ratio": Label("ratio of the transfer inequality", "no unit", "ratio"),
    "data.random_labels": Label("random labels", "share", "random labels"),
    "model.initial_scale": Label("initial scale of the weights", "no unit", "initial scale"),
    "training.l2_penalty": Label("L2 penalty", "nat / parameter unit²", "L2 penalty"),
    "training.spectral_norm_penalty": Label(
        "spectral norm penalty", "nat / parameter unit²", "spectral norm"
    ),
    "training.input_noise": Label("input noise", "input unit", "input noise"),
    "training.label_smoothing": Label("label smoothing", "share", "label smoothing"),
}

_DISTANCE = "parameter unit"
_GAMES = {
    "distance": Label("distance from the equilibrium", _DISTANCE, "distance"),
    "flow_distance": Label("distance of the flow", _DISTANCE, "flow distance"),
    "joint_distance": Label("distance of the modified flow", _DISTANCE, "modified distance"),
    "flow_gap": Label("gap to the flow", _DISTANCE, "gap to flow"),
    "joint_gap": Label("gap to the joint flow", _DISTANCE, "joint gap"),
    "per_player_gap": Label("gap to the per-player flow", _DISTANCE, "per-player gap"),
    "frechet_distance": Label("squared Fréchet distance", "pixel unit²", "squared distance"),
    "lowest_frechet_distance": Label(
        "lowest squared Fréchet distance", "pixel unit²", "lowest squared distance"
    ),
    "late_frechet_distance": Label(
        "late squared Fréchet distance", "pixel unit²", "late squared distance"
    ),
    "learning_rates.0": Label("rate of player 1", "parameter unit² / loss unit", "rate 1"),
    "learning_rates.1": Label("rate of player 2", "parameter unit² / loss unit", "rate 2"),
    "cancel": Label("cancelled drift", "term", "cancelled"),
}

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
    "test_accuracy": Label("test accuracy", "share", "test accuracy"),
    "test_loss": Label("test loss", "nat", "test loss"),
    "stop_step": Label("steps to the stopping rule", "steps", "steps"),
    **_DYNAMICS,
    **_MARGINS,
    **_GAMES,
    "data.n_classes": Label("number of classes", "classes", "n classes"),
    "training.learning_rate": Label("learning rate", "parameter unit² / nat", "learning rate"),
    "training.batch_size": Label("batch size", "examples", "batch size"),
    "training.weight_decay": Label("L2 weight decay", "nat / parameter unit²", "weight decay"),
    "training.gc_penalty.weight": Label(
        "weight of the GC penalty", "nat (input unit / feature unit)²", "GC penalty"
    ),
    "training.gradient_penalty.weight": Label(
        "weight of the gradient penalty", "parameter unit² / nat", "gradient penalty"
    ),
    "training.corridor.max_learning_rate": Label(
        "largest corridor rate", "parameter unit² / nat", "largest rate"
    ),
    "training.dal.power": Label("power p of DAL", "no unit", "power"),
    **{
        f"model.args.hidden.{i}": Label(f"width of layer {i + 1}", "features", f"width {i + 1}")
        for i in range(8)
    },
    "measuring.order_effect.name": Label("other task", "no unit", "other task"),
    "measuring.order_effect.classes": Label("its classes", "no unit", "classes"),
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
    found = _OF_STEPS.fullmatch(name)
    if found is not None:
        return _of_steps(*found.groups())
    population, _, key = name.partition(".")
    measure = MEASURES.get(key.removesuffix(".value"))
    if measure is None or population not in ("source", "target"):
        return None
    prefix = "target " if population == "target" else ""
    return Label(prefix + measure.full_name, measure.unit, prefix + measure.short)


def _of_steps(n_steps: str, key: str) -> Label | None:
    """The label of a column of `measuring.order_effect` after some steps, `*` for any number."""
    label = _ORDER.get(key)
    if label is None or n_steps == "*":
        return label
    at = f", m = {n_steps}"
    short = label.short + at if key in _MEASURED else label.short  # a pair says it once
    return replace(label, name=label.name + at, short=short)


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
        >>> setting_label("training.corridor.max_learning_rate = None")
        'no largest rate'
    """
    pairs = [part.partition(" = ") for part in setting.split(", ")]
    return ", ".join(
        f"no {short_name(key)}" if value == "None" else f"{short_name(key)} {value}"
        for key, _, value in pairs
    )


def shown_value(value: object) -> str:
    """A swept value without trailing zeros: 8.0 is 8."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(column: str) -> str:
    return column.removeprefix("swept.")
