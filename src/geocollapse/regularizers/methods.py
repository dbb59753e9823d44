"""Three ways to ||J||_F^2 of each example of a batch with a graph behind it, so that it can be a part of a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from geocollapse import probes
from geocollapse.features import FeatureMap
from geocollapse.jacobian import differentiable_push_forward, plain_attention, track

Method = Literal["forward_mode", "double_backward", "finite_difference"]
NumberOfProbes = int | Literal["exact"]

# eps = C max(1e-16, u)^(1/3) rms(x), u the rounding unit: truncation eps^2 against rounding u/eps of the features
_STEP = 1.0


@dataclass(frozen=True)
class Probes:
    """The probe vectors of some examples: random signs, or ``exact`` all axes.

    Attributes:
        seed: of the hash.
        indices: (n,) what the signs are a hash of, different for each example, step and process.
        number: probes r for each example; ``exact``: sqrt(k) e_j, j = 1..k, whose mean is the trace itself.
    """

    seed: int
    indices: Tensor
    number: NumberOfProbes

    def vectors(self, n_entries: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """One v (n, k) after the other, E[v v^T] = I."""
        n = len(self.indices)
        if self.number == "exact":
            axes = math.sqrt(n_entries) * torch.eye(n_entries, dtype=dtype, device=self.indices.device)
            yield from (axis.expand(n, -1) for axis in axes)
        else:
            signs = probes.rademacher(self.seed, self.indices, self.number, n_entries)
            yield from (v.to(dtype) for v in signs.unbind(1))


@dataclass(frozen=True)
class Pass:
    """What one forward pass of penalised examples gives.

    Attributes:
        terms: (r, n) the estimates of ||J||_F^2, one for each probe and example, differentiable in the parameters.
        features: (n, p).
        output: the model's own.
    """

    terms: Tensor
    features: Tensor
    output: Any


def double_backward(feature_map: FeatureMap, x: Tensor, drawn: Probes) -> Pass:
    """||J^T v||^2 of output probes v, by reverse mode with a graph: reverse over reverse."""
    leaf = track(x)
    with plain_attention():
        (features,), output = feature_map.with_output(leaf)
    terms = []
    for v in drawn.vectors(features.shape[1], features.dtype):
        gradient = None
        if features.requires_grad:
            (gradient,) = torch.autograd.grad(features, leaf, v, create_graph=True, allow_unused=True)
        terms.append(_squares(_on_a_path(gradient, feature_map)))
    return Pass(torch.stack(terms), features, output)


def forward_mode(feature_map: FeatureMap, x: Tensor, drawn: Probes) -> Pass:
    """||J u||^2 of input probes u, by forward mode with a graph: reverse over forward.

    Each probe but the first costs a forward pass of its own.
    """
    passes = [
        differentiable_push_forward(feature_map.with_output, x, u.view_as(x))
        for u in drawn.vectors(x[0].numel(), x.dtype)
    ]
    terms = [_squares(_on_a_path(tangent, feature_map)) for _, _, tangent in passes]
    features, output, _ = passes[0]
    return Pass(torch.stack(terms), features, output)


def finite_difference(feature_map: FeatureMap, x: Tensor, drawn: Probes) -> Pass:
    """||f(x + eps u) - f(x)||^2 / eps^2 of input probes u, f(x) from the main forward pass.

    One-sided: the term of order eps is odd in u, so its mean is zero, and the bias of a smooth map is of order eps^2
    as for central differences, which cost one forward pass more.
    """
    (features,), output = feature_map.with_output(x)
    if features.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"method: expected features in float32 or float64, whose rounding a difference can do with, got "
            f"{features.dtype}; do method='forward_mode'"
        )
    _on_a_path(features if features.requires_grad else None, feature_map)
    step = step_size(x)
    terms = []
    for u in drawn.vectors(x[0].numel(), x.dtype):
        (moved,), _ = feature_map.with_output(torch.addcmul(x, step, u.view_as(x)))
        terms.append(_squares((moved - features) / step))
    return Pass(torch.stack(terms), features, output)


def step_size(x: Tensor) -> Tensor:
    """eps (0-d): the cube root of the rounding unit times the root mean square of the inputs; of 1 where they are 0."""
    scale = x.detach().square().mean().sqrt()
    return torch.finfo(x.dtype).eps ** (1 / 3) * torch.where(scale > 0, scale, torch.ones_like(scale))


METHODS: dict[str, Callable[[FeatureMap, Tensor, Probes], Pass]] = {
    "forward_mode": forward_mode,
    "double_backward": double_backward,
    "finite_difference": finite_difference,
}


def _squares(rows: Tensor) -> Tensor:
    """Sum of squares of each row of (n, ...), at least in float32."""
    rows = rows.flatten(1)
    return (rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows).square().sum(dim=1)


def _on_a_path(derivative: Tensor | None, feature_map: FeatureMap) -> Tensor:
    if derivative is None:
        raise ValueError(
            f"layer: expected features that depend on the inputs, got no gradient path at "
            f"{str(feature_map.layers[0])!r}; do name another layer"
        )
    return derivative
