"""The part of a penalty that does not depend on what it penalises: its weight and its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from geocollapse.numerics import is_count, is_number

_T = TypeVar("_T")


class Penalty(nn.Module):
    """A weighted term of the training loss that is added at every m-th step.

    Args:
        weight: strength of the penalty, at least 0; at 0 it is measured but adds nothing.
        every: the penalty is added at every m-th call, with ``every`` times the weight.

    Attributes:
        step: the number of calls so far, a part of the ``state_dict``.
    """

    step: Tensor

    def __init__(self, weight: float, *, every: int = 1) -> None:
        super().__init__()
        if not (is_number(weight) and weight >= 0.0):
            raise ValueError(
                f"weight: expected a number of at least 0, got {weight!r}; do weight=1e-4"
            )
        if not is_count(every):
            raise ValueError(
                f"every: expected a number of steps of at least 1, got {every}; do every=1"
            )
        self.weight = weight
        self.every = every
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def is_due(self, step: int) -> bool:
        """True if the penalty is added at this step."""
        return step % self.every == 0

    def counted(self, due: Callable[[int], _T], otherwise: Callable[[], _T]) -> _T:
        """Count one call: ``due(step)`` at every m-th, ``otherwise()`` at the others.

        A call that raises is not counted.
        """
        step = int(self.step)
        found = due(step) if self.is_due(step) else otherwise()
        self.step += 1
        return found

    def weighted(self, value: Tensor) -> Tensor:
        """The term of the loss: ``value`` times the weight and ``every``."""
        return self.weight * self.every * value if self.weight > 0.0 else torch.zeros_like(value)
