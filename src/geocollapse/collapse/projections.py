"""One pass over the residuals of labelled features, shared by all measures that project them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from geocollapse.collapse.labelled import LabelledFeatures


@dataclass(frozen=True, eq=False)
class Chunk:
    """The residuals z = f(x) - mu_c of consecutive examples.

    Products with ``basis`` and ``means`` are made once, however many readers use them.

    Attributes:
        rows: the positions of the examples.
        index: row of each example's class (m,).
        residuals: z (m, p), see ``LabelledFeatures.residuals``.
        basis: orthonormal columns (p, K) that span the centred means; None for the axes.
        means: the centred means in that basis (C, K).
    """

    rows: slice
    index: Tensor
    residuals: Tensor
    basis: Tensor | None
    means: Tensor

    @cached_property
    def coordinates(self) -> Tensor:
        """z in the basis (m, K)."""
        return self.residuals if self.basis is None else self.residuals @ self.basis

    @cached_property
    def norms(self) -> Tensor:
        """||z|| (m,)."""
        return torch.linalg.vector_norm(self.residuals, dim=1)

    @cached_property
    def steps(self) -> Tensor:
        """<z, mu_j - mu_c> (m, C), c the class of the example."""
        projections = self.coordinates @ self.means.T
        return projections.sub_(projections.gather(1, self.index[:, None]))

    def steps_to(self, columns: slice) -> Tensor:
        """``steps`` to the classes of ``columns`` only."""
        own = torch.linalg.vecdot(self.coordinates, self.means.index_select(0, self.index))
        return (self.coordinates @ self.means[columns].T).sub_(own[:, None])


class Reader(Protocol):
    """A measure that adds up what it needs from each chunk."""

    @property
    def width(self) -> int:
        """How many numbers it makes of one example, which limits the examples of a chunk."""
        ...

    def add(self, chunk: Chunk) -> None:
        """Add the examples of one chunk."""
        ...


def read(data: LabelledFeatures, readers: Sequence[Reader], basis: Tensor | None = None) -> None:
    """Hand the residuals of ``data`` to every reader, chunk by chunk, in one pass.

    A ``basis`` of the directions of the class means pays where a reader needs it anyway: the C
    projections on the means then cost n K C more instead of n p C.
    """
    means = data.centred_means
    if basis is not None:
        means = means @ basis
        basis = basis.to(data.projection_dtype)
    means = means.to(data.projection_dtype)
    width = max(reader.width for reader in readers)
    start = 0
    for residuals, index in data.residuals(extra_width=width, exact=False):
        rows = slice(start, start + len(index))
        start = rows.stop
        chunk = Chunk(rows, index, residuals, basis, means)
        for reader in readers:
            reader.add(chunk)
