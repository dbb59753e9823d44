"""Directional CDNV: only the variance along the line between two class means."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from geocollapse.collapse.cdnv import Reduction, check_reduction
from geocollapse.collapse.distances import distances_squared
from geocollapse.collapse.inputs import Array
from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.estimate import GeocollapseWarning


def directional_cdnv(
    features: Array, labels: Array, *, reduction: Reduction = "mean", num_classes: int | None = None
) -> Tensor:
    """CDNV of the features projected on the line between the two class means; not symmetric.

        V~_ij = (mu_i - mu_j)^T Sigma_i (mu_i - mu_j) / ||mu_i - mu_j||^4

    Range [0, inf), Avg V~ <= Avg V = NC; V~_ij = Var_i/(p ||mu_i - mu_j||^2) if Sigma_i = (Var_i/p) I. Invariant as
    CDNV. Two passes over the features, no covariance matrix: O(n C p) time, O(C^2) memory.

    Source: Luthra, Salunkhe, Galanti (2026), arXiv 2603.03530; definitions 2 and 4.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers.
        reduction: ``none`` returns (C, C), rows i, NaN on its diagonal; ``mean`` the average over all ordered pairs;
            ``nanmean`` over the defined ones (see ``cdnv``).
        num_classes: declares the labels 0..num_classes - 1; None discovers the classes.

    Returns:
        A 0-d float64 tensor, or (C, C); NaN with a warning where a class has no example or two means coincide.

    Raises:
        TypeError: features that are not floating point, labels that are not integers.
        ValueError: wrong shapes, NaN features, a label out of the declared range, fewer than two classes.

    Examples:
        >>> x = torch.tensor([[0.0, -3.0], [0.0, 3.0], [9.0, 0.0], [11.0, 0.0]])  # class 0 varies across the line only
        >>> directional_cdnv(x, torch.tensor([0, 0, 1, 1]), reduction="none").tolist()
        [[nan, 0.0], [0.01, nan]]
    """
    check_reduction(reduction)
    pairs = pairwise_directional_cdnv(LabelledFeatures.of(features, labels, num_classes))
    if reduction == "none":
        return pairs
    value, reasons = mean_directional_cdnv(pairs, skip_undefined=reduction == "nanmean")
    for reason in reasons:
        warnings.warn(reason, GeocollapseWarning, stacklevel=2)
    return value


def pairwise_directional_cdnv(data: LabelledFeatures) -> Tensor:
    """V~_ij of all ordered pairs (C, C), NaN on the diagonal; see ``directional_cdnv``."""
    means = data.statistics.centred_means()
    squared = distances_squared(means)
    along = directional_variances(data, means) / squared.square()
    return torch.where(squared > 0.0, along, torch.nan).fill_diagonal_(torch.nan)


def directional_variances(data: LabelledFeatures, means: Tensor) -> Tensor:
    """(mu_i - mu_j)^T Sigma_i (mu_i - mu_j) of all ordered pairs (C, C), 0 on the diagonal.

    From the projections P = Z M^T of the residuals on the centred means: <z, mu_i - mu_j> = P_i - P_j.
    """
    n_classes = len(means)
    sums = means.new_zeros(n_classes, n_classes)
    for z, index in data.residuals(extra_width=2 * n_classes, exact=False):
        projections = z @ means.to(z.dtype).T
        projections -= projections.gather(1, index[:, None])
        sums.index_add_(0, index, projections.square_().double())
    return sums / data.statistics.counts[:, None]


def mean_directional_cdnv(pairs: Tensor, *, skip_undefined: bool = False) -> tuple[Tensor, tuple[str, ...]]:
    """Avg_{i != j} V~_ij of the matrix ``pairs``, and why it is NaN or a selected average, if it is."""
    n_pairs = len(pairs) * (len(pairs) - 1)
    n_undefined = int(pairs.isnan().sum()) - len(pairs)
    if n_undefined == 0:
        return pairs.nansum() / n_pairs, ()
    outcome = "the average is over the others only" if skip_undefined else "the average is NaN"
    reason = (
        f"directional_cdnv: undefined for {n_undefined} of {n_pairs} ordered class pairs "
        f"(a class without examples, or two equal class means); {outcome}"
    )
    return (pairs.nanmean() if skip_undefined else torch.full_like(pairs[0, 0], torch.nan)), (reason,)
