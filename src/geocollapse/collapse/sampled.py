"""CDNV estimated from a random sample of class pairs, where all pairs are too many."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geocollapse.arrays import row_slices
from geocollapse.collapse.cdnv import class_variances, mean_noise
from geocollapse.collapse.statistics import ClassStatistics
from geocollapse.estimate import LARGEST_SHARE_LIMIT, Estimate


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
    values = _pair_values(statistics, draw_pairs(n_classes, n_pairs, seed), bias_corrected)
    variance = float(values.var()) / n_pairs * (1.0 - n_pairs / n_all)
    total = float(values.sum())
    n_undefined = int(values.isnan().sum())
    share = float(values.max()) / total if total > 0.0 else None
    return Estimate(
        value=total / n_pairs,
        stderr=math.sqrt(variance),
        n_samples=n_pairs,
        estimator="pairs",
        largest_share=share,
        dof=n_pairs - 1,
        warnings=_warnings(n_undefined, n_pairs, share),
    )


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


def _pair_values(statistics: ClassStatistics, pairs: Tensor, bias_corrected: bool) -> Tensor:
    """V_ij of ``pairs`` (m,) from the differences of the means; NaN where undefined."""
    variances = class_variances(statistics, bias_corrected=bias_corrected)
    noise = mean_noise(statistics, bias_corrected=bias_corrected)
    offsets = statistics.offsets
    device = offsets.device
    values = []
    for rows in row_slices(len(pairs), 2 * statistics.n_features, device):
        i, j = pairs[rows].to(device).unbind(dim=1)
        squared = torch.linalg.vector_norm(offsets[i] - offsets[j], dim=1).square_()
        if noise is not None:
            squared -= noise[i] + noise[j]
        squared.masked_fill_(squared <= 0.0, torch.nan)
        values.append((variances[i] + variances[j]) / (2.0 * squared))
    return torch.cat(values)


def _warnings(n_undefined: int, n_pairs: int, share: float | None) -> tuple[str, ...]:
    if n_undefined:
        return (
            f"cdnv: undefined for {n_undefined} of {n_pairs} drawn class pairs (a class without "
            "enough examples, or a squared distance that is not positive); the average is NaN",
        )
    if share is not None and share > LARGEST_SHARE_LIMIT:
        return (f"cdnv: one class pair carries {share:.1%} of it; the interval may be too short",)
    return ()
