"""A lock on a folder that the kernel releases when its process ends, however it ends.

The lock file names its holder: process, machine and time. A file left by a killed process is no
lock. The standard library has both kinds of lock; packages for it empty the file on opening, and
with it the name of the holder.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname

from geocollapse.runtime.files import named

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_POLL = 0.05  # seconds
_FAR = 1 << 30  # Windows locks bytes against reading: take one that no content reaches
# File systems without locks, e.g. Lustre mounted without them.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class InUseError(RuntimeError):
    """Another process works on a folder."""


@contextmanager
def locked(path: Path, *, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path``, which is removed at the end.

    A file system that has no locks is used without one.

    Args:
        path: the lock file; its folder is made.
        what: what the lock stands for, at the start of the error.
        patience: seconds to wait for a holder that is about to end.

    Raises:
        InUseError: another process holds it; names process, machine and time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _acquired(path, what, time.monotonic() + patience)
    try:
        with named(path):
            os.ftruncate(file, 0)
            os.write(file, json.dumps(_myself()).encode())
        yield
    finally:
        with suppress(PermissionError):  # Windows removes no open file
            path.unlink(missing_ok=True)
        os.close(file)  # which releases the lock


def _acquired(path: Path, what: str, deadline: float) -> int:
    """An open file that holds the lock, and that still is the one at ``path``."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _try_lock(file):
            os.close(file)
            if time.monotonic() >= deadline:
                raise InUseError(_message(path, what))
            time.sleep(_POLL)
        elif _is_at(file, path):
            return file
        else:  # its last holder removed it between our opening and locking it
            os.close(file)


def _try_lock(file: int) -> bool:
    """Lock an open file; False if another process holds it."""
    try:
        if sys.platform == "win32":
            os.lseek(file, _FAR, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return True
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _myself() -> dict[str, object]:
    since = datetime.now(UTC).astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": gethostname(), "since": since}


def _message(path: Path, what: str) -> str:
    """Who holds the lock file, as far as it tells."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        by = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        by = "another process"
    return f"{what}: expected no other process at work, got {by}; do wait for it, or end it"
