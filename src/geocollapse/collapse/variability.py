"""NC1, variability collapse: within-class covariance measured in the geometry of the class means."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.collapse.statistics import ClassStatistics

RANK_TOLERANCE = (
    1e-10  # definitions 2: the rank rule of Sigma_B, relative to the largest singular value
)


class BetweenSpectrum(NamedTuple):
    """The singular directions of the centred means that Sigma_B does not annihilate."""

    directions: Tensor  # v_k as columns (p, R)
    values: Tensor  # s_k (R,), descending

    @property
    def rank(self) -> int:
        """R, the rank of Sigma_B by the rank rule."""
        return len(self.values)


class NC1(NamedTuple):
    """Both weightings of NC1, and the rank that both used."""

    class_weighted: float
    pooled: float
    rank: int


def between_spectrum(centred_means: Tensor) -> BetweenSpectrum:
    """M = U diag(s) V^T cut at s_k > 1e-10 s_1 and at rank min(C - 1, p), in float64.

    Never a pseudo-inverse with a default tolerance: Sigma_B has rank <= C - 1, and rounding fills
    the rest.
    """
    n_classes, n_features = centred_means.shape
    _, values, rows = torch.linalg.svd(centred_means, full_matrices=False)
    rank = min(int((values > RANK_TOLERANCE * values[0]).sum()), n_classes - 1, n_features)
    return BetweenSpectrum(rows[:rank].T, values[:rank])


def nc1(data: LabelledFeatures) -> NC1:
    """NC1 = tr(Sigma_W Sigma_B^+) / C, class-weighted (Papyan et al.) and pooled over the samples.

        NC1 = sum_{k <= R} v_k^T Sigma_W v_k / s_k^2,
            M = U diag(s) V^T the centred means (the C cancels)
        class-weighted Sigma_W = Avg_c Cov_c,             pooled Sigma_W = S/n;
            Sigma_B is class-weighted in both

    The two are equal for balanced classes. Range [0, inf), 0 at collapse; invariant under
    relabelling, rotation, translation and scaling of the features. One pass over kept features
    projected on R directions, O(n p R): no p x p matrix. NaN where all means coincide (R = 0) or a
    class has no example.

    Source: Papyan, Han, Donoho (2020), NC1; the factored form: definitions 2.
    """
    statistics = data.statistics
    means = statistics.centred_means()
    if bool(means.isnan().any()):
        return NC1(math.nan, math.nan, 0)
    spectrum = between_spectrum(means)
    if spectrum.rank == 0:
        return NC1(math.nan, math.nan, 0)
    whitened = (spectrum.directions / spectrum.values).T.contiguous()
    sums = torch.zeros_like(statistics.counts)
    for z, index in data.residuals(extra_width=spectrum.rank, exact=False):
        projected = z @ whitened.to(z.dtype).T
        sums.index_add_(0, index, torch.linalg.vecdot(projected, projected).double())
    class_weighted = (sums / statistics.counts).mean()
    return NC1(float(class_weighted), float(sums.sum() / statistics.counts.sum()), spectrum.rank)


def nc1_pooled(statistics: ClassStatistics) -> tuple[float, int]:
    """The pooled NC1 and its rank from streaming statistics with ``scatter``; see ``nc1``.

    Raises:
        ValueError: the statistics hold no scatter matrix.
    """
    scatter, means = statistics.within_scatter(), statistics.centred_means()
    if bool(means.isnan().any()):
        return math.nan, 0
    spectrum = between_spectrum(means)
    if spectrum.rank == 0:
        return math.nan, 0
    whitened = spectrum.directions / spectrum.values
    trace = ((scatter @ whitened) * whitened).sum()
    return float(trace / statistics.counts.sum()), spectrum.rank


def trace_ratio(statistics: ClassStatistics) -> float:
    """tr(Sigma_W) / tr(Sigma_B), both with equal class weights: a reading of NC1 free of any rank
    rule.
    """
    return float(
        statistics.variances().mean() / statistics.centred_means().square().sum(dim=1).mean()
    )
