"""Means over class pairs, estimated from a random sample of them where all pairs are too many."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.arrays import row_slices
from geocollapse.collapse.cdnv import class_variances, mean_noise
from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.collapse.statistics import ClassStatistics
from geocollapse.estimate import LARGEST_SHARE_LIMIT, Estimate, Scale

# class pairs up to which averages are over all of them: 8,192 classes
MAX_PAIRS = 1 << 25
SAMPLED_PAIRS = 500_000  # of more than MAX_PAIRS


@dataclass(frozen=True, eq=False)
class PairSample:
    """Random class pairs i < j, a simple random sample of all pairs of the classes.

    Attributes:
        first: i (m,).
        second: j (m,).
        n_all: M = C (C - 1)/2.
    """

    first: Tensor
    second: Tensor
    n_all: int

    @classmethod
    def of(
        cls, n_classes: int, n_pairs: int | None = None, *, seed: int = 0, device: torch.device
    ) -> PairSample:
        """Draw ``n_pairs`` distinct pairs, by default SAMPLED_PAIRS, at most all of them."""
        n_all = n_classes * (n_classes - 1) // 2
        n_drawn = min(SAMPLED_PAIRS if n_pairs is None else n_pairs, n_all)
        pairs = draw_pairs(n_classes, n_drawn, seed).to(device)
        return cls(pairs[:, 0], pairs[:, 1], n_all)

    def __len__(self) -> int:
        return len(self.first)

    def map(self, vectors: Tensor, term: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """``term`` of the two vectors (k, p) of each pair (m,), in chunks of bounded memory."""
        values = [
            term(vectors[self.first[rows]], vectors[self.second[rows]])
            for rows in row_slices(len(self), 2 * vectors.shape[1], vectors.device)
        ]
        return torch.cat(values)

    def distances_squared(self, means: Tensor) -> Tensor:
        """||mu_i - mu_j||^2 of each pair (m,), from the differences."""
        return self.map(means, lambda a, b: torch.linalg.vector_norm(a - b, dim=1).square_())

    def error_squared(self, values: Tensor) -> float:
        """SE^2 = s^2/m (1 - m/M) of the mean of ``values`` (m,) as that of all pairs.

        Source: Cochran (1977), Sampling Techniques, eq. 2.20.
        """
        return float(values.var()) / len(self) * (1.0 - len(self) / self.n_all)

    def estimate(self, name: str, values: Tensor, *, scale: Scale = "log") -> Estimate:
        """Estimate the mean over all pairs from ``values`` of the drawn ones (m,)."""
        total = float(values.sum())
        n_undefined = int(values.isnan().sum())
        share = None
        if scale == "log" and total > 0.0:
            share = float(values.max()) / total
        return Estimate(
            value=total / len(self),
            stderr=math.sqrt(self.error_squared(values)),
            n_samples=len(self),
            estimator="pairs",
            largest_share=share,
            dof=len(self) - 1,
            scale=scale,
            warnings=_warnings(name, n_undefined, len(self), share),
        )


def has_too_many_pairs(n_classes: int) -> bool:
    """True where averages over class pairs are estimated from a sample of them."""
    return n_classes * (n_classes - 1) // 2 > MAX_PAIRS


def sampled_cdnv(
    statistics: ClassStatistics, n_pairs: int, *, seed: int = 0, bias_corrected: bool = False
) -> Estimate:
    """Mean CDNV over all pairs of these classes, estimated from ``n_pairs`` random pairs.

        V_ij = (Var_i + Var_j) / (2 ||mu_i - mu_j||^2),    M = C (C - 1)/2,
            SE^2 = s^2/m (1 - m/M)

    m pairs i < j are drawn uniformly without replacement, whatever their values, so the V_ij of the
    sample are a simple random sample of the M fixed numbers: that pairs share classes does not
    matter. The interval is about the mean over all pairs of THESE classes, with their statistics
    taken as exact (what ``mean_cdnv`` computes); it says nothing about other classes or other
    examples. Pairs of near means make a heavy tail: see ``largest_share``. Invariances as ``cdnv``.
    O(m p), no more memory than the statistics.

    Source: Cochran (1977), Sampling Techniques, eq. 2.20 (finite population); the CDNV: ``cdnv``.

    Args:
        statistics: class statistics, from ``ClassStatistics.of`` or a stream.
        n_pairs: m, from 2 to C (C - 1)/2; all of them give the exact value with standard error 0.
        seed: of the pairs.
        bias_corrected: see ``cdnv``.

    Returns:
        An Estimate with ``estimator="pairs"``; NaN with a warning where a drawn pair is undefined.

    Raises:
        ValueError: ``n_pairs`` out of range.

    Examples:
        >>> x = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
        >>> y = torch.arange(600) % 100
        >>> low, high = sampled_cdnv(ClassStatistics.of(x, y), 1000).interval()
        >>> bool(0.0 < low < high)
        True
    """
    n_classes = len(statistics.classes)
    n_all = n_classes * (n_classes - 1) // 2
    if not 2 <= n_pairs <= n_all:
        raise ValueError(
            f"n_pairs: expected 2 to {n_all}, the pairs of {n_classes} classes, got {n_pairs}; "
            "do mean_cdnv(statistics) for all pairs"
        )
    device = statistics.offsets.device
    sample = PairSample.of(n_classes, n_pairs, seed=seed, device=device)
    return estimate_cdnv(statistics, sample, bias_corrected=bias_corrected)


def estimate_cdnv(
    statistics: ClassStatistics, sample: PairSample, *, bias_corrected: bool = False
) -> Estimate:
    """Mean CDNV from the pairs of ``sample``, see ``sampled_cdnv``."""
    variances = class_variances(statistics, bias_corrected=bias_corrected)
    noise = mean_noise(statistics, bias_corrected=bias_corrected)
    squared = sample.distances_squared(statistics.offsets)
    is_undefined = squared <= statistics.rounding_squared()
    if noise is not None:
        squared -= noise[sample.first] + noise[sample.second]
        is_undefined |= squared <= 0.0
    squared.masked_fill_(is_undefined, torch.nan)
    values = (variances[sample.first] + variances[sample.second]) / (2.0 * squared)
    return sample.estimate("cdnv_bias_corrected" if bias_corrected else "cdnv", values)


def estimate_directional_cdnv(data: LabelledFeatures, sample: PairSample) -> Estimate:
    """Mean directional CDNV from both directions of each pair of ``sample``.

    O(n p m/C) time: the examples of a class are projected on the lines to its drawn partners only.
    """
    means = data.centred_means
    n_classes = len(means)
    own = torch.cat([sample.first, sample.second])
    other = torch.cat([sample.second, sample.first])
    by_class = own.argsort(stable=True).split(torch.bincount(own, minlength=n_classes).tolist())
    counts = torch.bincount(data.index, minlength=n_classes).tolist()
    examples = data.index.argsort(stable=True).split(counts)
    along = torch.full_like(own, torch.nan, dtype=torch.float64)
    for i, (rows, lines) in enumerate(zip(examples, by_class, strict=True)):
        if len(rows) and len(lines):
            along[lines] = _variance_along(data, rows, means[other[lines]] - means[i])
    squared = sample.distances_squared(means)
    squared.masked_fill_(squared <= data.statistics.rounding_squared(), torch.nan)
    values = along.view(2, -1).mean(dim=0) / squared.square()
    return sample.estimate("directional_cdnv", values)


def _variance_along(data: LabelledFeatures, rows: Tensor, lines: Tensor) -> Tensor:
    """Mean of <z, line>^2 over the examples ``rows`` of one class, for each of ``lines`` (k, p)."""
    total = lines.new_zeros(len(lines))
    for part in row_slices(len(rows), lines.shape[1] + len(lines), lines.device):
        z, _ = data.residuals_of(rows[part])
        total += (z @ lines.T).square().sum(dim=0)
    return total / len(rows)


def sampled_weights(means: Tensor, sample: PairSample, rounding: float = 0.0) -> Tensor:
    """``pair_weights`` (C,) from the drawn pairs: w_i = 1/(2m) sum over pairs with i of 1/d^2."""
    inverse = inverse_distances(means, sample, rounding)
    sums = inverse.new_zeros(len(means))
    sums.index_add_(0, sample.first, inverse).index_add_(0, sample.second, inverse)
    return sums / (2 * len(sample))


def inverse_distances(means: Tensor, sample: PairSample, rounding: float = 0.0) -> Tensor:
    """1/||mu_i - mu_j||^2 of each drawn pair (m,); NaN where the two means coincide."""
    squared = sample.distances_squared(means.double())
    return torch.where(squared > rounding, squared, torch.nan).reciprocal()


def draw_pairs(n_classes: int, n_pairs: int, seed: int) -> Tensor:
    """Draw distinct pairs i < j of 0..C - 1 (m, 2), every set of m pairs equally likely."""
    generator = torch.Generator().manual_seed(seed)
    n_all = n_classes * (n_classes - 1) // 2
    if 2 * n_pairs >= n_all:
        numbers = torch.randperm(n_all, generator=generator)[:n_pairs]
    else:
        numbers = torch.empty(0, dtype=torch.int64)
        while len(numbers) < n_pairs:
            drawn = torch.randint(n_all, (n_pairs,), generator=generator)
            numbers = torch.cat([numbers, drawn]).unique()
        numbers = numbers[torch.randperm(len(numbers), generator=generator)[:n_pairs]]
    # pair k = j (j - 1)/2 + i; its j is exact below 2^50
    j = ((1.0 + (1.0 + 8.0 * numbers.double()).sqrt()) / 2.0).long()
    return torch.stack([numbers - j * (j - 1) // 2, j], dim=1)


def _warnings(name: str, n_undefined: int, n_pairs: int, share: float | None) -> tuple[str, ...]:
    if n_undefined:
        return (
            f"{name}: undefined for {n_undefined} of {n_pairs} drawn class pairs (a class without "
            "enough examples, or a squared distance that is not positive); the average is NaN",
        )
    if share is not None and share > LARGEST_SHARE_LIMIT:
        return (f"{name}: one class pair carries {share:.1%} of it; the interval may be too short",)
    return ()
