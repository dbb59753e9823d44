"""The loss of one task while another is trained, measured and to second order in the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from geocollapse.dynamics.losses import Landscape
from geocollapse.dynamics.trees import Tree, inner, minus, norm


@dataclass(frozen=True)
class Forgetting:
    """The rise of a task's loss when another task is trained after it, measured and predicted.

    With tau = m h, theta_a after m steps on the task, theta_ab after m more on the other, and
    theta_ba after both in the other order:

        second_order = -tau <g_a, g_b> + 1/2 tau (tau - h) <g_b, H_b g_a>
                       + tau^2 (<g_a, H_b g_a> + <g_a, H_a g_b> + 1/2 <g_b, H_a g_b>)

    The bracket is the part of it that changes its sign with the order: the rise is its mean over
    both orders, measured from L_a(theta_a), plus half of ``order_gap``.

    Attributes:
        rise: L_a(theta_ab) - L_a(theta_a): what the task loses.
        first_order: -tau <g_a, g_b>, with an error of O(tau^2).
        second_order: see above, with an error of O(tau^3).
        order_gap: L_a(theta_ab) - L_a(theta_ba): what the task loses by coming first.
        predicted_gap: tau^2 <g_a, [g_a, g_b]>, with an error of O(tau^3).
    """

    rise: float
    first_order: float
    second_order: float
    order_gap: float
    predicted_gap: float


@dataclass(frozen=True)
class Crossing:
    """The gradients of two tasks at a point, each also times the Hessian of the other task.

    Attributes:
        gradient: g_a.
        other: g_b.
        bent: H_b g_a.
        other_bent: H_a g_b.
    """

    gradient: Tree
    other: Tree
    bent: Tree
    other_bent: Tree

    def swapped(self) -> Crossing:
        """The crossing of the same tasks, b first."""
        return Crossing(self.other, self.gradient, self.other_bent, self.bent)

    def second_order(self, time: float, lr: float) -> float:
        """The rise of L_a to second order; see ``Forgetting``."""
        conflict = inner(self.gradient, self.other)
        turned = (
            inner(self.gradient, self.bent)
            + inner(self.gradient, self.other_bent)
            + 0.5 * inner(self.other, self.other_bent)
        )
        curved = 0.5 * time * (time - lr) * inner(self.other, self.bent)  # <g_a, H_b g_b>
        return float(-time * conflict + time**2 * turned + curved)

    def commutes(self) -> bool:
        """True if the bracket is zero up to rounding, so that the order makes no difference."""
        eps = max(torch.finfo(z.dtype).eps for z in self.bent.values())
        size = norm(self.bent) + norm(self.other_bent)
        return norm(minus(self.bent, self.other_bent)) <= math.sqrt(eps) * size

    def gap(self, time: float) -> float:
        """tau^2 <g_a, [g_a, g_b]>."""
        return time**2 * float(
            inner(self.gradient, self.bent) - inner(self.gradient, self.other_bent)
        )


@dataclass(frozen=True)
class Ends:
    """Where steps on two tasks lead.

    Attributes:
        alone: theta_a.
        first: theta_ab, where the task came first.
        second: theta_ba.
    """

    alone: Tree
    first: Tree
    second: Tree


def forgetting(
    task: Landscape, ends: Ends, crossing: Crossing, *, lr: float, n_steps: int
) -> Forgetting:
    """Compare a task's loss before and after another task; costs three forward passes.

    Args:
        task: the loss L_a.
        ends: of the steps.
        crossing: at their start, the task as a.
        lr: h.
        n_steps: m, on each task.
    """
    time = n_steps * lr
    after = float(task.value(ends.first))
    return Forgetting(
        rise=after - float(task.value(ends.alone)),
        first_order=-time * float(inner(crossing.gradient, crossing.other)),
        second_order=crossing.second_order(time, lr),
        order_gap=after - float(task.value(ends.second)),
        predicted_gap=crossing.gap(time),
    )
