"""Directional CDNV: only the variance along the line between two class means."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels
from geocollapse.collapse.cdnv import Reduction, check_reduction
from geocollapse.collapse.distances import distances_squared_to
from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.collapse.projections import Chunk, Reader, read
from geocollapse.estimate import GeocollapseWarning

BLOCK_NUMBERS = 1 << 24  # of V~ held at a time: 128 MiB; all pairs at once up to 4,096 classes


def directional_cdnv(
    features: Array,
    labels: Labels,
    *,
    reduction: Reduction = "mean",
    num_classes: int | None = None,
) -> Tensor:
    """CDNV of the features projected on the line between the two class means; not symmetric.

        V~_ij = (mu_i - mu_j)^T Sigma_i (mu_i - mu_j) / ||mu_i - mu_j||^4

    Range [0, inf), Avg V~ <= Avg V = NC; V~_ij = Var_i/(p ||mu_i - mu_j||^2) if Sigma_i = (Var_i/p)
    I. Invariant as CDNV. No covariance matrix is formed: O(n C p) time, one pass over the features
    after the class statistics up to 4,096 classes; the mean needs no (C, C) matrix beyond them.

    Source: Luthra, Salunkhe, Galanti (2026), arXiv 2603.03530; definitions 2 and 4.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.
        reduction: ``none`` returns (C, C), rows i, NaN on its diagonal; ``mean`` the average over
            all ordered pairs; ``nanmean`` over the defined ones (see ``cdnv``).
        num_classes: declares the labels 0..num_classes - 1; None discovers the classes.

    Returns:
        A 0-d float64 tensor, or (C, C); NaN with a warning where a class has no example or two
        means coincide.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, a label out of the declared range, fewer than two
            classes.

    Examples:
        >>> across, along = [[0.0, -3.0], [0.0, 3.0]], [[9.0, 0.0], [11.0, 0.0]]
        >>> x = torch.tensor([*across, *along])
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
    return torch.cat(list(directional_blocks(data)), dim=1)


def mean_directional_cdnv(
    data: LabelledFeatures,
    *,
    skip_undefined: bool = False,
    beside: Sequence[Reader] = (),
    basis: Tensor | None = None,
) -> tuple[Tensor, tuple[str, ...]]:
    """Avg_{i != j} V~_ij, with the reason where it is NaN or the average of a selection.

    ``beside`` are readers that share the first pass over the features, with its ``basis``.
    """
    n_classes = len(data.statistics.classes)
    total = data.statistics.counts.new_zeros(())
    undefined = -n_classes  # the diagonal
    for block in directional_blocks(data, beside=beside, basis=basis):
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


def directional_blocks(
    data: LabelledFeatures, *, beside: Sequence[Reader] = (), basis: Tensor | None = None
) -> Iterator[Tensor]:
    """Consecutive columns j of V~_ij (C, columns), NaN on the diagonal; a pass for each block.

    All classes are one block up to 4,096 of them. ``beside`` are further readers of the first pass.
    """
    n_classes = len(data.statistics.classes)
    for start in range(0, n_classes, step := max(1, BLOCK_NUMBERS // n_classes)):
        variances = DirectionalVariances(data, slice(start, min(start + step, n_classes)))
        read(data, [variances, *beside], basis)
        beside = ()
        yield variances.block


class DirectionalVariances:
    """Sums <z, mu_i - mu_j>^2 of each class i and the classes j of some columns."""

    def __init__(self, data: LabelledFeatures, columns: slice) -> None:
        self._statistics = data.statistics
        self._columns = columns
        n_classes = len(data.statistics.classes)
        n_columns = columns.stop - columns.start
        self._is_whole = n_columns == n_classes
        self._sums = data.statistics.counts.new_zeros(n_classes, n_columns)
        self.width = 2 * n_columns

    def add(self, chunk: Chunk) -> None:
        """Add the examples of one chunk."""
        steps = chunk.steps if self._is_whole else chunk.steps_to(self._columns)
        self._sums.index_add_(0, chunk.index, steps.double().square())

    @property
    def block(self) -> Tensor:
        """V~_ij (C, columns), NaN on the diagonal and where two means coincide."""
        squared = distances_squared_to(self._statistics.centred_means(), self._columns)
        along = self._sums / self._statistics.counts[:, None] / squared.square()
        equal = squared <= self._statistics.rounding_squared()  # the diagonal too
        return along.masked_fill_(equal, torch.nan)
