"""One run: SGD until the stopping rule says so, recorded on a schedule, resumed exactly where it was killed.

Everything random is a function of (seed, epoch) or (seed, step), never of a generator's history, so that a run needs
no random state to resume: initial weights, order of the examples, augmentation, probes.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geocollapse import data as datasets
from geocollapse import models
from geocollapse.data import LabelledData
from geocollapse.estimate import strict_json
from geocollapse.experiments.recording import (
    evaluate,
    has_batch_norm,
    measure_record,
    recalibrate_batch_norm,
    study_sampling,
)
from geocollapse.provenance import provenance
from geocollapse.regularizers import GeometricComplexityPenalty

if TYPE_CHECKING:
    from pathlib import Path

    from geocollapse.experiments.recipe import DataConfig, RunConfig, TrainingConfig
    from geocollapse.experiments.runs import RunFolder

OnProgress = Callable[[int, int], None]  # (steps taken, steps to take as far as is known)


class NonFiniteLossError(RuntimeError):
    """The training loss is no longer a number: the run has failed at ``step``."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(
            f"training loss: expected a finite number, got {loss} at step {step}; do lower the learning rate"
        )
        self.step = step


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
        """The step at which training ends: as many again as it took to reach the accuracy, within the limit."""
        return training.max_steps if self.stop_step is None else min(self._wanted(training), training.max_steps)

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


