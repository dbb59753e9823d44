"""The cost of a sweep on this machine, estimated from a few steps and one record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from geocollapse.experiments.kinds import kind_of
from geocollapse.experiments.recipe import Recipe
from geocollapse.experiments.sweep import n_workers_of


@dataclass(frozen=True)
class Cost:
    """An upper estimate of what a sweep costs on this machine: every run up to its last step.

    Attributes:
        n_runs: runs that the recipe plans.
        workers: processes that share them.
        seconds_per_step: one update of the base setting, or one turn of its game.
        seconds_per_record: one record of it.
        seconds_per_run: the base setting up to its last step, with its records.
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

    The base setting is timed alone on its threads. Most training runs stop before ``max_steps``, so
    the estimate is an upper one for settings of about its batch size. Cancelled terms of a game
    cost more than the base setting without them.
    """
    config = recipe.run_config()
    n_runs = len(recipe.planned_runs(n_seeds))
    n_workers = min(n_workers_of(workers, recipe.threads), n_runs)
    with _threads(recipe.threads):
        pace = kind_of(config).pace(config, device, data_root)
    rounds = -(-n_runs // n_workers)
    return Cost(
        n_runs,
        n_workers,
        pace.seconds_per_step,
        pace.seconds_per_record,
        pace.seconds,
        pace.seconds * rounds,
    )


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
