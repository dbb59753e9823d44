"""Worker processes end with their parent, and a parent that is ended ends its workers."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection
from types import FrameType

_ENDING = ("SIGTERM", "SIGHUP")  # of schedulers and closed terminals
_PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent has ended
_TERMINATED = 128 + signal.SIGTERM


@contextmanager
def signals_raised() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit(128 + number), so that workers are ended first.

    A signal that is ignored (nohup) or has a handler already is left alone, and all are outside of
    the main thread, where Python cannot handle signals.
    """
    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    handled = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, _frame: FrameType | None) -> None:
        for other in handled:
            signal.signal(other, signal.SIG_IGN)  # the workers are ended in peace
        raise SystemExit(128 + number)

    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def end_with_parent(parent: int) -> None:
    """Let this worker process end when its parent has ended, also by SIGKILL.

    Linux kills it at once. Elsewhere a thread waits for a pipe whose other end the parent holds.

    Args:
        parent: process id of the parent that started this worker.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(_TERMINATED)  # it ended before
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(_TERMINATED)
