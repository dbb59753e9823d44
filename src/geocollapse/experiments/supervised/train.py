"""One run: trained until the stopping rule ends it, recorded on a schedule, resumed exactly.

Everything random (initial weights, order of the examples, augmentation, noise on the inputs,
probes) is a function of (seed, epoch) or (seed, step), never of a generator's history. So a run
needs no random state to resume.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from geocollapse import data as datasets
from geocollapse.estimate import strict_json
from geocollapse.experiments.recipe import run_id
from geocollapse.experiments.results.ending import failed_result
from geocollapse.experiments.results.versions import VERSIONS
from geocollapse.experiments.supervised.dynamics import dynamics_record
from geocollapse.experiments.supervised.losses import NonFiniteLossError
from geocollapse.experiments.supervised.margin_record import margin_records
from geocollapse.experiments.supervised.objective import objective_of
from geocollapse.experiments.supervised.optimizers import OWN_RATE, descend
from geocollapse.experiments.supervised.order_effect import order_records
from geocollapse.experiments.supervised.recording import (
    HeldOut,
    has_batch_norm,
    measure_record,
    measure_test,
    reaches,
    recalibrate_batch_norm,
)
from geocollapse.experiments.supervised.regularising import with_noise
from geocollapse.experiments.supervised.sampling import study_sampling, study_seed
from geocollapse.experiments.supervised.state import Training, prepare, resume, save
from geocollapse.optimizers import NonFiniteGradientError
from geocollapse.runtime.provenance import provenance

if TYPE_CHECKING:
    from pathlib import Path

    from geocollapse.experiments.recipe import MeasuringConfig, RunConfig, TrainingConfig
    from geocollapse.experiments.results.folders import RunFolder
    from geocollapse.experiments.results.records import HistoryLine, Measured, RunResult

OnProgress = Callable[[int, int], None]  # (steps taken, steps to take as far as is known)


def train_run(
    config: RunConfig,
    folder: RunFolder,
    *,
    device: torch.device | str = "cpu",
    data_root: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> RunResult:
    """Train one run to its end, from its last checkpoint if there is one, and write its result.

    Training stops when training accuracy (evaluation mode, all training examples; checked at every
    record and at the end of each epoch) has reached ``stop_accuracy`` and ``extra_factor`` times as
    many further steps are done. A run that reaches ``max_steps`` before that has not converged, nor
    has one that ends below ``stop_accuracy``. On one device with one thread count, a run that was
    killed and resumed ends bit for bit like one that was not. A run that is done is not done again.

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
            training data, files of a newer version.
        InUseError: another process works on this run.
    """

    def work() -> RunResult:
        training = prepare(config, device=device, data_root=data_root)
        try:
            final = _train(training, folder, on_progress)
        except NonFiniteLossError as error:
            own = run_id(config)
            return failed_result(own, error, step=error.step, seed=config.seed, device=device)
        return _result(training, folder, final, device)

    return folder.carried_out(config, work)


def _train(training: Training, folder: RunFolder, on_progress: OnProgress | None) -> HistoryLine:
    """The loop: steps, records, the stopping rule; returns the final record."""
    line = resume(training, folder) or _record(training, folder)
    progress = training.progress
    settings = training.config.training
    recorded = record_steps(training.config.measuring, settings.max_steps)
    while progress.step < progress.last_step(settings):
        started = time.perf_counter()
        _step_of_run(training, recorded)
        progress.seconds += time.perf_counter() - started
        is_epoch_end = progress.step % training.steps_per_epoch == 0
        if is_epoch_end and progress.stop_step is None and _needs_check(training, recorded):
            _check_accuracy(training)
        if progress.step in recorded:
            line = _record(training, folder)
        elif not is_epoch_end:
            continue
        if on_progress is not None:
            on_progress(progress.step, progress.last_step(settings))
    if line["step"] != progress.step:
        line = _record(training, folder)
    return _final_record(training, folder, line)


def _needs_check(training: Training, recorded: frozenset[int]) -> bool:
    """False where a record of all examples says if the accuracy is reached."""
    is_recorded = training.progress.step in recorded
    return not is_recorded or training.recorded_data()[0] is not training.source


def _step_of_run(training: Training, recorded: frozenset[int]) -> None:
    """One update; then a look at the losses if the device has to be waited for anyway.

    Raises:
        NonFiniteLossError: also where the update fails in another way, since a network that has
            diverged may do so.
    """
    step = training.progress.step
    try:
        take_step(training)
    except NonFiniteGradientError as error:
        training.losses.look()
        raise NonFiniteLossError(step, math.inf, of="gradient norm") from error
    except (ValueError, RuntimeError):
        training.losses.look()
        raise
    step = training.progress.step
    if training.is_at_its_end or step in recorded or step % training.steps_per_epoch == 0:
        training.losses.look()


def take_step(training: Training) -> None:
    """One update on the next batch, down `objective_of`.

    Nothing in it waits for the device, except in optimizers that choose their rate.
    """
    step = training.progress.step
    x, y = _next_batch(training)
    settings = training.config.training
    if settings.optimizer not in OWN_RATE:
        for group in training.optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)

    def objective() -> Tensor:
        loss = objective_of(training, x, y)
        training.losses.add(step, loss)
        return loss

    if not training.model.training:
        training.model.train()
    descend(training.optimizer, objective)
    training.progress.step += 1


def _next_batch(training: Training) -> tuple[Tensor, Tensor]:
    """The batch of the current step: its place in the epoch's permutation, augmented."""
    config = training.config
    step = training.progress.step
    size = config.training.batch_size
    epoch, place = divmod(step, training.steps_per_epoch)
    device = training.source.inputs.device
    order = epoch_order(len(training.source), config.seed, epoch, device)
    rows = order[place * size : (place + 1) * size]
    x = training.source.inputs[rows]
    if config.data.augmentation == "crop_flip":
        x = datasets.crop_and_flip(x, generator(config.seed, "augmentation", step))
    if config.training.input_noise > 0.0:
        noise = generator(config.seed, "input noise", step)
        x = with_noise(x, config.training.input_noise, noise)
    return x, training.source.targets[rows]


