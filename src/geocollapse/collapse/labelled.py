"""Labelled features kept in memory: one object for every measure that needs the final class means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from geocollapse.collapse.inputs import Array, labelled_arrays, row_slices
from geocollapse.collapse.statistics import ClassStatistics

_MAX_EXTRA_WIDTH = 2048  # with thousands of classes a chunk keeps enough rows for a matrix product


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Checked features (n, p) with labels (n,), their class statistics, and their residuals f(x) - mu_c.

    Features keep their dtype and device; float64 copies exist for one chunk at a time.
    """

    features: Tensor
    labels: Tensor
    num_classes: int | None = None

    @classmethod
    def of(cls, features: Array, labels: Array, num_classes: int | None = None) -> LabelledFeatures:
        """Check ``features`` and ``labels``.

        Raises:
            TypeError: features that are not floating point, labels that are not integers.
            ValueError: wrong shapes, NaN or infinite features, a label out of the declared range, fewer than two
                classes with examples.
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

    def residuals(self, extra_width: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks of z = f(x) - mu_c in float64 with their class rows; ``extra_width`` is what the caller adds a row."""
        offsets, origin = self.statistics.offsets, self.statistics.origin
        width = self.features.shape[1] + min(extra_width, _MAX_EXTRA_WIDTH)
        for rows in row_slices(len(self.features), width, self.features.device):
            index = self.index[rows]
            z = self.features[rows].to(torch.float64, copy=True).sub_(origin)
            yield z.sub_(offsets.index_select(0, index)), index


def check_two_classes(statistics: ClassStatistics) -> None:
    """Raise a ValueError unless two classes have examples."""
    seen = statistics.classes[statistics.counts > 0].tolist()
    if len(seen) < 2:
        found = f"label {seen[0]} only" if seen else "no examples"
        raise ValueError(f"labels: expected at least two classes, got {found}; do pass examples of another class")
