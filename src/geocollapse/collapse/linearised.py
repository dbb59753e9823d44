"""Measures of collapse to first order in every example: values for the population, and slopes.

With F_c the distribution of class c, each measure T(F_1, ..., F_C) changes with its examples by

    T(F^) - T(F) ~ sum_c 1/n_c sum_{x in c} psi(x),      psi(x) = own(x) + <z, dT/d mu_c>

own is the change at fixed class means, centred in the class, and z = f(x) - mu_c. Source: the
influence function of Hampel (1974); definitions 3 for CDNV and geometric collapse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.collapse.cdnv import class_variances
from geocollapse.collapse.example_terms import ExampleTerms
from geocollapse.collapse.labelled import LabelledFeatures

_GEMM_COLUMNS = 256  # slopes of all classes multiplied at once; with more, each row takes its own


@dataclass(frozen=True, eq=False)
class Linearised:
    """A measure to first order in its examples.

    Attributes:
        value: for the population: corrected for the bias of order 1/n_c. NaN where undefined.
        own: change by each example at fixed class means (n,), up to a constant in each class.
        slopes: change with the class means (C, p).
        extra_variance: of the value, beyond first order.
    """

    value: float
    own: Tensor
    slopes: Tensor
    extra_variance: float = 0.0


class CorrectedDistances:
    """Squared distances of the class means without the noise of the means, and what hangs on them.

        d~^2_ij = ||mu_i - mu_j||^2 - Var~_i/n_i - Var~_j/n_j

    Attributes:
        inverse: 1/d~^2_ij (C, C), 0 on the diagonal; NaN where d~^2 is not positive.
        weights: w_i of definitions 2 with d~^2 (C,).
        noise_share: mean share of the noise in ||mu_i - mu_j||^2.
    """

    def __init__(self, data: LabelledFeatures) -> None:
        statistics = data.statistics
        self._means = data.centred_means
        self._n_pairs = len(self._means) * (len(self._means) - 1)
        noise = class_variances(statistics, bias_corrected=True) / statistics.counts
        squared = data.squared_distances
        is_known = squared > statistics.rounding_squared()
        both = noise[:, None] + noise
        shares = (both / squared).fill_diagonal_(0.0).nan_to_num(nan=0.0).clamp(max=1.0)
        self.noise_share = float(shares.sum()) / self._n_pairs
        squared = squared - both
        squared = torch.where(is_known & (squared > 0.0), squared, torch.nan)
        self.inverse = squared.reciprocal().fill_diagonal_(0.0)
        self.weights = self.inverse.sum(dim=1) / self._n_pairs

    def slopes(self, numerators: Tensor) -> Tensor:
        """d/d mu_i of Avg (G_i + G_j)/(2 d~^2_ij) at numerators G (C,), as (C, p).

        -2/(C(C-1)) sum_{j != i} (G_i + G_j)/d~_ij^4 (mu_i - mu_j)
        """
        kernel = (numerators[:, None] + numerators) * self.inverse.square()
        return -2.0 / self._n_pairs * pulled(self._means, kernel)


def pulled(means: Tensor, kernel: Tensor) -> Tensor:
    """sum_j K_ij (mu_i - mu_j) (C, p)."""
    return kernel.sum(dim=1)[:, None] * means - kernel @ means


def cdnv_linearised(
    data: LabelledFeatures, terms: ExampleTerms, distances: CorrectedDistances
) -> Linearised:
    """CDNV, bias-corrected, with own(x) = w_i n_i/(n_i - 1) ||z||^2. Source: definitions 3."""
    variances = class_variances(data.statistics, bias_corrected=True)
    counts = data.statistics.counts
    weights = distances.weights * counts / (counts - 1.0)
    value = float((distances.weights * variances).sum())
    return Linearised(
        value, weights.index_select(0, data.index) * terms.norms, distances.slopes(variances)
    )


def directional_linearised(
    data: LabelledFeatures, terms: ExampleTerms, distances: CorrectedDistances
) -> Linearised:
    """Directional CDNV without the noise of the means in its numerators and distances.

        D^T Sigma_i D ~ D^T S_i D - tr Sigma_i^2/n_i - tr Sigma_i Sigma_j/n_j,   S_i over n_i - 1

    Source: definitions 4, small samples.
    """
    counts = data.statistics.counts
    n_pairs = len(counts) * (len(counts) - 1)
    plug_in = terms.squares / counts[:, None]
    along = corrected_along(data, terms)
    inverse_square = distances.inverse.square()
    value = float((along * inverse_square).sum()) / n_pairs
    by_plug_in = float((plug_in * terms.inverse.square()).sum()) / n_pairs
    kernel = plug_in * terms.inverse.pow(3)
    slopes = terms.directional_slopes
    slopes = slopes - 4.0 * pulled(data.centred_means, kernel + kernel.T)
    return in_proportion(value, by_plug_in, terms.along / n_pairs, slopes / n_pairs)


def corrected_along(data: LabelledFeatures, terms: ExampleTerms) -> Tensor:
    """D_ij^T Sigma_i D_ij without the noise of the means (C, C); see ``directional_linearised``."""
    counts = data.statistics.counts
    traces = terms.subset.traces
    along = terms.squares / (counts[:, None] - 1.0)
    along = along - (traces.diagonal() / counts)[:, None] - traces / counts
    return along.fill_diagonal_(0.0)


def nearest_mean_linearised(
    data: LabelledFeatures, terms: ExampleTerms, distances: CorrectedDistances
) -> Linearised:
    """Error of the nearest-mean rule with the means of the population, ties being errors.

    For an example of class i and its nearest rival b, D = mu_i - mu_b, the margin t with the own
    mean without the example has mean -d~^2/2 and variance

        D^T Sigma_i D + v,   v = tr Sigma_i^2/n_i + (tr Sigma_i Sigma_b + D^T Sigma_b D)/n_b

    and is shrunk towards its mean by the share of the first term, which takes off the noise v of
    the means. The slopes are those of the error smoothed over margins near 0.

    Source: the moments of T_ab, definitions 4.
    """
    counts = data.statistics.counts
    traces = terms.subset.traces
    along = corrected_along(data, terms).clamp(min=0.0)
    noise = (traces.diagonal() / counts)[:, None] + (traces + along.T) / counts
    pair = (data.index, terms.rivals)
    inflation = ((counts / (counts - 1.0)).square() - 1.0).index_select(0, data.index)
    margins = terms.margins + 0.5 * terms.norms * inflation
    half = 0.5 * distances.inverse[pair].reciprocal()
    shrunk = (margins + half) * (along / (along + noise)).sqrt()[pair] >= half
    errors = torch.where(half.isfinite(), shrunk, margins >= 0.0).double()
    shares = (counts / counts.sum()).index_select(0, data.index)
    return Linearised(float(errors.mean()), errors * shares, terms.decision_slopes)


def total_variance_linearised(data: LabelledFeatures, terms: ExampleTerms) -> Linearised:
    """Trace of the total covariance at fixed class shares, without the noise of the means.

    V = sum_c pi_c (Var_c + ||mu_c - mu||^2) + sum_c pi_c^2 Var~_c/n_c,    mu = sum_c pi_c mu_c
    """
    statistics = data.statistics
    shares = statistics.counts / statistics.counts.sum()
    centred = statistics.offsets - shares @ statistics.offsets
    variances = class_variances(statistics, bias_corrected=True)
    value = shares @ (statistics.variances() + centred.square().sum(dim=1))
    value = value + shares.square() @ (variances / statistics.counts)
    slopes = 2.0 * shares[:, None] * centred
    own = shares.index_select(0, data.index) * terms.norms
    return Linearised(float(value), own, slopes)


def shifts(data: LabelledFeatures, slopes: Sequence[Tensor]) -> Tensor:
    """<z, slope of the example's class> for each of ``slopes`` (C, p), as (k, n) in float64.

    One pass over the features, O(n p k).
    """
    stacked = torch.stack(list(slopes)).nan_to_num().to(data.projection_dtype)
    n_slopes, n_classes, n_features = stacked.shape
    found = data.statistics.counts.new_empty(n_slopes, len(data.features))
    is_small = n_slopes * n_classes <= _GEMM_COLUMNS
    columns = stacked.reshape(-1, n_features).T if is_small else None
    start = 0
    for z, index in data.residuals(extra_width=n_slopes, exact=False):
        rows = slice(start, start + len(index))
        start = rows.stop
        if columns is None:
            for row, slope in zip(found, stacked, strict=True):
                row[rows] = torch.linalg.vecdot(z, slope.index_select(0, index)).double()
            continue
        products = (z @ columns).view(len(index), n_slopes, n_classes)
        own = products.gather(2, index[:, None, None].expand(-1, n_slopes, 1))
        found[:, rows] = own.squeeze(2).T.double()
    return found


def centred(values: Tensor, index: Tensor) -> Tensor:
    """Terms u of an ``Influence`` from influence values (n,): centred in each class, over its size.

    u = (v - mean_c) / n_c sqrt(n_c/(n_c - 1)), NaN in a class of one example. ``index`` (n,) counts
    the classes from 0.
    """
    n = index.bincount().double()
    means = values.new_zeros(len(n)).index_add_(0, index, values) / n
    scale = (n * (n - 1.0)).sqrt()
    return (values - means.index_select(0, index)) / scale.index_select(0, index)


def in_proportion(value: float, by_plug_in: float, own: Tensor, slopes: Tensor) -> Linearised:
    """Influences of the plug-in value, in proportion to the corrected one."""
    if not value > 0.0:
        value = 0.0 if by_plug_in == 0.0 else math.nan
    factor = value / by_plug_in if by_plug_in > 0.0 else 1.0
    return Linearised(value, own * factor, slopes * factor)
