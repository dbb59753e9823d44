"""A batch: inputs that go through the model together, with their labels and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from geocollapse.arrays import as_labels
from geocollapse.inputs import Inputs, as_inputs, n_rows

# Class labels as a caller gives them, one for each example.
Labels = Tensor | np.ndarray | Sequence[int]


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


def as_batch(raw: object, indices: Tensor, segment: int = 0) -> Batch:
    """Make a batch of what a loader yields for the examples at ``indices``.

    Raises:
        TypeError: not one of the accepted forms, or labels that are not integers.
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
    if raw_labels is None:
        return Batch(inputs, None, indices, segment)
    labels = as_labels(raw_labels)
    if len(labels) != n_examples:
        raise ValueError(
            f"labels: expected one for each of {n_examples} inputs, got {len(labels)}; do "
            f"check the collate_fn"
        )
    return Batch(inputs, labels, indices, segment)


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
