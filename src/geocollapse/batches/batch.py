"""A batch: inputs that go through the model together, with their labels and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.arrays import as_classes
from geocollapse.inputs import Inputs, as_inputs, n_rows


@dataclass(frozen=True)
class Batch:
    """Examples that go through the model together.

    Attributes:
        inputs: (n, ...), or tensors by the names of the model's arguments, each (n, ...).
        labels: (n,) int64, or None for unlabelled data.
        indices: (n,) int64, positions in the data set; probes are a function of them.
        segment: number of the segment from which the batch was read.
    """

    inputs: Inputs
    labels: Tensor | None
    indices: Tensor
    segment: int = 0


def as_batch(
    raw: object,
    indices: Tensor,
    segment: int = 0,
    class_names: Sequence[str] | None = None,
    keep_labels: bool = True,
) -> Batch:
    """Make a batch of what a loader yields for the examples at ``indices``.

    Args:
        raw: inputs and labels in one of the accepted forms.
        indices: positions in the data set.
        segment: number of the segment from which the batch was read.
        class_names: of class 0, 1, ..., where labels are names.
        keep_labels: False to leave the labels of the batch out.

    Raises:
        TypeError: not one of the accepted forms, labels that are not integers, or names that are
            not known beforehand.
        ValueError: the number of inputs or labels differs from the number of examples.
    """
    raw_inputs, raw_labels = _unpack(raw)
    inputs = as_inputs(raw_inputs)
    n_examples = n_rows(inputs)
    if n_examples != len(indices):
        raise ValueError(
            f"batch: expected {len(indices)} examples, got {n_examples}; do make collate_fn keep "
            f"every example"
        )
    if raw_labels is None or not keep_labels:
        return Batch(inputs, None, indices, segment)
    labels = _labels(raw_labels, class_names)
    if len(labels) != n_examples:
        raise ValueError(
            f"labels: expected one for each of {n_examples} inputs, got {len(labels)}; do "
            f"check the collate_fn"
        )
    return Batch(inputs, labels, indices, segment)


def _labels(raw: object, class_names: Sequence[str] | None) -> Tensor:
    """The labels of a batch; a batch has not all names, so their numbers are those of the data."""
    labels, names = as_classes(raw)
    if names is None:
        return labels
    if class_names is None:
        raise TypeError(
            f"labels: expected class numbers in the batches, or names that are known before they "
            f"are read, got {names[0]!r}; do labels= with the name of each example"
        )
    numbers = {name: number for number, name in enumerate(class_names)}
    missing = [name for name in names if name not in numbers]
    if missing:
        raise ValueError(
            f"labels: expected the names that the data set tells, got {missing[0]!r} in a batch; "
            f"do check targets"
        )
    return torch.tensor([numbers[name] for name in names])[labels]


def n_examples_in(raw: object) -> int:
    """The number of examples in what a loader yields."""
    return n_rows(as_inputs(_unpack(raw)[0]))


def _unpack(raw: object) -> tuple[object, object]:
    """Split into inputs and labels, None where there are none.

    In a mapping, everything but ``labels`` (or ``label``) is an input; a single input needs no
    name.
    """
    if isinstance(raw, Mapping):
        rest = dict(raw)
        labels = rest.pop("labels" if "labels" in rest else "label", None)
        return (next(iter(rest.values())) if len(rest) == 1 else rest), labels
    if isinstance(raw, tuple | list):
        if len(raw) == 1:
            return raw[0], None
        if len(raw) == 2:
            return raw[0], raw[1]
    if isinstance(raw, Tensor):
        return raw, None
    raise TypeError(
        f"batch: expected (inputs, labels) or a mapping with 'labels', got {type(raw).__name__}; "
        f"do adapt collate_fn"
    )
