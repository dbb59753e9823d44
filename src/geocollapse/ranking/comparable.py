"""Differences between models that leave some of their measures incomparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# The scale-free measures that decide; the first of each line that both models have.
DECIDING = (
    ("per_pixel.gc_per_variance", "gc_per_variance"),
    ("per_pixel.geometric_collapse", "geometric_collapse"),
    ("cdnv",),
    ("directional_cdnv",),
    ("nc1",),
)

EXAMPLES = "examples"
"""The change to other examples, to which no measure is invariant."""

_SHOWN = 3  # classes that are named
# Keys of a preprocessing, with the change that another value makes.
_CHANGES = {
    "input size": "input size",
    "mean": "input scale",
    "std": "input scale",
    "input_layer": "input scale",
    "text_model": "input scale",
}


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """The circumstances of a measurement that its values depend on.

    Attributes:
        n_features: width of the layer.
        preprocessing: how the inputs were prepared, as a measurement records it.
        network: its architecture in words; empty to go by the width alone.
        examples: what tells examples apart, by name, such as the data set, and the classes as a
            frozenset; empty if both models are known to have the same.
    """

    n_features: int
    preprocessing: Mapping[str, object]
    network: str = ""
    examples: Mapping[str, object] = field(default_factory=dict)


def differences(first: Circumstances, second: Circumstances) -> dict[str, str]:
    """The changes between two measurements, each with what differs in words.

    They are those of ``geocollapse.measures.Invariance``, or ``EXAMPLES`` alone.
    """
    one, other = first.examples, second.examples
    key = next((key for key in one if one[key] != other.get(key)), None)
    if key is not None:
        return {EXAMPLES: f"other {key}: {' against '.join(_pair(one[key], other.get(key)))}"}
    found = input_changes([first.preprocessing, second.preprocessing])
    if first.n_features != second.n_features:
        found["feature scale"] = f"{first.n_features} features against {second.n_features}"
    elif first.network != second.network:
        found["feature scale"] = f"other network: {first.network} against {second.network}"
    return found


def input_changes(prepared: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """The changes between the inputs of several models, each with what differs in words."""
    found: dict[str, str] = {}
    for key, values in differing_inputs(prepared).items():
        different = list(dict.fromkeys(values))
        listed = (" against " if len(different) == 2 else ", ").join(different)
        found.setdefault(_CHANGES[key], f"other {key}: {listed}")
    return found


def differing_inputs(prepared: Sequence[Mapping[str, object]]) -> dict[str, list[str]]:
    """The keys whose values differ between preprocessings, with the value of each in words."""
    found = {"input size": _sizes(prepared)}
    for key in _CHANGES:
        if key not in found:
            found[key] = _texts([one.get(key) for one in prepared])
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def _sizes(prepared: Sequence[Mapping[str, object]]) -> list[str]:
    """The size of the inputs of each model, in words.

    Records of earlier releases have only that of images that were resized or padded.
    """
    shapes = [one.get("input_shape") for one in prepared]
    if all(isinstance(shape, list) for shape in shapes):
        return [_product(shape) for shape in shapes]
    return [_image_size(one) for one in prepared]


def _image_size(prepared: Mapping[str, object]) -> str:
    size, side = prepared.get("image_size"), prepared.get("pad_to")
    if size is None and side is None:
        return "the images' own"
    return _product(side if size is None else size)


def _product(size: object) -> str:
    return " x ".join(map(str, size)) if isinstance(size, list) else f"{size} x {size}"


def _pair(one: object, other: object) -> list[str]:
    """Two different values in words; of two sets of names those that the other has not."""
    if not isinstance(one, frozenset) or not isinstance(other, frozenset):
        return [str(one), str(other)]
    if one < other or other < one:
        return [str(len(one)), str(len(other))]
    return [_listed(sorted(one - other)), _listed(sorted(other - one))]


def _listed(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _texts(values: Sequence[object]) -> list[str]:
    """Values in words, different where the values are."""
    whole = [_text(value, "") for value in values]
    short = [_text(value, ".3g") for value in values]
    return short if len(set(short)) == len(set(whole)) else whole


def _text(value: object, form: str) -> str:
    if isinstance(value, list):
        return ", ".join(f"{v:{form}}" if isinstance(v, float) else str(v) for v in value)
    return "none" if value is None else str(value)
