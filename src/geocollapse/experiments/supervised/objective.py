"""The objective of a step of a run: the loss of its batch and the penalties of its recipe."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import Tensor

from geocollapse.experiments.supervised.losses import NonFiniteLossError, loss_of
from geocollapse.experiments.supervised.optimizers import OWN_RATE
from geocollapse.regularizers import half_squares

if TYPE_CHECKING:
    from geocollapse.experiments.supervised.state import Training


def objective_of(training: Training, x: Tensor, y: Tensor) -> Tensor:
    """The loss of a batch with its penalties (0-d), with its graph.

    Optimizers that choose their rate from the loss descend weight decay as a term of it,
    weight_decay/2 ||theta||^2; the others add its gradient by themselves.

    Args:
        training: the run.
        x: (n, ...).
        y: (n,) labels.
    """
    settings = training.config.training
    logits, terms = _penalised(training, x, y)
    loss = loss_of(logits, y, settings)
    for term in terms:
        loss = loss + term
    loss = training.weight_penalties.added_to(loss, training.model)
    if settings.weight_decay > 0.0 and settings.optimizer in OWN_RATE:
        loss = loss + settings.weight_decay * half_squares(training.model)
    return loss


def _finite(training: Training, logits: Tensor, y: Tensor) -> Tensor:
    """The loss of a micro-batch.

    Raises:
        NonFiniteLossError: it is not finite, so that there is no gradient to penalise.
    """
    loss = loss_of(logits, y, training.config.training)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NonFiniteLossError(training.progress.step, value)
    return loss


def _penalised(training: Training, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits of a batch, and the weighted penalties."""
    logits: object = None
    terms: list[Tensor] = []
    if training.gradient_penalty is not None:
        logits, term = training.gradient_penalty(training.model, partial(_finite, training), x, y)
        terms.append(term)
    if training.penalty is not None:
        logits, term = training.penalty(training.model, x)
        terms.append(term)
    if not terms:
        logits = training.model(x)
    return cast("Tensor", logits), terms
