"""Class-distance normalised variance (CDNV), plug-in and bias-corrected."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels
from geocollapse.collapse.distances import distance_blocks, symmetric
from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.collapse.statistics import ClassStatistics
from geocollapse.estimate import GeocollapseWarning

Reduction = Literal["mean", "nanmean", "none"]


@dataclass(frozen=True)
class ClassPair:
    """Two classes, their CDNV and the distance between their means."""

    first: str
    second: str
    cdnv: float
    distance: float


def cdnv(
    features: Array,
    labels: Labels,
    *,
    bias_corrected: bool = False,
    reduction: Reduction = "mean",
    num_classes: int | None = None,
) -> Tensor:
    """Class-distance normalised variance: within-class variance over squared mean distance.

        V_ij = (Var_i + Var_j) / (2 ||mu_i - mu_j||^2)          NC = Avg_{i != j} V_ij

    Sample variances divide by n_i. ``bias_corrected`` uses Var~_i = n_i/(n_i - 1) Var_i and
    d~^2_ij = ||mu_i - mu_j||^2 - Var~_i/n_i - Var~_j/n_j, each unbiased; the ratio keeps a positive
    bias of order 1/n. Range [0, inf); invariant under relabelling, rotation, translation and
    scaling of the features. One pass over the features, O(n p + C^2 p); the mean needs no (C, C)
    matrix.

    Source: Galanti, György, Hutter (2022), arXiv 2112.15121, definition 1; the correction:
    definitions 2.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.
        bias_corrected: see above.
        reduction: ``none`` returns V (C, C) with NaN on its diagonal; ``mean`` the average over all
            pairs, NaN with a warning where a pair is undefined; ``nanmean`` the average over the
            defined pairs only.
        num_classes: declares the labels 0..num_classes - 1; None discovers the classes.

    Returns:
        A 0-d float64 tensor, or (C, C). A pair is undefined (NaN) where a class has no example
        (fewer than 2 if corrected), where two means are equal but for rounding, or where the
        corrected squared distance is not above 0.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, a label out of the declared range, fewer than two
            classes.

    Examples:
        >>> x = torch.tensor([[-1.0], [1.0], [9.0], [11.0]])
        >>> float(cdnv(x, torch.tensor([0, 0, 1, 1])))
        0.01
    """
    check_reduction(reduction)
    statistics = LabelledFeatures.of(features, labels, num_classes).statistics
    if reduction == "none":
        return pairwise_cdnv(statistics, bias_corrected=bias_corrected)
    value, reasons = mean_cdnv(
        statistics, bias_corrected=bias_corrected, skip_undefined=reduction == "nanmean"
    )
    for reason in reasons:
        warnings.warn(reason, GeocollapseWarning, stacklevel=2)
    return value


def pairwise_cdnv(statistics: ClassStatistics, *, bias_corrected: bool = False) -> Tensor:
    """V_ij of all pairs (C, C), NaN on the diagonal; see ``cdnv``."""
    n_classes = len(statistics.classes)
    full = statistics.counts.new_zeros(n_classes, n_classes)
    for a, b, block in cdnv_blocks(statistics, bias_corrected=bias_corrected):
        full[a, b] = block
        full[b, a] = block.T
    return full.fill_diagonal_(torch.nan)


def mean_cdnv(
    statistics: ClassStatistics, *, bias_corrected: bool = False, skip_undefined: bool = False
) -> tuple[Tensor, tuple[str, ...]]:
    """NC = Avg_{i != j} V_ij (0-d), with the reason if it is NaN or averages some pairs only."""
    n_classes = len(statistics.classes)
    total = statistics.counts.new_zeros(())
    undefined = statistics.counts.new_zeros(())
    variances = class_variances(statistics, bias_corrected=bias_corrected).nan_to_num(nan=0.0)
    for a, b, inverse in _inverse_blocks(statistics, bias_corrected=bias_corrected):
        pairs = inverse.triu_(1) if a == b else inverse
        by_row = pairs.sum(dim=1)
        if bool(by_row.isnan().any()):
            undefined += pairs.isnan().sum()
            by_row = pairs.nan_to_num_(nan=0.0, posinf=torch.inf).sum(dim=1)
        total += (variances[a] @ by_row + pairs.sum(dim=0) @ variances[b]) / 2.0
    n_pairs = n_classes * (n_classes - 1) // 2
    n_undefined = int(undefined)
    if n_undefined == 0:
        return total / n_pairs, ()
    reason = _undefined(n_undefined, n_pairs, bias_corrected, skip_undefined)
    if skip_undefined and n_undefined < n_pairs:
        return total / (n_pairs - n_undefined), (reason,)
    return torch.full_like(total, torch.nan), (reason,)


def cdnv_blocks(
    statistics: ClassStatistics, *, bias_corrected: bool = False
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield tiles of V on and above the diagonal as rows, columns, block; undefined is NaN."""
    variances = class_variances(statistics, bias_corrected=bias_corrected)
    for a, b, inverse in _inverse_blocks(statistics, bias_corrected=bias_corrected):
        block = (variances[a][:, None] + variances[b]) * inverse / 2.0
        yield a, b, (symmetric(block) if a == b else block)


