"""A run in memory: its data, model and optimizer, and how far it is; saved and resumed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geocollapse.data import LabelledData
from geocollapse.experiments.recipe import build_network, run_id
from geocollapse.experiments.results.convergence import keeps_accuracy
from geocollapse.experiments.supervised.losses import LossWatch
from geocollapse.experiments.supervised.margin_record import check_transfer_inequality
from geocollapse.experiments.supervised.optimizers import (
    build_optimizer,
    load_momentum,
    load_state,
    pack_state,
)
from geocollapse.experiments.supervised.regularising import (
    WeightPenalties,
    check_penalties,
    gc_penalty,
    gradient_penalty,
)
from geocollapse.experiments.supervised.run_data import (
    load_other_task,
    load_run_data,
    load_test_data,
)
from geocollapse.experiments.supervised.sampling import check_sampling
from geocollapse.models.architectures import scale_weights
from geocollapse.modules.borrow import borrowed
from geocollapse.regularizers import GeometricComplexityPenalty, GradientNorm
from geocollapse.transfer import few_shot_accuracy

if TYPE_CHECKING:
    from pathlib import Path

    from geocollapse.experiments.recipe import ModelConfig, RunConfig, TrainingConfig
    from geocollapse.experiments.results.checkpoints import Checkpoint
    from geocollapse.experiments.results.folders import RunFolder
    from geocollapse.experiments.results.records import HistoryLine, StateInfo


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: updates made.
        stop_step: step at which training accuracy was first seen at the level of the stopping rule.
        seconds: spent on the run, over all its resumptions.
        seconds_measuring: of these, spent on records.
        seconds_final: of these, spent on the records behind the last step.
    """

    step: int = 0
    stop_step: int | None = None
    seconds: float = 0.0
    seconds_measuring: float = 0.0
    seconds_final: float = 0.0

    def measured(self, seconds: float, *, is_final: bool) -> None:
        """Add the time of a record."""
        self.seconds += seconds
        self.seconds_measuring += seconds
        self.seconds_final += seconds if is_final else 0.0

    def last_step(self, training: TrainingConfig) -> int:
        """The step at which training ends, as far as is known: at most ``max_steps``."""
        if self.stop_step is None:
            return training.max_steps
        return min(self._wanted(training), training.max_steps)

    def is_converged(self, training: TrainingConfig, accuracy: float) -> bool:
        """True if the goal was reached, all further steps were made, and ``accuracy`` is at it.

        Args:
            training: with the goal, ``stop_accuracy``, and the further steps.
            accuracy: training accuracy at the end.
        """
        is_through = self.stop_step is not None and self.step >= self._wanted(training)
        return is_through and keeps_accuracy(accuracy, training.stop_accuracy)

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
    optimizer: torch.optim.Optimizer
    penalty: GeometricComplexityPenalty | None
    gradient_penalty: GradientNorm | None = None
    test: LabelledData | None = None
    weight_penalties: WeightPenalties = field(default_factory=WeightPenalties)
    other_task: LabelledData | None = None
    progress: Progress = field(default_factory=Progress)
    losses: LossWatch = field(default_factory=LossWatch)
    watched: tuple[LabelledData, LabelledData | None] | None = None

    @property
    def is_at_its_end(self) -> bool:
        """True if no step is left."""
        return self.progress.step >= self.progress.last_step(self.config.training)

    def recorded_data(self) -> tuple[LabelledData, LabelledData | None]:
        """The examples of a record now: those of the recipe's ``history_subset`` before the end."""
        size = self.config.measuring.history_subset
        if size is None or self.is_at_its_end:
            return self.source, self.target
        if self.watched is None:
            target = None if self.target is None else _at_most(self.target, size)
            self.watched = _at_most(self.source, size), target
        return self.watched

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training data; the last partial one is dropped."""
        return len(self.source) // self.config.training.batch_size


def prepare(
    config: RunConfig, *, device: torch.device | str = "cpu", data_root: str | Path | None = None
) -> Training:
    """Load the data of a run and build its model and optimizer; torch's random state is kept."""
    source, target = load_run_data(config.data, device=device, data_root=data_root)
    test = load_test_data(config.data, device=device, data_root=data_root)
    other = load_other_task(config, source, data_root=data_root)
    _check_episodes(config, target)
    _check_batch(config.training.batch_size, len(source))
    model = _model(config.model, source, seed=config.seed).to(device)
    if config.training.memory_format == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        source = _channels_last(source)
        target = None if target is None else _channels_last(target)
        test = None if test is None else _channels_last(test)
        other = None if other is None else _channels_last(other)
    return Training(
        config,
        source,
        target,
        model,
        build_optimizer(model, config.training),
        gc_penalty(config.training.gc_penalty, seed=config.seed),
        gradient_penalty(config.training.gradient_penalty, seed=config.seed),
        test,
        WeightPenalties.of(config.training, seed=config.seed),
        other,
    )


def check_run(config: RunConfig, *, data_root: str | Path | None = None) -> None:
    """Load the data of a run, which fetches them, and refuse what could not be trained or measured.

    Raises:
        ValueError, FileNotFoundError: data that cannot be had or have too few examples for the
            episodes, another task that does not fit the network, a batch larger than the data, a
            network that does not take the inputs or has not one output for each class, one that is
            not dense where the recipe asks for the transfer inequality, a sampling study of too
            few examples or too many outputs, or batch normalisation that a penalty refuses.
    """
    check_runs([config], data_root=data_root)


