"""Squared norms of a batch with the variance of each, from estimates by single probes."""

from __future__ import annotations

import math
from collections.abc import Callable
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
        scaled_variances: (n,) float64, the variances of ``scaled``.
        chosen: (n,) bool, the examples that got a second probe for their size; None for none. Those
            of all others were drawn at random.
    """

    values: Tensor
    variances: Tensor
    n_probes: Tensor
    scaled: Tensor | None = None
    scaled_variances: Tensor | None = None
    chosen: Tensor | None = None

    def __getitem__(self, rows: slice | Tensor) -> SquaredNorms:
        return self._map(lambda tensor: tensor[rows])

    def __len__(self) -> int:
        return len(self.values)

    def cpu(self) -> SquaredNorms:
        """Return a copy on the CPU."""
        return self._map(lambda tensor: tensor.cpu())

    def per_pixel(self) -> SquaredNorms | None:
        """The norms of the Jacobian in raw pixels, None where the input scale is not known."""
        if self.scaled is None or self.scaled_variances is None:
            return None
        return replace(self, values=self.scaled, variances=self.scaled_variances)

    @property
    def is_random(self) -> Tensor:
        """(n,) bool: single probes whose variance is known from a second one drawn at random."""
        is_second = ~self.variances.isnan() & (self.n_probes == 1)
        return is_second if self.chosen is None else is_second & ~self.chosen

    @property
    def tells_unknown(self) -> Tensor:
        """(n,) bool: random second probes of norms that are no larger than the largest without."""
        unknown = self.values[self.variances.isnan()]
        return self.is_random & (self.values <= (unknown.max() if len(unknown) else -math.inf))

    def filled_variances(self) -> Tensor:
        """Return ``variances`` (n,) with those of single probes estimated as q y_i^2.

            q = sum_k Var(y_k | k) / sum_k y_k^2    over examples k with a random second probe

        A ratio estimate: the variance of a probe grows with the square of the norm. Examples larger
        than all those without a second probe do not count: those get theirs for their size.
        """
        unknown = self.variances.isnan()
        if not bool(unknown.any()):
            return self.variances
        told = self.tells_unknown
        squares = self.values.square()
        ratio = self.variances[told].sum() / squares[told].sum().clamp(
            min=torch.finfo(squares.dtype).tiny
        )
        return torch.where(unknown, ratio * squares, self.variances)

    def with_variances(self, rows: Tensor, others: SquaredNorms) -> SquaredNorms:
        """Return a copy with the variances of ``others`` in ``rows``, chosen for their size."""
        scaled = self.scaled_variances
        if scaled is not None and others.scaled_variances is not None:
            scaled = scaled.index_put((rows,), others.scaled_variances)
        chosen = torch.zeros_like(self.variances, dtype=torch.bool)
        chosen[rows] = True
        variances = self.variances.index_put((rows,), others.variances)
        return replace(self, variances=variances, scaled_variances=scaled, chosen=chosen)

    def packed(self, indices: Tensor) -> Tensor:
        """Pack the norms and positions (n,) of their examples in one tensor (n, 5 or 7) to send."""
        none = torch.zeros_like(self.values)
        columns = [indices, self.n_probes, self.values, self.variances]
        columns.append(none if self.chosen is None else self.chosen)
        if self.scaled is not None and self.scaled_variances is not None:
            columns += [self.scaled, self.scaled_variances]
        return torch.stack([column.cpu().double() for column in columns], dim=1)

    @staticmethod
    def unpacked(rows: Tensor) -> tuple[SquaredNorms, Tensor]:
        """Return the norms and positions in ``packed`` rows."""
        indices, n_probes, values, variances, chosen, *scaled = rows.cpu().unbind(dim=1)
        norms = SquaredNorms(values, variances, n_probes.long(), *scaled)
        return replace(norms, chosen=chosen.bool()), indices.long()

    @staticmethod
    def cat(parts: list[SquaredNorms]) -> SquaredNorms:
        """Join batches; those that give an input scale must all do."""
        whole = [part.with_chosen() for part in parts]
        given = [key for key, tensor in vars(whole[0]).items() if tensor is not None]
        joined = {key: torch.cat([vars(part)[key] for part in whole]) for key in given}
        return replace(whole[0], **joined)

    def with_chosen(self) -> SquaredNorms:
        """Return a copy whose ``chosen`` is a tensor."""
        if self.chosen is not None:
            return self
        return replace(self, chosen=torch.zeros_like(self.variances, dtype=torch.bool))

    def _map(self, change: Callable[[Tensor], Tensor]) -> SquaredNorms:
        """Return a copy with each tensor changed."""
        given = {key: tensor for key, tensor in vars(self).items() if tensor is not None}
        return replace(self, **{key: change(tensor) for key, tensor in given.items()})

    @staticmethod
    def exact(values: Tensor, scaled: Tensor | None = None) -> SquaredNorms:
        """Return values without an error."""
        none = torch.zeros_like(values)
        counts = torch.ones_like(values, dtype=torch.int64)
        return SquaredNorms(values, none, counts, scaled, None if scaled is None else none)


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
        variances = torch.zeros_like(mean)
    elif len(terms) > 1:
        variances = terms.var(dim=0) / n_counted * (1.0 - n_counted / n_distinct)
    else:
        variances = torch.full_like(mean, math.nan)
    counts = torch.full_like(mean[0], n_counted, dtype=torch.int64)
    scaled = (mean[1], variances[1]) if len(mean) > 1 else (None, None)
    return SquaredNorms(mean[0], variances[0], counts, *scaled)


def channel_scale(std: Tensor | None, x: Tensor) -> Tensor:
    """The input scale in float64, shaped to broadcast over the channels of ``x``; 1 if None.

    Rounded to half precision it would shift all norms the same way.
    """
    dtype = accumulation_dtype(x.device)
    if std is None:
        return torch.ones((), dtype=dtype, device=x.device)
    return std.to(device=x.device, dtype=dtype).reshape(1, -1, *[1] * (x.ndim - 2))
