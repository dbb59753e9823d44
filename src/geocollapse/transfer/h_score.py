"""H-score, its shrinkage form, and the variability collapse index, which all read one trace."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels
from geocollapse.transfer.sample import Sample, eigenvalue_cut

_RANK_TOLERANCE = 1e-10  # of the longest centred feature
_EPSILON = torch.finfo(torch.float64).eps
_CLEAR = 100.0  # roundings above which a pivot is none


def h_score(features: Array, labels: Labels, *, shrinkage: bool = True) -> float:
    """H-score: the variance of the class means, in units of the total variance.

        H = tr(Sigma^-1 Sigma_B),    Sigma = 1/n sum_x (f - mu)(f - mu)^T,
            Sigma_B = sum_c n_c/n (mu_c - mu)(mu_c - mu)^T

    With ``shrinkage``, the default, Sigma is replaced by (1 - a) Sigma + a tr(Sigma)/p I and
    Sigma_B by (1 - a) n/(n - 1) Sigma_B, a in [0, 1] the intensity of Ledoit and Wolf. The factor
    n/(n - 1) is that of the published code, in which the class means have the other divisor.

    Range: [0, C - 1] without shrinkage; a little more than C - 1 is possible with it. No unit.
    Invariant under permutation, relabelling, gaps in the labels, translation, rotation and scaling;
    without shrinkage under any invertible linear map of the features.

    It misleads, without shrinkage, with few examples: H grows with p/n, and at rank n - 1 it is
    C - 1 whatever the labels, which is refused here. With shrinkage models of different width or
    spectrum are shrunk by different amounts. O(n p min(n, p)) time.

    Source: Bao et al. (2019), ICIP, eq. 1; the shrinkage form: Ibrahim, Ponomareva, Mazumder
    (2021), arXiv 2110.06893, with Ledoit, Wolf (2004).

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.
        shrinkage: use the covariance of Ledoit and Wolf.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, fewer than two classes, the same features for all
            examples, or, without shrinkage, features of rank n - 1.

    Examples:
        >>> x = torch.tensor([[0.0], [2.0], [8.0], [10.0]])
        >>> round(h_score(x, torch.tensor([0, 0, 1, 1]), shrinkage=False), 4)  # 16 / 17
        0.9412
    """
    sample = Sample.of(features, labels)
    return WhitenedFeatures.of(sample, shrinkage=shrinkage).score(sample)


def vci(features: Array, labels: Labels) -> float:
    """Variability collapse index: the share of the total variance that class means do not hold.

        VCI = 1 - tr(Sigma_T^+ Sigma_B)/rank(Sigma_B),    Sigma_T = Sigma_W + Sigma_B

    Each class has the same weight, as in NC1. On balanced classes tr(Sigma_T^+ Sigma_B) is the
    H-score without shrinkage, so VCI then says nothing that H does not.

    Range [0, 1]: 0 for collapsed classes, 1 for equal class means. No unit. Invariant under
    permutation, relabelling, gaps in the labels, translation and any invertible linear map.

    It misleads with few examples: it falls with p/n, and at rank n - 1 it is 0 whatever the labels,
    which is refused here. Its authors read *more* variability as more transferable when classes
    are those of pre-training; on target classes a low value means classes that can be told apart,
    and that is how it is ranked here. O(n p min(n, p)) time.

    Source: Xu, Liu (2023), ICML, arXiv 2306.03440, definition of the VCI in section 4.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, fewer than two classes, equal class means, the same
            features for all examples, or features of rank n - 1.

    Examples:
        >>> x = torch.tensor([[0.0], [2.0], [8.0], [10.0]])
        >>> round(vci(x, torch.tensor([0, 0, 1, 1])), 4)  # 1 / 17
        0.0588
    """
    sample = Sample.of(features, labels)
    return float(collapse_index(sample, sample.weights))


@dataclass(frozen=True, eq=False)
class WhitenedFeatures:
    """The part of the H-scores that does not depend on the labels.

    Attributes:
        features: less their mean (n, p).
        root: R with R R^T the inverse of the covariance (p, r).
        factor: of the sum of squares of the class means.
    """

    features: Tensor
    root: Tensor
    factor: float

    @classmethod
    def of(cls, sample: Sample, *, shrinkage: bool) -> WhitenedFeatures:
        """Decompose the covariance.

        Raises:
            ValueError: the same features for all examples, or, without shrinkage, rank n - 1.
        """
        z = sample.centred
        n = len(z)
        if not shrinkage:
            eigenvalues, vectors = sample.spectrum
            _check_rank(len(eigenvalues), n)
            return cls(z, vectors * (n / eigenvalues).sqrt(), 1.0 / n)
        covariance, intensity = _shrunk(sample, z, sample.weights)
        factor, kept = _factor(covariance, n)
        identity = torch.eye(len(factor), dtype=z.dtype, device=z.device)
        root = torch.linalg.solve_triangular(factor, identity, upper=False).T
        root = root if kept is None else kept @ root
        return cls(z, root, (1.0 - float(intensity)) / (n - 1))

    def score(self, sample: Sample) -> float:
        """H of these labels."""
        sums = sample.class_sums(self.features) @ self.root
        return self.factor * float((sums.square().sum(dim=1) / sample.counts).sum())

    def influences(self, sample: Sample) -> Tensor:
        """Change of H without shrinkage by each example (n,), as if it were left out.

            (|u|^2 - |u - m|^2 - 1/n sum_c n_c <u, m_c>^2)/n/(1 - h),    u = R^T (f - mu)

        m_c are the class means of u, m that of the example's class, h = |u|^2/n its leverage: the
        derivative of tr(T^-1 B), T the total scatter and B = T - W, over 1 - h.
        """
        u = self.features @ self.root
        n = len(u)
        means = sample.class_sums(u) / sample.counts[:, None]
        squares = u.square().sum(dim=1)
        within = (u - means.index_select(0, sample.index)).square().sum(dim=1)
        between = (u @ means.T).square() @ sample.counts / n
        spare = (1.0 - squares / n).clamp_min(1.0 / n)
        return (squares - within - between) / n / spare


def shrunk_h_score(sample: Sample, weights: Tensor) -> Tensor:
    """H with shrinkage (0-d) of weighted examples."""
    z, means, counts = _moments(sample, weights)
    covariance, intensity = _shrunk(sample, z, weights)
    scaled = (counts / (weights.sum() - 1.0)).sqrt()[:, None] * means
    return (1.0 - intensity) * _trace(covariance, scaled, len(z))[0]


def collapse_index(sample: Sample, weights: Tensor) -> Tensor:
    """VCI (0-d) of weighted examples."""
    z, means, counts = _moments(sample, weights)
    centred = means - means.mean(dim=0)
    residuals = z - means.index_select(0, sample.index)
    shares = weights / counts[sample.index]
    total = residuals.T @ (shares[:, None] * residuals) + centred.T @ centred
    trace, rank_of_total = _trace(total, centred, len(z))
    _check_rank(rank_of_total, len(z))
    lengths = torch.linalg.svdvals(centred.detach())
    rank = int((lengths > _RANK_TOLERANCE * float(z.detach().norm(dim=1).max())).sum())
    if rank == 0:
        raise ValueError(
            "features: expected class means that differ, got equal ones; do check them"
        )
    return 1.0 - trace / rank


def _moments(sample: Sample, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features less their mean (n, p), class means of these (C, p), counts (C,)."""
    counts = sample.class_sums(weights)
    z = sample.centred
    z = z - (weights @ z / weights.sum())
    return z, sample.class_sums(weights[:, None] * z) / counts[:, None], counts


