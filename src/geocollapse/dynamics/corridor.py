"""How straight and how linear the descent of a loss is: corridors."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import nn

from geocollapse.dynamics.losses import BatchNorm, Landscape, Loss, NonFiniteError, landscape
from geocollapse.dynamics.products import Method
from geocollapse.dynamics.trees import Tree, cosine, norm, plus, squared_norm
from geocollapse.estimate import GeocollapseWarning
from geocollapse.models import LoadedModel
from geocollapse.numerics import is_number

_STATIONARY = "corridor: the gradient is zero, so that drift ratio and linearity defect are NaN"


@dataclass(frozen=True)
class CorridorDiagnostics:
    """How near a point is to a corridor of a loss.

    Attributes:
        loss: E.
        speed: ||g||, of gradient flow in parameter space.
        drift_ratio: h ||H g||/(2 ||g||), 0 in a corridor; the drift of gradient descent from its
            flow, relative to the step.
        linearity_defect: |E(theta - h g) - (E - h ||g||^2)|/(h ||g||^2), 0 in a corridor; infinite
            where E(theta - h g) is.
        straightness: cos(g, g') with g' the gradient after the step; NaN where that is not finite,
            None if it was not asked for.
        corridor_lr: E/||g||^2, the corridor learning rate with f* = 0.
        lr: h.
    """

    loss: float
    speed: float
    drift_ratio: float
    linearity_defect: float
    straightness: float | None
    corridor_lr: float
    lr: float


def corridor_diagnostics(
    model: nn.Module | LoadedModel,
    loss: Loss,
    lr: float = 0.1,
    *,
    straightness: bool = True,
    method: Method = "double_backward",
    batch_norm: BatchNorm = "refuse",
) -> CorridorDiagnostics:
    """Measure how near the present parameters are to a corridor of the loss.

        corridor: H g = 0  <=>  g constant along the flow  <=>  E falls linearly
        drift ratio        h ||H g||/(2 ||g||)
        linearity defect   |E(theta - h g) - (E - h ||g||^2)|/(h ||g||^2)
        straightness       cos(g(theta), g(theta - h g))

    Both first are at least 0 and invariant to E -> c E with h -> h/c. A quadratic along one
    eigenvector is straight and no corridor: read the drift ratio and the speed beside the
    straightness. At a stationary point they are NaN, with a warning. Cost: one gradient with its
    graph, one Hessian-vector product and one forward pass; straightness takes one gradient more.

    Source: Dherin, Rosca (2024), arXiv 2402.08818; the diagnostics are this library's.

    Args:
        model: any module.
        loss: from the module to a 0-d tensor, on the batch or data that are studied.
        lr: h.
        straightness: take the gradient after the step as well; False leaves it None.
        method: of the Hessian-vector product; see ``hessian_vector_product``.
        batch_norm: see ``landscape``.

    Raises:
        ValueError: ``lr`` that is not positive; see ``gradient``.
        RuntimeError: batch normalisation in training mode.

    Examples:
        >>> model = nn.Linear(2, 1, bias=False).double()
        >>> cone = corridor_diagnostics(model, lambda m: 3 * m.weight.norm(), lr=0.01)
        >>> cone.drift_ratio < 1e-12, cone.linearity_defect < 1e-12, round(cone.speed, 6)
        (True, True, 3.0)
    """
    check_lr(lr)
    with landscape(model, loss, batch_norm=batch_norm) as found:
        return diagnose(found, lr, straightness=straightness, method=method)[0]


def diagnose(
    found: Landscape, lr: float, *, straightness: bool, method: Method
) -> tuple[CorridorDiagnostics, Tree]:
    """The diagnostics of a landscape at its point, and the gradient there."""
    here = found.expand(method=method)
    value = float(here.value)
    squares = squared_norm(here.gradient)
    speed = math.sqrt(squares)
    if squares == 0.0:
        warnings.warn(_STATIONARY, GeocollapseWarning, stacklevel=4)
        undefined = math.nan
        turn = undefined if straightness else None
        stationary = CorridorDiagnostics(value, 0.0, undefined, undefined, turn, undefined, lr)
        return stationary, here.gradient
    after = plus(found.point, here.gradient, -lr)
    return (
        CorridorDiagnostics(
            loss=value,
            speed=speed,
            drift_ratio=lr * norm(here.product(here.gradient)) / (2.0 * speed),
            linearity_defect=_defect(found, after, value, lr * squares),
            straightness=_turn(found, after, here.gradient) if straightness else None,
            corridor_lr=value / squares,
            lr=lr,
        ),
        here.gradient,
    )


def _turn(found: Landscape, after: Tree, gradient: Tree) -> float:
    """The cosine of the gradients before and after a step; NaN where it leaves the domain."""
    try:
        return cosine(gradient, found.gradient(after))
    except NonFiniteError:
        return math.nan


def _defect(found: Landscape, after: Tree, value: float, expected: float) -> float:
    """How far the loss after a step is from a linear fall, relative to that fall."""
    with torch.no_grad():
        reached = float(found.evaluate(after))
    if not math.isfinite(reached):
        return math.inf  # the step leaves the domain
    return abs(reached - (value - expected)) / expected


def check_lr(lr: float) -> None:
    """Refuse a step size that is not positive."""
    if not (is_number(lr) and lr > 0.0):
        raise ValueError(f"lr: expected a positive step size, got {lr!r}; do lr=0.1")
