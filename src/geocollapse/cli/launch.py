"""Commands in several processes of torchrun, which work together; the first speaks for all."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stdout,
    suppress,
)
from typing import TypeVar

from geocollapse.cli.options import Device
from geocollapse.cli.resolve import find_device

_T = TypeVar("_T")
_TOGETHER = ("measure",)  # the commands that several processes share


def n_processes() -> int:
    """The number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def speaks() -> bool:
    """True in the process that prints and writes files."""
    return n_processes() == 1 or os.environ["RANK"] == "0"


def heard() -> AbstractContextManager[object]:
    """Drop what a process other than the first prints on stdout."""
    return nullcontext() if speaks() else redirect_stdout(io.StringIO())


@contextmanager
def joined(command: str, device: Device) -> Iterator[None]:
    """Join the processes to one group, in which an error in one ends all.

    The backend is gloo on the CPU, and NCCL with a GPU for each process.

    Raises:
        ValueError: a command for one process, or fewer GPUs than processes on this machine.
    """
    if n_processes() == 1:
        yield
        return
    if command not in _TOGETHER:
        raise ValueError(
            f"torchrun: expected the command {' or '.join(_TOGETHER)}, got {command} in "
            f"{n_processes()} processes; "
            f"do run it without torchrun"
        )
    from torch import distributed

    from geocollapse.runtime.processes import failing_together

    distributed.init_process_group(_backend(device))
    with failing_together():
        yield


def is_joined() -> bool:
    """True once the processes that torchrun started are one group."""
    if n_processes() == 1 or "torch" not in sys.modules:
        return False
    from torch import distributed

    return distributed.is_initialized()


def leave() -> None:
    """End the group of ``joined`` when all processes are here.

    torchrun ends the others as soon as one process has failed. Without waiting, that could be
    before the first one has said why.
    """
    if not is_joined():
        return
    from torch import distributed

    with suppress(RuntimeError):  # a process is gone already
        distributed.barrier()
    distributed.destroy_process_group()


def first_here_first(work: Callable[[], _T]) -> _T:
    """Do ``work`` in one process of each machine first, so that the others find its downloads."""
    from geocollapse.runtime.processes import gather_object

    if os.environ.get("LOCAL_RANK", "0") != "0":
        gather_object(None, what="downloads")
        return work()
    done = work()
    gather_object(None, what="downloads")
    return done


def _backend(device: Device) -> str:
    """The backend for ``device``; each process of GPUs takes the one of its local rank."""
    import torch

    if find_device(device).type != "cuda":
        return "gloo"
    n_here = int(os.environ["LOCAL_WORLD_SIZE"])
    if n_here > torch.cuda.device_count():
        raise ValueError(
            f"--device: expected a GPU for each of {n_here} processes, got "
            f"{torch.cuda.device_count()}; "
            f"do --nproc-per-node {torch.cuda.device_count()}, or --device cpu"
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return "nccl"
