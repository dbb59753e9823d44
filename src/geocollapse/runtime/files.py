"""Files written whole: a reader sees the old content or the new, never a part of it.

Each is written to a temporary file of its own name, synchronised to disk, and renamed.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".part"
# Errors of the disk. A write reports them without the name of the file.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def write_whole(files: Mapping[Path, bytes]) -> None:
    """Write several files whole; all are on disk before the first is renamed.

    After an error the files not yet renamed are as they were, and nothing is left beside them.
    """
    partial = {path: _part_of(path) for path in files}
    try:
        for path, content in files.items():
            with named(path):
                partial[path].write_bytes(content)
                _to_disk(partial[path])
        for path in files:
            partial[path].replace(path)
    finally:
        for part in partial.values():
            part.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which takes the place of ``path`` at the end.

    For content that is too large to be held as bytes. After an error ``path`` is as it was, and
    nothing is left beside it.
    """
    partial = _part_of(path)
    try:
        with named(path):
            yield partial
            _to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def append(path: Path, content: bytes) -> None:
    """Add ``content`` to the end of a file and synchronise it to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with named(path), path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def remove_partial(*folders: Path) -> None:
    """Remove the temporary files that a killed process left in folders.

    Only for folders that no other process writes to: see `geocollapse.runtime.locks`.
    """
    for folder in folders:
        for path in folder.glob(f"*{_PARTIAL}"):
            path.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name ``path`` in errors of the disk that name no file, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_DISK or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _part_of(path: Path) -> Path:
    """A temporary file beside ``path`` that no other process uses; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")


def _to_disk(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
