"""One run: SGD until the stopping rule says so, recorded on a schedule, resumed exactly where it
was killed.

Everything random is a function of (seed, epoch) or (seed, step), never of a generator's history, so
that a run needs no random state to resume: initial weights, order of the examples, augmentation,
probes.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from geocollapse import data as datasets
from geocollapse.estimate import strict_json
from geocollapse.experiments.supervised.recording import (
    evaluate,
    has_batch_norm,
    measure_record,
    recalibrate_batch_norm,
    study_sampling,
)
from geocollapse.experiments.supervised.state import Training, prepare, resume, save
from geocollapse.runtime.provenance import provenance

if TYPE_CHECKING:
    from pathlib import Path

    from geocollapse.experiments.recipe import RunConfig, TrainingConfig
    from geocollapse.experiments.results.folders import RunFolder

# their text says what to do
_SPEAKING = (ValueError, TypeError, RuntimeError, OSError, ImportError)

OnProgress = Callable[[int, int], None]  # (steps taken, steps to take as far as is known)


class NonFiniteLossError(RuntimeError):
    """The training loss is no longer a number: the run has failed at ``step``."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(
            f"training loss: expected a finite number, got {loss} at step {step}; do lower the "
            f"learning rate"
        )
        self.step = step


def train_run(
    config: RunConfig,
    folder: RunFolder,
    *,
    device: torch.device | str = "cpu",
    data_root: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Train one run to its end, from its last checkpoint if there is one, and write its result.

    Training stops when training accuracy (evaluation mode, all training examples; looked at
    whenever the run is recorded and at the end of each epoch) has reached ``stop_accuracy`` and
    ``extra_factor`` times as many steps again are done, or at ``max_steps``: then the run has not
    converged. On one device with one thread count, a run that was killed and resumed ends bit for
    bit like one that was not. A run that is done is not done again.

    Source: definitions 8, last row of the table.

    Args:
        config: the resolved configuration of the run.
        folder: where it is written.
        device: where the data and the model lie.
        data_root: folder of the data sets.
        on_progress: called with (steps taken, steps to take as far as is known).

    Returns:
        The content of result.json. A run whose loss is no longer finite has the status ``failed``
        and ``failed_step``.

    Raises:
        ValueError, FileNotFoundError: data or model that cannot be had, a batch larger than the
        training data.
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


def _train(training: Training, folder: RunFolder, on_progress: OnProgress | None) -> dict[str, Any]:
    """The loop: steps, records, the stopping rule; returns the final record."""
    line = resume(training, folder) or _record(training, folder)
    progress, settings, recorded = (
        training.progress,
        training.config.training,
        record_steps(training.config),
    )
    while progress.step < progress.last_step(settings):
        started = time.perf_counter()
        take_step(training)
        progress.seconds += time.perf_counter() - started
        if progress.step in recorded:
            line = _record(training, folder)
        elif progress.step % training.steps_per_epoch:
            continue
        elif progress.stop_step is None:
            _look_at_accuracy(training)
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
    config, step, size = (
        training.config,
        training.progress.step,
        training.config.training.batch_size,
    )
    epoch, place = divmod(step, training.steps_per_epoch)
    order = epoch_order(len(training.source), config.seed, epoch)
    rows = order[place * size : (place + 1) * size].to(training.source.inputs.device)
    x, y = training.source.inputs[rows], training.source.targets[rows]
    if config.data.augmentation == "crop_flip":
        x = datasets.crop_and_flip(x, generator(config.seed, "augmentation", step))
    return x, y


@lru_cache(maxsize=1)
def epoch_order(n_examples: int, seed: int, epoch: int) -> Tensor:
    """The permutation (n_examples,) of an epoch."""
    return torch.randperm(n_examples, generator=generator(seed, "order", epoch))


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """A generator on the CPU that is a function of (seed, purpose, number)."""
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def learning_rate(step: int, settings: TrainingConfig) -> float:
    """The rate of the update that follows ``step`` updates.

    constant: eta;  cosine: eta/2 (1 + cos(pi step/max_steps));
        step: eta times 0.1 for each milestone passed.
    """
    if settings.schedule == "cosine":
        return 0.5 * settings.learning_rate * (1.0 + math.cos(math.pi * step / settings.max_steps))
    if settings.schedule == "step":
        return settings.learning_rate * 0.1 ** sum(
            step >= milestone for milestone in settings.milestones
        )
    return settings.learning_rate


def record_steps(config: RunConfig) -> frozenset[int]:
    """Steps at which the recipe asks for a record; the first and the last step are recorded
    besides.

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
    accuracy = evaluate(
        training.model, training.source, batch_size=training.config.measuring.evaluation_batch_size
    )
    _notice(training, accuracy)
    training.progress.seconds += time.perf_counter() - started


def _notice(training: Training, accuracy: float) -> None:
    progress = training.progress
    if (
        progress.step
        and progress.stop_step is None
        and accuracy >= training.config.training.stop_accuracy
    ):
        progress.stop_step = progress.step


def _record(training: Training, folder: RunFolder) -> dict[str, Any]:
    """Measure, append a line to the history and save a checkpoint."""
    line = _measured(training, recalibrated=False)
    _notice(training, line["train_accuracy"])
    folder.append_history(line)
    save(training, folder)
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
    save(training, folder)
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


def _result(
    training: Training, folder: RunFolder, final: dict[str, Any], device: torch.device | str
) -> dict[str, Any]:
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
        "error": str(error) if isinstance(error, _SPEAKING) else f"{type(error).__name__}: {error}",
        "failed_step": step,
        "seconds": None,
        "final": None,
        "sampling": {},
        "provenance": provenance(seed=config.seed, device=device),
    }
