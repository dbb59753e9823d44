"""Two tasks in turn at a record: the effect of their order, and what the first one forgets."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import nn

from geocollapse.data import LabelledData
from geocollapse.dynamics import NonFiniteError, crossing_of, multitask_bias, order_effect
from geocollapse.estimate import strict_json
from geocollapse.experiments.results.records import OrderRecord
from geocollapse.experiments.supervised.losses import loss_of
from geocollapse.numerics import accumulation_dtype

if TYPE_CHECKING:
    from geocollapse.dynamics import Crossing, Loss, OrderEffect
    from geocollapse.experiments.recipe import TrainingConfig
    from geocollapse.experiments.results.records import OrderEffectRecord, OrderRecords
    from geocollapse.experiments.supervised.state import Training


def order_records(training: Training) -> OrderRecords:
    """The study of two tasks at the present parameters, where the recipe asks for it.

    The losses are of the kind that is trained on (with its label smoothing), in evaluation mode,
    without penalties and weight decay. They are full-batch losses of fixed examples, so that the
    theory applies, and the same ones at every record. All steps are taken by a copy of the model.

    Source: Dherin (2023), arXiv 2311.00235, continual learning.

    Args:
        training: the run, whose source is task 1.
    """
    wanted = training.config.measuring.order_effect
    other = training.other_task
    if wanted is None or other is None:
        return {}
    source = training.source.select(subset=min(wanted.subset, len(training.source)))
    model = _copied(training.model)
    settings = training.config.training
    tasks = _loss_on(model, source, settings), _loss_on(model, other, settings)
    notes: list[str] = []
    at = _crossing(model, tasks)
    record = {
        "n_samples": len(source),
        "n_other_samples": len(other),
        "learning_rate": wanted.learning_rate,
        **_at_the_start(model, tasks, notes),
        "steps": {
            str(m): _after(
                partial(order_effect, *tasks, model, wanted.learning_rate, m, crossing=at), m, notes
            )
            for m in wanted.n_steps
        },
        "warnings": list(dict.fromkeys(notes)),
    }
    return {"order_effect": cast("OrderEffectRecord", strict_json(record))}


def _copied(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode and float64: float32 rounds away differences of order h^2."""
    dtype = accumulation_dtype(next(model.parameters()).device)
    return copy.deepcopy(model).to(dtype).eval()


def _loss_on(model: nn.Module, data: LabelledData, settings: TrainingConfig) -> Loss:
    x = data.inputs.to(next(model.parameters()).dtype)
    return lambda network: loss_of(network(x), data.targets, settings)


def _at_the_start(
    model: nn.Module, tasks: tuple[Loss, Loss], notes: list[str]
) -> dict[str, float | None]:
    """Both losses and their gradients; null with a note where a loss is not finite."""
    keys = ("loss", "other_loss", "gradient_norm", "other_gradient_norm", "gradient_cosine")
    try:
        found = multitask_bias(tasks, model)
    except NonFiniteError as error:
        notes.append(str(error))
        return dict.fromkeys(keys)
    own, other = (math.sqrt(size) for size in found.gramian.diagonal().tolist())
    sizes = own * other
    cosine = float(found.gramian[0, 1]) / sizes if sizes > 0.0 else math.nan
    return dict(zip(keys, (*found.losses.tolist(), own, other, cosine), strict=True))


def _crossing(model: nn.Module, tasks: tuple[Loss, Loss]) -> Crossing | None:
    """The crossing of the tasks, for all numbers of steps; None where it is not finite."""
    try:
        return crossing_of(*tasks, model)
    except NonFiniteError:  # the study of each number of steps says so
        return None


def _after(study: Callable[[], OrderEffect], n_steps: int, notes: list[str]) -> OrderRecord:
    """The record of m steps on each task; null with a note where they diverge."""
    try:
        found = study()
    except NonFiniteError as error:
        notes.append(f"{n_steps} steps: {error}")
        return cast("OrderRecord", dict.fromkeys(OrderRecord.__annotations__))
    return {
        "norm": found.norm,
        "predicted_norm": found.predicted_norm,
        "cosine": found.cosine,
        "relative_error": found.relative_error,
        "gap": found.a.order_gap,
        "predicted_gap": found.a.predicted_gap,
        "total_gap": found.total_gap,
        "predicted_total_gap": found.predicted_total_gap,
        "forgetting": found.a.rise,
        "forgetting_first_order": found.a.first_order,
        "forgetting_second_order": found.a.second_order,
    }
