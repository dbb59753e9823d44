"""Nearest-mean error and NC4: how the nearest class mean and the classifier decide each example.

Most decisions are clear from projections in low precision. A bound on the rounding of every
projection tells which are not, and these examples are decided again in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from geocollapse.arrays import row_slices
from geocollapse.collapse.labelled import MAX_EXTRA_WIDTH, LabelledFeatures
from geocollapse.collapse.projections import Chunk, read
from geocollapse.estimate import Estimate

# classes whose distances are kept as one matrix, 128 MiB; with more, every decision is in float64
MAX_CLASSES = 4096


def nearest_mean_error(data: LabelledFeatures) -> float:
    """Share of the examples with another class mean at least as near as their own; ties are errors.

    The means are those of the same examples, so this is a training error. Decisions are those of
    float64. NaN where a class has no example. One pass over kept features, O(n p C).
    """
    errors = NearestMeanErrors(NearestMeans(data))
    read(data, [errors])
    return errors.share()


def nc4(data: LabelledFeatures, weight: Tensor, bias: Tensor) -> float:
    """Share of the examples on which the classifier and the nearest class mean disagree.

        NC4 = 1/n sum_x [ argmax_c <w_c, f(x)> + b_c  !=  argmin_c ||f(x) - mu_c|| ]

    Range [0, 1]; near 0 also for a network that is wrong in the same way. Decisions are those of
    float64. NaN where a class has no example. One pass over kept features, O(n p C).

    Source: Papyan, Han, Donoho (2020), NC4.

    Args:
        data: the features and labels that gave the means.
        weight: classifier W (C, p), float64.
        bias: b (C,), float64.
    """
    disagreements = Disagreements(NearestMeans(data), weight, bias)
    read(data, [disagreements])
    return disagreements.share()


class NearestMeans:
    """The class means as a classifier: quick margins with a bound on their error, and exact scores.

    With z = f - mu_c, the mean of class b is nearer to f than that of its own class c by

        ||f - mu_c||^2 - ||f - mu_b||^2 = 2 (<z, mu_b - mu_c> - ||mu_b - mu_c||^2 / 2)
    """

    def __init__(self, data: LabelledFeatures) -> None:
        self.data = data
        self.means = data.centred_means
        self._half_norms = 0.5 * self.means.square().sum(dim=1)
        self._largest_norm = float(self.means.norm(dim=1).amax())
        self._largest_offset = float(data.statistics.offsets.norm(dim=1).amax())

    @cached_property
    def half_distances(self) -> Tensor:
        return (0.5 * self.data.squared_distances).to(self.data.projection_dtype)

    def margins(self, chunk: Chunk) -> Tensor:
        """<z, mu_b - mu_c> - ||mu_b - mu_c||^2 / 2 of each class b (m, C), 0 for the own class."""
        return chunk.steps - self.half_distances.index_select(0, chunk.index)

    def bound(self, chunk: Chunk) -> Tensor:
        """The most by which rounding moves the margin of a class that could be nearest (m,).

        A dot product over n numbers is off by at most n u ||a|| ||b|| / (1 - n u), u the unit
        roundoff. First z itself is rounded, by at most u (3 ||z|| + ||mu_c - origin||). Then each
        of at most C coordinates is a product over p numbers, and each margin one over coordinates.

        Source: Higham (2002), Accuracy and Stability of Numerical Algorithms, eq. 3.5.
        """
        n_classes, n_features = self.means.shape
        n_roundings = math.sqrt(n_classes) * (n_features + n_classes + 16)
        size = n_roundings * chunk.norms + 2.0 * self._largest_offset
        return 1.5 * torch.finfo(chunk.norms.dtype).eps * self._largest_norm * size

    def exact(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) (m, p) of some examples, and scores (m, C) that are largest at the nearest mean.

        ||f - mu_b||^2 = const - 2 (<f - mu_G, m_b> - ||m_b||^2 / 2), m_b = mu_b - mu_G.
        """
        z, index = self.data.residuals_of(rows)
        scores = ((z + self.means[index]) @ self.means.T).sub_(self._half_norms)
        return self.data.features[rows].double(), scores


