"""The loss that a run trains on, and a watch for losses that are no longer finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import TrainingConfig

Reduction = Literal["mean", "sum"]
LossOf = Callable[[Tensor, Tensor, "TrainingConfig", Reduction], Tensor]

_LOOK_EVERY = 50  # steps


class NonFiniteLossError(RuntimeError):
    """The training loss or its gradient is no longer finite: the run has failed at ``step``."""

    def __init__(self, step: int, value: float, *, of: str = "training loss") -> None:
        super().__init__(
            f"{of}: expected a finite number, got {value} at step {step}; "
            "do a lower learning rate, noise, penalty or initial scale"
        )
        self.step = step


def loss_of(
    logits: Tensor, y: Tensor, config: TrainingConfig, reduction: Reduction = "mean"
) -> Tensor:
    """The loss of a batch, of the kind that the recipe names.

    Args:
        logits: (n, classes).
        y: (n,) labels.
        config: the settings ``loss`` and ``label_smoothing``.
        reduction: over the examples.
    """
    return LOSSES[config.loss](logits, y, config, reduction)


def _cross_entropy(
    logits: Tensor, y: Tensor, config: TrainingConfig, reduction: Reduction
) -> Tensor:
    return F.cross_entropy(logits, y, reduction=reduction, label_smoothing=config.label_smoothing)


def _squared(logits: Tensor, y: Tensor, config: TrainingConfig, reduction: Reduction) -> Tensor:
    """||z - e_y||^2 / 2 for logits z and the unit vector e_y of the label.

    Source: Hui and Belkin (2021), section 2, without their rescaling for many classes.
    """
    del config
    targets = F.one_hot(y, logits.shape[1]).to(logits.dtype)
    squares = 0.5 * (logits - targets).square().sum(dim=1)
    return squares.mean() if reduction == "mean" else squares.sum()


LOSSES: Mapping[str, LossOf] = {"cross_entropy": _cross_entropy, "squared": _squared}


class LossWatch:
    """The losses of the last steps, kept on their device so that no step waits for it.

    A look reads all of them at once. It is taken every few steps, and before anything is recorded
    or saved, so a checkpoint never holds weights from behind a loss that is not finite.

    Args:
        look_every: steps between two looks.

    Examples:
        >>> watch = LossWatch()
        >>> watch.add(7, torch.tensor(float("nan")))
        >>> watch.look()
        Traceback (most recent call last):
        ...
        geocollapse.experiments.supervised.losses.NonFiniteLossError: training loss: expected a \
finite number, got nan at step 7; do a lower learning rate, noise, penalty or initial scale
    """

    def __init__(self, look_every: int = _LOOK_EVERY) -> None:
        self._look_every = look_every
        self._steps: list[int] = []
        self._losses: Tensor | None = None

    def add(self, step: int, loss: Tensor) -> None:
        """Keep the loss of one step.

        Raises:
            NonFiniteLossError: at every ``look_every``-th step, as of `look`.
        """
        if self._losses is None:
            self._losses = torch.zeros(self._look_every, device=loss.device, dtype=loss.dtype)
        self._losses[len(self._steps)] = loss.detach()
        self._steps.append(step)
        if len(self._steps) == self._look_every:
            self.look()

    def look(self) -> None:
        """Read the losses since the last look; waits for the device.

        Raises:
            NonFiniteLossError: one is not finite; the error names the first such step.
        """
        if self._losses is None or not self._steps:
            return
        steps = self._steps
        self._steps = []
        for step, loss in zip(steps, self._losses.tolist()):
            if not math.isfinite(loss):
                raise NonFiniteLossError(step, loss)
