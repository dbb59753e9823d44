"""NC1, variability collapse: within-class covariance in the geometry of the class means."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.collapse.projections import Chunk, read
from geocollapse.collapse.statistics import ClassStatistics

# definitions 2: the rank rule of Sigma_B, relative to the largest singular value
RANK_TOLERANCE = 1e-10


class BetweenSpectrum(NamedTuple):
    """The singular directions of the centred means, and how many Sigma_B does not annihilate."""

    basis: Tensor  # v_k as columns (p, min(C, p))
    values: Tensor  # s_k, descending
    rank: int  # R, the rank of Sigma_B by the rank rule

    @property
    def whitening(self) -> Tensor:
        """v_k / s_k as columns (p, R)."""
        return self.basis[:, : self.rank] / self.values[: self.rank]


class NC1(NamedTuple):
    """Both weightings of NC1, and the rank that both used."""

    class_weighted: float
    pooled: float
    rank: int


def between_spectrum(centred_means: Tensor) -> BetweenSpectrum | None:
    """M = U diag(s) V^T in float64, with rank R: s_k > 1e-10 s_1, and at most min(C - 1, p).

    Never a pseudo-inverse with a default tolerance: Sigma_B has rank <= C - 1, and rounding fills
    the rest. None where a class has no mean.
    """
    if bool(centred_means.isnan().any()):
        return None
    n_classes, n_features = centred_means.shape
    _, values, rows = torch.linalg.svd(centred_means, full_matrices=False)
    rank = min(int((values > RANK_TOLERANCE * values[0]).sum()), n_classes - 1, n_features)
    return BetweenSpectrum(rows.T, values, rank)


def nc1(data: LabelledFeatures) -> NC1:
    """NC1 = tr(Sigma_W Sigma_B^+) / C, class-weighted (Papyan et al.) and pooled over the samples.

        NC1 = sum_{k <= R} v_k^T Sigma_W v_k / s_k^2,
            M = U diag(s) V^T the centred means (the C cancels)
        class-weighted Sigma_W = Avg_c Cov_c,             pooled Sigma_W = S/n;
            Sigma_B is class-weighted in both

    The two are equal for balanced classes. Range [0, inf), 0 at collapse; invariant under
    relabelling, rotation, translation and scaling of the features. One pass over kept features
    projected on min(C, p) directions, O(n p min(C, p)): no p x p matrix. NaN where all means
    coincide (R = 0) or a class has no example.

    Source: Papyan, Han, Donoho (2020), NC1; the factored form: definitions 2.
    """
    sums = WhitenedSums(data)
    read(data, [sums], sums.basis)
    return sums.nc1


class WhitenedSums:
    """Sums ||z||^2 of each class in the geometry of the means: sum_{k <= R} <z, v_k>^2 / s_k^2."""

    def __init__(self, data: LabelledFeatures) -> None:
        self.spectrum = between_spectrum(data.centred_means)
        self.width = min(data.statistics.offsets.shape)
        self._counts = data.statistics.counts
        self._sums = torch.zeros_like(self._counts)
        if self.spectrum is not None:
            self._inverse = self.spectrum.values[: self.spectrum.rank].reciprocal()

    @property
    def basis(self) -> Tensor | None:
        """The basis to read the residuals in; None where a class has no mean."""
        return None if self.spectrum is None else self.spectrum.basis

    def add(self, chunk: Chunk) -> None:
        """Add the examples of one chunk, whose basis must be that of the spectrum."""
        if self.spectrum is None:
            return
        whitened = chunk.coordinates[:, : self.spectrum.rank].double() * self._inverse
        self._sums.index_add_(0, chunk.index, torch.linalg.vecdot(whitened, whitened))

    @property
    def nc1(self) -> NC1:
        """NC1 of the examples added, see ``nc1``."""
        if self.spectrum is None or self.spectrum.rank == 0:
            return NC1(math.nan, math.nan, 0)
        class_weighted = (self._sums / self._counts).mean()
        pooled = self._sums.sum() / self._counts.sum()
        return NC1(float(class_weighted), float(pooled), self.spectrum.rank)


def nc1_pooled(statistics: ClassStatistics) -> tuple[float, int]:
    """The pooled NC1 and its rank from streaming statistics with ``scatter``; see ``nc1``.

    Raises:
        ValueError: the statistics hold no scatter matrix.
    """
    scatter = statistics.within_scatter()
    spectrum = between_spectrum(statistics.centred_means())
    if spectrum is None or spectrum.rank == 0:
        return math.nan, 0
    trace = ((scatter @ spectrum.whitening) * spectrum.whitening).sum()
    return float(trace / statistics.counts.sum()), spectrum.rank


def trace_ratio(statistics: ClassStatistics) -> float:
    """tr(Sigma_W) / tr(Sigma_B) with equal class weights: NC1 without a rank rule."""
    return float(
        statistics.variances().mean() / statistics.centred_means().square().sum(dim=1).mean()
    )
