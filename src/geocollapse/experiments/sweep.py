"""All runs of a recipe on this machine: worker processes of a fixed number of threads, done runs
skipped.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from geocollapse.experiments.recipe import PlannedRun, Recipe, RunConfig
from geocollapse.experiments.recording import measure_record
from geocollapse.experiments.runs import RunFolder, SweepFolder
from geocollapse.experiments.state import load_run_data, prepare
from geocollapse.experiments.train import failed_result, record_steps, take_step, train_run
from geocollapse.runtime.progress import progress_bar

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_KILLED = "worker: expected to end by itself, got killed (perhaps out of memory); do a smaller evaluation_batch_size"
_SLOW_RECORD = 5.0  # seconds
_TIMED_STEPS = 20  # steps behind the estimate of a run's cost


@dataclass(frozen=True)
class SweepSummary:
    """What became of a sweep.

    Attributes:
        n_runs: runs that the recipe plans.
        n_done: of these, done now.
        n_skipped: done before.
        n_failed: ended without a final measurement; the others are not touched by it.
        seconds: of this call.
        out: the sweep folder.
    """

    n_runs: int
    n_done: int
    n_skipped: int
    n_failed: int
    seconds: float
    out: Path


@dataclass(frozen=True)
class Cost:
    """What a sweep would cost on this machine, at most: every run up to ``max_steps``.

    Attributes:
        n_runs: runs that the recipe plans.
        workers: processes they would share.
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
    """Train every run of a recipe that is not done yet; `results` and `report` read what it leaves.

    Each run has the recipe's number of threads, whatever the machine: only how many run at a time
    depends on it. A run that fails is recorded as failed and the others go on; a later call tries
    it again. An interrupted sweep goes on from the checkpoints of its runs.

    Args:
        recipe: what is planned.
        out: the sweep folder.
        workers: processes at a time; cores // threads by default.
        n_seeds: seeds of each setting; the recipe's own by default.
        device: where each worker trains.
        data_root: folder of the data sets.
        progress: show a progress bar with the projected time on stderr.

    Raises:
        ValueError: ``workers`` below 1, or a recipe whose settings are refused.
        FileNotFoundError: data that cannot be had.
        RuntimeError: worker processes cannot be started from the calling script.
        KeyboardInterrupt: after the workers have ended; what they had checkpointed is kept.
    """
    started = time.perf_counter()
    planned, folder = recipe.planned_runs(n_seeds), SweepFolder(Path(out))
    folder.write_recipe(recipe, planned)
    load_run_data(
        recipe.data, data_root=data_root
    )  # fetched once, and what is missing is said before any run starts
    left = [run for run in planned if not _is_done(folder.run(run.run_id))]
    n_workers = min(_workers(workers, recipe.threads), max(1, len(left)))
    jobs = [
        _Job(run, folder.path, device, None if data_root is None else str(data_root))
        for run in left
    ]
    statuses = _run_all(
        jobs, n_workers, recipe.threads, len(planned) - len(left), progress=progress
    )
    n_done = statuses.count("done")
    seconds = time.perf_counter() - started
    return SweepSummary(
        len(planned), n_done, len(planned) - len(left), len(statuses) - n_done, seconds, folder.path
    )


