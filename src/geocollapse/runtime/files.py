"""Files written whole: a reader sees the old content or the new, never a part of it.

Each is written to a temporary file, synchronised to disk, and renamed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def write_whole(files: Mapping[Path, bytes]) -> None:
    """Write several files whole; all are on disk before the first is renamed."""
    partial = {path: _part_of(path) for path in files}
    for path, content in files.items():
        partial[path].write_bytes(content)
        _to_disk(partial[path])
    for path in files:
        partial[path].replace(path)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which takes the place of ``path`` at the end.

    For content that is too large to be held as bytes. After an error ``path`` is as it was, and
    nothing is left beside it.
    """
    partial = _part_of(path)
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    """The temporary file of ``path``, in the same folder, which is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(path.name + ".part")


def _to_disk(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
