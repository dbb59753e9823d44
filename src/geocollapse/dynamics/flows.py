"""Flows of vector fields on parameter space, and the flow that a one-step method follows."""

from __future__ import annotations

import torch

from geocollapse.dynamics.trees import Field, Tree, plus, scaled
from geocollapse.modules.second_derivatives import plain_attention


def flow(field: Field, start: Tree, time: float, *, n_steps: int = 100) -> Tree:
    """Follow theta' = field(theta) for a time, by the classical Runge-Kutta method.

    For tests and small problems: the error is of order (time/n_steps)^4. Cost: four evaluations of
    the field a step.

    Args:
        field: from parameters to a velocity, such as ``landscape.descent``.
        start: theta(0).
        time: how long; negative times go backwards.
        n_steps: steps of equal length.

    Returns:
        theta(time).

    Raises:
        ValueError: ``n_steps`` below 1.

    Examples:
        >>> end = flow(lambda at: {"x": -at["x"]}, {"x": torch.ones(1).double()}, 1.0)
        >>> round(float(end["x"]), 8) == round(torch.e**-1, 8)
        True
    """
    if n_steps < 1:
        raise ValueError(f"n_steps: expected at least 1, got {n_steps}; do n_steps=100")
    h = time / n_steps
    at = start
    for _ in range(n_steps):
        k1 = field(at)
        k2 = field(plus(at, k1, h / 2.0))
        k3 = field(plus(at, k2, h / 2.0))
        k4 = field(plus(at, k3, h))
        slope = plus(plus(k1, k4), plus(k2, k3), 2.0)
        at = plus(at, slope, h / 6.0)
    return at


def modified_flow(f1: Field, f2: Field | None, lr: float) -> Field:
    """The field whose flow a one-step method follows to second order: backward error analysis.

        step:  theta -> theta + h F1 + h^2 F2 + O(h^3)
        flow:  theta' = F1 + h (F2 - 1/2 DF1 F1),  the same after a time h up to O(h^3)

    Gradient descent has F1 = -grad E and F2 = 0, so that its flow is that of E + h/4 ||grad E||^2.
    Cost of one evaluation: F1, F2 and one forward-mode derivative of F1.

    Source: Hairer, Lubich, Wanner (2006), Geometric Numerical Integration, IX.1; Barrett, Dherin
    (2021), arXiv 2009.11162, section 3.

    Args:
        f1: F1, of operations that ``torch.func.jvp`` can differentiate, such as
            ``landscape.descent``.
        f2: F2, None for zero.
        lr: the step size h.

    Returns:
        The modified field.

    Raises:
        ValueError: a negative or undefined ``lr``.

    Examples:
        >>> field = modified_flow(lambda at: {"x": -at["x"]}, None, lr=0.2)
        >>> field({"x": torch.ones(1)})["x"]
        tensor([-1.1000])
    """
    if not lr >= 0.0:
        raise ValueError(f"lr: expected a step size of at least 0, got {lr}; do lr=0.1")

    def field(at: Tree) -> Tree:
        velocity = f1(at)
        with plain_attention():
            change = torch.func.jvp(f1, (at,), (velocity,))[1]
        modified = plus(velocity, change, -lr / 2.0)
        return modified if f2 is None else plus(modified, scaled(f2(at), lr))

    return field
