"""Label-free baselines, computed from features alone, to compare geometric complexity with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import TypedDict

from geocollapse.arrays import Array, as_features, row_slices
from geocollapse.collapse.statistics import MAX_SCATTER_FEATURES
from geocollapse.collapse.variability import RANK_TOLERANCE
from geocollapse.estimate import finite_or_none
from geocollapse.numerics import check_finite

EPSILON = 1e-7  # Garrido et al. (2023): added to every p_k
# eigenvalues, counted from 1, that the authors of alpha-ReQ fit in their package (reptrix)
FIT_RANGE = (11, 100)
_BLOCK_ROWS = 2048


class LabelFreeDict(TypedDict):
    """The JSON form of ``LabelFree``."""

    rankme: float | None
    effective_rank: float | None
    alpha_req: float | None
    feature_norm: float | None


@dataclass(frozen=True)
class LabelFree:
    """The label-free baselines of one layer; NaN where undefined, with the reason in ``warnings``.

    Attributes:
        rankme: see ``geocollapse.rankme``.
        effective_rank: see ``geocollapse.effective_rank``.
        alpha_req: see ``geocollapse.alpha_req``.
        feature_norm: see ``geocollapse.feature_norm``.
        warnings: why a value is NaN.
    """

    rankme: float
    effective_rank: float
    alpha_req: float
    feature_norm: float
    warnings: tuple[str, ...] = field(default=(), repr=False)

    def to_dict(self) -> LabelFreeDict:
        """Return the strict JSON form; undefined numbers are None."""
        return {
            "rankme": finite_or_none(self.rankme),
            "effective_rank": finite_or_none(self.effective_rank),
            "alpha_req": finite_or_none(self.alpha_req),
            "feature_norm": finite_or_none(self.feature_norm),
        }


class Spectra(NamedTuple):
    """Singular values of the features F and of their deviations F - mean, min(n, p) of each.

    Attributes:
        features: of F, descending.
        deviations: of F - mean, descending.
        rounding: a singular value up to here may come from the rounding of the features alone.
    """

    features: Tensor
    deviations: Tensor
    rounding: float

    @property
    def rank(self) -> int:
        """The number of eigenvalues of the covariance above rounding."""
        return int((self.deviations > self.rounding).sum())


def rankme(features: Array, *, epsilon: float = EPSILON) -> float:
    """RankMe: the exponential of the entropy of the features' normalised singular values.

        RankMe = exp(-sum_k p_k log p_k),    p_k = s_k / sum_j s_j + epsilon,    k = 1..min(n, p)

    s_k are the singular values of the features as they are, not centred. Range [1, min(n, p)] with
    epsilon = 0, where it is the effective rank of the feature matrix; the published epsilon adds up
    to min(n, p) epsilon log(1/epsilon) of itself. No unit. Invariant under permutation of the
    examples, rotation and scaling; not under translation. Two passes over the features in float64,
    O(n p min(n, p)) time, memory of a few min(n, p) x min(n, p) matrices.

    Computed by QR and not from the Gram matrix F^T F, which squares the singular values and so
    loses half of the digits: values below 1e-8 of the largest would be noise, exact zeros 1e-8.

    Source: Garrido, Balestriero, Najman, LeCun (2023), arXiv 2210.02885, eq. 1.

    Args:
        features: (n, p) floating point; the paper takes 25,600 examples.
        epsilon: added to every p_k, as published for float32.

    Raises:
        TypeError: features that are not floating point.
        ValueError: a wrong shape, NaN features, only zeros, both n and p above 4,096, a negative
            epsilon.

    Examples:
        >>> round(rankme(torch.tensor([[3.0, 0.0], [0.0, 1.0]])), 4)  # 4 / 3^(3/4)
        1.7548
    """
    if not epsilon >= 0.0:
        raise ValueError(f"epsilon: expected a number from 0, got {epsilon}; do epsilon={EPSILON}")
    return _rankme(_spectra(_checked(features)), epsilon)


def effective_rank(features: Array) -> float:
    """Effective rank of the covariance: the exponential of the entropy of its eigenvalues.

        erank(Cov) = exp(-sum_k q_k log q_k),    q_k = lambda_k / sum_j lambda_j,
            Cov = 1/n sum_x (f - mu)(f - mu)^T

    Roy and Vetterli define erank(A) by the singular values of any matrix A. Here A is the
    covariance, whose singular values are its eigenvalues: centred, and in units of variance. RankMe
    is the erank of the features themselves: with their mean, and in units of length, so a direction
    of small variance counts for more there.

    Range [1, min(n - 1, p)]; no unit. Invariant under permutation of the examples, rotation,
    translation and scaling. Cost as ``rankme``.

    Source: Roy, Vetterli (2007), definition 1, of the covariance.

    Args:
        features: (n, p) floating point.

    Raises:
        TypeError: features that are not floating point.
        ValueError: a wrong shape, NaN features, examples that differ by no more than rounding, both
            n and p above 4,096.

    Examples:
        >>> x = torch.tensor([[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0]])
        >>> round(effective_rank(x), 4)  # 10 / 9^0.9
        1.3841
    """
    return _effective_rank(_spectra(_checked(features)))


def alpha_req(features: Array, *, fit_range: tuple[int, int] = FIT_RANGE) -> float:
    """alpha-ReQ: the exponent of a power law fitted to the eigenvalues of the covariance.

        log lambda_i = c - alpha log i    by least squares with weights 1/i over first <= i <= last

    The weights, those of the published code, weigh equal stretches of log i the same. Range
    [0, inf), for eigenvalues descend; 0 for a white covariance; the authors find the best linear
    readouts near 1. No unit. Invariant under permutation of the examples, rotation, translation and
    scaling. Cost as ``rankme``.

    Source: Agrawal, Mondal, Ghosh, Richards (2022), NeurIPS; weights: Stringer et al. (2019),
    published code.

    Args:
        features: (n, p) floating point.
        fit_range: first and last eigenvalue of the fit, counted from 1. Values from different
            ranges are not comparable.

    Raises:
        TypeError: features that are not floating point.
        ValueError: a wrong shape, NaN features, a range that is not 1 <= first < last, fewer than
            last eigenvalues above rounding, both n and p above 4,096.

    Examples:
        >>> x = torch.diag(torch.arange(1.0, 151.0).double() ** -0.5)
        >>> round(alpha_req(torch.cat([x, -x])), 4)
        1.0
    """
    first, last = fit_range
    if not 1 <= first < last:
        raise ValueError(
            f"fit_range: expected 1 <= first < last, got {fit_range}; do fit_range={FIT_RANGE}"
        )
    return _alpha_req(_spectra(_checked(features)), fit_range)


def feature_norm(features: Array) -> float:
    """Mean Euclidean norm of the features, 1/n sum_x ||f(x)||.

    Range [0, inf), in the unit of the features. Invariant under permutation of the examples and
    rotation; of degree 1 in their scale. One pass in float64 chunks, O(n p).

    Source: Xu, Li, Yang, Lin (2019), arXiv 1811.07456, who read larger norms as more transferable.

    Args:
        features: (n, p) floating point.

    Raises:
        TypeError: features that are not floating point.
        ValueError: a wrong shape, NaN features.

    Examples:
        >>> feature_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        3.0
    """
    return _feature_norm(_checked(features))


def label_free(features: Array) -> LabelFree:
    """All label-free baselines from one decomposition; NaN with a reason where undefined.

    Raises:
        TypeError: features that are not floating point.
        ValueError: a wrong shape, NaN features.
    """
    x = _checked(features)
    values = {"rankme": math.nan, "effective_rank": math.nan, "alpha_req": math.nan}
    reasons = []
    try:
        spectra = _spectra(x)
    except ValueError as error:
        return LabelFree(
            **values, feature_norm=_feature_norm(x), warnings=(f"{', '.join(values)}: {error}",)
        )
    for name, score in (
        ("rankme", _rankme),
        ("effective_rank", _effective_rank),
        ("alpha_req", _alpha_req),
    ):
        try:
            values[name] = score(spectra)
        except ValueError as error:
            reasons.append(f"{name}: {error}")
    return LabelFree(**values, feature_norm=_feature_norm(x), warnings=tuple(reasons))


def _checked(features: Array) -> Tensor:
    x = as_features(features)
    if len(x) == 0:
        raise ValueError(
            f"features: expected at least one example, got shape {tuple(x.shape)}; do pass (n, p)"
        )
    check_finite("features", x)
    return x


def _spectra(x: Tensor) -> Spectra:
    """Both spectra, from one triangle R of the smaller side.

    F^T F = Z^T Z + n mu mu^T with Z = F - mu: Z and a row sqrt(n) mu below it have the singular
    values of F.
    """
    n, p = x.shape
    if min(n, p) > MAX_SCATTER_FEATURES:
        raise ValueError(
            f"features: expected at most {MAX_SCATTER_FEATURES} examples or features for their "
            f"singular values, got shape ({n}, {p}); do pass features[:{MAX_SCATTER_FEATURES}]"
        )
    deviations, whole = _tall_triangles(x) if n >= p else _wide_triangles(x)
    values = torch.linalg.svdvals(whole)[: min(n, p)]
    rounding = max(RANK_TOLERANCE, torch.finfo(x.dtype).eps) * float(values[0])
    return Spectra(values, torch.linalg.svdvals(deviations), rounding)


def _tall_triangles(x: Tensor) -> tuple[Tensor, Tensor]:
    """R of Z = QR (p, p), and the same above sqrt(n) mu (p + 1, p), a block of rows at a time."""
    n, p = x.shape
    sums = [x[rows].double().sum(dim=0) for rows in row_slices(n, p, x.device)]
    mean = torch.stack(sums).sum(dim=0) / n
    triangle = mean.new_zeros(0, p)
    # 2 p rows at least, because R is factorised again with every block
    for rows in x.split(max(_BLOCK_ROWS, 2 * p)):
        triangle = _triangle(triangle, rows.double() - mean)
    return triangle, torch.cat([triangle, math.sqrt(n) * mean[None]])


def _wide_triangles(x: Tensor) -> tuple[Tensor, Tensor]:
    """R of Z^T = QR (n, n), and of (Z^T, sqrt(n) mu) (n + 1, n + 1), block by block of features."""
    n = len(x)
    triangle = x.new_zeros(0, n + 1, dtype=torch.float64)
    for columns in x.split(max(_BLOCK_ROWS, 2 * n), dim=1):
        block = columns.double()
        mean = block.mean(dim=0, keepdim=True)
        triangle = _triangle(triangle, torch.cat([block - mean, math.sqrt(n) * mean]).T)
    return triangle[:, :n], triangle


def _triangle(triangle: Tensor, rows: Tensor) -> Tensor:
    stacked = torch.cat([triangle, rows]) if len(triangle) else rows
    return torch.linalg.qr(stacked, mode="r").R


def _rankme(spectra: Spectra, epsilon: float = EPSILON) -> float:
    total = spectra.features.sum()
    if not total > 0.0:
        raise ValueError(
            "features: expected numbers that are not all 0, got only zeros; do check the layer"
        )
    return _entropy_exponential(spectra.features / total + epsilon)


def _effective_rank(spectra: Spectra) -> float:
    if spectra.rank == 0:
        raise ValueError(
            "features: expected examples that differ by more than rounding, got the same features "
            "for all; do check the layer"
        )
    relative = (spectra.deviations / spectra.deviations[0]).square()
    return _entropy_exponential(relative / relative.sum())


def _entropy_exponential(shares: Tensor) -> float:
    return float(torch.special.entr(shares).sum().exp())  # entr: 0 log 0 = 0


def _alpha_req(spectra: Spectra, fit_range: tuple[int, int] = FIT_RANGE) -> float:
    first, last = fit_range
    if spectra.rank < last:
        raise ValueError(
            f"fit_range: expected a range within the {spectra.rank} eigenvalues above rounding, "
            f"got {fit_range}; do choose one, or a wider layer"
        )
    return power_law_exponent(2.0 * spectra.deviations[first - 1 : last].log(), first)


def power_law_exponent(logarithms: Tensor, first: int) -> float:
    """Exponent of the power law of eigenvalues number ``first`` and on, from their logarithms."""
    last = first + len(logarithms) - 1
    index = torch.arange(first, last + 1, dtype=torch.float64, device=logarithms.device)
    weights = 1.0 / index
    weights /= weights.sum()
    u = index.log()
    u = u - weights @ u
    v = logarithms - weights @ logarithms
    return -float((weights * u) @ v / ((weights * u) @ u))


def _feature_norm(x: Tensor) -> float:
    total = x.new_zeros((), dtype=torch.float64)
    for rows in row_slices(len(x), x.shape[1], x.device):
        total += torch.linalg.vector_norm(x[rows].double(), dim=1).sum()
    return float(total / len(x))
