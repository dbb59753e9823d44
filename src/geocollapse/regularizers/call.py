"""Checks of settings and calls, the same for every penalty, and calls inside compiled steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from geocollapse.inputs import Inputs, n_rows, tensors_of

_P = ParamSpec("_P")
_R = TypeVar("_R")


def uncompiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a function uncompiled inside a step that ``torch.compile`` compiles."""

    @wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling():
            result: _R = torch.compiler.disable(function)(*args, **kwargs)
            return result
        return function(*args, **kwargs)

    return run


def check_batch_settings(batch_fraction: float, batch_norm: str, known: Sequence[str]) -> None:
    """Refuse a share of the batch outside (0, 1], or an unknown treatment of batch normalisation.

    Raises:
        ValueError: names the setting.
    """
    if not 0.0 < batch_fraction <= 1.0:
        raise ValueError(
            f"batch_fraction: expected a share in (0, 1], got {batch_fraction}; do "
            f"batch_fraction=0.25"
        )
    if batch_norm not in known:
        *others, last = map(repr, known)
        raise ValueError(
            f"batch_norm: expected {', '.join(others)} or {last}, got {batch_norm!r}; do "
            f"batch_norm='running'"
        )


def check_call(x: Inputs, labels: Tensor | None) -> None:
    """Refuse a call without examples, without gradients, or with labels that do not fit.

    Raises:
        TypeError: ``x`` is neither a tensor nor tensors by name.
        ValueError: labels among the inputs, an empty batch, labels of another type or length.
        RuntimeError: gradients are off.
    """
    _check_inputs(x)
    check_gradients_are_on("model(x) there, or geocollapse.measure")
    if labels is not None and (labels.is_floating_point() or labels.shape != (n_rows(x),)):
        raise ValueError(
            f"labels: expected {n_rows(x)} integers, one for each example, got {labels.dtype} of "
            f"shape {tuple(labels.shape)}; do pass class numbers"
        )


def check_gradients_are_on(remedy: str) -> None:
    """Refuse a call inside ``torch.no_grad`` or ``torch.inference_mode``.

    Raises:
        RuntimeError: gradients are off; with the remedy.
    """
    if not torch.is_grad_enabled():
        mode = "inference_mode" if torch.is_inference_mode_enabled() else "no_grad"
        raise RuntimeError(f"penalty: expected gradients to be on, got torch.{mode}(); do {remedy}")


def _check_inputs(x: Inputs) -> None:
    if not isinstance(x, Tensor | Mapping):
        raise TypeError(
            f"x: expected a tensor, or tensors by name, got {type(x).__name__}; do "
            f"torch.as_tensor(x)"
        )
    if isinstance(x, Mapping) and "labels" in x:
        raise ValueError(
            "x: expected inputs alone, got 'labels' among them, from which the model would compute "
            "a loss of each part of the batch; do labels = batch.pop('labels'), and compute the "
            "loss from the output"
        )
    tensors = [] if isinstance(x, Tensor) and x.ndim == 0 else tensors_of(x)
    if not tensors or n_rows(x) == 0:
        raise ValueError(
            f"x: expected a batch of at least one example, got shape {_shapes(x)}; do drop it"
        )


def _shapes(x: Inputs) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    if isinstance(x, Tensor):
        return tuple(x.shape)
    return {name: tuple(z.shape) for name, z in x.items()}
