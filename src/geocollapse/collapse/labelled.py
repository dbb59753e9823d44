"""Labelled features kept in memory, for the measures that need the final class means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels, labelled_arrays, row_slices
from geocollapse.collapse.distances import distances_squared
from geocollapse.collapse.statistics import ClassStatistics
from geocollapse.numerics import keeps_float32_products

_MANY_NUMBERS = 1 << 22
MAX_EXTRA_WIDTH = 2048  # with thousands of classes a chunk keeps enough rows for a matrix product


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Checked features (n, p) with labels (n,), their class statistics and their residuals.

    Features keep their dtype and device; float64 copies exist for one chunk at a time.

    Where only sums over projected residuals count (NC1, directional CDNV), those of many
    single-precision features (4 million numbers or more) are rounded once to float32, whatever the
    size of the means: the sums, which are float64, keep 8 digits. All else is float64.
    """

    features: Tensor
    labels: Tensor
    num_classes: int | None = None

    @classmethod
    def of(
        cls, features: Array, labels: Labels, num_classes: int | None = None
    ) -> LabelledFeatures:
        """Check ``features`` and ``labels``.

        Raises:
            TypeError: features that are not floating point, labels that are neither integers nor
                names.
            ValueError: wrong shapes, NaN or infinite features, a label out of the declared range,
                fewer than two classes with examples.
        """
        x, y = labelled_arrays(features, labels, num_classes)
        data = cls(x, y, num_classes)
        check_two_classes(data.statistics)
        return data

    @cached_property
    def statistics(self) -> ClassStatistics:
        """Count, mean and sum of squares of each class."""
        empty = ClassStatistics.empty(self.num_classes, device=self.features.device)
        return empty.accumulate(self.features, self.labels)

    @cached_property
    def index(self) -> Tensor:
        """Row of each example's class (n,), 0..C - 1."""
        return self.statistics.rows_of(self.labels)

    @cached_property
    def centred_means(self) -> Tensor:
        """mu_c - mu_G (C, p), mu_G the mean of the class means."""
        return self.statistics.centred_means()

    @cached_property
    def squared_distances(self) -> Tensor:
        """||mu_i - mu_j||^2 of all pairs of classes (C, C)."""
        return distances_squared(self.centred_means)

    @cached_property
    def projection_dtype(self) -> torch.dtype:
        """float64, or float32 where the features are many and no more precise than that."""
        is_low = self.features.dtype != torch.float64 and self.features.numel() >= _MANY_NUMBERS
        return torch.float32 if is_low and keeps_float32_products() else torch.float64

    def residuals(
        self, extra_width: int = 0, *, exact: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield chunks of the residuals z = f(x) - mu_c (m, p) with their class rows (m,).

        Args:
            extra_width: how many numbers the caller makes of each row, so that a chunk with all of
                them fits the cache.
            exact: in float64; else in ``projection_dtype``.
        """
        dtype = torch.float64 if exact else self.projection_dtype
        parts = self._mean_parts(dtype)
        width = self.features.shape[1] + min(extra_width, MAX_EXTRA_WIDTH)
        for rows in row_slices(len(self.features), width, self.features.device):
            index = self.index[rows]
            z = self.features[rows].to(dtype, copy=True)
            for part in parts:
                z -= part if part.ndim == 1 else part.index_select(0, index)
            yield z, index

    def residuals_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals z (m, p) of the examples at ``rows`` in float64, and their class rows."""
        origin, offsets = self._mean_parts(torch.float64)
        index = self.index.index_select(0, rows)
        z = self.features.index_select(0, rows).double().sub_(origin)
        return z.sub_(offsets.index_select(0, index)), index

    def _mean_parts(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Two parts of the class means, to be subtracted one after the other in ``dtype``.

        In float64 an origin (p,) and offsets (C, p). In float32 the rounded means (C, p), whose
        difference from a feature near them is exact, and their rounding (C, p).
        """
        origin, offsets = self.statistics.origin, self.statistics.offsets
        if dtype is torch.float64:
            return origin, offsets
        rounded = (origin + offsets).to(dtype)
        return rounded, (origin - rounded.double() + offsets).to(dtype)


def check_two_classes(statistics: ClassStatistics) -> None:
    """Raise a ValueError unless two classes have examples."""
    check_two_labels(statistics.classes[statistics.counts > 0].tolist())


def check_two_labels(seen: Sequence[int]) -> None:
    """Raise a ValueError unless there are two different labels."""
    if len(seen) < 2:
        found = f"label {seen[0]} only" if seen else "no examples"
        raise ValueError(
            f"labels: expected at least two classes, got {found}; do pass examples of another class"
        )