def _trace(total: Tensor, rows: Tensor, n: int) -> tuple[Tensor, int]:
    """tr(T^+ R^T R) for a scatter T (p, p) and rows R (C, p), and the rank of T."""
    factor, kept = _factor(total, n)
    rows = rows if kept is None else rows @ kept
    solved = torch.linalg.solve_triangular(factor, rows.T, upper=False)
    return solved.square().sum(), len(factor)


def _factor(total: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
    """Cholesky factor (r, r) of T (p, p) along its r directions (p, r), None if these are all."""
    factor, failed = torch.linalg.cholesky_ex(total)
    least = float(factor.detach().diagonal().square().min())
    if not bool(failed) and least > _CLEAR * n * _EPSILON * float(total.detach().trace()):
        return factor, None
    eigenvalues, vectors = torch.linalg.eigh(total.detach())
    kept = vectors[:, eigenvalues > eigenvalue_cut(eigenvalues, n)]
    return torch.linalg.cholesky(kept.T @ total @ kept), kept


def _check_rank(rank: int, n: int) -> None:
    if rank >= n - 1:
        raise ValueError(
            f"features: expected a rank below the examples less one, got rank {rank} of {n} "
            "examples, where the score does not depend on the labels; do pass more examples, or "
            "h_score(features, labels, shrinkage=True)"
        )


def _shrunk(sample: Sample, z: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance of Ledoit and Wolf (p, p), and its intensity a in [0, 1] (0-d).

    Source: Ledoit, Wolf (2004), lemma 3.2 to 3.4; the scalars are divided by p there.
    """
    n = weights.sum()
    p = sample.features.shape[1]
    covariance = z.T @ (weights[:, None] * z) / n
    trace = covariance.diagonal().sum()
    squared = covariance.square().sum()
    noise = (weights @ z.square().sum(dim=1).square() / n - squared) / n
    spread = squared - trace.square() / p
    if float(spread.detach()) <= 1e-14 * float(squared.detach()):
        intensity = torch.zeros_like(spread)  # it is its own target
    else:
        intensity = (noise / spread).clamp(0.0, 1.0)
    identity = torch.eye(len(covariance), dtype=z.dtype, device=z.device)
    return (1.0 - intensity) * covariance + intensity * trace / p * identity, intensity