def train_run(
    config: RunConfig,
    folder: RunFolder,
    *,
    device: torch.device | str = "cpu",
    data_root: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Train one run to its end, from its last checkpoint if there is one, and write its result.

    Training stops when training accuracy (evaluation mode, all training examples; looked at whenever the run is
    recorded and at the end of each epoch) has reached ``stop_accuracy`` and ``extra_factor`` times as many steps again
    are done, or at ``max_steps``: then the run has not converged. On one device with one thread count, a run that was
    killed and resumed ends bit for bit like one that was not. A run that is done is not done again.

    Source: definitions 8, last row of the table.

    Args:
        config: the resolved configuration of the run.
        folder: where it is written.
        device: where the data and the model lie.
        data_root: folder of the data sets.
        on_progress: called with (steps taken, steps to take as far as is known).

    Returns:
        The content of result.json. A run whose loss is no longer finite has the status ``failed`` and ``failed_step``.

    Raises:
        ValueError, FileNotFoundError: data or model that cannot be had, a batch larger than the training data.
    """
    result = folder.result()
    if result is not None and result["status"] == "done":
        return result
    folder.write_config(config)
    training = prepare(config, device=device, data_root=data_root)
    try:
        final = _train(training, folder, on_progress)
    except NonFiniteLossError as error:
        result = failed_result(config, folder, error, step=error.step, device=device)
    else:
        result = _result(training, folder, final, device)
    folder.write_result(result)
    return result


def prepare(config: RunConfig, *, device: torch.device | str = "cpu", data_root: str | Path | None = None) -> Training:
    """Data, freshly initialised model and optimiser of a run; torch's random state is as before afterwards."""
    source, target = load_run_data(config.data, device=device, data_root=data_root)
    settings = config.training
    if settings.batch_size > len(source):
        raise ValueError(
            f"batch_size: expected at most the {len(source)} training examples, got {settings.batch_size}; "
            f"do batch_size={len(source)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = models.build(
            config.model.name, num_classes=source.n_classes, input_shape=source.inputs.shape[1:], **config.model.args
        )
    model = model.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    return Training(config, source, target, model, optimizer, _penalty(config))


def load_run_data(
    config: DataConfig, *, device: torch.device | str = "cpu", data_root: str | Path | None = None
) -> tuple[LabelledData, LabelledData | None]:
    """Source classes to train on, and target classes (None if the run has none), as tensors on ``device``.

    The subsets are the same for every seed: seeds differ in initial weights and in the order of the examples.
    """
    shared: dict[str, Any] = {"data_root": data_root, "mean": config.mean, "std": config.std, "pad_to": config.pad_to}
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


def _train(training: Training, folder: RunFolder, on_progress: OnProgress | None) -> dict[str, Any]:
    """The loop: steps, records, the stopping rule; returns the final record."""
    line = _resume(training, folder) or _record(training, folder)
    progress, settings, recorded = training.progress, training.config.training, record_steps(training.config)
    while progress.step < progress.last_step(settings):
        started = time.perf_counter()
        take_step(training)
        progress.seconds += time.perf_counter() - started
        if progress.step in recorded:
            line = _record(training, folder)
        elif progress.step % training.steps_per_epoch == 0:
            _look_at_accuracy(training)
        else:
            continue
        if on_progress is not None:
            on_progress(progress.step, progress.last_step(settings))
    if line["step"] != progress.step:
        line = _record(training, folder)
    return _final_record(training, folder, line)


def take_step(training: Training) -> None:
    """One update: loss = cross-entropy + weight * GC, on the next batch."""
    settings, progress = training.config.training, training.progress
    x, y = _next_batch(training)
    training.model.train()
    if training.penalty is None:
        logits, penalty = training.model(x), 0.0
    else:
        logits, penalty = training.penalty(training.model, x)
    loss = F.cross_entropy(logits, y, label_smoothing=settings.label_smoothing) + penalty
    if not math.isfinite(value := float(loss.detach())):
        raise NonFiniteLossError(progress.step, value)
    for group in training.optimizer.param_groups:
        group["lr"] = learning_rate(progress.step, settings)
    training.optimizer.zero_grad()
    loss.backward()
    training.optimizer.step()
    progress.step += 1


def _next_batch(training: Training) -> tuple[Tensor, Tensor]:
    """The batch of the current step: its place in the epoch's permutation, augmented."""
    config, step, size = training.config, training.progress.step, training.config.training.batch_size
    epoch, place = divmod(step, training.steps_per_epoch)
    order = torch.randperm(len(training.source), generator=generator(config.seed, "order", epoch))
    rows = order[place * size : (place + 1) * size].to(training.source.inputs.device)
    x, y = training.source.inputs[rows], training.source.targets[rows]
    if config.data.augmentation == "crop_flip":
        x = datasets.crop_and_flip(x, generator(config.seed, "augmentation", step))
    return x, y


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """A generator on the CPU that is a function of (seed, purpose, number)."""
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def learning_rate(step: int, settings: TrainingConfig) -> float:
    """The rate of the update that follows ``step`` updates.

    constant: eta;  cosine: eta/2 (1 + cos(pi step/max_steps));  step: eta times 0.1 for each milestone passed.
    """
    if settings.schedule == "cosine":
        return 0.5 * settings.learning_rate * (1.0 + math.cos(math.pi * step / settings.max_steps))
    if settings.schedule == "step":
        return settings.learning_rate * 0.1 ** sum(step >= milestone for milestone in settings.milestones)
    return settings.learning_rate


def record_steps(config: RunConfig) -> frozenset[int]:
    """Steps at which the recipe asks for a record; the first and the last step are recorded besides.

    ``every``: n, 2n, ...;  ``points``: so many from 1 to max_steps, in a geometric series.
    """
    measuring, last = config.measuring, config.training.max_steps
    if measuring.every is not None:
        return frozenset(range(measuring.every, last + 1, measuring.every))
    n = measuring.points or 1
    return frozenset(round(last ** (i / (n - 1))) if n > 1 else last for i in range(n))


def _look_at_accuracy(training: Training) -> None:
    """The stopping rule at the end of an epoch: one forward pass over the training data."""
    started = time.perf_counter()
    accuracy = evaluate(training.model, training.source, batch_size=training.config.measuring.evaluation_batch_size)
    _notice(training, accuracy)
    training.progress.seconds += time.perf_counter() - started


def _notice(training: Training, accuracy: float) -> None:
    progress = training.progress
    if progress.step and progress.stop_step is None and accuracy >= training.config.training.stop_accuracy:
        progress.stop_step = progress.step


def _record(training: Training, folder: RunFolder) -> dict[str, Any]:
    """Measure, append a line to the history and save a checkpoint."""
    line = _measured(training, recalibrated=False)
    _notice(training, line["train_accuracy"])
    folder.append_history(line)
    _save(training, folder)
    if training.config.keep_checkpoints == "schedule":
        folder.keep_checkpoint(training.progress.step, training.model.state_dict())
    return line


def _final_record(training: Training, folder: RunFolder, line: dict[str, Any]) -> dict[str, Any]:
    """The record of the end, with batch-norm statistics estimated anew where there are any."""
    settings = training.config.training
    if not (settings.recalibrate_batch_norm and has_batch_norm(training.model)):
        return line
    recalibrate_batch_norm(training.model, training.source, batch_size=settings.batch_size)
    final = _measured(training, recalibrated=True)
    _save(training, folder)
    return final


def _measured(training: Training, *, recalibrated: bool) -> dict[str, Any]:
    """One line of the history, timed."""
    started, progress = time.perf_counter(), training.progress
    values = measure_record(training.model, training.source, training.target, training.config)
    if not math.isfinite(values["train_loss"]):
        raise NonFiniteLossError(progress.step, values["train_loss"])
    seconds = time.perf_counter() - started
    progress.seconds += seconds
    progress.seconds_measuring += seconds
    line = {
        "step": progress.step,
        "epoch": progress.step / training.steps_per_epoch,
        "examples_seen": progress.step * training.config.training.batch_size,
        "seconds": progress.seconds,
        "seconds_measuring": progress.seconds_measuring,
        "batch_norm_recalibrated": recalibrated,
    }
    return dict(strict_json(line | values))


def _save(training: Training, folder: RunFolder) -> None:
    """Everything that the next step depends on: weights, momentum, where the run stands."""
    momentum = {
        name: buffer
        for name, parameter in training.model.named_parameters()
        if (buffer := training.optimizer.state[parameter].get("momentum_buffer")) is not None
    }
    penalty_step = 0 if training.penalty is None else int(training.penalty.step)
    info = asdict(training.progress) | {"penalty_step": penalty_step}
    folder.save_checkpoint(training.model.state_dict(), momentum, info)


def _resume(training: Training, folder: RunFolder) -> dict[str, Any] | None:
    """Go back to the last checkpoint and to the line recorded with it; None: from the start, with no history."""
    found = folder.load_checkpoint()
    if found is None:
        folder.cut_history(-1)
        return None
    weights, momentum, info = found
    training.model.load_state_dict(weights)
    for name, parameter in training.model.named_parameters():
        if name in momentum:
            training.optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(parameter.device)
    penalty_step = info.pop("penalty_step")
    if training.penalty is not None:
        training.penalty.step.fill_(penalty_step)
    training.progress = Progress(**info)
    return folder.cut_history(training.progress.step)[-1]


def _result(training: Training, folder: RunFolder, final: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    progress, config = training.progress, training.config
    return dict(
        strict_json(
            {
                "run_id": folder.run_id,
                "status": "done",
                "converged": progress.is_converged(config.training),
                "stop_step": progress.stop_step,
                "steps": progress.step,
                "error": None,
                "failed_step": None,
                "seconds": progress.seconds,
                "final": final,
                "sampling": study_sampling(training.model, training.source, config),
                "provenance": provenance(seed=config.seed, device=device),
            }
        )
    )


def failed_result(
    config: RunConfig,
    folder: RunFolder,
    error: BaseException,
    *,
    step: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """The content of result.json of a run that ended with ``error``."""
    return {
        "run_id": folder.run_id,
        "status": "failed",
        "converged": False,
        "stop_step": None,
        "steps": step,
        "error": str(error) or type(error).__name__,
        "failed_step": step,
        "seconds": None,
        "final": None,
        "sampling": {},
        "provenance": provenance(seed=config.seed, device=device),
    }


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
    return data if isinstance(data, LabelledData) else data.in_memory()
