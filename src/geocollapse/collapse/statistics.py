"""Streaming class statistics: count, mean and sum of squared deviations of each class, mergeable in any order."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.collapse.inputs import Array, check_num_classes, labelled_arrays, row_slices

MAX_SCATTER_FEATURES = 4096  # definitions 2: above it no p x p matrix is formed
_ORIGIN_ROWS = 1024


@dataclass(eq=False)
class ClassStatistics:
    """Counts, means and squared deviations of C classes of features in R^p, from one pass in any order.

        n_c,   mu_c = 1/n_c sum_x f(x),   M_c = sum_x ||f(x) - mu_c||^2,   S = sum_c sum_x (f(x) - mu_c)(f(x) - mu_c)^T

    Two parts a, b of one class merge by delta = mu_b - mu_a, n = n_a + n_b:

        mu = mu_a + delta n_b/n,    M = M_a + M_b + ||delta||^2 n_a n_b/n,    S = S_a + S_b + delta delta^T n_a n_b/n

    Equal to the two-pass value for every split and merge order, to 1e-10. All sums are float64, and means are kept
    as offsets from an origin near the data, so that features far from 0 lose no digits. C (p + 2) + p numbers,
    p^2 more with ``scatter``; an update costs O(n p), O(n p^2) with ``scatter``.

    Source: Chan, Golub, LeVeque (1979), eq. 2.1; definitions 2.

    Attributes:
        classes: label of each row, int64 (C,), ascending.
        counts: n_c as float64 (C,); 0 for a declared class that has not been seen.
        offsets: mu_c - origin (C, p); 0 where the count is 0.
        sum_squares: M_c (C,).
        origin: (p,); empty until the first example.
        scatter: the pooled within-class S (p, p), or None.
        num_classes: the declared number of classes, or None to discover them.

    Examples:
        >>> statistics = ClassStatistics.of(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 7]))
        >>> statistics.classes.tolist(), statistics.means.flatten().tolist(), statistics.variances().tolist()
        ([0, 7], [1.0, 5.0], [1.0, 0.0])
    """

    classes: Tensor
    counts: Tensor
    offsets: Tensor
    sum_squares: Tensor
    origin: Tensor
    scatter: Tensor | None = None
    num_classes: int | None = None

    @classmethod
    def empty(
        cls, num_classes: int | None = None, *, scatter: bool = False, device: torch.device | str | None = None
    ) -> ClassStatistics:
        """Statistics of no examples: ``num_classes`` declares the labels 0..num_classes - 1, None discovers them."""
        check_num_classes(num_classes)
        rows = num_classes or 0
        zeros = torch.zeros(rows, dtype=torch.float64, device=device)
        return cls(
            classes=torch.arange(rows, device=device),
            counts=zeros,
            offsets=zeros.new_zeros(rows, 0),
            sum_squares=zeros.clone(),
            origin=zeros.new_zeros(0),
            scatter=zeros.new_zeros(0, 0) if scatter else None,
            num_classes=num_classes,
        )

    @classmethod
    def of(
        cls, features: Array, labels: Array, num_classes: int | None = None, *, scatter: bool = False
    ) -> ClassStatistics:
        """Statistics of features (n, p) with labels (n,)."""
        x, y = labelled_arrays(features, labels, num_classes)
        return cls.empty(num_classes, scatter=scatter, device=x.device).accumulate(x, y)

    @property
    def n_features(self) -> int:
        """p, or 0 before the first example."""
        return len(self.origin)

    def rows_of(self, labels: Tensor) -> Tensor:
        """Row of each of ``labels``, which must have been seen or declared."""
        return labels if self.num_classes is not None else torch.searchsorted(self.classes, labels)

    @property
    def n_samples(self) -> int:
        """Number of examples seen."""
        return int(self.counts.sum())

    @property
    def means(self) -> Tensor:
        """Class means mu_c (C, p) in float64; NaN for a class without examples."""
        return self._where_seen(self.offsets + self.origin)

    def centred_means(self) -> Tensor:
        """mu_c - mu_G (C, p), mu_G the mean of the class means seen; free of the rounding of a common offset."""
        offsets = self._where_seen(self.offsets)
        return offsets - offsets.nanmean(dim=0)

    def variances(self) -> Tensor:
        """Var_c = M_c / n_c (C,), the total variance tr Sigma_c; NaN for a class without examples."""
        return self.sum_squares / self.counts

    def update(self, features: Array, labels: Array) -> ClassStatistics:
        """Add features (n, p) with labels (n,), in place; returns itself.

        Raises:
            TypeError: features that are not floating point, labels that are not integers.
            ValueError: wrong shapes, NaN or infinite features, a label out of the declared range, or ``scatter``
                with p > 4096.
        """
        return self.accumulate(*labelled_arrays(features, labels, self.num_classes))

    def accumulate(self, x: Tensor, y: Tensor) -> ClassStatistics:
        """``update`` without its checks, for features and labels that have passed them."""
        if len(x):
            self._open(x)
        for rows in row_slices(len(x), x.shape[1], x.device):
            self._absorb(self._part(x[rows], y[rows]))
        return self

    def merge(self, other: ClassStatistics) -> ClassStatistics:
        """The statistics of both parts together; neither is changed.

        Raises:
            ValueError: other classes declared, another number of features, or ``scatter`` in one of them only.
        """
        self._check_mergeable(other)
        merged = copy.deepcopy(self)
        return merged._absorb(other) if other.n_features else merged

    def _open(self, x: Tensor) -> None:
        """Fix the number of features and the origin at the first example."""
        if self.n_features == 0:
            self._allocate(x[:_ORIGIN_ROWS].double().mean(dim=0))
        elif x.shape[1] != self.n_features:
            raise ValueError(
                f"features: expected {self.n_features} columns as before, got {x.shape[1]}; do use one object a layer"
            )

    def _allocate(self, origin: Tensor) -> None:
        p = len(origin)
        if self.scatter is not None and p > MAX_SCATTER_FEATURES:
            raise ValueError(
                f"scatter: expected at most {MAX_SCATTER_FEATURES} features for a p x p matrix, got {p}; "
                "do scatter=False, or neural_collapse(features, labels) on kept features"
            )
        self.origin = origin.clone()
        self.offsets = self.offsets.new_zeros(len(self.classes), p)
        self.scatter = None if self.scatter is None else self.scatter.new_zeros(p, p)

    def _part(self, x: Tensor, y: Tensor) -> ClassStatistics:
        """Two-pass statistics of one chunk, the mean refined by the mean of its residuals."""
        if self.num_classes is not None and self.num_classes <= len(y):
            classes, index = self.classes, y  # dense: no look-up, no synchronisation
        else:
            classes, index = y.unique(return_inverse=True)
        z = x.double() - self.origin
        counts = z.new_zeros(len(classes)).index_add_(0, index, z.new_ones(len(z)))
        divisor = counts.clamp(min=1.0)[:, None]
        means = z.new_zeros(len(classes), z.shape[1]).index_add_(0, index, z) / divisor
        z -= means[index]
        rest = z.new_zeros(means.shape).index_add_(0, index, z) / divisor
        z -= rest[index]
        return ClassStatistics(
            classes=classes,
            counts=counts,
            offsets=means + rest,
            sum_squares=torch.zeros_like(counts).index_add_(0, index, z.square().sum(dim=1)),
            origin=self.origin,
            scatter=None if self.scatter is None else z.T @ z,
        )

    def _absorb(self, part: ClassStatistics) -> ClassStatistics:
        """Chan's merge of ``part`` into this object, on the rows of its classes only."""
        if self.n_features == 0:
            self._allocate(part.origin)
        rows = self._make_room(part.classes)
        seen = self.counts[rows]
        total = seen + part.counts
        share = part.counts / total.clamp(min=1.0)  # n_b / n
        delta = part.offsets - self.offsets[rows] + (part.origin - self.origin)
        weight = seen * share  # n_a n_b / n
        self.offsets.index_add_(0, rows, delta * share[:, None])
        self.sum_squares.index_add_(0, rows, part.sum_squares + weight * delta.square().sum(dim=1))
        self.counts.index_copy_(0, rows, total)
        if self.scatter is not None and part.scatter is not None:
            self.scatter += part.scatter
            self.scatter.addmm_((delta * weight[:, None]).T, delta)
        return self

    def _make_room(self, classes: Tensor) -> Tensor:
        """Row of each of ``classes``, after making room for those that are new."""
        if self.num_classes is not None:
            return classes
        union = torch.cat([self.classes, classes]).unique()
        if len(union) > len(self.classes):
            old = torch.searchsorted(union, self.classes)
            for name in ("counts", "offsets", "sum_squares"):
                values = getattr(self, name)
                setattr(self, name, values.new_zeros(len(union), *values.shape[1:]).index_copy_(0, old, values))
            self.classes = union
        return self.rows_of(classes)

    def _where_seen(self, rows: Tensor) -> Tensor:
        return torch.where((self.counts > 0)[:, None], rows, torch.nan)

    def _check_mergeable(self, other: ClassStatistics) -> None:
        if self.num_classes != other.num_classes:
            raise ValueError(f"num_classes: expected {self.num_classes}, got {other.num_classes}; do declare the same")
        if (self.scatter is None) != (other.scatter is None):
            raise ValueError("scatter: expected both parts with it or both without, got one of each; do choose one")
        if self.n_features and other.n_features and self.n_features != other.n_features:
            raise ValueError(
                f"features: expected {self.n_features} columns, got {other.n_features}; do merge parts of one layer"
            )
