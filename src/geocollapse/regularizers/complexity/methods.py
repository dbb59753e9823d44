"""Three methods for ||J||_F^2 of each example with a graph, to be a part of the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from geocollapse.features import FeatureMap
from geocollapse.inputs import Inputs, Take, tensors_of, track
from geocollapse.jacobian import (
    differentiable_push_forward,
    in_right_order,
    probes,
)
from geocollapse.modules.second_derivatives import twice_differentiable
from geocollapse.numerics import coarse_rounding

Method = Literal["forward_mode", "double_backward", "finite_difference"]
NumberOfProbes = int | Literal["exact"]


@dataclass(frozen=True)
class ProbeVectors:
    """The probe vectors of some examples: random signs, or all axes for ``exact``.

    Attributes:
        seed: of the hash.
        indices: (n,) the numbers that the signs hash, unique to each example, step and process.
        number: probes r for each example; ``exact``: all axes e_j, j = 1..k.
    """

    seed: int
    indices: Tensor
    number: NumberOfProbes

    def vectors(self, n_entries: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield the probes v (n, k): random signs, E[v v^T] = I, or axes, sum_j v v^T = I."""
        n = len(self.indices)
        if self.number == "exact":
            for j in range(n_entries):
                axis = torch.zeros(n_entries, dtype=dtype, device=self.indices.device)
                axis[j] = 1.0
                yield axis.expand(n, -1)
        else:
            signs = probes.rademacher(self.seed, self.indices, self.number, n_entries)
            yield from (v.to(dtype) for v in signs.unbind(1))

    def terms(self, squares: list[Tensor]) -> Tensor:
        """Terms (r, n) whose mean over r estimates ||J||_F^2, from the squares (n,) of each probe.

        For ``exact`` the mean is ||J||_F^2.
        """
        return torch.stack(squares) * (len(squares) if self.number == "exact" else 1)


@dataclass(frozen=True)
class PenalisedPass:
    """The results of one forward pass of penalised examples.

    Attributes:
        terms: (r, n) estimates of ||J||_F^2, one for each probe and example, differentiable in the
            parameters.
        features: (n, p).
        output: the model's own.
    """

    terms: Tensor
    features: Tensor
    output: object


def forward_mode(feature_map: FeatureMap, inputs: Inputs, drawn: ProbeVectors) -> PenalisedPass:
    """||J u||^2 for input probes u, by reverse over forward mode.

    Each probe after the first costs a forward pass of its own.
    """
    take, x = feature_map.enter_whole(inputs)
    passes = [push_forward(feature_map, take, x, u) for u in drawn.vectors(x[0].numel(), x.dtype)]
    features, output, _ = passes[0]
    return PenalisedPass(
        drawn.terms([_squares(tangent) for _, _, tangent in passes]), features, output
    )


def double_backward(feature_map: FeatureMap, inputs: Inputs, drawn: ProbeVectors) -> PenalisedPass:
    """||J^T v||^2 for output probes v, by reverse over reverse mode."""
    leaf, features, output = tracked(*feature_map.enter_whole(inputs))
    vectors = drawn.vectors(features.shape[1], features.dtype)
    squares = [_squares(pull_back(feature_map, features, leaf, v)) for v in vectors]
    return PenalisedPass(drawn.terms(squares), features, output)


def finite_difference(
    feature_map: FeatureMap, inputs: Inputs, drawn: ProbeVectors
) -> PenalisedPass:
    """||f(x + eps u) - f(x)||^2 / eps^2 for input probes u, with f(x) from the main forward pass.

    One-sided: the term of order eps is odd in u, so its mean is zero. The bias for a smooth map is
    of order eps^2, as for central differences, which cost one more forward pass. In float32 the
    value for smooth networks is 0.1 to 2 % off, the gradient 0.4 to 4 %. With ReLU only the value
    is close: units that switch between x and x + eps u give the gradient a noise of order
    eps^(-1/2), many times its size (``benchmarks/penalty.py``).
    """
    take, x = feature_map.enter_whole(inputs)
    (features,), output = take(x)
    if not features.requires_grad:
        raise no_parameter(feature_map)
    step = step_size(x)
    squares = []
    for u in drawn.vectors(x[0].numel(), x.dtype):
        (moved,), _ = take(torch.addcmul(x, step, u.view_as(x)))
        squares.append(_squares((moved - features) / step))
    return PenalisedPass(drawn.terms(squares), features, output)


def step_size(x: Tensor) -> Tensor:
    """eps (0-d): the cube root of the rounding unit times the root mean square of the inputs.

    Inputs of 0 count as 1.
    """
    scale = x.detach().square().mean().sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.finfo(x.dtype).eps ** (1 / 3) * scale


METHODS: dict[str, Callable[[FeatureMap, Inputs, ProbeVectors], PenalisedPass]] = {
    "forward_mode": forward_mode,
    "double_backward": double_backward,
    "finite_difference": finite_difference,
}


def check_precision(model: nn.Module, inputs: Inputs) -> None:
    """Refuse finite differences of a map that may round to half precision.

    Raises:
        TypeError: autocast, TF32, or half-precision parameters or inputs.
    """
    tensors = [*tensors_of(inputs), *model.parameters()]
    halves = {tensor.dtype for tensor in tensors} & {torch.float16, torch.bfloat16}
    got = str(min(map(str, halves))) if halves else coarse_rounding(tensors[0].device)
    if got is not None:
        raise TypeError(
            f"method: expected float32 or float64, as coarser rounding drowns a finite difference, "
            f"got {got}; do method='forward_mode'"
        )


def push_forward(
    feature_map: FeatureMap, take: Take, x: Tensor, u: Tensor
) -> tuple[Tensor, object, Tensor]:
    """Features, output and J u."""
    features, output, tangent = differentiable_push_forward(take, x, u.view_as(x))
    return features, output, _on_a_path(tangent, feature_map)


def tracked(take: Take, x: Tensor) -> tuple[Tensor, Tensor, object]:
    """The inputs as a tensor that takes gradients, the features and the output."""
    leaf = x.clone() if x.requires_grad else track(x)
    with twice_differentiable():
        (features,), output = take(leaf)
    return leaf, features, output


def pull_back(feature_map: FeatureMap, features: Tensor, leaf: Tensor, v: Tensor) -> Tensor:
    """J^T v."""
    if not features.requires_grad:
        return _on_a_path(None, feature_map)
    with in_right_order(leaf):
        (gradient,) = torch.autograd.grad(features, leaf, v, create_graph=True, allow_unused=True)
    return _on_a_path(gradient, feature_map)


def _squares(rows: Tensor) -> Tensor:
    """Sum of squares of each row of (n, ...), in float32 or better."""
    rows = rows.flatten(1)
    is_half = rows.dtype in (torch.float16, torch.bfloat16)
    return (rows.float() if is_half else rows).square().sum(dim=1)


def no_parameter(feature_map: FeatureMap) -> ValueError:
    """The error of a map whose Jacobian no trained parameter changes."""
    return ValueError(
        f"layer: expected features that trained parameters can change, got no gradient path to any "
        f"from geometric complexity at {str(feature_map.layers[0])!r}; do unfreeze parameters "
        f"before it, or name a later layer"
    )


def _on_a_path(derivative: Tensor | None, feature_map: FeatureMap) -> Tensor:
    if derivative is None:
        raise ValueError(
            f"layer: expected features that depend on the inputs, got no gradient path at "
            f"{str(feature_map.layers[0])!r}; do name another layer"
        )
    return derivative
