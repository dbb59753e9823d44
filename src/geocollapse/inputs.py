"""What goes into a model: one tensor, or tensors by name, one row an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

# One tensor, or tensors by the names of the model's arguments.
Inputs = Tensor | Mapping[str, Tensor]
# A map of features (n, p).
Map = Callable[[Tensor], Tensor]
# From x to the features (n, p) of each layer, and the model's output.
Take = Callable[[Tensor], tuple[list[Tensor], Any]]
# From inputs to the map of these examples, and the x that it starts from.
Enter = Callable[[Any], tuple[Take, Tensor]]

TOKENS = "input_ids"  # (n, tokens), the numbers of the tokens
MASK = "attention_mask"  # (n, tokens), 0 where a sequence is padded; never a continuous input


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


def device_of(model: object) -> torch.device | None:
    """The device of the model's first parameter or buffer, None if it has none or is a plain
    callable.
    """
    first = _first_tensor(model)
    return None if first is None else first.device


def dtype_of(model: object) -> torch.dtype | None:
    """The floating dtype of the model's parameters, None if it has none or is a plain callable."""
    first = _first_tensor(model)
    return first.dtype if first is not None and first.is_floating_point() else None


def _first_tensor(model: object) -> Tensor | None:
    if not isinstance(model, nn.Module):
        return None
    return next(chain(model.parameters(), model.buffers()), None)


def track(x: Tensor) -> Tensor:
    """A leaf with the values of ``x`` that takes gradients; the caller's tensor is not touched."""
    check_floating(x)
    return x.detach().clone().requires_grad_()


def check_floating(x: object) -> None:
    """Raise a TypeError for inputs that are not a floating tensor: they have no Jacobian."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"inputs: expected a floating tensor (a Jacobian needs a continuous input), got {got}; "
            f"do inputs.float(), scaled as the model expects"
        )


def unshared(leaf: Tensor) -> Tensor:
    """A copy for a map that may work in place; gradients flow back to ``leaf``."""
    return leaf.clone() if torch.is_grad_enabled() else leaf


def flatten_features(output: object, n_examples: int) -> Tensor:
    """The output of a map as (n, p).

    Raises:
        TypeError: not one floating tensor (a tuple, a dict, integers).
        ValueError: the first dimension is not the number of examples.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"features: expected one floating tensor, got {got}; "
            f"do name a layer that returns a tensor, or pass a callable that picks one"
        )
    if output.ndim == 0 or len(output) != n_examples:
        raise ValueError(
            f"features: expected one row for each of {n_examples} examples, got shape "
            f"{tuple(output.shape)}; "
            f"do name a layer whose first dimension is the batch"
        )
    return output.reshape(n_examples, -1)