def estimate_cost(
    recipe: Recipe,
    *,
    workers: int | None = None,
    n_seeds: int | None = None,
    device: str = "cpu",
    data_root: str | Path | None = None,
) -> Cost:
    """Time a few steps and one record of the base setting here, and say what the sweep would cost
    at most.

    The base setting is timed alone on its threads; most runs stop before ``max_steps``, so the time
    is an upper estimate for settings of about its batch size.
    """
    config, n_runs = recipe.run_config(), len(recipe.planned_runs(n_seeds))
    n_workers = min(_workers(workers, recipe.threads), n_runs)
    with _threads(recipe.threads):
        step, record = _timed(config, device, data_root)
    n_records = len(record_steps(config)) + 2
    per_run = step * config.training.max_steps + record * n_records
    rounds = -(-n_runs // n_workers)
    return Cost(n_runs, n_workers, step, record, per_run, per_run * rounds)


@dataclass(frozen=True)
class _Job:
    """What a worker process is sent."""

    run: PlannedRun
    out: Path
    device: str
    data_root: str | None


def _run_all(
    jobs: Sequence[_Job], n_workers: int, threads: int, n_skipped: int, *, progress: bool
) -> list[str]:
    """The status of every job, in the order they ended.

    A worker that is killed (out of memory) takes the whole pool with it. What it left is run one at
    a time, so that the run at fault, the first that is lost again, fails alone.
    """
    statuses: list[str] = []
    with progress_bar("runs", shown=progress) as advance:
        advance(n_skipped, n_skipped + len(jobs))

        def ended(status: str) -> None:
            statuses.append(status)
            n_failed = statuses.count("failed")
            note = f"{n_failed} failed" if n_failed else ""
            advance(n_skipped + len(statuses), n_skipped + len(jobs), note)

        left = list(jobs)
        while left:
            left = _run_in_pool(left, n_workers, threads, ended)
            if left and n_workers == 1:
                ended(_failed(left.pop(0), RuntimeError(_KILLED)))
            n_workers = 1
    return statuses


def _run_in_pool(
    jobs: Sequence[_Job], n_workers: int, threads: int, ended: Callable[[str], None]
) -> list[_Job]:
    """Run jobs and tell the status of each; the jobs that are lost with a killed worker, in their
    order.
    """
    lost: list[_Job] = []
    with _pool(n_workers, threads) as pool:
        waiting = {pool.submit(_work, job): job for job in jobs}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                job, error = waiting.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    lost.append(job)
                else:
                    ended(future.result() if error is None else _failed(job, error))
    return sorted(lost, key=jobs.index)


def _work(job: _Job) -> str:
    """In a worker process: one run, from its checkpoint if there is one."""
    folder = SweepFolder(job.out).run(job.run.run_id)
    result = train_run(job.run.config, folder, device=job.device, data_root=job.data_root)
    return str(result["status"])


def _failed(job: _Job, error: BaseException) -> str:
    """Record a run that ended with an exception as failed."""
    folder = SweepFolder(job.out).run(job.run.run_id)
    folder.write_config(job.run.config)
    result = failed_result(job.run.config, folder, error, device=job.device)
    result["provenance"]["threads"] = job.run.config.threads  # of the worker
    folder.write_result(result)
    return "failed"


def _is_done(folder: RunFolder) -> bool:
    result = folder.result()
    return result is not None and result.get("status") == "done"


@contextmanager
def _pool(n_workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes that import torch once, with their thread count set before it is imported.

    On an interruption or an error the runs that wait are dropped and the workers end at once: their
    runs go on from their checkpoints next time.
    """
    context = multiprocessing.get_context("spawn")
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    pool = ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=_start_worker, initargs=(threads,)
    )
    try:
        _check_start(pool)
        yield pool
    except BaseException:
        _end_workers(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _check_start(pool: ProcessPoolExecutor) -> None:
    """Wait for the first worker; that none starts is the caller's script, not a run."""
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "workers: expected processes that start, got none, since each imports the calling "
            "script anew; "
            'do call run_sweep under if __name__ == "__main__": in a file'
        ) from error


def _end_workers(pool: ProcessPoolExecutor) -> None:
    """End the workers at once (the standard library has no public way before Python 3.14)."""
    for process in (pool._processes or {}).values():
        process.terminate()


def _start_worker(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    torch.set_num_threads(threads)


def _workers(workers: int | None, threads: int) -> int:
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


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(config: RunConfig, device: str, data_root: str | Path | None) -> tuple[float, float]:
    """Seconds of one step and of one record, each after a first one (which a slow record does
    without).
    """
    training = prepare(config, device=device, data_root=data_root)
    n_steps = min(_TIMED_STEPS, config.training.max_steps)
    take_step(training)
    started = time.perf_counter()
    for _ in range(n_steps):
        take_step(training)
    step = (time.perf_counter() - started) / n_steps
    record = math.inf
    for _ in range(2):
        started = time.perf_counter()
        measure_record(training.model, training.source, training.target, config)
        record = min(record, time.perf_counter() - started)
        if record > _SLOW_RECORD:
            break
    return step, record
