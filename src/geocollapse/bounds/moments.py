"""Mean and variance of the nearest-mean classifier's decision statistic for all pairs of classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.collapse import LabelledFeatures, distances_squared

_COVARIANCE_BYTES = 1 << 30  # all class covariances are kept up to this size
_MAX_COVARIANCE_FEATURES = 4096  # definitions 2: above it no p x p matrix is formed


@dataclass(frozen=True, eq=False)
class DecisionMoments:
    """What the mean and variance of T_ab need of each class and each pair of classes.

        T_ab = (||x - m_b||^2 - ||x - m_a||^2) / 2      x of class a, m_c the mean of m shots; right iff T_ab > 0

    With D_ab = mu_a - mu_b, z = f - mu_c, S_c the covariance, q_c = E||z||^4 - (tr S_c)^2 - 2 tr S_c^2 and
    t_c = E[z ||z||^2], both 0 for Gaussian classes:

        E T_ab = ||D||^2/2 + (tr S_b - tr S_a)/(2m)
        Var T_ab = D^T S_a D + D^T S_b D/m + (tr S_a^2 + tr S_a S_b)/m + (tr S_a^2 + tr S_b^2)/(2 m^2)
                   + (q_a + q_b)/(4 m^3) - <t_b, D>/m^2

    Cost: O(n p^2) for the products of covariances, float64, one class at a time.

    Source: derived in definitions 4; for Gaussian classes Sorscher, Ganguli, Sompolinsky (2022) print an approximation.

    Attributes:
        distances: ||D_ab||^2 (C, C).
        traces: tr S_a (C,).
        along: D_ab^T S_a D_ab (C, C).
        products: tr S_a S_b (C, C).
        excess: q_a (C,).
        skew: <t_b, D_ab> (C, C), row a, column b.
        stable_rank: min over classes of tr S_c / lambda_max(S_c).
    """

    distances: Tensor
    traces: Tensor
    along: Tensor
    products: Tensor
    excess: Tensor
    skew: Tensor
    stable_rank: float

    @classmethod
    def of(cls, data: LabelledFeatures) -> DecisionMoments:
        """Moments of the empirical class laws of ``data``."""
        means = data.statistics.centred_means()
        classes = [_ClassMoments.of(z, means, row) for row, z in enumerate(_class_residuals(data))]
        traces = torch.stack([c.trace for c in classes])
        products = _products(data, classes)
        third = torch.stack([c.third for c in classes])  # t_b
        across = means @ third.T  # <mu_a, t_b>
        return cls(
            distances=distances_squared(means),
            traces=traces,
            along=torch.stack([c.along for c in classes]),
            products=products,
            excess=torch.stack([c.fourth for c in classes]) - traces.square() - 2.0 * products.diagonal(),
            skew=across - across.diagonal(),
            stable_rank=min(c.stable_rank for c in classes),
        )

    def mean(self, k_shot: float) -> Tensor:
        """E T_ab (C, C) with ``k_shot`` shots; the diagonal has no meaning."""
        return self.distances / 2 + (self.traces - self.traces[:, None]) / (2 * k_shot)

    def variance(self, k_shot: float) -> Tensor:
        """Var T_ab (C, C) with ``k_shot`` shots; the diagonal has no meaning."""
        m, own = k_shot, self.products.diagonal()
        total = self.along + self.along.T / m + (own[:, None] + self.products) / m
        total = total + (own[:, None] + own) / (2 * m**2) + (self.excess[:, None] + self.excess) / (4 * m**3)
        return (total - self.skew / m**2).clamp(min=0.0)  # rounding


@dataclass(frozen=True, eq=False)
class _ClassMoments:
    """Moments of one class: tr S, D_ab^T S D_ab for every b, E||z||^4, E[z ||z||^2], S itself if small enough."""

    trace: Tensor
    along: Tensor
    fourth: Tensor
    third: Tensor
    stable_rank: float
    covariance: Tensor | None

    @classmethod
    def of(cls, z: Tensor, means: Tensor, row: int) -> _ClassMoments:
        squares = z.square().sum(dim=1)
        projected = z @ means.T
        trace = squares.mean()
        covariance = z.T @ z / len(z) if _keeps_covariances(means) else None
        return cls(
            trace=trace,
            along=(projected[:, row, None] - projected).square().mean(dim=0),
            fourth=squares.square().mean(),
            third=(z * squares[:, None]).mean(dim=0),
            stable_rank=_stable_rank(z, covariance, float(trace)),
            covariance=covariance,
        )


def _class_residuals(data: LabelledFeatures) -> list[Tensor]:
    """z = f(x) - mu_c of each class in float64."""
    chunks = list(data.residuals())
    residuals, index = torch.cat([z for z, _ in chunks]), torch.cat([rows for _, rows in chunks])
    order = index.argsort(stable=True)
    return list(residuals[order].split(torch.bincount(index, minlength=len(data.statistics.classes)).tolist()))


def _keeps_covariances(means: Tensor) -> bool:
    n_classes, p = means.shape
    return p <= _MAX_COVARIANCE_FEATURES and 8 * n_classes * p * p <= _COVARIANCE_BYTES


def _products(data: LabelledFeatures, classes: list[_ClassMoments]) -> Tensor:
    """tr S_a S_b (C, C): Gram matrix of the covariances; where too large, ||Z_a Z_b^T||_F^2 / (n_a n_b)."""
    kept = [c.covariance.flatten() for c in classes if c.covariance is not None]
    if len(kept) == len(classes):
        stacked = torch.stack(kept)
        return stacked @ stacked.T
    residuals = _class_residuals(data)
    rows = [[_cross(a, b) if j <= i else 0.0 for j, b in enumerate(residuals)] for i, a in enumerate(residuals)]
    lower = torch.tensor(rows, dtype=torch.float64, device=residuals[0].device)
    return lower + lower.tril(-1).T


def _cross(a: Tensor, b: Tensor) -> float:
    return sum(float((part @ b.T).square().sum()) for part in a.split(4096)) / (len(a) * len(b))


def _stable_rank(z: Tensor, covariance: Tensor | None, trace: float) -> float:
    """tr S / lambda_max(S), infinite for a class of zero variance; exact eigenvalues of the smaller Gram matrix."""
    if trace == 0.0:
        return math.inf
    gram = z @ z.T / len(z) if covariance is None or len(z) < z.shape[1] else covariance
    return trace / float(torch.linalg.eigvalsh(gram)[-1])
