"""Several processes that measure one data set together: all use of torch.distributed.

Without an initialised process group, and inside ``alone``, there is one process and nothing is
sent. Messages go through CPU tensors if the group has a backend for them (gloo), else through the
current CUDA device (NCCL).

The protocol: every process makes the same sequence of collective calls, each a ``gather_object``.
It carries a value and the name of what is exchanged, by which processes that have come apart notice
it, or in place of the value the error that ended a process. Rows follow it as broadcasts, once all
have made room for them. ``failing_together`` ends with one more call, so that no process leaves
before all have come to the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_T = TypeVar("_T")
_E = TypeVar("_E", bound=BaseException)
_ALONE = ContextVar("alone", default=False)
_MESSAGE = 1 << 28  # bytes sent at a time
_FILE = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
# Kinds of an error that are kept when it is raised in the other processes too.
_KINDS = (*_FILE, OSError, ValueError, TypeError, ImportError)
# Integers by the bytes of a number.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_WORDS_TOGETHER = 1 << 16  # few enough to stay in the cache
_KNOWN = "is_known_to_all_processes"


def share() -> tuple[int, int]:
    """Rank of this process and the number of processes: (0, 1) without a process group.

    Examples:
        >>> share()
        (0, 1)
    """
    if _ALONE.get() or not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


@contextmanager
def alone() -> Iterator[None]:
    """Let this process work by itself despite its process group: for work on one rank only.

    Examples:
        >>> with alone():
        ...     share()
        (0, 1)
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def gather_object(value: _T, *, what: str = "values") -> list[_T]:
    """``value`` of every process, in the order of their ranks; each process must call it.

    Raises:
        ValueError, TypeError, ImportError, OSError, RuntimeError: another process ended with an
            error of this kind.
        ValueError: another process exchanges something other than ``what``.
    """
    if share()[1] == 1:
        return [value]
    gathered: list[tuple[str, _T]] = []
    for rank, received in enumerate(_all_gather((what, value))):
        if isinstance(received, _Failure):
            raise _marked(received.kind(f"process {rank}: {received.message}"))
        gathered.append(received)
    names = [name for name, _ in gathered]
    for rank, name in enumerate(names):
        if name != names[0]:
            error = ValueError(
                f"processes: expected the same work in each of {len(names)}, got {names[0]!r} to "
                f"be exchanged in "
                f"process 0 and {name!r} in process {rank}; do pass the same kind of data and "
                f"settings in each process"
            )
            raise _marked(error)
    return [received for _, received in gathered]


def agreed(value: _T) -> _T:
    """``value`` of the first process, in all: for decisions that hang on time or rounding."""
    return gather_object(value)[0]


def shards(rows: Tensor | None) -> Iterator[Tensor]:
    """The rows (n_r, ...) of every process in turn, on any device.

    Each process must iterate to the end. Counts may differ and be 0. A process without rows that
    does not know their shape passes None; nothing is yielded if all do. Memory: the rows of one
    process at a time.

    Raises:
        ValueError: rows of different shapes or dtypes.
    """
    rank, n_processes = share()
    if n_processes == 1:
        yield from () if rows is None else (rows,)
        return
    size_here = None if rows is None else (len(rows), (tuple(rows.shape[1:]), rows.dtype))
    sizes = gather_object(size_here, what="sizes of rows")
    kinds = {kind for _, kind in filter(None, sizes)}
    if len(kinds) > 1:
        raise ValueError(
            f"rows: expected one shape and dtype in all processes, got {kinds}; do use the same "
            f"model"
        )
    if not kinds:
        return
    ((shape, dtype),) = kinds
    for sender, size in enumerate(sizes):
        block = rows
        if sender != rank or block is None:
            block = torch.empty(
                (0 if size is None else size[0], *shape), dtype=dtype, device=_transport()
            )
        sent = block.detach().to(_transport()).contiguous()
        if sent.numel():
            # A process that ran out of memory says so here.
            gather_object(None, what="room for rows")
            # Sent as bytes, since backends do not know every dtype.
            for part in sent.flatten().view(torch.uint8).split(_MESSAGE):
                dist.broadcast(part, sender)
        yield block if sender == rank else sent


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (n_r, ...) of every process, in the order of their ranks, on this one's device.

    Examples:
        >>> gather_rows(torch.tensor([3, 5])).tolist()
        [3, 5]
    """
    return torch.cat([part.to(rows.device) for part in shards(rows)])


@contextmanager
def failing_together() -> Iterator[None]:
    """End all processes with an error in one: the others raise it where they next wait for it.

    SystemExit and KeyboardInterrupt end the others with a RuntimeError. No process hangs, and none
    leaves before all are done.
    """
    try:
        yield
        gather_object(None, what="the end")
    except BaseException as error:
        if share()[1] > 1 and not getattr(error, _KNOWN, False):
            kind = next((kind for kind in _KINDS if isinstance(error, kind)), RuntimeError)
            message = (
                str(error)
                if isinstance(error, Exception)
                else f"{type(error).__name__} {error}".strip()
            )
            with suppress(RuntimeError):  # the others are gone
                _all_gather(_Failure(kind, message))
            _marked(error)
        raise


def check_same(argument: str, value: object, *, expected: str, remedy: str) -> None:
    """Refuse processes whose ``value`` differs: each would measure a part of something else.

    Raises:
        ValueError: the values differ; names the argument and the first process that differs.
    """
    values = gather_object(value, what=argument)
    for rank, other in enumerate(values):
        if other != values[0]:
            raise ValueError(
                f"{argument}: expected {expected} in each of {len(values)} processes, got "
                f"{values[0]} in process 0 and "
                f"{other} in process {rank}; do {remedy}"
            )


def digest(*tensors: Tensor | None) -> int:
    """A number that differs if tensors or their order differ, computed from all of their bits.

    It does not depend on the device.

    Examples:
        >>> digest(torch.tensor([1, 2])) == digest(torch.tensor([2, 1]))
        False
    """
    total = 0
    for tensor in tensors:
        if tensor is None:
            continue
        real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        words = real.contiguous().flatten().view(_WORDS[real.element_size()])
        places = torch.arange(1, min(len(words), _WORDS_TOGETHER) + 1, device=words.device)
        parts = words.split(_WORDS_TOGETHER)
        sums = (
            torch.stack([(part * places[: len(part)]).sum() for part in parts]).tolist()
            if len(words)
            else []
        )
        for part_sum in sums:
            total = (31 * total + part_sum) % (1 << 64)
    return total


@dataclass(frozen=True)
class _Failure:
    """The error of a process, sent in place of a value."""

    kind: type[Exception]
    message: str


def _all_gather(value: tuple[str, _T] | _Failure) -> list[tuple[str, _T] | _Failure]:
    gathered: list[tuple[str, _T] | _Failure] = [value] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def _marked(error: _E) -> _E:
    """``error``, marked as known to all processes, so that it is not sent again."""
    setattr(error, _KNOWN, True)
    return error


def _transport() -> torch.device:
    """The device whose tensors the process group takes."""
    if "cpu:" in dist.get_backend_config():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
