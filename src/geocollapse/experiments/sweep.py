"""All runs of a recipe on this machine; runs that are done are skipped."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geocollapse.experiments.engines.ending import signals_raised
from geocollapse.experiments.engines.local import Job, run_all
from geocollapse.experiments.kinds import kind_of
from geocollapse.experiments.recipe import AnyRunConfig, PlannedRun, Recipe
from geocollapse.experiments.results.folders import SweepFolder


@dataclass(frozen=True)
class SweepSummary:
    """The outcome of a sweep.

    Attributes:
        n_runs: runs that the recipe plans.
        n_done: of these, done now.
        n_skipped: done before.
        n_failed: ended without a final measurement.
        seconds: of this call.
        out: the sweep folder.
    """

    n_runs: int
    n_done: int
    n_skipped: int
    n_failed: int
    seconds: float
    out: Path


def run_sweep(
    recipe: Recipe,
    out: str | Path,
    *,
    workers: int | None = None,
    n_seeds: int | None = None,
    device: str = "cpu",
    data_root: str | Path | None = None,
    progress: bool = True,
) -> SweepSummary:
    """Carry out every run of a recipe that is not done yet.

    Each run has the recipe's number of threads on every machine; only how many run at a time
    depends on the machine. A run that fails is recorded as failed, the others go on, and a later
    call tries it again. An interrupted sweep goes on from the checkpoints of its runs; games start
    anew. SIGTERM and SIGHUP end the workers and raise SystemExit with 128 plus the number of the
    signal.

    Args:
        recipe: what is planned.
        out: the sweep folder.
        workers: processes at a time; cores // threads by default.
        n_seeds: seeds of each setting; as many as the recipe says by default.
        device: where each worker computes.
        data_root: folder of the data sets.
        progress: show a progress bar with the projected time on stderr.

    Raises:
        ValueError: ``workers`` below 1, a recipe whose settings are refused, or a sweep folder of
            another recipe or of a newer version of this package. A recipe may grow: more seeds,
            sweeps and values.
        FileNotFoundError: data that cannot be had.
        InUseError: another sweep works in ``out``.
        RuntimeError: worker processes cannot be started from the calling script.
        KeyboardInterrupt: after the workers have ended; their checkpoints are kept.
    """
    started = time.perf_counter()
    planned = recipe.planned_runs(n_seeds)
    folder = SweepFolder(Path(out))
    most = n_workers_of(workers, recipe.threads)
    # Data are fetched once; what cannot be had ends the sweep here, and nothing is written.
    base = recipe.run_config()
    kind_of(base).check(_to_check(base, planned), data_root=data_root)
    with signals_raised(), folder.held():
        folder.write_recipe(recipe, planned)
        left = [run for run in planned if not _is_done(folder, run)]
        n_workers = min(most, max(1, len(left)))
        root = None if data_root is None else str(data_root)
        jobs = [Job(run, folder.path, device, root) for run in left]
        n_skipped = len(planned) - len(left)
        statuses = run_all(jobs, n_workers, recipe.threads, n_skipped, progress=progress)
    n_done = statuses.count("done")
    return SweepSummary(
        n_runs=len(planned),
        n_done=n_done,
        n_skipped=n_skipped,
        n_failed=len(statuses) - n_done,
        seconds=time.perf_counter() - started,
        out=folder.path,
    )


def _to_check(base: AnyRunConfig, planned: Sequence[PlannedRun]) -> list[AnyRunConfig]:
    """The base setting, and one configuration of those that differ in their training alone."""
    found: dict[str, AnyRunConfig] = {}
    for config in (base, *(run.config for run in planned)):
        found.setdefault(config.model_dump_json(exclude={"seed", "training"}), config)
    return list(found.values())


def _is_done(folder: SweepFolder, run: PlannedRun) -> bool:
    return folder.run(run.run_id).finished(run.config) is not None


def n_workers_of(workers: int | None, threads: int) -> int:
    """Processes at a time: as asked for, else one for every ``threads`` cores."""
    if workers is not None and workers < 1:
        raise ValueError(
            f"workers: expected at least 1, got {workers}; do leave it out for cores // threads"
        )
    return workers or max(1, _n_cores() // threads)


def _n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
