"""Directional CDNV: only the variance along the line between two class means."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from geocollapse.arrays import Array
from geocollapse.collapse.cdnv import Reduction, check_reduction
from geocollapse.collapse.distances import distances_squared_to
from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.estimate import GeocollapseWarning

BLOCK_NUMBERS = 1 << 24  # of V~ held at a time: 128 MiB; all pairs at once up to 4,096 classes


def directional_cdnv(
    features: Array, labels: Array, *, reduction: Reduction = "mean", num_classes: int | None = None
) -> Tensor:
    """CDNV of the features projected on the line between the two class means; not symmetric.

        V~_ij = (mu_i - mu_j)^T Sigma_i (mu_i - mu_j) / ||mu_i - mu_j||^4

    Range [0, inf), Avg V~ <= Avg V = NC; V~_ij = Var_i/(p ||mu_i - mu_j||^2) if Sigma_i = (Var_i/p)
    I. Invariant as CDNV. Two passes over the features, no covariance matrix: O(n C p) time; the
    mean needs no (C, C) matrix.

    Source: Luthra, Salunkhe, Galanti (2026), arXiv 2603.03530; definitions 2 and 4.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers.
        reduction: ``none`` returns (C, C), rows i, NaN on its diagonal; ``mean`` the average over
            all ordered pairs; ``nanmean`` over the defined ones (see ``cdnv``).
        num_classes: declares the labels 0..num_classes - 1; None discovers the classes.

    Returns:
        A 0-d float64 tensor, or (C, C); NaN with a warning where a class has no example or two
        means coincide.

    Raises:
        TypeError: features that are not floating point, labels that are not integers.
        ValueError: wrong shapes, NaN features, a label out of the declared range, fewer than two
        classes.

    Examples:
        >>> x = torch.tensor([[0.0, -3.0], [0.0, 3.0], [9.0, 0.0], [11.0, 0.0]])  # class 0 varies across the line only
        >>> directional_cdnv(x, torch.tensor([0, 0, 1, 1]), reduction="none").tolist()
        [[nan, 0.0], [0.01, nan]]
    """
    check_reduction(reduction)
    data = LabelledFeatures.of(features, labels, num_classes)
    if reduction == "none":
        return pairwise_directional_cdnv(data)
    value, reasons = mean_directional_cdnv(data, skip_undefined=reduction == "nanmean")
    for reason in reasons:
        warnings.warn(reason, GeocollapseWarning, stacklevel=2)
    return value


def pairwise_directional_cdnv(data: LabelledFeatures) -> Tensor:
    """V~_ij of all ordered pairs (C, C), NaN on the diagonal; see ``directional_cdnv``."""
    return torch.cat([block for _, block in directional_blocks(data)], dim=1)


def directional_blocks(data: LabelledFeatures) -> Iterator[tuple[slice, Tensor]]:
    """Columns j of V~_ij, as many at a time as fit the memory of one block (C, columns); NaN on the
    diagonal.
    """
    means = data.statistics.centred_means()
    n_classes = len(means)
    for start in range(0, n_classes, step := max(1, BLOCK_NUMBERS // n_classes)):
        columns = slice(start, min(start + step, n_classes))
        squared = distances_squared_to(means, columns)
        along = directional_variances(data, means, columns).div_(squared.square())
        along.masked_fill_(squared == 0.0, torch.nan)  # the diagonal too
        yield columns, along


def directional_variances(data: LabelledFeatures, means: Tensor, columns: slice) -> Tensor:
    """(mu_i - mu_j)^T Sigma_i (mu_i - mu_j) of all classes i and the classes j of ``columns`` (C,
    columns).

    From the projections of the residuals on the centred means: <z, mu_i - mu_j> = <z, mu_i> - <z,
    mu_j>.
    """
    targets = means[columns]
    sums = means.new_zeros(len(means), len(targets))
    for z, index in data.residuals(extra_width=2 * len(targets), exact=False):
        projections = z @ targets.to(z.dtype).T
        if len(targets) == len(means):  # all classes at once: the own projection is among them
            own = projections.gather(1, index[:, None])
        else:
            own = torch.linalg.vecdot(z, means.to(z.dtype).index_select(0, index))[:, None]
        projections -= own
        sums.index_add_(0, index, projections.square_().double())
    return sums.div_(data.statistics.counts[:, None])


def mean_directional_cdnv(
    data: LabelledFeatures, *, skip_undefined: bool = False
) -> tuple[Tensor, tuple[str, ...]]:
    """Avg_{i != j} V~_ij, a block of columns at a time, and why it is NaN or a selected average, if
    it is.
    """
    n_classes = len(data.statistics.classes)
    total, undefined = data.statistics.counts.new_zeros(()), -n_classes
    for _, block in directional_blocks(data):
        total += block.nansum()
        undefined += int(block.isnan().sum())
    n_pairs = n_classes * (n_classes - 1)
    if undefined == 0:
        return total / n_pairs, ()
    outcome = "the average is over the others only" if skip_undefined else "the average is NaN"
    reason = (
        f"directional_cdnv: undefined for {undefined} of {n_pairs} ordered class pairs "
        f"(a class without examples, or two equal class means); {outcome}"
    )
    if skip_undefined and undefined < n_pairs:
        return total / (n_pairs - undefined), (reason,)
    return torch.full_like(total, torch.nan), (reason,)
