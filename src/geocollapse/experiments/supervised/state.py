"""A run in memory: its data, model and optimiser, where it stands, and how that is kept for
resuming.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geocollapse import data as datasets
from geocollapse import models
from geocollapse.data import LabelledData
from geocollapse.regularizers.complexity import GeometricComplexityPenalty

if TYPE_CHECKING:
    from pathlib import Path

    from geocollapse.experiments.recipe import DataConfig, RunConfig, TrainingConfig
    from geocollapse.experiments.results.folders import RunFolder


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: updates made.
        stop_step: step at which training accuracy was first seen at the level of the stopping rule.
        seconds: spent on the run, over all its resumptions.
        seconds_measuring: of these, spent on records.
    """

    step: int = 0
    stop_step: int | None = None
    seconds: float = 0.0
    seconds_measuring: float = 0.0

    def last_step(self, training: TrainingConfig) -> int:
        """The step at which training ends: as many again as it took to reach the accuracy, within
        the limit.
        """
        return (
            training.max_steps
            if self.stop_step is None
            else min(self._wanted(training), training.max_steps)
        )

    def is_converged(self, training: TrainingConfig) -> bool:
        """Whether the accuracy was reached and all further steps were made, before the limit."""
        return self.stop_step is not None and self.step >= self._wanted(training)

    def _wanted(self, training: TrainingConfig) -> int:
        stop = self.stop_step or 0
        return stop + math.ceil(training.extra_factor * stop)


@dataclass
class Training:
    """A run in memory: what is trained, on what, and how far it is."""

    config: RunConfig
    source: LabelledData
    target: LabelledData | None
    model: nn.Module
    optimizer: torch.optim.SGD
    penalty: GeometricComplexityPenalty | None
    progress: Progress = field(default_factory=Progress)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training data; the last partial one is dropped."""
        return len(self.source) // self.config.training.batch_size


def prepare(
    config: RunConfig, *, device: torch.device | str = "cpu", data_root: str | Path | None = None
) -> Training:
    """Data, freshly initialised model and optimiser of a run; torch's random state is as before
    afterwards.
    """
    source, target = load_run_data(config.data, device=device, data_root=data_root)
    settings = config.training
    if settings.batch_size > len(source):
        raise ValueError(
            f"batch_size: expected at most the {len(source)} training examples, got "
            f"{settings.batch_size}; "
            f"do batch_size={len(source)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = models.build(
            config.model.name,
            num_classes=source.n_classes,
            input_shape=source.inputs.shape[1:],
            **config.model.args,
        )
    model = model.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    return Training(config, source, target, model, optimizer, _penalty(config))


def load_run_data(
    config: DataConfig, *, device: torch.device | str = "cpu", data_root: str | Path | None = None
) -> tuple[LabelledData, LabelledData | None]:
    """Source classes to train on, and target classes (None if the run has none), as tensors on
    ``device``.

    The subsets are the same for every seed: seeds differ in initial weights and in the order of the
    examples.
    """
    shared: dict[str, Any] = {
        "data_root": data_root,
        "mean": config.mean,
        "std": config.std,
        "pad_to": config.pad_to,
    }
    source = datasets.load(
        config.name,
        split=config.source_split,
        default_split="train",
        classes=config.source_classes,
        subset=config.subset,
        **shared,
    )
    if not config.has_target:
        return _in_memory(source).to(device), None
    target = datasets.load(
        config.name,
        split=config.target_split,
        default_split="test",
        classes=config.source_classes if config.target_classes is None else config.target_classes,
        subset=config.target_subset,
        **shared,
    )
    return _in_memory(source).to(device), _in_memory(target).to(device)


def save(training: Training, folder: RunFolder) -> None:
    """Everything that the next step depends on: weights, momentum, where the run stands."""
    momentum = {
        name: buffer
        for name, parameter in training.model.named_parameters()
        if (buffer := training.optimizer.state[parameter].get("momentum_buffer")) is not None
    }
    penalty_step = 0 if training.penalty is None else int(training.penalty.step)
    info = asdict(training.progress) | {"penalty_step": penalty_step}
    folder.save_checkpoint(training.model.state_dict(), momentum, info)


def resume(training: Training, folder: RunFolder) -> dict[str, Any] | None:
    """Go back to the last checkpoint and to the line recorded with it; None: from the start, with
    no history.
    """
    found = folder.load_checkpoint()
    if found is None:
        folder.cut_history(-1)
        return None
    weights, momentum, info = found
    training.model.load_state_dict(weights)
    for name, parameter in training.model.named_parameters():
        if name in momentum:
            training.optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(
                parameter.device
            )
    penalty_step = info.pop("penalty_step")
    if training.penalty is not None:
        training.penalty.step.fill_(penalty_step)
    training.progress = Progress(**info)
    return folder.cut_history(training.progress.step)[-1]


def _penalty(config: RunConfig) -> GeometricComplexityPenalty | None:
    penalty = config.training.gc_penalty
    if penalty.weight == 0.0:
        return None
    return GeometricComplexityPenalty(
        penalty.weight,
        n_probes=penalty.n_probes,
        batch_fraction=penalty.batch_fraction,
        every=penalty.every,
        batch_norm=penalty.batch_norm,
        seed=config.seed,
    )


def _in_memory(data: Any) -> LabelledData:
    if isinstance(data, datasets.LabelledTexts):
        raise ValueError(
            f"data.name: expected images to train on, got the texts of {data.name}; do "
            f"data.name=cifar10"
        )
    return data if isinstance(data, LabelledData) else data.in_memory()