@lru_cache(maxsize=1)
def epoch_order(n_examples: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """The permutation (n_examples,) of an epoch, drawn on the CPU and sent to the device once."""
    return torch.randperm(n_examples, generator=generator(seed, "order", epoch)).to(device)


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """A generator on the CPU that is a function of (seed, purpose, number)."""
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def learning_rate(step: int, settings: TrainingConfig) -> float:
    """The learning rate eta_t of the update that follows ``step`` updates.

    constant:  eta_t = eta
    cosine:    eta_t = eta/2 (1 + cos(pi step/max_steps))
    step:      eta_t = eta 0.1^(number of milestones passed)
    """
    if settings.schedule == "cosine":
        return 0.5 * settings.learning_rate * (1.0 + math.cos(math.pi * step / settings.max_steps))
    if settings.schedule == "step":
        return settings.learning_rate * 0.1 ** sum(
            step >= milestone for milestone in settings.milestones
        )
    return settings.learning_rate


def record_steps(measuring: MeasuringConfig, max_steps: int) -> frozenset[int]:
    """Steps at which the recipe asks for a record, besides the first and the last step.

    ``every``: n, 2n, ...; ``points``: that many from ``first`` to max_steps, in a geometric series.
    """
    if measuring.every is not None:
        return frozenset(range(measuring.every, max_steps + 1, measuring.every))
    n = measuring.points or 1
    if n == 1:
        return frozenset({max_steps})
    first = min(measuring.first, max_steps)
    ratio = max_steps / first
    return frozenset(round(first * ratio ** (i / (n - 1))) for i in range(n))


def _check_accuracy(training: Training) -> None:
    """The stopping rule at the end of an epoch: at most one pass over the training data."""
    started = time.perf_counter()
    is_reached = reaches(
        training.model,
        training.source,
        training.config.training.stop_accuracy,
        batch_size=training.config.measuring.evaluation_batch_size,
    )
    _note_accuracy(training, is_reached=is_reached)
    training.progress.seconds += time.perf_counter() - started


def _note_accuracy(training: Training, *, is_reached: bool) -> None:
    """Remember the first step, but the start, at which the accuracy was reached."""
    progress = training.progress
    if progress.step and progress.stop_step is None and is_reached:
        progress.stop_step = progress.step


def _record(training: Training, folder: RunFolder) -> HistoryLine:
    """Measure, append a line to the history and save a checkpoint.

    What is kept is written before the checkpoint: a run that is killed in between does it again.
    """
    line = _measured(training, recalibrated=False)
    if training.recorded_data()[0] is training.source:
        is_reached = line["train_accuracy"] >= training.config.training.stop_accuracy
        _note_accuracy(training, is_reached=is_reached)
    folder.append_history(line)
    if training.config.keep_checkpoints == "schedule":
        weights = training.model.state_dict()
        folder.keep_checkpoint(training.progress.step, weights, run_id(training.config))
    save(training, folder)
    return line


def _final_record(training: Training, folder: RunFolder, line: HistoryLine) -> HistoryLine:
    """The record of the end, with batch-norm statistics estimated anew where there are any."""
    settings = training.config.training
    if not (settings.recalibrate_batch_norm and has_batch_norm(training.model)):
        return line
    started = time.perf_counter()
    recalibrate_batch_norm(training.model, training.source, batch_size=settings.batch_size)
    training.progress.measured(time.perf_counter() - started, is_final=True)
    final = _measured(training, recalibrated=True)
    save(training, folder)
    return final


def _measured(training: Training, *, recalibrated: bool) -> HistoryLine:
    """One line of the history, timed."""
    progress = training.progress
    started = time.perf_counter()
    is_final = training.is_at_its_end
    values = measured_values(training)
    if not math.isfinite(values["train_loss"]):
        raise NonFiniteLossError(progress.step, values["train_loss"])
    progress.measured(time.perf_counter() - started, is_final=is_final)
    line: HistoryLine = {
        "schema_version": VERSIONS["history.jsonl"],
        "step": progress.step,
        "epoch": progress.step / training.steps_per_epoch,
        "examples_seen": progress.step * training.config.training.batch_size,
        "seconds": progress.seconds,
        "seconds_measuring": progress.seconds_measuring,
        "batch_norm_recalibrated": recalibrated,
        **values,
    }
    return cast("HistoryLine", strict_json(line))


def measured_values(training: Training) -> Measured:
    """Everything that the recipe has measured at a record."""
    config = training.config
    values = measure_record(training.model, *training.recorded_data(), config)
    if not math.isfinite(values["train_loss"]):
        return values
    test = _test_outputs(training)
    if test is not None:
        values |= measure_test(test, config)
    if config.measuring.dynamics is not None:
        values["dynamics"] = dynamics_record(training, config.measuring.dynamics, _rate(training))
    values |= order_records(training)
    source = training.recorded_data()[0]
    return values | margin_records(training.model, source, test, config)


def _test_outputs(training: Training) -> HeldOut | None:
    """The logits of the test examples, from one pass; None where the run has no test split."""
    if training.test is None:
        return None
    size = training.config.measuring.evaluation_batch_size
    return HeldOut.of(training.model, training.test, batch_size=size)


def _rate(training: Training) -> float | None:
    """The rate of the next step, or of the last one where the optimizer chooses it; None for 0."""
    settings = training.config.training
    rate: float = (
        training.optimizer.param_groups[0]["lr"]
        if settings.optimizer in OWN_RATE
        else learning_rate(training.progress.step, settings)
    )
    return rate if rate > 0.0 else None


def _result(
    training: Training, folder: RunFolder, final: HistoryLine, device: torch.device | str
) -> RunResult:
    progress = training.progress
    config = training.config
    started = time.perf_counter()
    sampling = study_sampling(
        training.model, training.source, config.measuring, seed=study_seed(config)
    )
    result: RunResult = {
        "schema_version": VERSIONS["result.json"],
        "run_id": run_id(config),
        "status": "done",
        "converged": progress.is_converged(config.training, final["train_accuracy"]),
        "stop_step": progress.stop_step,
        "steps": progress.step,
        "error": None,
        "failed_step": None,
        "seconds": progress.seconds,
        "seconds_training": progress.seconds - progress.seconds_measuring,
        "seconds_history": progress.seconds_measuring - progress.seconds_final,
        "seconds_final": progress.seconds_final,
        "seconds_sampling": time.perf_counter() - started,
        "final": final,
        "history_sha256": folder.history_digest(),
        "sampling": sampling,
        "provenance": provenance(seed=config.seed, device=device),
    }
    return cast("RunResult", strict_json(result))
