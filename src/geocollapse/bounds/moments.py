"""Moments of the nearest-mean classifier's decision statistic, for pairs and triples of classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from geocollapse.collapse import LabelledFeatures
from geocollapse.numerics import largest_eigenvalue

# of the (C, p, p) class covariances, or of those of their columns that are held at a time
_COVARIANCE_BYTES = 1 << 30
# definitions 2: no larger matrix is diagonalised, and no larger p x p matrix is formed
_MAX_EIGENVALUES = 4096


@dataclass(frozen=True, eq=False)
class DecisionMoments:
    """Moments of classes and pairs of classes that give the mean and variance of T_ab.

        T_ab = (||x - m_b||^2 - ||x - m_a||^2) / 2
            x of class a, m_c the mean of m shots; right iff T_ab > 0

    With D_ab = mu_a - mu_b, z = f - mu_c, S_c the covariance, q_c = E||z||^4 - (tr S_c)^2 - 2 tr
    S_c^2 and t_c = E[z ||z||^2], both 0 for Gaussian classes:

        E T_ab = ||D||^2/2 + (tr S_b - tr S_a)/(2m)
        Var T_ab = D^T S_a D + D^T S_b D/m + (tr S_a^2 + tr S_a S_b)/m + (tr S_a^2 + tr S_b^2)/(2
                   m^2) + (q_a + q_b)/(4 m^3) - <t_b, D>/m^2
        Cov(T_ab, T_ac) = D_ab^T S_a D_ac + (1/m + 1/(2 m^2)) tr S_a^2 + q_a/(4 m^3),    b != c

    Cost: two passes over the features in float64, one class at a time; O(min(n, p) n p + C^2 p^2)
    time, memory of the residuals of one class and at most 1 GiB of covariances.

    Source: derived in definitions 4; for Gaussian classes Sorscher, Ganguli, Sompolinsky (2022)
    print an approximation.

    Attributes:
        distances: ||D_ab||^2 (C, C).
        traces: tr S_a (C,).
        along: D_ab^T S_a D_ab (C, C).
        products: tr S_a S_b (C, C).
        excess: q_a (C,).
        skew: <t_b, D_ab> (C, C), row a, column b.
        stable_rank: min over classes of tr S_c / lambda_max(S_c); NaN where it was not asked for.
        counts: number of examples n_c of each class, float64 (C,).
    """

    distances: Tensor
    traces: Tensor
    along: Tensor
    products: Tensor
    excess: Tensor
    skew: Tensor
    stable_rank: float
    counts: Tensor

    @classmethod
    def of(cls, data: LabelledFeatures, *, stable_rank: bool = True) -> DecisionMoments:
        """Moments of the empirical class laws of ``data``.

        The stable rank costs an eigenvalue a class: leave it out where no bound is wanted.
        """
        means = data.centred_means
        keeps = _keeps_covariances(len(data.features), *means.shape)
        classes = []
        lowest = math.inf
        for row, z in enumerate(_class_residuals(data)):
            classes.append(_ClassMoments.of(z, means, row, keeps))
            if stable_rank:
                lowest = _stable_rank(z, classes[-1], lowest)
        traces = torch.stack([c.trace for c in classes])
        products = _products(data, [c.covariance for c in classes if c.covariance is not None])
        third = torch.stack([c.third for c in classes])
        across = means @ third.T  # <mu_a, t_b>
        fourth = torch.stack([c.fourth for c in classes])
        return cls(
            distances=data.squared_distances,
            traces=traces,
            along=torch.stack([c.along for c in classes]),
            products=products,
            excess=fourth - traces.square() - 2.0 * products.diagonal(),
            skew=across - across.diagonal(),
            stable_rank=lowest if stable_rank else math.nan,
            counts=data.statistics.counts,
        )

    def mean(self, k_shot: float) -> Tensor:
        """E T_ab (C, C) with ``k_shot`` shots; the diagonal has no meaning."""
        return self.distances / 2 + (self.traces - self.traces[:, None]) / (2 * k_shot)

    def variance(self, k_shot: float) -> Tensor:
        """Var T_ab (C, C) with ``k_shot`` shots; the diagonal has no meaning."""
        m = k_shot
        own = self.products.diagonal()
        total = self.along + self.along.T / m + (own[:, None] + self.products) / m
        total = total + (own[:, None] + own) / (2 * m**2)
        total = total + (self.excess[:, None] + self.excess) / (4 * m**3)
        return (total - self.skew / m**2).clamp(min=0.0)  # rounding

    def corrected(self) -> DecisionMoments:
        """Moments without the bias of finite samples: those of the laws behind the examples.

        With S the (n-1)-covariance and Q = sum ||z||^4/(n-1),

            tr Sigma^2 ~ (n-1)/(n(n-2)(n-3)) [(n-1)(n-2) tr S^2 + (tr S)^2 - n Q]
            ||D||^2 ~ ||D^||^2 - tr S_a/n_a - tr S_b/n_b
            D^T Sigma_a D ~ D^^T S_a D^ - tr Sigma_a^2/n_a - tr Sigma_a Sigma_b/n_b

        and q and t likewise. Exact for Gaussian classes, to order 1/n otherwise. It needs 4
        examples of each class, and a corrected value can be negative.
        """
        n = self.counts
        f = n / (n - 1)
        traces = self.traces * f
        fourth = self.excess + self.traces.square() + 2.0 * self.products.diagonal()
        own = unbiased_trace_squared(n, traces, self.products.diagonal() * f**2, fourth * f)
        products = self.products * f * f[:, None]
        products.diagonal().copy_(own)
        fourth = fourth * f**2
        excess = fourth - (traces.square() - (fourth - traces.square()) / n) - 2.0 * own
        along = self.along * f[:, None] - (own / n)[:, None] - products / n
        skew = self.skew * (n**2 / ((n - 1) * (n - 2))) + excess / n
        distances = self.distances - (traces / n)[:, None] - traces / n
        for of_pairs in (along, skew, distances):
            of_pairs.fill_diagonal_(0.0)
        return replace(
            self,
            distances=distances,
            traces=traces,
            along=along,
            products=products,
            excess=excess,
            skew=skew,
        )

    def joint(self, rivals: Rivals, along: Tensor, k_shot: int) -> tuple[Tensor, Tensor]:
        """Mean (B, k-1) and covariance (B, k-1, k-1) of (T_ab) over the rivals b of class a.

        Args:
            rivals: B times a class a and its k - 1 rivals.
            along: D_ab^T S_a D_ac (B, k-1, k-1) as ``triples`` gives it, bias-corrected if these
                moments are; its diagonal is not read.
            k_shot: shots m.
        """
        a, b = rivals
        own = self.products.diagonal()
        shared = own * (1.0 / k_shot + 1.0 / (2 * k_shot**2)) + self.excess / (4 * k_shot**3)
        covariance = along + shared[a, None, None]
        variance = self.variance(k_shot)[a[:, None], b]
        covariance.diagonal(dim1=1, dim2=2).copy_(variance)
        return self.mean(k_shot)[a[:, None], b], covariance


class Rivals(NamedTuple):
    """Classes against which a class is decided, by their rows.

    Attributes:
        own: class a (B,).
        others: its k - 1 rivals (B, k-1).
    """

    own: Tensor
    others: Tensor


def triples(data: LabelledFeatures, rivals: Rivals) -> Tensor:
    """D_ab^T S_a D_ac (B, k-1, k-1) for the rivals b, c of each class a, from one pass.

    O(n k' (p + k')) time, k' the number of different rivals of a class.
    """
    means = data.centred_means
    width = rivals.others.shape[1]
    found = means.new_zeros(len(rivals.own), width, width)
    for a, z in enumerate(_class_residuals(data)):
        rows = (rivals.own == a).nonzero().flatten()
        if len(rows) == 0:
            continue
        columns, places = rivals.others[rows].unique(return_inverse=True)
        projected = z @ (means[a] - means[columns]).T
        along = projected.T @ projected / len(z)
        found[rows] = along[places[:, :, None], places[:, None, :]]
    return found


def corrected_triples(along: Tensor, rivals: Rivals, corrected: DecisionMoments) -> Tensor:
    """``triples`` without their bias: (n/(n-1)) D^T S_a D' - tr Sigma_a^2/n_a for b != c."""
    n = corrected.counts[rivals.own, None, None]
    own = corrected.products.diagonal()[rivals.own, None, None]
    return along * (n / (n - 1)) - own / n


