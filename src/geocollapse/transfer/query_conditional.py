"""Few-shot error given each query, to which the distances of class means are independent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.arrays import CHUNK_NUMBERS
from geocollapse.bounds.moments import unbiased_trace_squared

_LIMIT = 6.0  # standard normal mass beyond it: 2e-9
_GRID = 61  # exact to 1e-6 while no s is 10 times another
_FLOOR = 1e-9  # of the largest distance: smaller standard deviations are rounding


@dataclass(frozen=True, eq=False)
class DistanceLaw:
    """Mean nu and standard deviation s of ||x - m_c||^2 for queries x and classes c.

    Attributes:
        means: nu (R, queries, C).
        deviations: s (R, queries, C).
    """

    means: Tensor
    deviations: Tensor


@dataclass(frozen=True, eq=False)
class QueryTerms:
    """What the laws of ||x - m_c||^2 consist of, for queries x, classes c and R selections.

    Each selection leaves out other examples; mu, S, t, q are of its n examples of a class but x
    itself, y = x - mu.

    Attributes:
        classes: the terms of each class, (queries, R) or (R,).
        own: those of its own queries, each left out of the class.
        rows: the queries of each class.
    """

    classes: list[_Terms]
    own: list[_Terms]
    rows: list[slice]

    @classmethod
    def of(cls, classes: list[Tensor], kept: list[Tensor], queries: list[Tensor]) -> QueryTerms:
        """The terms for some examples of each class as queries.

        O(queries n p + sum_c n_c^2 p) time.

        Args:
            classes: examples (n_c, p) of each class, in float64.
            kept: for each class, which of its examples (n_c, R) belong to each selection.
            queries: for each class, the rows of its examples that are queries.
        """
        x = torch.cat([examples[rows] for examples, rows in zip(classes, queries, strict=True)])
        ends = torch.tensor([len(rows) for rows in queries]).cumsum(0).tolist()
        rows = [slice(end - len(own), end) for end, own in zip(ends, queries, strict=True)]
        terms = [
            _Selections.of(examples, mask).terms(x)
            for examples, mask in zip(classes, kept, strict=True)
        ]
        own = [part.at(at).without_themselves() for part, at in zip(terms, rows, strict=True)]
        return cls(terms, own, rows)

    @property
    def effective_dimensions(self) -> Tensor:
        """(tr S)^2/tr S^2 of each class (C,), from the first selection."""
        return torch.stack([c.trace[0].square() / c.trace_squared[0] for c in self.classes])

    def law(self, k_shot: int) -> DistanceLaw:
        """Laws of the squared distances to the means of m examples, drawn without replacement.

            nu = ||y||^2 + (1/m - 1/n) tr S
            s^2 = 4 (1/m - 1/n) y^T S y + 2 (1/m - 1/n)^2 tr S^2
                  - 4 (1/m - 1/n)(1/m - 2/n) <t, y> + (1/m - 1/n)^3 q

        The 1/n leaves room for the error of mu: nu has no bias for any n, and the probabilities
        that follow have none of first order. t and q, the terms of third and fourth order, are 0
        for Gaussian classes.

        Args:
            k_shot: m, below n - 1 for each class and selection.
        """
        laws = []
        for terms, own, rows in zip(self.classes, self.own, self.rows, strict=True):
            means, variances = terms.law(k_shot)
            means[rows], variances[rows] = own.law(k_shot)
            laws.append((means.T, variances.clamp(min=0.0).sqrt().T))
        means, deviations = (torch.stack(part, dim=2) for part in zip(*laws, strict=True))
        return DistanceLaw(means, deviations)


@dataclass(frozen=True, eq=False)
class _Terms:
    """The terms of one class, for queries and selections (queries, R) or (R,).

    Attributes:
        n: number of examples.
        squared: ||y||^2 with y = x - mu.
        along: y^T S y.
        third: <t, y>.
        trace: tr S.
        trace_squared: tr S^2.
        excess: q.
    """

    n: Tensor
    squared: Tensor
    along: Tensor
    third: Tensor
    trace: Tensor
    trace_squared: Tensor
    excess: Tensor

    def law(self, k_shot: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of the squared distance (queries, R)."""
        room = 1.0 / k_shot - 1.0 / self.n
        further = 1.0 / k_shot - 2.0 / self.n
        variance = 4.0 * room * self.along + 2.0 * room**2 * self.trace_squared
        variance = variance - 4.0 * room * further * self.third + room**3 * self.excess
        return self.squared + room * self.trace, variance

    def at(self, rows: slice) -> _Terms:
        """The terms of some of the queries."""
        return _Terms(
            n=self.n,
            squared=self.squared[rows],
            along=self.along[rows],
            third=self.third[rows],
            trace=self.trace,
            trace_squared=self.trace_squared,
            excess=self.excess,
        )

    def without_themselves(self) -> _Terms:
        """The terms for queries that are examples of the class, each left out of mu, S and t.

        With z = x - mu over all n examples, leaving out x makes y = z n/(n-1), and

            sum <z_i, z>^2 ~ sum <z_i, z>^2 - ||z||^4 n/(n-1)
            sum ||z_i||^2 <z_i, z> ~ sum ||z_i||^2 <z_i, z> - ||z||^4 (1 + 2/(n-1)^2)
                + [(sum ||z_i||^2 - ||z||^2) ||z||^2 + 2 (sum <z_i, z>^2 - ||z||^4)]/(n-1)
        """
        n, y2 = self.n, self.squared
        grown = n / (n - 1)
        along = grown**2 * ((n - 1) * self.along - grown * y2.square()) / (n - 2)
        others = (n - 1) * self.trace - y2
        around = (n - 1) * self.along - y2.square()
        third = self.third * (n - 1) * (n - 2) / n - y2.square() * (1.0 + 2.0 / (n - 1) ** 2)
        third = third + (others * y2 + 2.0 * around) / (n - 1)
        return _Terms(
            n=n - 1,
            squared=grown**2 * y2,
            along=along,
            third=third * n / ((n - 2) * (n - 3)),
            trace=((n - 1) * self.trace - grown * y2) / (n - 2),
            trace_squared=self.trace_squared,
            excess=self.excess,
        )