def check_runs(configs: Sequence[RunConfig], *, data_root: str | Path | None = None) -> None:
    """Check runs as `check_run` does; runs next to each other with the same data load them once."""
    for _, same in itertools.groupby(configs, key=lambda config: config.data):
        group = list(same)
        source, target = load_run_data(group[0].data, data_root=data_root)
        load_test_data(group[0].data, data_root=data_root)
        for config in group:
            load_other_task(config, source, data_root=data_root)
            _check_episodes(config, target)
            _check_batch(config.training.batch_size, len(source))
            model = _model(config.model, source, seed=config.seed)
            check_transfer_inequality(model, source, config.measuring)
            check_sampling(model, source, config.measuring)
            check_penalties(model, config.training)


def _check_batch(size: int, n_examples: int) -> None:
    if size > n_examples:
        raise ValueError(
            f"training.batch_size: expected at most the {n_examples} training examples, got "
            f"{size}; do training.batch_size={n_examples}"
        )


def _check_episodes(config: RunConfig, target: LabelledData | None) -> None:
    """Draw the largest episodes, on features of no content: it raises for too few examples."""
    if target is None:
        return
    episodes = config.transfer
    few_shot_accuracy(
        torch.arange(len(target), dtype=torch.float32)[:, None],
        target.targets.cpu(),
        n_way=episodes.n_way,
        k_shot=max(episodes.k_shots),
        n_query=episodes.n_query,
        n_episodes=2,
    )


def _at_most(data: LabelledData, size: int) -> LabelledData:
    """A balanced subset of ``size`` examples, or all."""
    return data if size >= len(data) else data.select(subset=size)


def _channels_last(data: LabelledData) -> LabelledData:
    """Images with the channels of a pixel side by side in memory.

    Raises:
        ValueError: the data are no images.
    """
    if data.inputs.ndim != 4:
        raise ValueError(
            f"training.memory_format: expected contiguous for inputs that are no images, got "
            f"channels_last for {tuple(data.inputs.shape[1:])}; do leave it out"
        )
    inputs = data.inputs.contiguous(memory_format=torch.channels_last)
    return LabelledData(inputs, data.targets, data.about)


def save(training: Training, folder: RunFolder) -> None:
    """Save everything that the next step depends on."""
    tensors, optimizer = pack_state(training.optimizer, training.model)
    progress = training.progress
    info: StateInfo = {
        "run_id": run_id(training.config),
        "step": progress.step,
        "stop_step": progress.stop_step,
        "seconds": progress.seconds,
        "seconds_measuring": progress.seconds_measuring,
        "seconds_final": progress.seconds_final,
        "penalty_step": 0 if training.penalty is None else int(training.penalty.step),
        "optimizer": optimizer,
    }
    tensors |= training.weight_penalties.tensors()
    folder.save_checkpoint(training.model.state_dict(), tensors, info)


def resume(training: Training, folder: RunFolder) -> HistoryLine | None:
    """Go back to the last checkpoint, if there is one, and cut the history there.

    A checkpoint that does not fit this model and optimizer is set aside.

    Returns:
        The line recorded at the checkpoint; None for a run that starts from scratch.
    """
    saved = folder.load_checkpoint(run_id(training.config))
    if saved is not None:
        try:
            _restore(training, saved)
        except ValueError as error:
            folder.drop_checkpoint(str(error))
            saved = None
    if saved is None:
        folder.cut_history(-1)
        return None
    return folder.cut_history(saved.info["step"])[-1]


def _restore(training: Training, saved: Checkpoint) -> None:
    """Take over a checkpoint, or raise a ValueError before anything has changed."""
    _check_weights(training.model, saved.weights)
    info = saved.info
    if "optimizer" in info:
        load_state(training.optimizer, training.model, saved.tensors, info["optimizer"])
    else:
        load_momentum(training.optimizer, training.model, saved.tensors)
    training.model.load_state_dict(saved.weights)
    training.weight_penalties.load(saved.tensors)
    if training.penalty is not None:
        training.penalty.step.fill_(info["penalty_step"])
    if training.gradient_penalty is not None:
        training.gradient_penalty.step.fill_(info["step"])  # one call a step
    training.progress = Progress(
        info["step"],
        info["stop_step"],
        info["seconds"],
        info["seconds_measuring"],
        info.get("seconds_final", 0.0),
    )


def _check_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    if own != found:
        differing = sorted(name for name in own | found if own.get(name) != found.get(name))
        raise ValueError(f"its weights do not fit the model in {differing[0]}")


def _model(config: ModelConfig, source: LabelledData, *, seed: int) -> nn.Module:
    """A network for the source classes, initialised from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_network(
            config, num_classes=source.n_classes, input_shape=source.inputs.shape[1:]
        )
        scale_weights(model, config.initial_scale)
        _check_outputs(model, config, source)
        return model


def _check_outputs(model: nn.Module, config: ModelConfig, source: LabelledData) -> None:
    """Refuse a network that does not take the inputs, or has not one output for each class."""
    key = "model.name" if config.factory is None else "model.factory"
    named = config.factory or config.name
    example = source.inputs[:1].cpu()
    try:
        with borrowed(model), torch.no_grad():
            output = model(example)
    except RuntimeError as error:
        raise ValueError(
            f"{key}: expected a network that takes inputs {tuple(example.shape[1:])}, got {named}, "
            f"which says: {str(error).splitlines()[0]}; do another network, or data.image_size"
        ) from None
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != (1, source.n_classes):
        raise ValueError(
            f"{key}: expected outputs (1, {source.n_classes}) for one example, one for "
            f"each class, got {shape} from {named}; do let it take num_classes"
        )
