"""A check that the second derivatives of a map exist and are correct, with two examples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from geocollapse.estimate import GeocollapseWarning
from geocollapse.features import FeatureMap
from geocollapse.inputs import Inputs, dtype_of, tensors_of
from geocollapse.modules.second_derivatives import is_cut
from geocollapse.numerics import autocast_around
from geocollapse.regularizers.complexity.methods import (
    ProbeVectors,
    no_parameter,
    pull_back,
    push_forward,
    tracked,
)

# Words in torch's errors about such operations.
_REFUSALS = ("derivative", "differentiate", "checkpoint", "inplace operation")
# Share of the whole gradient below which the gradient in one parameter may be rounding.
_SMALL = 0.1


def check_derivatives(feature_map: FeatureMap, inputs: Inputs, method: str) -> None:
    """Refuse a map whose second derivatives are missing or wrong, by backward passes of ``inputs``.

    v^T J u and its gradient in each parameter are the same by reverse over forward and by reverse
    over reverse mode. Some of torch's forward rules leave a graph that is silently wrong
    (``linalg.solve`` in 2.14), and a model that differentiates inside its forward pass may lose the
    tangent. Autocast is off meanwhile, as its rounding would hide a difference.

    Raises:
        ValueError: no trained parameter changes J; NaN or infinity.
        NotImplementedError: an operation without a second derivative, or with a wrong one.
    """
    trained = {name: p for name, p in feature_map.model.named_parameters() if p.requires_grad}
    mixed = _by_forward_mode if method == "forward_mode" else _by_double_backward
    with _unrounded(feature_map.model, inputs), _same_draws(inputs):
        found = mixed(feature_map, inputs, trained)
    if all(gradient is None for gradient in found.gradients):
        raise no_parameter(feature_map)
    if method == "double_backward":
        return
    try:
        with _unrounded(feature_map.model, inputs), _same_draws(inputs):
            expected = _by_double_backward(feature_map, inputs, trained)
    except (NotImplementedError, ValueError) as error:
        reason = str(error).split("; do ")[0]
        note = (
            f"method: forward rules could not be checked against double backward, which gave: "
            f"{reason}"
        )
        warnings.warn(note, GeocollapseWarning, stacklevel=2)
    else:
        _compare(found, expected, trained)


@dataclass(frozen=True)
class _Mixed:
    """The sum over a few examples of v^T J u, with signs u and v.

    Attributes:
        value: 0-d.
        gradients: in each parameter, None if the value does not depend on it.
        scale: ||J^T v||, the typical size of the value for signs u; 0 if unknown.
        dtype: of the features.
    """

    value: Tensor
    gradients: Sequence[Tensor | None]
    scale: float
    dtype: torch.dtype


def _by_forward_mode(
    feature_map: FeatureMap, inputs: Inputs, trained: Mapping[str, Tensor]
) -> _Mixed:
    take, x = feature_map.enter_whole(inputs)
    features, _, tangent = push_forward(feature_map, take, x, _signs(x))
    value = (tangent * _signs(features)).sum()
    return _Mixed(value, _gradients(value, trained, "double_backward"), 0.0, features.dtype)


def _by_double_backward(
    feature_map: FeatureMap, inputs: Inputs, trained: Mapping[str, Tensor]
) -> _Mixed:
    leaf, features, _ = tracked(*feature_map.enter_whole(inputs))
    # With a gradient in v, the graph shows operations that are differentiable only once.
    v = _signs(features).requires_grad_()
    try:
        gradient = pull_back(feature_map, features, leaf, v)
    except CheckpointError as error:
        raise _other_recomputation() from error
    if is_cut(gradient):
        raise _no_second_derivative("an operation that is once_differentiable", "forward_mode")
    value = (gradient * _signs(leaf).view_as(leaf)).sum()
    return _Mixed(
        value,
        _gradients(value, trained, "forward_mode"),
        float(gradient.detach().norm()),
        features.dtype,
    )


def _signs(rows: Tensor) -> Tensor:
    """Signs (n, k) for rows of k entries, the same for the same shape."""
    drawn = ProbeVectors(0, torch.arange(len(rows), device=rows.device), 1)
    (signs,) = drawn.vectors(rows[0].numel(), rows.dtype)
    return signs


def _gradients(value: Tensor, trained: Mapping[str, Tensor], other: str) -> Sequence[Tensor | None]:
    """The gradient in each parameter; an error names the ``other`` method as the remedy."""
    if not (trained and value.requires_grad):
        return [None] * len(trained)
    try:
        return torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    except CheckpointError as error:
        raise _other_recomputation() from error
    except RuntimeError as error:
        if not any(word in str(error) for word in _REFUSALS):
            raise
        raise _no_second_derivative(repr(str(error).splitlines()[0]), other) from error


def _other_recomputation() -> NotImplementedError:
    """The error of checkpointed activations that are not recomputed as they were computed."""
    return NotImplementedError(
        "method: expected checkpointed activations to be recomputed as in the forward pass, got "
        "other operations (fused attention, or no forward mode); do method='double_backward' with "
        "checkpoint(..., use_reentrant=False, "
        "context_fn=geocollapse.regularizers.checkpoint_context), or for a smooth map "
        "method='finite_difference'"
    )


def _no_second_derivative(got: str, other: str) -> NotImplementedError:
    return NotImplementedError(
        f"method: expected a map with second derivatives, got {got}; do method={other!r}, or for a "
        f"smooth map method='finite_difference'"
    )


def _compare(found: _Mixed, expected: _Mixed, trained: Mapping[str, Tensor]) -> None:
    """Refuse a value, or a gradient in one parameter, that differs by more than rounding.

    Raises:
        ValueError: NaN or infinity.
        NotImplementedError: they differ.
    """
    pairs = [
        _pair(a, b, p)
        for a, b, p in zip(found.gradients, expected.gradients, trained.values(), strict=True)
    ]
    errors = torch.stack([_size(a - b) for a, b in pairs]).cpu().tolist()
    sizes = torch.stack([_size(b) for _, b in pairs]).cpu().tolist()
    whole = math.hypot(*sizes)
    difference = abs(float(found.value.detach()) - float(expected.value.detach()))
    if not math.isfinite(whole + math.fsum(errors) + difference):
        raise ValueError(
            "inputs: expected finite derivatives at the first examples, got NaN or infinity; do "
            "look for NaN in the inputs and parameters or, with float16, for overflow"
        )
    tolerance = _tolerance(expected.dtype)
    if difference > tolerance * expected.scale:
        raise _differs("a value", difference / expected.scale)
    for name, error, size in zip(trained, errors, sizes, strict=True):
        if error > tolerance * (size + _SMALL * whole):
            raise _differs(f"a gradient in {name!r}", error / (size + _SMALL * whole))


def _differs(what: str, error: float) -> NotImplementedError:
    return NotImplementedError(
        f"method: expected forward rules with correct derivatives, got {what} that is off by "
        f"{error:.2g} of its size from double backward (a wrong forward rule in torch, or a model "
        f"that differentiates inside its forward pass); do method='double_backward'"
    )


def _tolerance(dtype: torch.dtype) -> float:
    """Relative rounding error of two ways that add in different orders, through all layers."""
    return {torch.float64: 1e-6, torch.float32: 1e-3}.get(dtype, 0.3)


def _pair(a: Tensor | None, b: Tensor | None, parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Two gradients in a parameter, dense; None is zero."""
    first, second = (torch.zeros_like(parameter) if z is None else z.to_dense() for z in (a, b))
    return first, second


def _size(gradient: Tensor) -> Tensor:
    """Euclidean norm of real or complex numbers, in float32 or better."""
    gradient = gradient.detach().abs()
    is_half = gradient.dtype in (torch.float16, torch.bfloat16)
    return gradient.float().norm() if is_half else gradient.norm().float()


def _unrounded(model: nn.Module, inputs: Inputs) -> AbstractContextManager[object]:
    """Turn autocast off if parameters and inputs are of one dtype without it."""
    tensors = tensors_of(inputs)
    device = tensors[0].device
    is_on = autocast_around(device) is not None
    is_one = all(z.dtype == dtype_of(model) for z in tensors if z.is_floating_point())
    return torch.autocast(device.type, enabled=False) if is_on and is_one else nullcontext()


def _same_draws(inputs: Inputs) -> AbstractContextManager[object]:
    """Make dropout draw the same numbers each time, and leave the random state as it was."""
    device = tensors_of(inputs)[0].device
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
