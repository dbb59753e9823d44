"""Whether the second derivatives of a map are had, and are right: looked at once, with two
examples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geocollapse.estimate import GeocollapseWarning
from geocollapse.features import FeatureMap
from geocollapse.inputs import Inputs, dtype_of, tensors_of
from geocollapse.regularizers.complexity.methods import (
    ProbeVectors,
    no_parameter,
    pull_back,
    push_forward,
    tracked,
)

_ONCE = "torch::autograd::Error"  # the node of an operation that may be differentiated once alone
# in what torch says of such operations
_REFUSALS = ("derivative", "differentiate", "checkpoint", "inplace operation")
_SMALL = (
    0.1  # share of the whole gradient below which the gradient in one parameter may be rounding
)


def check_derivatives(feature_map: FeatureMap, inputs: Inputs, method: str) -> None:
    """Refuse a map whose second derivatives are not had, or are wrong, by one backward pass of a
    few examples.

    v^T J u and its gradient in each parameter are the same by reverse over forward and by reverse
    over reverse mode. Some of torch's forward rules leave a graph that is silently wrong
    (``linalg.solve`` in 2.14), and a model that differentiates inside its forward pass may do so
    past a tangent. Autocast is off meanwhile: rounding would hide it.

    Raises:
        ValueError: no trained parameter changes J; NaN or infinity.
        NotImplementedError: an operation without a second derivative, or with a wrong one.
    """
    trained = {name: p for name, p in feature_map.model.named_parameters() if p.requires_grad}
    with _unrounded(feature_map.model, inputs), _same_draws(inputs):
        found = (_by_forward_mode if method == "forward_mode" else _by_double_backward)(
            feature_map, inputs, trained
        )
    if all(gradient is None for gradient in found.gradients):
        raise no_parameter(feature_map)
    if method == "double_backward":
        return
    try:
        with _unrounded(feature_map.model, inputs), _same_draws(inputs):
            expected = _by_double_backward(feature_map, inputs, trained)
    except (NotImplementedError, ValueError) as error:
        reason = str(error).split("; do ")[0]
        note = f"method: forward rules could not be checked against double backward, which gave: {reason}"
        warnings.warn(note, GeocollapseWarning, stacklevel=2)
    else:
        _compare(found, expected, trained)


@dataclass(frozen=True)
class _Mixed:
    """v^T J u of a few examples for signs u and v, summed over them.

    Attributes:
        value: 0-d.
        gradients: in each parameter, None where it does not depend on it.
        scale: ||J^T v||, the size that the value has for signs u; 0 where it is not known.
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
    v = _signs(
        features
    ).requires_grad_()  # so that the graph shows operations that may be differentiated once alone
    gradient = pull_back(feature_map, features, leaf, v)
    if _is_cut(gradient):
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
    (signs,) = ProbeVectors(0, torch.arange(len(rows), device=rows.device), 1).vectors(
        rows[0].numel(), rows.dtype
    )
    return signs


def _gradients(value: Tensor, trained: Mapping[str, Tensor], other: str) -> Sequence[Tensor | None]:
    if not (trained and value.requires_grad):
        return [None] * len(trained)
    try:
        return torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    except RuntimeError as error:
        if not any(word in str(error) for word in _REFUSALS):
            raise
        raise _no_second_derivative(repr(str(error).splitlines()[0]), other) from error


def _no_second_derivative(got: str, other: str) -> NotImplementedError:
    return NotImplementedError(
        f"method: expected a map with second derivatives, got {got}; do method={other!r}, or for a "
        f"smooth map "
        f"method='finite_difference'"
    )


def _is_cut(tensor: Tensor) -> bool:
    """Whether an operation that may be differentiated once alone is in the graph behind a tensor."""
    left, seen = [tensor.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if node.name() == _ONCE:
            return True
        seen.add(node)
        left += [following for following, _ in node.next_functions]
    return False


def _compare(found: _Mixed, expected: _Mixed, trained: Mapping[str, Tensor]) -> None:
    """Refuse a value, or a gradient in one parameter, that is further away than rounding is.

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
    whole, difference = (
        math.hypot(*sizes),
        abs(float(found.value.detach()) - float(expected.value.detach())),
    )
    if not math.isfinite(whole + math.fsum(errors) + difference):
        raise ValueError(
            "inputs: expected finite derivatives at the first examples, got NaN or infinity; do "
            "look for NaN in the "
            "inputs and parameters or, with float16, for overflow"
        )
    tolerance = _tolerance(expected.dtype)
    if difference > tolerance * expected.scale:
        raise _differs(f"a value {difference / expected.scale:.2g} of its size away")
    for name, error, size in zip(trained, errors, sizes, strict=True):
        if error > tolerance * (size + _SMALL * whole):
            raise _differs(
                f"a gradient in {name!r} {error / (size + _SMALL * whole):.2g} of its size away"
            )


def _differs(got: str) -> NotImplementedError:
    return NotImplementedError(
        f"method: expected forward rules with a right derivative, got {got} from that of double "
        f"backward (a rule of "
        f"torch that is wrong, or a model that differentiates inside its forward pass); do "
        f"method='double_backward'"
    )


def _tolerance(dtype: torch.dtype) -> float:
    """What rounding may move: the two ways add in another order, through all layers and twice."""
    return {torch.float64: 1e-6, torch.float32: 1e-3}.get(dtype, 0.3)


def _pair(a: Tensor | None, b: Tensor | None, parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Two gradients in a parameter, dense; None is zero."""
    first, second = (torch.zeros_like(parameter) if z is None else z.to_dense() for z in (a, b))
    return first, second


def _size(gradient: Tensor) -> Tensor:
    """Euclidean norm, at least in float32; of complex numbers too."""
    gradient = gradient.detach().abs()
    return (
        gradient.float().norm()
        if gradient.dtype in (torch.float16, torch.bfloat16)
        else gradient.norm().float()
    )


def _unrounded(model: nn.Module, inputs: Inputs) -> AbstractContextManager[Any]:
    """Inside, autocast is off, where parameters and inputs are of one dtype without it."""
    tensors = tensors_of(inputs)
    kind = tensors[0].device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    is_one = all(z.dtype == dtype_of(model) for z in tensors if z.is_floating_point())
    return torch.autocast(kind, enabled=False) if is_on and is_one else nullcontext()


def _same_draws(inputs: Inputs) -> AbstractContextManager[Any]:
    """Dropout draws the same each time, and afterwards as if it had not."""
    device = tensors_of(inputs)[0].device
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
