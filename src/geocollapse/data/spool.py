"""Encoded images of tables, kept in a temporary file so that they can be read in any order."""

from __future__ import annotations

import os
import tempfile
import weakref

_IN_MEMORY = 256 * 2**20  # bytes that are kept in memory before the file is written


class Spool:
    """Bytes and paths of rows, in memory while they are few, else in a temporary file.

    The file has no name and goes away with this object. Another process must make its own: both
    would move the same position in the file.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._entries: dict[int, tuple[int, int | None, str | None]] = {}
        weakref.finalize(self, self._file.close)

    def __contains__(self, row: int) -> bool:
        return row in self._entries

    def add(self, row: int, content: bytes | None, path: str | None) -> None:
        """Keep the bytes and the path of a row, each None if there is none."""
        place = self._file.seek(0, os.SEEK_END)
        if content is not None:
            self._file.write(content)
        self._entries[row] = (place, None if content is None else len(content), path)

    def content(self, row: int) -> bytes | None:
        """The bytes of a row."""
        place, n_bytes, _ = self._entries[row]
        if n_bytes is None:
            return None
        self._file.seek(place)
        return self._file.read(n_bytes)

    def path(self, row: int) -> str | None:
        """The path of a row."""
        return self._entries[row][2]