@dataclass(frozen=True, eq=False)
class _Selections:
    """Examples z of one class about its mean (n, p), and R selections of them.

    Attributes:
        z: the examples about ``mean``.
        mean: of all examples (p,).
        kept: 1 where an example belongs to the selection, else 0 (n, R).
        n: number of examples (R,).
        shift: mean of the selection, from ``mean`` (R, p).
        inner: <z, shift> (n, R).
        third: t (R, p).
        trace: tr S (R,).
        trace_squared: tr Sigma^2 without bias (R,).
        excess: q (R,).
    """

    z: Tensor
    mean: Tensor
    kept: Tensor
    n: Tensor
    shift: Tensor
    inner: Tensor
    third: Tensor
    trace: Tensor
    trace_squared: Tensor
    excess: Tensor

    @classmethod
    def of(cls, examples: Tensor, kept: Tensor) -> _Selections:
        origin = examples[0]  # of equal examples, exactly
        mean = origin + (examples - origin).mean(dim=0)
        z = examples - mean
        kept = kept.to(z.dtype)
        n = kept.sum(dim=0)
        shift = kept.T @ z / n[:, None]
        inner = z @ shift.T
        shift2 = shift.square().sum(dim=1)
        squares = (z.square().sum(dim=1)[:, None] - 2.0 * inner + shift2) * kept
        trace = squares.sum(dim=0) / (n - 1)
        fourth = squares.square().sum(dim=0)
        third = (squares.T @ z - squares.sum(dim=0)[:, None] * shift) * (n / ((n - 1) * (n - 2)))[
            :, None
        ]
        plug_in = _squared_products(z, kept, inner - shift2 / 2) / (n - 1) ** 2
        trace_squared = unbiased_trace_squared(n, trace, plug_in, fourth / (n - 1))
        fourth = fourth * n / (n - 1) ** 2
        excess = fourth - trace.square() + (fourth - trace.square()) / n - 2.0 * trace_squared
        return cls(
            z=z,
            mean=mean,
            kept=kept,
            n=n,
            shift=shift,
            inner=inner,
            third=third,
            trace=trace,
            trace_squared=trace_squared,
            excess=excess,
        )

    def terms(self, x: Tensor) -> _Terms:
        """The terms of the squared distances of queries x (q, p)."""
        chunks = x.split(max(1, CHUNK_NUMBERS // len(self.z)))
        parts = [self._terms(rows - self.mean) for rows in chunks]
        squared, along, third = (torch.cat(part) for part in zip(*parts, strict=True))
        return _Terms(self.n, squared, along, third, self.trace, self.trace_squared, self.excess)

    def _terms(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """||y||^2, y^T S y and <t, y> about the mean of each selection, for y about ``mean``."""
        products = y @ self.z.T
        towards = products @ self.kept / self.n  # <y, shift>
        shift2 = self.shift.square().sum(dim=1)
        squared = y.square().sum(dim=1)[:, None] - 2.0 * towards + shift2
        inner = self.inner * self.kept
        along = (
            products.square() @ self.kept
            - 2.0 * products @ inner
            + (inner * self.inner).sum(dim=0)
            - self.n * (towards - shift2).square()
        )
        third = y @ self.third.T - (self.shift * self.third).sum(dim=1)
        return squared, along / (self.n - 1), third


def _squared_products(z: Tensor, kept: Tensor, centre: Tensor) -> Tensor:
    """sum_ij <z_i - shift, z_j - shift>^2 over the examples of each selection (R,).

    <z_i - shift, z_j - shift> = <z_i, z_j> - c_i - c_j, with c = <z, shift> - ||shift||^2/2.
    """
    n = kept.sum(dim=0)
    total = kept.new_zeros(kept.shape[1])
    weighted = centre * kept
    for rows in torch.arange(len(z), device=z.device).split(max(1, CHUNK_NUMBERS // len(z))):
        gram = z[rows] @ z.T
        total += ((gram.square() @ kept) * kept[rows]).sum(dim=0)
        total -= 4.0 * ((gram @ kept) * weighted[rows]).sum(dim=0)
    squares = (weighted * centre).sum(dim=0)
    return total + 2.0 * n * squares + 2.0 * weighted.sum(dim=0).square()


def right_probabilities(means: Tensor, deviations: Tensor, own: int, ways: Tensor) -> Tensor:
    """Probability that queries of class ``own`` are classified right among each set of rivals.

        P(right | x) = int phi(u) prod_b Phi((nu_b - nu_a - s_a u)/s_b) du

    by the trapezoidal rule on 61 points from -6 to 6. A tie counts as an error.

    Args:
        means: nu (queries, C).
        deviations: s (queries, C).
        own: class a.
        ways: rivals b (sets, k-1).

    Returns:
        (queries, sets).
    """
    u = torch.linspace(-_LIMIT, _LIMIT, _GRID, dtype=means.dtype, device=means.device)
    weights = torch.exp(-u.square() / 2)
    weights = weights / weights.sum()
    rivals, places = ways.unique(return_inverse=True)
    found = []
    rows = max(1, CHUNK_NUMBERS // (_GRID * max(1, len(rivals), len(ways))))
    for nu, s in zip(means.split(rows), deviations.split(rows), strict=True):
        floor = (_FLOOR * nu.amax(dim=1, keepdim=True)).clamp(min=torch.finfo(s.dtype).tiny ** 0.5)
        sd = torch.maximum(s, floor)
        gap = nu[:, rivals] - nu[:, own, None] - 10.0 * floor
        z = (gap[..., None] - sd[:, own, None, None] * u) / sd[:, rivals, None]
        likely = torch.special.ndtr(z)
        all_farther = likely[:, places[:, 0]]
        for rival in places.T[1:]:
            all_farther *= likely[:, rival]
        found.append(all_farther @ weights)
    return torch.cat(found) if len(ways) else means.new_empty(len(means), 0)
