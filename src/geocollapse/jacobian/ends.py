"""The two ends of a map: inputs that take gradients, and outputs as rows of features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geocollapse.probes import accumulation_dtype

Map = Callable[[Tensor], Tensor]


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


def channel_scale(std: Tensor | None, x: Tensor) -> Tensor:
    """The input scale in float64, to broadcast over the channels (dimension 1) of ``x``; 1 where
    none is known.

    Rounded to a half precision of ``x`` it would move every norm the same way.
    """
    dtype = accumulation_dtype(x.device)
    if std is None:
        return torch.ones((), dtype=dtype, device=x.device)
    return std.to(device=x.device, dtype=dtype).reshape(1, -1, *[1] * (x.ndim - 2))