class _Count(ABC):
    """Counts examples by a decision: quickly where rounding cannot change it, else in float64."""

    def __init__(self, nearest: NearestMeans) -> None:
        self._nearest = nearest
        self._n_counted = nearest.means.new_zeros((), dtype=torch.int64)
        self._unclear: list[Tensor] = []
        self._is_defined = not bool(nearest.means.isnan().any())
        self.width = 2 * len(nearest.means)

    @abstractmethod
    def _quickly(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Which examples count (m,), and which of these decisions are clear (m,)."""

    @abstractmethod
    def _exactly(self, rows: Tensor) -> Tensor:
        """Which of some examples count (m,)."""

    def add(self, chunk: Chunk) -> None:
        """Count the examples of one chunk."""
        rows = torch.arange(chunk.rows.start, chunk.rows.stop, device=chunk.index.device)
        if self._is_defined and len(self._nearest.means) <= MAX_CLASSES:
            counted, is_clear = self._quickly(chunk)
            self._n_counted += (counted & is_clear).sum()
            rows = rows[~is_clear]
        self._unclear.append(rows)

    def share(self) -> float:
        """The count divided by the number of examples; NaN where a class has no example."""
        if not self._is_defined:
            return math.nan
        self._n_counted += self._count(torch.cat(self._unclear))
        self._unclear = []
        return float(self._n_counted) / len(self._nearest.data.features)

    def estimate(self, n_examples: int, *, seed: int = 0) -> Estimate:
        """Estimate the share from ``n_examples`` random examples, at most all, without a pass.

            value = k/m,    SE^2 = q (1 - q)/(m + 4) (1 - m/n),    q = (k + 2)/(m + 4)

        Source: Agresti and Coull (1998), whose q keeps the error of a share of 0 above 0.
        """
        n_all = len(self._nearest.data.features)
        m = min(n_examples, n_all)
        rows = torch.randperm(n_all, generator=torch.Generator().manual_seed(seed))[:m].sort()[0]
        counted = math.nan
        if self._is_defined:
            counted = float(self._count(rows.to(self._nearest.means.device)))
        q = (counted + 2.0) / (m + 4.0)
        return Estimate(
            value=counted / m,
            stderr=math.sqrt(q * (1.0 - q) / (m + 4.0) * (1.0 - m / n_all)),
            n_samples=m,
            estimator="examples",
            scale="linear",
        )

    def _count(self, rows: Tensor) -> Tensor:
        """How many of some examples count, decided in float64 (0-d)."""
        total = torch.zeros_like(self._n_counted)
        width = self._nearest.means.shape[1] + min(self.width, MAX_EXTRA_WIDTH)
        for part in row_slices(len(rows), width, rows.device):
            total += self._exactly(rows[part]).sum()
        return total


class NearestMeanErrors(_Count):
    """Counts the examples with another class mean at least as near as their own."""

    def _quickly(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        margins = self._nearest.margins(chunk).scatter_(1, chunk.index[:, None], -torch.inf)
        rivals = margins.amax(dim=1)
        bound = self._nearest.bound(chunk)
        is_error = rivals > bound
        return is_error, is_error | (rivals < -bound)

    def _exactly(self, rows: Tensor) -> Tensor:
        index = self._nearest.data.index[rows][:, None]
        _, scores = self._nearest.exact(rows)
        own = scores.gather(1, index).squeeze(1)
        return scores.scatter(1, index, -torch.inf).amax(dim=1) >= own


class Disagreements(_Count):
    """Counts the examples on which the classifier and the nearest class mean disagree."""

    def __init__(self, nearest: NearestMeans, weight: Tensor, bias: Tensor) -> None:
        super().__init__(nearest)
        dtype = nearest.data.projection_dtype
        means = nearest.data.statistics.means
        logits = means @ weight.T + bias
        self._weight = weight
        self._bias = bias
        self._rounded_weight = weight.to(dtype)
        self._logits_of_means = (logits - logits.amax(dim=1, keepdim=True)).to(dtype)
        self._largest_weight = float(weight.norm(dim=1).amax())
        self._largest_mean = float(means.norm(dim=1).amax())

    def _quickly(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        logits = chunk.residuals @ self._rounded_weight.T
        logits += self._logits_of_means.index_select(0, chunk.index)
        decided, is_decided = _largest(logits, self._bound(chunk))
        nearest, is_nearest = _largest(self._nearest.margins(chunk), self._nearest.bound(chunk))
        return decided != nearest, is_decided & is_nearest

    def _bound(self, chunk: Chunk) -> Tensor:
        """The most by which rounding moves a logit that could be the largest (m,)."""
        size = (self._weight.shape[1] + 16) * chunk.norms + self._largest_mean
        return 1.5 * torch.finfo(chunk.norms.dtype).eps * self._largest_weight * size

    def _exactly(self, rows: Tensor) -> Tensor:
        x, scores = self._nearest.exact(rows)
        return (x @ self._weight.T + self._bias).argmax(dim=1) != scores.argmax(dim=1)


def _largest(scores: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Place of the largest score (m,), and where rounding up to ``bound`` cannot change it.

    Overwrites ``scores``.
    """
    largest, place = scores.max(dim=1)
    second = scores.scatter_(1, place[:, None], -torch.inf).amax(dim=1)
    return place, largest - second > 2.0 * bound
