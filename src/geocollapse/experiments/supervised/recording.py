"""A record of a run: loss and its gradient, geometry of the source and target classes, transfer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from geocollapse.data import LabelledData
from geocollapse.experiments.supervised.losses import loss_of
from geocollapse.measurement import measure
from geocollapse.measures import OF_THE_CLASSIFIER
from geocollapse.modules.borrow import in_mode
from geocollapse.modules.mixing import is_batch_norm
from geocollapse.transfer import transfer

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import (
        MeasuringConfig,
        RunConfig,
        TrainingConfig,
        TransferConfig,
    )
    from geocollapse.experiments.results.records import HeldOutRecord, Measured
    from geocollapse.measurement import LayerMeasurement, MeasurementDict


def measure_record(
    model: nn.Module, source: LabelledData, target: LabelledData | None, config: RunConfig
) -> Measured:
    """The measured values of one line of the history."""
    measuring = config.measuring
    loss, accuracy, flatness = loss_and_flatness(
        model,
        source,
        config.training,
        batch_size=measuring.evaluation_batch_size,
    )
    values: Measured = {
        "train_loss": loss,
        "train_accuracy": accuracy,
        "learning_path_flatness": flatness,
        "source": None,
        "target": None,
    }
    if math.isfinite(loss):
        values["source"] = _recorded(_measure(model, source, measuring, config.seed), measuring)
        if target is not None:
            values["target"] = measure_target(
                model, target, measuring, config.transfer, seed=config.seed
            )
    return values


def loss_and_flatness(
    model: nn.Module, data: LabelledData, settings: TrainingConfig, *, batch_size: int
) -> tuple[float, float, float]:
    """Mean loss L over the data, accuracy, and learning-path flatness ||grad L||^2.

        flatness = ||grad_theta L||^2,  grad_theta L = sum over batches b of (n_b/n) grad_theta L_b

    All three in evaluation mode. L is the loss that is trained on (with its label smoothing),
    without penalty and weight decay. Invariant under the batch size, to rounding. Cost: one forward
    and one backward pass over the data; the gradient is summed in float64.

    Source: definitions 7.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    loss = 0.0
    hits = 0
    with in_mode(model, training=False):
        for x, y in _batches(data, batch_size):
            logits = model(x)
            total = loss_of(logits, y, settings, "sum")
            gradients = torch.autograd.grad(total, parameters)
            for gathered, gradient in zip(sums, gradients, strict=True):
                gathered += gradient
            loss += float(total.detach())
            hits += int((logits.argmax(dim=1) == y).sum())
    n = len(data)
    return loss / n, hits / n, sum(float(gradient.square().sum()) for gradient in sums) / n**2


@dataclass(frozen=True)
class HeldOut:
    """Logits of examples that are not trained on, in evaluation mode.

    Attributes:
        logits: (n, C).
        labels: (n,).
    """

    logits: Tensor
    labels: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, data: LabelledData, *, batch_size: int) -> HeldOut:
        """Run the model once over the data."""
        with in_mode(model, training=False):
            logits = torch.cat([model(x) for x in data.inputs.split(batch_size)])
        return cls(logits, data.targets)


def measure_test(test: HeldOut, config: RunConfig) -> HeldOutRecord:
    """Mean loss and accuracy on the test examples."""
    n = len(test.labels)
    size = config.measuring.evaluation_batch_size
    loss = 0.0
    hits = 0
    for z, y in zip(test.logits.split(size), test.labels.split(size), strict=True):
        loss += float(loss_of(z, y, config.training, "sum"))
        hits += int((z.argmax(dim=1) == y).sum())
    return {"test_loss": loss / n, "test_accuracy": hits / n}


@torch.no_grad()
def reaches(model: nn.Module, data: LabelledData, accuracy: float, *, batch_size: int) -> bool:
    """True if the accuracy over the data, in evaluation mode, is at least ``accuracy``.

    Cost: one forward pass, which ends as soon as too many examples are missed.
    """
    n = len(data)
    misses = 0
    with in_mode(model, training=False):
        for x, y in _batches(data, batch_size):
            misses += int((model(x).argmax(dim=1) != y).sum())
            if (n - misses) / n < accuracy:
                break
    return (n - misses) / n >= accuracy


def measure_target(
    model: nn.Module,
    target: LabelledData,
    measuring: MeasuringConfig,
    episodes: TransferConfig,
    *,
    seed: int,
) -> dict[str, object]:
    """Geometry and few-shot accuracy of the target classes in the embedding of the source classes.

    Measures of the model's own classifier are null: it was made for other classes. The episodes
    are the same for every run, so that two models can be compared on them.
    """
    measured = _measure(model, target, measuring, seed)
    geometry = _recorded(measured, measuring)
    accuracies = transfer(
        measured.features,
        measured.labels,
        n_way=episodes.n_way,
        k_shots=episodes.k_shots,
        n_query=episodes.n_query,
        n_episodes=episodes.n_episodes,
        seed=0,
        full_data=False,
    )
    warnings = [*geometry["warnings"], *accuracies.get("warnings", [])]
    unsaid = dict.fromkeys(OF_THE_CLASSIFIER)
    return {**geometry, **unsaid, **accuracies, "warnings": warnings}


def has_batch_norm(model: nn.Module) -> bool:
    """True if a layer keeps running statistics of its batches."""
    return any(is_batch_norm(module) for module in model.modules())


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, data: LabelledData, *, batch_size: int) -> None:
    """Estimate the running statistics anew: means of the batch statistics over all examples.

    The result does not depend on the statistics before. The last partial batch is dropped, as in
    training.
    """
    layers: list[Any] = [module for module in model.modules() if is_batch_norm(module)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).to(
        data.inputs.device
    )
    with in_mode(model, training=True):
        for rows in order[: len(data) // batch_size * batch_size].split(batch_size):
            model(data.inputs[rows])
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _measure(
    model: nn.Module, data: LabelledData, measuring: MeasuringConfig, seed: int
) -> LayerMeasurement:
    """The measures of the embedding."""
    (measured,) = measure(
        model,
        data,
        estimator=measuring.estimator,
        n_probes=measuring.n_probes,
        max_samples=measuring.max_samples,
        batch_size=measuring.evaluation_batch_size,
        seed=seed,
    ).layers
    if measured.geometric_complexity.interrupted:  # a Ctrl-C: a history has no half records
        raise KeyboardInterrupt
    return measured


def _recorded(measured: LayerMeasurement, measuring: MeasuringConfig) -> MeasurementDict:
    """The measures as a record has them."""
    values = measured.to_dict()
    if not measuring.per_class:
        values["geometric_complexity_per_class"] = {}
        values["poincare_ratio"]["per_class"] = {}
    return values


def _batches(data: LabelledData, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(data.inputs.split(batch_size), data.targets.split(batch_size), strict=True))
