"""The classifier on the features: its outputs for the classes, its accuracy, its weights."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geocollapse.complexity.setup import Setup
from geocollapse.features import CallableMap, Embedding, FeatureMap, Layer
from geocollapse.store.kept import LinearHead, accuracy_of

_GENERIC = re.compile(r"LABEL_\d+")  # what transformers calls an output without a name
_SHOWN = 3
_NONE = "no linear layer gives the model's output unchanged"


def match_outputs(setup: Setup) -> tuple[str, ...]:
    """Make the map return the outputs of the data's classes, in their order; returns notes."""
    outputs, notes = outputs_of_classes(
        setup.model, setup.embedding, setup.class_names, setup.examples.about.class_outputs
    )
    setup.feature_map.class_outputs = outputs
    return notes


def outputs_of_classes(
    model: object,
    embedding: Embedding | None,
    class_names: Sequence[str] | None,
    given: Tensor | None,
) -> tuple[Tensor | None, tuple[str, ...]]:
    """The classifier's output (C,) for each class, None for all in their order; and notes.

    As the data set says (``given``), else by name if the model's configuration and the data name
    the same classes.
    """
    if given is not None:
        return given, (f"accuracy: among the {len(given)} outputs that are classes",)
    own = _output_names(model, embedding)
    if own is None or class_names is None:
        return None, ()
    there = _folded(own)
    wanted = _folded(class_names)
    if there == wanted or not set(there) & set(wanted):
        return None, ()
    if len(there) == len(wanted) == len(set(there)) and set(there) == set(wanted):
        note = (
            f"accuracy: outputs are matched to classes by name, the model's are in another order "
            f"({_some(own)})"
        )
        return torch.tensor([there.index(name) for name in wanted]), (note,)
    note = (
        f"accuracy: class names differ, the model's are {_some(own)}, the data's "
        f"{_some(class_names)}; they are matched by number"
    )
    return None, (note,)


def accuracy(
    embedding: Embedding | None,
    output: Tensor | None,
    labels: Tensor,
    class_names: Sequence[str] | None,
    about_outputs: tuple[str, ...],
) -> tuple[float | None, tuple[str, ...]]:
    """The classifier's accuracy, or None and the reason; followed by ``about_outputs``."""
    if embedding is None or embedding.classifier is None:
        return None, (f"accuracy: {_no_classifier(embedding)}", *_own_output(embedding))
    if output is None:
        return None, ("accuracy: the model's output is not one matrix (n, C)",)
    found, notes = accuracy_of(output, labels, class_names)
    return found, (*notes, *about_outputs)


def head_at(
    layer: Layer,
    feature_map: FeatureMap | CallableMap,
    embedding: Embedding | None,
    *,
    is_named: bool,
) -> tuple[LinearHead | None, str]:
    """The classifier that ``layer`` feeds, or None and the reason why there is none.

    A layer as wide as the classifier need not feed it: the caller vouches for it by naming the
    classifier.
    """
    if embedding is None or embedding.classifier is None or isinstance(feature_map, CallableMap):
        return None, _no_classifier(embedding)
    feeds = Layer(embedding.classifier, "in")
    if layer != feeds and not is_named:
        return None, f"the classifier is fed by {str(feeds)!r}, not by this layer"
    head = embedding.head_of(feature_map.model)
    if head is None:
        return None, f"{embedding.classifier!r} has no weight matrix"
    weight, bias = head
    rows = feature_map.class_outputs
    if rows is not None:
        weight = weight[rows]
        bias = None if bias is None else bias[rows]
    return LinearHead(weight, bias), ""


def _output_names(model: object, embedding: Embedding | None) -> list[str] | None:
    """The names of a transformers classifier's outputs; None if its configuration has none."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    has_classifier = embedding is not None and embedding.classifier is not None
    if not has_classifier or not isinstance(model, nn.Module) or not isinstance(names, dict):
        return None
    head = embedding.head_of(model) if embedding else None
    if set(names) != set(range(len(names))) or (head is not None and len(head[0]) != len(names)):
        return None
    own = [str(names[output]) for output in range(len(names))]
    return None if all(map(_GENERIC.fullmatch, own)) else own


def _no_classifier(embedding: Embedding | None) -> str:
    return "a callable has no known classifier" if embedding is None else _NONE


def _own_output(embedding: Embedding | None) -> tuple[str, ...]:
    """A note if the model's own output is measured but may be that of a classifier."""
    if embedding is None or not embedding.alike:
        return ()
    names = " or ".join(f"classifier='{Layer(name)}'" for name in embedding.alike[:_SHOWN])
    own = "layer: the model's own output is measured, which no linear layer gives unchanged"
    return (f"{own}; if it is a classifier, do {names}",)


def _folded(names: Sequence[str]) -> list[str]:
    return [str(name).strip().casefold() for name in names]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(str, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown}, ..."
