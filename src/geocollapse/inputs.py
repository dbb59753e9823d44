"""The inputs of a model: one tensor, or tensors by name, with one row for each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

# One tensor, or tensors by the names of the model's arguments.
Inputs = Tensor | Mapping[str, Tensor]
# A map to features (n, p).
Map = Callable[[Tensor], Tensor]
# From x to the features (n, p) of each layer, and the model's output.
Take = Callable[[Tensor], tuple[list[Tensor], object]]
# From inputs to the map of these examples, and the x at which it starts.
Enter = Callable[[Inputs], tuple[Take, Tensor]]

TOKENS = "input_ids"  # (n, tokens), the numbers of the tokens
MASK = "attention_mask"  # (n, tokens), 0 at padding; never a continuous input


def as_inputs(inputs: object) -> Inputs:
    """Return ``inputs`` if they are a tensor, or tensors by name.

    Raises:
        TypeError: they are neither.
    """
    if isinstance(inputs, Tensor):
        return inputs
    tensors: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {"inputs": inputs}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"batch: expected tensors as inputs, got {type(tensor).__name__} at {name!r}; "
                f"do yield (inputs, labels) or a mapping of tensors with 'labels'"
            )
    return tensors


def n_rows(inputs: Inputs) -> int:
    """The number of examples.

    Raises:
        TypeError: neither a tensor nor tensors by name.
        ValueError: tensors of different lengths.
    """
    checked = as_inputs(inputs)
    tensors = checked if isinstance(checked, Mapping) else {"inputs": checked}
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"batch: expected inputs of one length, got {lengths}; do check the collate_fn"
        )
    return next(iter(lengths.values()))


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """The input tensors, without their names."""
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def rows_of(inputs: Inputs, rows: slice | Tensor) -> Inputs:
    """The inputs of the examples at ``rows``."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return {name: tensor[rows] for name, tensor in inputs.items()}


def move(inputs: Inputs, model: object) -> Inputs:
    """Move ``inputs`` to the model's device, and floating ones to its floating dtype."""
    if isinstance(inputs, Mapping):
        return {name: _moved(tensor, model) for name, tensor in inputs.items()}
    return _moved(inputs, model)


def _moved(tensor: Tensor, model: object) -> Tensor:
    first = _first_tensor(model)
    if first is None:
        return tensor
    both_float = tensor.is_floating_point() and first.is_floating_point()
    return tensor.to(device=first.device, dtype=first.dtype if both_float else tensor.dtype)


def device_of(model: object) -> torch.device | None:
    """The device of the model's first parameter or buffer, None without one or for a callable."""
    first = _first_tensor(model)
    return None if first is None else first.device


def dtype_of(model: object) -> torch.dtype | None:
    """The dtype of the model's first parameter or buffer, None unless there is a floating one."""
    first = _first_tensor(model)
    return first.dtype if first is not None and first.is_floating_point() else None


def _first_tensor(model: object) -> Tensor | None:
    if not isinstance(model, nn.Module):
        return None
    return next(chain(model.parameters(), model.buffers()), None)


def track(x: Tensor) -> Tensor:
    """A leaf with the values of ``x`` that requires gradients; ``x`` itself is left alone."""
    return check_floating(x).detach().clone().requires_grad_()


def check_floating(x: object) -> Tensor:
    """Return ``x``, which must be floating: other inputs have no Jacobian.

    Raises:
        TypeError: not a floating tensor.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"inputs: expected a floating tensor (a Jacobian needs a continuous input), got {got}; "
            f"do inputs.float(), scaled as the model expects"
        )
    return x


def unshared(leaf: Tensor) -> Tensor:
    """A copy of ``leaf`` for a map that may work in place; gradients flow back to ``leaf``."""
    return leaf.clone()


def flatten_features(output: object, n_examples: int) -> Tensor:
    """Flatten the output of a map to features (n, p).

    Raises:
        TypeError: the output is not one floating tensor (a tuple, a dict, integers).
        ValueError: its first dimension is not the number of examples.
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
            f"{tuple(output.shape)}; do name a layer whose first dimension is the batch"
        )
    return output.reshape(n_examples, -1)
