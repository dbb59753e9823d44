"""What a run measures at a step: loss and its gradient, geometry of source and target classes,
few-shot accuracy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geocollapse.complexity import geometric_complexity
from geocollapse.data import LabelledData
from geocollapse.estimate import Estimate
from geocollapse.experiments.recipe import run_id
from geocollapse.features import FeatureMap, find_embedding
from geocollapse.features.borrow import borrowed
from geocollapse.features.mixing import is_batch_norm
from geocollapse.measurement import measure
from geocollapse.measures import OF_THE_CLASSIFIER
from geocollapse.transfer import transfer

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import MeasuringConfig, RunConfig, TransferConfig


def measure_record(
    model: nn.Module, source: LabelledData, target: LabelledData | None, config: RunConfig
) -> dict[str, Any]:
    """The measured values of one line of the history: loss, accuracy, flatness, ``source`` and
    ``target``.
    """
    measuring = config.measuring
    loss, accuracy, flatness = loss_and_flatness(
        model,
        source,
        batch_size=measuring.evaluation_batch_size,
        label_smoothing=config.training.label_smoothing,
    )
    values: dict[str, Any] = {
        "train_loss": loss,
        "train_accuracy": accuracy,
        "learning_path_flatness": flatness,
        "source": None,
        "target": None,
    }
    if torch.isfinite(torch.tensor(loss)):
        values["source"] = _measure(model, source, measuring, config.seed).to_dict()
        values["target"] = None if target is None else measure_target(model, target, config)
    return values


def loss_and_flatness(
    model: nn.Module, data: LabelledData, *, batch_size: int, label_smoothing: float = 0.0
) -> tuple[float, float, float]:
    """Mean cross-entropy L over the data, accuracy, and learning-path flatness, all in evaluation
    mode.

        flatness = ||grad_theta L||^2,  grad_theta L = sum over batches b of (n_b/n) grad_theta L_b

    L is the loss that is trained on (with its label smoothing), without penalty and weight decay.
    Invariant under the batch size, to rounding. Cost: one forward and one backward pass over the
    data; the gradient is summed in float64.

    Source: definitions 7.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    loss, hits, was_training = 0.0, 0, model.training
    model.eval()
    for x, y in _batches(data, batch_size):
        logits = model(x)
        total = F.cross_entropy(logits, y, reduction="sum", label_smoothing=label_smoothing)
        for gathered, gradient in zip(sums, torch.autograd.grad(total, parameters), strict=True):
            gathered += gradient
        loss += float(total.detach())
        hits += int((logits.argmax(dim=1) == y).sum())
    model.train(was_training)
    n = len(data)
    return loss / n, hits / n, sum(float(gradient.square().sum()) for gradient in sums) / n**2


@torch.no_grad()
def evaluate(model: nn.Module, data: LabelledData, *, batch_size: int) -> float:
    """Accuracy over the data in evaluation mode: one forward pass."""
    was_training = model.training
    model.eval()
    hits = sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in _batches(data, batch_size))
    model.train(was_training)
    return hits / len(data)


