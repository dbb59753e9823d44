"""Sweeps kept without their weights: what a repository or a colleague needs, compressed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from geocollapse.runtime.files import write_whole

_COMPRESSED = ("history.jsonl", "result.json")
_PLAIN = ("config.yaml",)


def found(path: Path) -> Path | None:
    """A file of a run, or the compressed one in its place; None if there is neither."""
    for place in (path, _compressed(path)):
        if place.is_file():
            return place
    return None


def read(path: Path) -> bytes:
    """The content of a file of a run, compressed or not; empty if it cannot be decompressed."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return b""


def store(folder: str | Path, out: str | Path) -> Path:
    """Copy a sweep folder without weights, its histories and results compressed.

    The copy is a sweep folder: `report` works from it, and `sweep` skips the runs that are done.
    The same sweep gives the same bytes.

    Args:
        folder: a sweep folder.
        out: where the copy is written; runs that are there already are written again.

    Raises:
        FileNotFoundError: there is no sweep.yaml in ``folder``.
        ValueError: ``out`` is ``folder``.
    """
    folder = Path(folder)
    out = Path(out)
    if out.resolve() == folder.resolve():
        raise ValueError(f"store: expected another folder than {folder}; do store=results/NAME")
    files = {out / "sweep.yaml": (folder / "sweep.yaml").read_bytes()}
    for run in sorted((folder / "runs").iterdir()):
        copy = out / "runs" / run.name
        for name in _PLAIN:
            if (run / name).is_file():
                files[copy / name] = (run / name).read_bytes()
        for name in _COMPRESSED:
            source = found(run / name)
            if source is not None:
                files[_compressed(copy / name)] = gzip.compress(read(source), 9, mtime=0)
    write_whole(files)
    return out


def _compressed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")
