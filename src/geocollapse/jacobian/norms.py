"""Squared norms of a batch with the variance of each, from estimates by single probes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocollapse.numerics import accumulation_dtype


@dataclass(frozen=True)
class SquaredNorms:
    """||J||_F^2 of each example of a batch.

    Attributes:
        values: (n,) float64, the estimates y_i.
        variances: (n,) float64, unbiased estimates of Var(y_i | example i): 0 if exact, NaN with a
            single probe.
        n_probes: (n,) int64, probes behind each estimate.
        scaled: (n,) float64, the same estimates of ||J diag(1/s)||_F^2, or None where no input
            scale s was given.
    """

    values: Tensor
    variances: Tensor
    n_probes: Tensor
    scaled: Tensor | None = None

    def __getitem__(self, rows: slice | Tensor) -> SquaredNorms:
        scaled = None if self.scaled is None else self.scaled[rows]
        return SquaredNorms(self.values[rows], self.variances[rows], self.n_probes[rows], scaled)

    def __len__(self) -> int:
        return len(self.values)

    def cpu(self) -> SquaredNorms:
        """Return a copy on the CPU."""
        scaled = None if self.scaled is None else self.scaled.cpu()
        return SquaredNorms(self.values.cpu(), self.variances.cpu(), self.n_probes.cpu(), scaled)

    def filled_variances(self) -> Tensor:
        """Return ``variances`` (n,) with those of single probes estimated as q y_i^2.

            q = sum_k Var(y_k | k) / sum_k y_k^2    over examples k with a second probe

        A ratio estimate: the variance of a probe grows with the square of the norm. Examples larger
        than all those without a second probe do not count: they were given theirs for their size.
        """
        unknown = self.variances.isnan()
        if not bool(unknown.any()):
            return self.variances
        told = ~unknown & (self.n_probes == 1) & (self.values <= self.values[unknown].max())
        squares = self.values.square()
        ratio = self.variances[told].sum() / squares[told].sum().clamp(
            min=torch.finfo(squares.dtype).tiny
        )
        return torch.where(unknown, ratio * squares, self.variances)

    def with_variances(self, rows: Tensor, others: SquaredNorms) -> SquaredNorms:
        """Return a copy that has the variances of ``others`` in ``rows``."""
        return replace(self, variances=self.variances.index_put((rows,), others.variances))

    def packed(self, indices: Tensor) -> Tensor:
        """Pack the norms and positions (n,) of their examples in one tensor (n, 4 or 5) to send."""
        columns = [indices, self.n_probes, self.values, self.variances]
        columns += [] if self.scaled is None else [self.scaled]
        return torch.stack([column.cpu().double() for column in columns], dim=1)

    @staticmethod
    def unpacked(rows: Tensor) -> tuple[SquaredNorms, Tensor]:
        """Return the norms and positions in ``packed`` rows."""
        indices, n_probes, values, variances, *scaled = rows.cpu().unbind(dim=1)
        return SquaredNorms(values, variances, n_probes.long(), *scaled), indices.long()

    @staticmethod
    def cat(parts: list[SquaredNorms]) -> SquaredNorms:
        """Join batches."""
        scaled = [part.scaled for part in parts if part.scaled is not None]
        return SquaredNorms(
            torch.cat([part.values for part in parts]),
            torch.cat([part.variances for part in parts]),
            torch.cat([part.n_probes for part in parts]),
            torch.cat(scaled) if scaled else None,
        )

    @staticmethod
    def exact(values: Tensor, scaled: Tensor | None = None) -> SquaredNorms:
        """Return values without an error."""
        return SquaredNorms(
            values, torch.zeros_like(values), torch.ones_like(values, dtype=torch.int64), scaled
        )


def mean_of_probes(
    terms: Tensor, n_counted: int | None = None, n_distinct: float = math.inf
) -> SquaredNorms:
    """Mean over the first r probes of ``terms`` (probes, 1 or 2, n), and its unbiased variance.

    The variance is w_i/r, times (1 - r/N) for probes that are drawn without replacement from N
    (definitions 1). Probes beyond the first r only serve the variance.
    """
    n_counted = n_counted or len(terms)
    mean = terms[:n_counted].mean(dim=0)
    if n_counted >= n_distinct:
        variances = torch.zeros_like(mean[0])
    elif len(terms) > 1:
        variances = terms[:, 0].var(dim=0) / n_counted * (1.0 - n_counted / n_distinct)
    else:
        variances = torch.full_like(mean[0], math.nan)
    counts = torch.full_like(mean[0], n_counted, dtype=torch.int64)
    return SquaredNorms(mean[0], variances, counts, mean[1] if len(mean) > 1 else None)


def channel_scale(std: Tensor | None, x: Tensor) -> Tensor:
    """The input scale in float64, shaped to broadcast over the channels of ``x``; 1 if None.

    Rounded to half precision it would shift all norms the same way.
    """
    dtype = accumulation_dtype(x.device)
    if std is None:
        return torch.ones((), dtype=dtype, device=x.device)
    return std.to(device=x.device, dtype=dtype).reshape(1, -1, *[1] * (x.ndim - 2))
