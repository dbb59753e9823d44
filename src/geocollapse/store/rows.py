"""Rows of features kept in memory or, above a limit, in a memory-mapped file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

MEMORY_LIMIT = 4 << 30  # bytes of features kept in memory; larger ones go to a mapped file


class RowStore:
    """Rows (n, p) written by position or, if n is unknown, in the order they come.

    Args:
        n_rows: number of rows, or None for a stream.
        memory_limit: bytes above which rows are kept in a temporary file, deleted with the store.
    """

    def __init__(self, n_rows: int | None, memory_limit: int = MEMORY_LIMIT) -> None:
        self._n_rows = n_rows
        self._memory_limit = memory_limit
        self._rows: Tensor | None = None
        self._parts: list[Tensor] = []

    @property
    def is_used(self) -> bool:
        """True once rows were written."""
        return self._rows is not None or bool(self._parts)

    def write(self, positions: Tensor, rows: Tensor) -> None:
        """Keep ``rows`` (k, p) at ``positions`` (k,)."""
        if self._n_rows is None:
            self._parts.append(rows.detach())
            return
        if self._rows is None:
            self._rows = self._allocate(self._n_rows, rows)
        self._rows[positions.to(self._rows.device)] = rows.detach().to(self._rows.device)

    def rows(self) -> Tensor:
        """All rows (n, p)."""
        if self._rows is not None:
            return self._rows
        return torch.cat(self._parts)

    def _allocate(self, n_rows: int, like: Tensor) -> Tensor:
        shape = (n_rows, *like.shape[1:])
        n_bytes = like[0].numel() * like.element_size() * n_rows
        if n_bytes <= self._memory_limit:
            return like.new_empty(shape)
        with tempfile.NamedTemporaryFile(prefix="geocollapse-", delete=False) as file:
            path = Path(file.name)
        numel = like[0].numel() * n_rows
        mapped = torch.from_file(str(path), shared=True, size=numel, dtype=like.dtype)
        path.unlink()  # the mapping keeps the file alive as long as it is used
        return mapped.view(shape)