def unbiased_trace_squared(n: Tensor, trace: Tensor, plug_in: Tensor, fourth: Tensor) -> Tensor:
    """tr Sigma^2 (C,) without bias, from tr S, tr S^2 and sum ||z||^4/(n-1) of S over n - 1."""
    total = (n - 1) * (n - 2) * plug_in + trace.square() - n * fourth
    return (n - 1) / (n * (n - 2) * (n - 3)) * total


@dataclass(frozen=True, eq=False)
class _ClassMoments:
    """Moments of one class a.

    Attributes:
        trace: tr S.
        along: D_ab^T S D_ab for every b (C,).
        fourth: E||z||^4.
        third: E[z ||z||^2] (p,).
        covariance: S (p, p), or None if those of all classes are too large.
    """

    trace: Tensor
    along: Tensor
    fourth: Tensor
    third: Tensor
    covariance: Tensor | None

    @classmethod
    def of(cls, z: Tensor, means: Tensor, row: int, keeps_covariance: bool) -> _ClassMoments:
        squares = torch.linalg.vecdot(z, z)
        projected = z @ means.T
        return cls(
            trace=squares.mean(),
            along=(projected[:, row, None] - projected).square().mean(dim=0),
            fourth=squares @ squares / len(z),
            third=squares @ z / len(z),
            covariance=z.T @ z / len(z) if keeps_covariance else None,
        )