def measure_target(model: nn.Module, target: LabelledData, config: RunConfig) -> dict[str, Any]:
    """Geometry of the target classes in the source classes' embedding, with few-shot accuracy on
    top.

    What is said of the model's own classifier is null: it was made for other classes.
    """
    measured = _measure(model, target, config.measuring, config.seed)
    geometry = dict(measured.to_dict()) | dict.fromkeys(OF_THE_CLASSIFIER)
    few_shot = transfer(measured.features, measured.labels, **_episodes(config.transfer))
    return (
        geometry | few_shot | {"warnings": [*geometry["warnings"], *few_shot.get("warnings", [])]}
    )


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer keeps running statistics of its batches."""
    return any(is_batch_norm(module) for module in model.modules())


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, data: LabelledData, *, batch_size: int) -> None:
    """Estimate the running statistics anew: the mean of the batch statistics over all training
    examples.

    Independent of the statistics before. The last partial batch is dropped, as in training.
    """
    layers: list[Any] = [module for module in model.modules() if is_batch_norm(module)]
    momenta, was_training = [layer.momentum for layer in layers], model.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
    model.train()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).to(
        data.inputs.device
    )
    for rows in order[: len(data) // batch_size * batch_size].split(batch_size):
        model(data.inputs[rows])
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(was_training)


def study_sampling(model: nn.Module, data: LabelledData, config: RunConfig) -> dict[str, Any]:
    """Evidence for claim 5: repeated estimates of source GC from less, beside the full exact value.

    ``examples``: few examples, one random probe each; ``outputs``: few output coordinates of every
    example; ``probes``: few random probes of every example; ``entries``: a masked Jacobian of every
    example, with the share of its entries that is kept. The full value is exact, over the training
    examples or, where the recipe has ``max_samples``, over a class-balanced subset of so many.
    Cost: p vector-Jacobian products for each example, then those of the repeats.
    """
    study = config.measuring.sampling
    if study is None:
        return {}
    population = _population(data, config.measuring)
    batch_size = config.measuring.evaluation_batch_size
    ways: list[tuple[str, dict[str, Any]]] = [
        *(
            (f"examples {n}", {"estimator": "rademacher", "max_samples": n})
            for n in study.n_samples
        ),
        *((f"outputs {n}", {"estimator": "outputs", "n_probes": n}) for n in study.n_outputs),
        *((f"probes {n}", {"estimator": "rademacher", "n_probes": n}) for n in study.n_probes),
    ]
    first = int(
        run_id(config), 16
    )  # 48 bits of the configuration: two runs share neither examples nor probes
    seeds = [first + repeat for repeat in range(study.repeats)]
    with borrowed(model):
        f = FeatureMap(model, [find_embedding(model, population.inputs[:1]).layer])
        n_entries = f(population.inputs[:1]).shape[1] * population.inputs[0].numel()
        ways += [
            (
                f"entries {share:g}",
                {"estimator": "masked", "n_probes": max(2, round(share * n_entries))},
            )
            for share in study.kept_shares
        ]
        full = geometric_complexity(f, population, estimator="exact", batch_size=batch_size).value
        return {
            name: _repeated(f, population, full, seeds, batch_size=batch_size, **way)
            for name, way in ways
        }


def _repeated(
    f: FeatureMap, population: LabelledData, full: float, seeds: list[int], **way: Any
) -> dict[str, Any]:
    estimates = [geometric_complexity(f, population, seed=seed, **way) for seed in seeds]
    _check_whole(*estimates)
    return {
        "n_samples": estimates[0].n_samples,
        "n_probes": estimates[0].n_probes,
        "full": full,
        "estimates": [
            {"value": estimate.value, "ci95": list(estimate.interval())} for estimate in estimates
        ],
    }


def _population(data: LabelledData, measuring: MeasuringConfig) -> LabelledData:
    if measuring.max_samples is None or measuring.max_samples >= len(data):
        return data
    return data.select(subset=measuring.max_samples)


def _measure(model: nn.Module, data: LabelledData, measuring: MeasuringConfig, seed: int) -> Any:
    measured = measure(
        model,
        data,
        estimator=measuring.estimator,
        n_probes=measuring.n_probes,
        max_samples=measuring.max_samples,
        batch_size=measuring.evaluation_batch_size,
        seed=seed,
    )
    _check_whole(measured.geometric_complexity)
    return measured


def _check_whole(*estimates: Estimate) -> None:
    """Pass on a Ctrl-C that ended an estimate: a history has no lines of half a measurement."""
    if any(estimate.interrupted for estimate in estimates):
        raise KeyboardInterrupt


def _episodes(config: TransferConfig) -> dict[str, Any]:
    """The same episodes for every run, so that two models are compared on the same."""
    return {
        "n_way": config.n_way,
        "k_shots": config.k_shots,
        "n_query": config.n_query,
        "n_episodes": config.n_episodes,
        "seed": 0,
    }


def _batches(data: LabelledData, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(data.inputs.split(batch_size), data.targets.split(batch_size), strict=True))
