"""What goes through a model together: a batch of inputs with their labels, from whatever a loader
yields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geocollapse.borrow import device_of, dtype_of

Inputs = Tensor | Mapping[str, Tensor]  # one tensor, or tensors by name; one row an example
Take = Callable[
    [Tensor], tuple[list[Tensor], Any]
]  # x to the features (n, p) of each layer, and the output
Enter = Callable[
    [Any], tuple[Take, Tensor]
]  # inputs to the map of these examples, and the x that it starts from

TOKENS = "input_ids"  # (n, tokens), the numbers of the tokens
# (n, tokens), 0 where a sequence is padded; of any dtype it is no continuous input
MASK = "attention_mask"


@dataclass(frozen=True)
class Batch:
    """Examples that go through the model together.

    Attributes:
        inputs: (n, ...), or tensors by the names of the model's arguments, each (n, ...).
        labels: (n,) int64, or None where the data has none.
        indices: (n,) int64, positions in the data set; probes are a function of them.
        segment: number of the segment the batch was read from.
    """

    inputs: Inputs
    labels: Tensor | None
    indices: Tensor
    segment: int = 0


def as_labels(labels: Any) -> Tensor:
    """Class labels as an int64 vector.

    Raises:
        TypeError: labels that are not integers.
        ValueError: not one label for each example.
    """
    tensor = torch.as_tensor(labels)
    if tensor.is_floating_point() or tensor.is_complex():
        raise TypeError(
            f"labels: expected integers, one class for each example, got {tensor.dtype}; do "
            f"labels.long() if they count"
        )
    if tensor.ndim != 1:
        raise ValueError(
            f"labels: expected shape (n,), got {tuple(tensor.shape)}; do labels.argmax(dim=1) for "
            f"one-hot labels"
        )
    return tensor.to(torch.int64)


def as_batch(raw: Any, indices: Tensor, segment: int = 0) -> Batch:
    """What a loader yields for the examples at ``indices``.

    Raises:
        TypeError: not one of the accepted forms, or labels that are not integers.
        ValueError: another number of inputs, or of labels, than of examples.
    """
    inputs, labels = _unpack(raw)
    n_examples = n_rows(inputs)
    if n_examples != len(indices):
        raise ValueError(
            f"batch: expected {len(indices)} examples, got {n_examples}; do make collate_fn keep "
            f"every example"
        )
    if labels is not None:
        labels = as_labels(labels)
        if len(labels) != n_examples:
            raise ValueError(
                f"labels: expected one for each of {n_examples} inputs, got {len(labels)}; do "
                f"check the collate_fn"
            )
    return Batch(inputs, labels, indices, segment)


def n_examples_in(raw: Any) -> int:
    """The number of examples in what a loader yields."""
    return n_rows(_unpack(raw)[0])


def n_rows(inputs: Inputs) -> int:
    """The number of examples.

    Raises:
        TypeError: neither a tensor nor tensors by name.
        ValueError: tensors of different lengths.
    """
    tensors = inputs if isinstance(inputs, Mapping) else {"inputs": inputs}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"batch: expected tensors as inputs, got {type(tensor).__name__} at {name!r}; "
                f"do yield (inputs, labels) or a mapping of tensors with 'labels'"
            )
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"batch: expected inputs of one length, got {lengths}; do check the collate_fn"
        )
    return next(iter(lengths.values()))


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """The tensors that belong to the examples."""
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def rows_of(inputs: Inputs, rows: slice | Tensor) -> Inputs:
    """The inputs of some examples."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return {name: tensor[rows] for name, tensor in inputs.items()}


def move(inputs: Inputs, model: object) -> Inputs:
    """``inputs`` on the model's device and, where they and it are floating, in its dtype."""
    if isinstance(inputs, Mapping):
        return {name: _moved(tensor, model) for name, tensor in inputs.items()}
    return _moved(inputs, model)


def _moved(tensor: Tensor, model: object) -> Tensor:
    dtype = dtype_of(model) if tensor.is_floating_point() else None
    return tensor.to(device=device_of(model) or tensor.device, dtype=dtype or tensor.dtype)


def _unpack(raw: Any) -> tuple[Any, Any]:
    """Inputs and labels; of a mapping, all but ``labels`` are inputs, and a single one needs no
    name.
    """
    if isinstance(raw, Mapping):
        rest = {key: value for key, value in raw.items() if key != "labels"}
        return (next(iter(rest.values())) if len(rest) == 1 else rest), raw.get("labels")
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
