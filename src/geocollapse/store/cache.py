"""Features, and what follows from them, kept on disk and found again by a hash of their causes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from geocollapse.runtime.files import written_whole
from geocollapse.runtime.folders import user_cache
from geocollapse.store.features_file import read_features, write_features
from geocollapse.store.formats import read_arrays, write_arrays
from geocollapse.store.kept import KeptLayer
from geocollapse.store.records import Kinds, packed, unpacked

_T = TypeVar("_T")

SIZE_LIMIT = 10 * 10**9
_ENDING = ".safetensors"


@dataclass(frozen=True)
class CacheEntry:
    """A file of the cache: features, or a record of what was computed from them.

    Attributes:
        path: of the file.
        n_bytes: its size.
        last_used: seconds since 1970.
    """

    path: Path
    n_bytes: int
    last_used: float


class FeatureCache:
    """A folder of features and records, the least recently used of which make room for new ones.

    A file is written whole or not at all, so several processes may use one folder. A file that
    cannot be read is removed and computed again.

    Args:
        folder: by default ``$GEOCOLLAPSE_CACHE``, else ``features`` in the user's cache.
        size_limit: bytes of all files together.
    """

    def __init__(self, folder: str | Path | None = None, size_limit: int = SIZE_LIMIT) -> None:
        if size_limit < 0:
            raise ValueError(
                f"size_limit: expected bytes, got {size_limit}; do size_limit={SIZE_LIMIT}"
            )
        self.folder = Path(folder) if folder is not None else default_folder()
        self.size_limit = size_limit

    def read(self, key: str) -> KeptLayer | None:
        """The layer kept under ``key``; None if there is none."""
        return self._read(key, read_features)

    def read_record(self, key: str, kinds: Kinds) -> object:
        """The record kept under ``key``, of these classes; None if there is none."""
        return self._read(key, lambda path: _read_record(path, kinds))

    def write(self, key: str, kept: KeptLayer) -> None:
        """Keep a layer under ``key``, unless it is larger than the limit."""
        n_bytes = kept.features.numel() * kept.features.element_size()
        if n_bytes > self.size_limit:
            return
        write_features(self._path(key), kept)
        self._make_room(keep=self._path(key))

    def write_record(self, key: str, record: object, about: Mapping[str, object]) -> None:
        """Keep a record under ``key``.

        Args:
            key: of the entry.
            record: as ``geocollapse.store.records.packed`` takes it.
            about: layer and provenance, as the text of a features file has them.
        """
        arrays, text = packed(record)
        with written_whole(self._path(key)) as partial:
            write_arrays(partial, _ENDING, arrays, json.dumps({**about, "record": text}))
        self._make_room(keep=self._path(key))

    def entries(self) -> list[CacheEntry]:
        """The files of the cache, the last used first."""
        found = []
        for path in self.folder.glob(f"*{_ENDING}"):
            try:
                status = path.stat()
            except FileNotFoundError:  # removed by another process
                continue
            found.append(CacheEntry(path, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    def clear(self) -> int:
        """Remove all files of the cache; returns their number."""
        entries = self.entries()
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        return len(entries)

    def _read(self, key: str, read: Callable[[Path], _T]) -> _T | None:
        path = self._path(key)
        try:
            found = read(path)
            os.utime(path)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            path.unlink(missing_ok=True)
            return None
        return found

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_ENDING}"

    def _make_room(self, keep: Path) -> None:
        """Remove what was used least recently until all files fit the limit."""
        entries = self.entries()
        n_bytes = sum(entry.n_bytes for entry in entries)
        for entry in reversed(entries):
            if n_bytes <= self.size_limit:
                return
            if entry.path != keep:
                entry.path.unlink(missing_ok=True)
                n_bytes -= entry.n_bytes


def _read_record(path: Path, kinds: Kinds) -> object:
    names = read_arrays(path, ()).others
    content = read_arrays(path, names)
    return unpacked(content.arrays, json.loads(content.text or "{}").get("record", ""), kinds)


def default_folder() -> Path:
    """``$GEOCOLLAPSE_CACHE``, else ``features`` in the user's cache."""
    given = os.environ.get("GEOCOLLAPSE_CACHE")
    return Path(given) if given else user_cache() / "features"


def key_of(parts: Mapping[str, object]) -> str:
    """The key of an entry: SHA-256 of the canonical JSON of all that determines it."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