def class_variances(statistics: ClassStatistics, *, bias_corrected: bool) -> Tensor:
    """Var_i = M_i/n_i, or Var~_i = M_i/(n_i - 1) (C,); NaN for a class with too few examples."""
    if not bias_corrected:
        return statistics.variances()
    return torch.where(
        statistics.counts > 1, statistics.sum_squares / (statistics.counts - 1), torch.nan
    )


def mean_noise(statistics: ClassStatistics, *, bias_corrected: bool) -> Tensor | None:
    """Var~_i/n_i (C,), by which sampling a mean inflates squared distances; None if uncorrected."""
    return (
        class_variances(statistics, bias_corrected=True) / statistics.counts
        if bias_corrected
        else None
    )


def largest_pairs(
    statistics: ClassStatistics, k: int = 10, *, class_names: Sequence[str] | None = None
) -> list[ClassPair]:
    """List the k class pairs of largest plug-in CDNV, those that the features separate least.

    Args:
        statistics: class statistics.
        k: how many pairs, largest first, at most C (C - 1) / 2; undefined pairs are left out.
        class_names: a name for each row of ``statistics.classes``; None names a class by its label.

    Raises:
        ValueError: the numbers of names and classes differ, or k < 1.
    """
    names = _names(statistics, class_names)
    if k < 1:
        raise ValueError(
            f"k: expected a positive number of pairs, got {k}; do largest_pairs(statistics, 10)"
        )
    values = statistics.counts.new_zeros(0)
    pairs = statistics.classes.new_zeros(0, 2)
    for a, b, block in cdnv_blocks(statistics):
        larger = block > (values[-1] if len(values) == k else -torch.inf)  # never for NaN
        i, j = (larger.triu(1) if a == b else larger).nonzero(as_tuple=True)
        values, best = torch.cat([values, block[i, j]]).sort(descending=True, stable=True)
        pairs = torch.cat([pairs, torch.stack([i + a.start, j + b.start], dim=1)])[best[:k]]
        values = values[:k]
    means = statistics.centred_means()
    distances = (means[pairs[:, 0]] - means[pairs[:, 1]]).norm(dim=1)
    rows = zip(pairs.tolist(), values.tolist(), distances.tolist())
    return [ClassPair(names[i], names[j], value, distance) for (i, j), value, distance in rows]


def _inverse_blocks(
    statistics: ClassStatistics, *, bias_corrected: bool
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield tiles of 1/d^2_ij or 1/d~^2_ij; NaN for too few examples or a distance of 0 or less."""
    noise = mean_noise(statistics, bias_corrected=bias_corrected)
    rounding = statistics.rounding_squared()
    for a, b, squared in distance_blocks(statistics.centred_means()):
        undefined = squared <= rounding
        if noise is not None:
            squared -= noise[a][:, None] + noise[b]
            undefined |= squared <= 0.0
        yield a, b, squared.masked_fill_(undefined, torch.nan).reciprocal_()


def check_reduction(reduction: str) -> None:
    """Raise a ValueError for an unknown reduction."""
    if reduction not in ("mean", "nanmean", "none"):
        raise ValueError(
            f"reduction: expected 'mean', 'nanmean' or 'none', got {reduction!r}; do "
            "reduction='mean'"
        )


def _names(statistics: ClassStatistics, class_names: Sequence[str] | None) -> list[str]:
    labels = statistics.classes.tolist()
    if class_names is None:
        return [str(label) for label in labels]
    if len(class_names) != len(labels):
        raise ValueError(
            f"class_names: expected {len(labels)} names, got {len(class_names)}; do name each class"
        )
    return list(class_names)


def _undefined(n_undefined: int, n_pairs: int, bias_corrected: bool, skipped: bool) -> str:
    name = "cdnv_bias_corrected" if bias_corrected else "cdnv"
    why = (
        "a class with fewer than 2 examples, or a corrected squared distance that is not positive"
        if bias_corrected
        else "a class without examples, or two class means that are equal but for rounding"
    )
    outcome = "the average is over the others only" if skipped else "the average is NaN"
    return f"{name}: undefined for {n_undefined} of {n_pairs} class pairs ({why}); {outcome}"
