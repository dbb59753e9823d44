"""Squared Jacobian norms of one layer, gathered from batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor

from geocollapse.batches import Batch
from geocollapse.jacobian import SquaredNorms
from geocollapse.runtime.processes import shards, share


class Readings:
    """Squared Jacobian norms of one layer, with the positions of their examples."""

    def __init__(self) -> None:
        self._norms: list[SquaredNorms] = []
        self._indices: list[Tensor] = []
        self._n_exchanged = 0  # parts that all processes have

    def __len__(self) -> int:
        return sum(map(len, self._indices))

    def add(self, norms: SquaredNorms, batch: Batch) -> None:
        """Add the norms of one batch."""
        self._norms.append(norms)
        self._indices.append(batch.indices)

    def exchange(self) -> None:
        """Add what the other processes have read since the last exchange; all must call it."""
        if share()[1] == 1:
            return
        new = slice(self._n_exchanged, None)
        own = [
            norms.packed(indices)
            for norms, indices in zip(self._norms[new], self._indices[new], strict=True)
        ]
        everyone = [SquaredNorms.unpacked(rows) for rows in shards(torch.cat(own) if own else None)]
        self._norms[new] = [norms for norms, _ in everyone]
        self._indices[new] = [indices for _, indices in everyone]
        self._n_exchanged = len(self._norms)

    def gathered(self) -> tuple[SquaredNorms, Tensor]:
        """All norms in the order of the data set and their positions (n,), on the CPU.

        Raises:
            ValueError: no example was read.
        """
        if len(self) == 0:
            raise ValueError("data: expected at least one example, got none; do check the loader")
        indices = torch.cat(self._indices)
        order = indices.argsort()
        return SquaredNorms.cat(self._norms).cpu()[order], indices[order]
