"""The cost of a sweep on this machine, estimated from a few steps and one record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from geocollapse.experiments.recipe import Recipe, RunConfig
from geocollapse.experiments.supervised.state import prepare
from geocollapse.experiments.supervised.train import measured_values, record_steps, take_step
from geocollapse.experiments.sweep import n_workers_of

_SLOW_RECORD = 5.0  # seconds
_SLOW_STEPS = 20.0  # seconds after which no further step is timed
_TIMED_STEPS = 20  # steps behind the estimate of a run's cost


@dataclass(frozen=True)
class Cost:
    """An upper estimate of what a sweep costs on this machine: every run up to ``max_steps``.

    Attributes:
        n_runs: runs that the recipe plans.
        workers: processes that share them.
        seconds_per_step: one update of the base setting.
        seconds_per_record: one record of it.
        seconds_per_run: the base setting up to ``max_steps``, with its records.
        seconds: all runs, each at the base setting's cost.
    """

    n_runs: int
    workers: int
    seconds_per_step: float
    seconds_per_record: float
    seconds_per_run: float
    seconds: float


def estimate_cost(
    recipe: Recipe,
    *,
    workers: int | None = None,
    n_seeds: int | None = None,
    device: str = "cpu",
    data_root: str | Path | None = None,
) -> Cost:
    """Time a few steps and one record of the base setting, and estimate the cost of the sweep.

    The base setting is timed alone on its threads. Most runs stop before ``max_steps``, so the
    estimate is an upper one for settings of about its batch size.
    """
    config = recipe.run_config()
    n_runs = len(recipe.planned_runs(n_seeds))
    n_workers = min(n_workers_of(workers, recipe.threads), n_runs)
    with _threads(recipe.threads):
        step, record = _timed(config, device, data_root)
    n_records = len(record_steps(config.measuring, config.training.max_steps)) + 2
    per_run = step * config.training.max_steps + record * n_records
    rounds = -(-n_runs // n_workers)
    return Cost(n_runs, n_workers, step, record, per_run, per_run * rounds)


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(config: RunConfig, device: str, data_root: str | Path | None) -> tuple[float, float]:
    """Seconds of one step and of one record; the first of either does not count, unless slow."""
    training = prepare(config, device=device, data_root=data_root)
    take_step(training)
    training.losses.look()
    n_steps = 0
    started = time.perf_counter()
    while n_steps < min(_TIMED_STEPS, config.training.max_steps):
        take_step(training)
        n_steps += 1
        if time.perf_counter() - started > _SLOW_STEPS:
            break
    training.losses.look()  # waits for the device
    step = (time.perf_counter() - started) / n_steps
    record = math.inf
    for _ in range(2):
        started = time.perf_counter()
        measured_values(training)
        record = min(record, time.perf_counter() - started)
        if record > _SLOW_RECORD:
            break
    return step, record
