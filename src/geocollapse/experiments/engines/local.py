"""The runs of a sweep in worker processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from geocollapse.experiments.engines.ending import end_with_parent
from geocollapse.experiments.kinds import kind_of
from geocollapse.experiments.recipe import PlannedRun
from geocollapse.experiments.results.ending import failed_result
from geocollapse.experiments.results.folders import SweepFolder
from geocollapse.runtime.locks import InUseError
from geocollapse.runtime.progress import progress_bar

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_KILLED = (
    "worker: expected to end by itself, got killed (perhaps out of memory); "
    "do a smaller evaluation_batch_size"
)
_log = logging.getLogger("geocollapse")


@dataclass(frozen=True)
class Job:
    """One run for a worker process."""

    run: PlannedRun
    out: Path
    device: str
    data_root: str | None


def run_all(
    jobs: Sequence[Job], n_workers: int, threads: int, n_skipped: int, *, progress: bool
) -> list[str]:
    """Run all jobs and return their statuses in the order they ended.

    A worker that is killed (out of memory) takes the whole pool with it. The lost runs are run
    again, one at a time, so that the run at fault fails alone: it is the first to be lost again.
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
    jobs: Sequence[Job], n_workers: int, threads: int, ended: Callable[[str], None]
) -> list[Job]:
    """Run jobs, report the status of each, and return those lost with a killed worker, in order."""
    lost: list[Job] = []
    with _pool(n_workers, threads) as pool:
        waiting = {pool.submit(_work, job): job for job in jobs}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                job = waiting.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    lost.append(job)
                else:
                    ended(future.result() if error is None else _failed(job, error))
    return sorted(lost, key=jobs.index)


def _work(job: Job) -> str:
    """One run, in a worker process, from its checkpoint if it has one."""
    config = job.run.config
    folder = SweepFolder(job.out).run(job.run.run_id)
    carry_out = kind_of(config).carry_out
    result = carry_out(config, folder, device=job.device, data_root=job.data_root)
    return str(result["status"])


def _failed(job: Job, error: BaseException) -> str:
    """Record a run that ended with an exception as failed.

    The record of a run that another process works on is left to that process.
    """
    folder = SweepFolder(job.out).run(job.run.run_id)
    seed = job.run.config.seed
    result = failed_result(folder.run_id, error, seed=seed, device=job.device)
    result["provenance"]["threads"] = job.run.config.threads  # of the worker
    try:
        if isinstance(error, InUseError):
            raise error
        with folder.held():
            folder.write_config(job.run.config)
            folder.write_result(result)
    except InUseError as in_use:
        _log.warning(str(in_use))
    return "failed"


@contextmanager
def _pool(n_workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh worker processes, whose thread count is set before they import torch.

    An interruption, a signal or an error drops the runs that wait and ends the workers at once; the
    runs go on from their checkpoints next time. Workers also end if this process is killed.
    """
    context = multiprocessing.get_context("spawn")
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    pool = ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=_start_worker, initargs=(threads, os.getpid())
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
    """Wait for the first worker; if none starts, the caller's script is at fault, not a run."""
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "workers: expected processes that start, got none, since each imports the calling "
            'script anew; do call run_sweep under if __name__ == "__main__": in a file'
        ) from error


def _end_workers(pool: ProcessPoolExecutor) -> None:
    """End the workers at once (the standard library has no public way before Python 3.14)."""
    for process in (pool._processes or {}).values():
        process.terminate()


def _start_worker(threads: int, parent: int) -> None:
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    torch.set_num_threads(threads)