def _class_residuals(data: LabelledFeatures) -> Iterator[Tensor]:
    """Yield z = f(x) - mu_c in float64, one class at a time.

    Exactly 0 where all examples of a class are equal.
    """
    counts = torch.bincount(data.index, minlength=len(data.statistics.classes)).tolist()
    for rows in data.index.argsort(stable=True).split(counts):
        x = data.features.index_select(0, rows).double()
        x -= x[0].clone()
        yield x.sub_(x.mean(dim=0))


def _keeps_covariances(n: int, n_classes: int, p: int) -> bool:
    return n > p and p <= _MAX_EIGENVALUES and 8 * n_classes * p * p <= _COVARIANCE_BYTES


def _products(data: LabelledFeatures, covariances: list[Tensor]) -> Tensor:
    """tr S_a S_b (C, C), from the covariances where they were kept."""
    n_examples, p = data.features.shape
    if covariances:
        stacked = torch.stack([covariance.flatten() for covariance in covariances])
        return stacked @ stacked.T
    return _products_by_rows(data) if n_examples <= p else _products_by_columns(data, p)


def _products_by_rows(data: LabelledFeatures) -> Tensor:
    """tr S_a S_b = ||Z_a Z_b^T||_F^2 / (n_a n_b), for fewer examples than features: O(n^2 p)."""
    residuals = list(_class_residuals(data))
    counts = [len(z) for z in residuals]
    every = torch.cat(residuals)
    rows = []
    for z in residuals:
        by_example = (z @ every.T).square().sum(dim=0)
        rows.append(torch.stack([part.mean() for part in by_example.split(counts)]) / len(z))
    return torch.stack(rows)


def _products_by_columns(data: LabelledFeatures, p: int) -> Tensor:
    """tr S_a S_b = sum_J <S_a[:, J], S_b[:, J]> over blocks J of columns, for many features.

    O((n + C^2) p^2).
    """
    n_classes = len(data.statistics.classes)
    width = max(1, min(_MAX_EIGENVALUES, _COVARIANCE_BYTES // (8 * n_classes * p)))
    total = data.statistics.offsets.new_zeros(n_classes, n_classes)
    for start in range(0, p, width):
        columns = slice(start, start + width)
        block = torch.stack(
            [(z.T @ z[:, columns] / len(z)).flatten() for z in _class_residuals(data)]
        )
        total += block @ block.T
    return total


def _stable_rank(z: Tensor, moments: _ClassMoments, lowest: float) -> float:
    """min(tr S / lambda_max(S), lowest), from the smaller of S and the Gram matrix.

    Infinite for zero variance. Where both matrices are too large, ||S||_F replaces lambda_max. It
    is never less, so the bounds hold.
    """
    n_examples, p = z.shape
    trace = float(moments.trace)
    if trace == 0.0:
        return lowest
    if min(n_examples, p) > _MAX_EIGENVALUES:
        squares = sum(float((rows @ z.T).square().sum()) for rows in z.split(1024))
        return min(lowest, trace / math.sqrt(squares) * n_examples)
    if n_examples < p:
        smaller = z @ z.T / n_examples
    else:
        smaller = z.T @ z / n_examples if moments.covariance is None else moments.covariance
    return trace / largest_eigenvalue(smaller, trace / lowest)
