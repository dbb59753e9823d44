"""The behaviour of gradient descent along each eigenvector of the Hessian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from geocollapse.dynamics.corridor import check_lr
from geocollapse.dynamics.eigenvalues import Eigenvalues

Behaviour = Literal[
    "escapes",
    "stays",
    "decays",
    "decays in one step",
    "oscillates and decays",
    "oscillates",
    "oscillates and diverges",
]


@dataclass(frozen=True)
class Direction:
    """Gradient descent along one eigenvector: x -> (1 - h lambda) x.

    Attributes:
        eigenvalue: lambda.
        sharpness_times_lr: h lambda.
        growth: log|1 - h lambda|/h, the rate at which |x| grows in time; -inf at h lambda = 1.
        behaviour: in words.
    """

    eigenvalue: float
    sharpness_times_lr: float
    growth: float
    behaviour: Behaviour

    @property
    def is_stable(self) -> bool:
        """True for 0 < h lambda < 2."""
        return 0.0 < self.sharpness_times_lr < 2.0


def stability(eigenvalues: Eigenvalues | Tensor | Sequence[float], lr: float) -> list[Direction]:
    """Tell for each eigenvalue of the Hessian what steps of size h do along its eigenvector.

        x -> (1 - h lambda) x,  growth log|1 - h lambda|/h

        h lambda < 0      escapes                1 < h lambda < 2  oscillates and decays
        h lambda = 0      stays                  h lambda = 2      oscillates
        0 < h lambda < 1  decays                 h lambda > 2      oscillates and diverges
        h lambda = 1      decays in one step

    Exact on quadratics; near a point of other losses. Invariant to E -> c E with h -> h/c.

    Source: Rosca, Wu, Qin, Dherin (2023), arXiv 2302.01952, stability of the principal flow.

    Args:
        eigenvalues: from ``sharpness``, or numbers.
        lr: h.

    Returns:
        One entry an eigenvalue, in their order.

    Raises:
        ValueError: ``lr`` that is not positive, an eigenvalue that is NaN or infinite.

    Examples:
        >>> [direction.behaviour for direction in stability([-1.0, 5.0, 15.0, 30.0], lr=0.1)]
        ['escapes', 'decays', 'oscillates and decays', 'oscillates and diverges']
    """
    check_lr(lr)
    found = eigenvalues.values if isinstance(eigenvalues, Eigenvalues) else eigenvalues
    return [_direction(float(value), lr) for value in found]


def _direction(eigenvalue: float, lr: float) -> Direction:
    if not math.isfinite(eigenvalue):
        raise ValueError(
            f"eigenvalues: expected finite numbers, got {eigenvalue}; do look for NaN in the loss"
        )
    product = lr * eigenvalue
    factor = abs(1.0 - product)
    growth = -math.inf if factor == 0.0 else math.log(factor) / lr
    if abs(product) < 0.5:
        growth = math.log1p(-product) / lr
    return Direction(eigenvalue, product, growth, _words(product))


def _words(product: float) -> Behaviour:
    if product <= 0.0:
        return "escapes" if product < 0.0 else "stays"
    if product <= 1.0:
        return "decays" if product < 1.0 else "decays in one step"
    if product <= 2.0:
        return "oscillates and decays" if product < 2.0 else "oscillates"
    return "oscillates and diverges"
