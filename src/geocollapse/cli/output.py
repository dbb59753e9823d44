"""Stdout and the files of a result: checked before the work, written after the result is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

_LINE = "─"  # of tables


@dataclass(frozen=True)
class OutputFile:
    """A file that a command writes beside the result on stdout.

    Attributes:
        option: of the command line.
        path: of the file.
        write: writes the path that it is given.
    """

    option: str
    path: Path
    write: Callable[[Path], object]


def check_writable(path: Path | None, option: str) -> None:
    """Refuse a file that cannot be written, before any work; None is no file.

    Raises:
        ValueError: a folder, a path through a file, or one without the right to write.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{option}: expected a file, got the folder {str(path)!r}; do name a file")
    _check_place(path, option, "file")


def check_folder(path: Path, option: str) -> None:
    """Refuse a folder that cannot be written to, before any work.

    Raises:
        ValueError: a file, a path through a file, or one without the right to write.
    """
    if path.is_file():
        raise ValueError(
            f"{option}: expected a folder, got the file {str(path)!r}; do name a folder"
        )
    _check_place(path, option, "folder")


def _check_place(path: Path, option: str, kind: str) -> None:
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if there != path and not there.is_dir():
        raise ValueError(
            f"{option}: expected a {kind} in a folder, got {str(path)!r}, and {there} is no "
            f"folder; do name another place"
        )
    folder = there if there.is_dir() else there.parent  # a file is written beside, then renamed
    if not (os.access(there, os.W_OK) and os.access(folder, os.W_OK)):
        raise ValueError(
            f"{option}: expected a place that can be written, got {str(path)!r}; do name another"
        )


def write_files(files: Sequence[OutputFile]) -> None:
    """Write all files; those that fail do not keep the others from being written.

    Raises:
        OSError: names the first file that could not be written.
    """
    failures: list[OSError] = []
    for file in files:
        try:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            file.write(file.path)
        except OSError as error:
            reason = getattr(error, "strerror", None) or str(error)
            failure = OSError(
                f"{file.option}: expected {str(file.path)!r} to be written, got {reason}; the "
                f"result above is whole"
            )
            failure.__cause__ = error
            failures.append(failure)
    if failures:
        raise failures[0]


def print_result(text: str) -> None:
    """Print on stdout, with escapes for characters that its encoding does not have."""
    if sys.stdout is None:  # it is closed: the result may go to a file
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.replace(_LINE, "-")
        text = plain.encode(encoding, "backslashreplace").decode(encoding)
    print(text, flush=True)


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send all that is written to stdout to stderr, also by subprocesses and compiled code."""
    if sys.stdout is None:  # it is closed, and the descriptor may be a file of someone else
        yield
        return
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is none under what stands in for stdout
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        with suppress(OSError):  # there is no stderr
            os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _flush_compiled_code()
        os.dup2(kept, 1)
        os.close(kept)


def _flush_compiled_code() -> None:
    """Write what the C library holds back for stdout."""
    if os.name == "posix":
        import ctypes

        ctypes.CDLL(None).fflush(None)
