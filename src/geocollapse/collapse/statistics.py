"""Streaming class statistics: count, mean and squared deviations, mergeable in any order."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.arrays import Array, check_num_classes, labelled_arrays, refuse_names, row_slices

MAX_SCATTER_FEATURES = 4096  # definitions 2: above it no p x p matrix is formed
# features merged at a time: enough to make the merge cheap, 128 MiB for each array of it
PART_NUMBERS = 1 << 24
_GRAM_WIDTH = 512
_BLOCK = 192  # not a power of two: strides of 4 KiB would fall on the same cache lines
_ORIGIN_ROWS = 1024


@dataclass(eq=False)
class ClassStatistics:
    """Counts, means and squared deviations of C classes of features in R^p, in one pass.

        n_c,   mu_c = 1/n_c sum_x f(x),   M_c = sum_x ||f(x) - mu_c||^2,
            S = sum_c sum_x (f(x) - mu_c)(f(x) - mu_c)^T

    Two parts a, b of one class merge by delta = mu_b - mu_a, n = n_a + n_b:

        mu = mu_a + delta n_b/n,    M = M_a + M_b + ||delta||^2 n_a n_b/n,
            S = S_a + S_b + delta delta^T n_a n_b/n

    Equal to the two-pass value for every split and merge order, to 1e-10. All sums are float64, and
    means are kept as offsets from an origin near the data, so that features far from 0 lose no
    digits. C (p + 2) + p numbers, p^2 more with ``scatter``; an update costs O(n p), O(n p^2) with
    ``scatter``.

    Source: Chan, Golub, LeVeque (1979), eq. 2.1; definitions 2.

    Attributes:
        classes: label of each row, int64 (C,), ascending.
        counts: n_c as float64 (C,); 0 for a declared class that has not been seen.
        offsets: mu_c - origin (C, p); 0 where the count is 0.
        sum_squares: M_c (C,).
        origin: a point near the features (p,); empty until the first example.
        scatter: the pooled within-class S (p, p) on and below its diagonal blocks, 0 above them, or
            None; ``within_scatter()`` returns the whole matrix.
        num_classes: the declared number of classes, or None to discover them.

    Examples:
        >>> x = torch.tensor([[0.0], [2.0], [5.0]])
        >>> statistics = ClassStatistics.of(x, torch.tensor([0, 0, 7]))
        >>> statistics.classes.tolist(), statistics.variances().tolist()
        ([0, 7], [1.0, 0.0])
        >>> statistics.means.flatten().tolist()
        [1.0, 5.0]
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
        cls,
        num_classes: int | None = None,
        *,
        scatter: bool = False,
        device: torch.device | str | None = None,
    ) -> ClassStatistics:
        """Statistics of no examples yet.

        Args:
            num_classes: declares the labels 0..num_classes - 1; None discovers them.
            scatter: also keep the within-class scatter matrix.
            device: of the tensors.
        """
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
        cls,
        features: Array,
        labels: Array,
        num_classes: int | None = None,
        *,
        scatter: bool = False,
    ) -> ClassStatistics:
        """Statistics of features (n, p) with labels (n,), integers that other statistics share."""
        refuse_names(labels, "class numbers, the same in all statistics that are merged")
        x, y = labelled_arrays(features, labels, num_classes)
        return cls.empty(num_classes, scatter=scatter, device=x.device).accumulate(x, y)

    @property
    def n_features(self) -> int:
        """p, or 0 before the first example."""
        return len(self.origin)

    def rows_of(self, labels: Tensor) -> Tensor:
        """Return the row of each label; every label must have been seen or declared."""
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
        """mu_c - mu_G (C, p), mu_G the mean of the class means seen.

        A common offset of the features costs no digits.
        """
        offsets = self._where_seen(self.offsets)
        return offsets - offsets.nanmean(dim=0)

    def variances(self) -> Tensor:
        """Var_c = M_c / n_c = tr Sigma_c (C,); NaN for a class without examples."""
        return self.sum_squares / self.counts

    def rounding_squared(self) -> float:
        """The squared distance of two means up to which they are equal, but for rounding.

        (32 eps)^2 max_c (Var_c + ||mu_c - origin||^2), eps that of float64.
        """
        if not len(self.classes) or self.offsets.shape[1] == 0:
            return 0.0
        sizes = self.variances() + self.offsets.square().sum(dim=1)
        unit = 32.0 * torch.finfo(torch.float64).eps
        return unit**2 * float(sizes.nan_to_num(nan=0.0).max())

    def within_scatter(self) -> Tensor:
        """S (p, p), the sum of (f(x) - mu_c)(f(x) - mu_c)^T over all examples.

        Raises:
            ValueError: the statistics hold no scatter matrix.
        """
        if self.scatter is None:
            raise ValueError(
                "statistics: expected scatter, got None; do ClassStatistics.empty(scatter=True)"
            )
        return self.scatter.tril() + self.scatter.tril(-1).T

    def update(self, features: Array, labels: Array) -> ClassStatistics:
        """Add features (n, p) with labels (n,) in place, and return self.

        Raises:
            TypeError: features that are not floating point, labels that are not integers.
            ValueError: wrong shapes, NaN or infinite features, a label out of the declared range,
                or ``scatter`` with p > 4096.
        """
        refuse_names(labels, "class numbers, the same in every batch")
        return self.accumulate(*labelled_arrays(features, labels, self.num_classes))

    def accumulate(self, x: Tensor, y: Tensor) -> ClassStatistics:
        """``update`` without the checks, for features and labels that passed them before."""
        if len(x):
            self._open(x)
        for start in range(0, len(x), step := max(1, PART_NUMBERS // max(1, x.shape[1]))):
            self._add(x[start : start + step], y[start : start + step])
        return self

    def merge(self, other: ClassStatistics) -> ClassStatistics:
        """Return the statistics of both parts together; neither is changed.

        Raises:
            ValueError: other classes declared, another number of features, or ``scatter`` in one of
                them only.
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
                f"features: expected {self.n_features} columns as before, got {x.shape[1]}; do use "
                "one object a layer"
            )

    def _allocate(self, origin: Tensor) -> None:
        p = len(origin)
        if self.scatter is not None and p > MAX_SCATTER_FEATURES:
            raise ValueError(
                f"scatter: expected at most {MAX_SCATTER_FEATURES} features for a p x p matrix, "
                f"got {p}; "
                "do scatter=False, or neural_collapse(features, labels) on kept features"
            )
        self.origin = origin.clone()
        self.offsets = self.offsets.new_zeros(len(self.classes), p)
        self.scatter = None if self.scatter is None else self.scatter.new_zeros(p, p)

    def _add(self, x: Tensor, y: Tensor) -> None:
        """Merge one part by Chan's formula: first its class means, then its deviations, in chunks.

        Deviations from c = mu_a + (1 - sqrt(n_a/n)) delta already contain the correction of the
        merge, which saves a product:

            sum_b (x - c)(x - c)^T = S_b + n_b (n_a/n) delta delta^T
        """
        classes, index = self._present(y)
        rows = self._make_room(classes)
        counts = torch.bincount(index, minlength=len(classes)).double()
        seen = self.counts[rows]
        before = self.offsets[rows]
        total = (seen + counts).clamp(min=1.0)
        start = self._start(x, index, seen, before)
        delta = self._sums_from(start, x, index).div_(counts.clamp(min=1.0)[:, None])
        delta += start.sub_(before)
        centres = before.addcmul_(delta, (1.0 - (seen / total).sqrt())[:, None])
        squares = torch.zeros_like(counts)
        for chunk, z in self._shifted(x):
            z -= centres.index_select(0, index[chunk])
            squares.index_add_(0, index[chunk], torch.linalg.vector_norm(z, dim=1).square_())
            if self.scatter is not None:
                _add_gram(self.scatter, z)
        self.offsets.index_add_(0, rows, delta.mul_((counts / total)[:, None]))
        self.sum_squares.index_add_(0, rows, squares)
        self.counts.index_add_(0, rows, counts)

    def _start(self, x: Tensor, index: Tensor, seen: Tensor, before: Tensor) -> Tensor:
        """Choose a point of each class to sum deviations from: its mean so far, or an example.

        Such sums lose no digits, and the mean of equal examples is exactly their value.
        """
        example = torch.zeros_like(seen, dtype=torch.int64).scatter_(
            0, index, torch.arange(len(x), device=x.device)
        )
        return torch.where((seen > 0)[:, None], before, x[example].double() - self.origin)

    def _sums_from(self, start: Tensor, x: Tensor, index: Tensor) -> Tensor:
        """Sum x - origin - start over the examples of each class (C, p)."""
        sums = torch.zeros_like(start)
        for chunk, z in self._shifted(x):
            sums.index_add_(0, index[chunk], z.sub_(start.index_select(0, index[chunk])))
        return sums

    def _present(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes that include those of ``y``, and the place of each label among them."""
        if self.num_classes is not None and self.num_classes <= len(y):
            return self.classes, y  # dense: no look-up, no synchronisation
        classes, index = y.unique(return_inverse=True)
        return classes, index

    def _shifted(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield chunks of x - origin in float64, with more rows where each updates the scatter."""
        width = x.shape[1] if self.scatter is None else min(x.shape[1], _GRAM_WIDTH)
        for rows in row_slices(len(x), width, x.device):
            yield rows, x[rows].to(torch.float64, copy=True).sub_(self.origin)

    def _absorb(self, part: ClassStatistics) -> ClassStatistics:
        """Merge ``part`` into this object by Chan's formula, on the rows of its classes only."""
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
            _add_gram(self.scatter, delta * weight.sqrt()[:, None])
        return self

    def _make_room(self, classes: Tensor) -> Tensor:
        """Return the row of each of ``classes``, after making room for new ones."""
        if self.num_classes is not None:
            return classes
        union = torch.cat([self.classes, classes]).unique()
        if len(union) > len(self.classes):
            old = torch.searchsorted(union, self.classes)

            def spread(values: Tensor) -> Tensor:
                zeros = values.new_zeros(len(union), *values.shape[1:])
                return zeros.index_copy_(0, old, values)

            self.counts = spread(self.counts)
            self.offsets = spread(self.offsets)
            self.sum_squares = spread(self.sum_squares)
            self.classes = union
        return self.rows_of(classes)

    def _where_seen(self, rows: Tensor) -> Tensor:
        return torch.where((self.counts > 0)[:, None], rows, torch.nan)

    def _check_mergeable(self, other: ClassStatistics) -> None:
        if self.num_classes != other.num_classes:
            raise ValueError(
                f"num_classes: expected {self.num_classes}, got {other.num_classes}; do declare "
                "the same"
            )
        if (self.scatter is None) != (other.scatter is None):
            raise ValueError(
                "scatter: expected both parts with it or both without, got one of each; do choose "
                "one"
            )
        if self.n_features and other.n_features and self.n_features != other.n_features:
            raise ValueError(
                f"features: expected {self.n_features} columns, got {other.n_features}; do merge "
                "parts of one layer"
            )


def _add_gram(total: Tensor, z: Tensor) -> None:
    """total += z^T z on and below the diagonal, block by block, for half of the products."""
    for start in range(0, len(total), _BLOCK):
        stop = start + _BLOCK
        total[start:stop, :stop].addmm_(z[:, start:stop].T, z[:, :stop])
