"""NCTI: how near the features are to neural collapse on the target, in three parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels
from geocollapse.transfer.sample import Sample, principal_components

MAX_DIRECTIONS = 64  # Wang et al. (2023), published code


class NctiParts(NamedTuple):
    """The three parts of NCTI, as published.

    Attributes:
        seli: nuclear norm of the discriminant coordinates, n x (C - 1); higher is better.
        nearest_centre: mean posterior probability of the right class, 0 to 1; higher is better.
        variability: log of the sum of the nuclear norms of each class's posteriors; lower is
            better.
    """

    seli: float
    nearest_centre: float
    variability: float


def ncti(features: Array, labels: Labels) -> float:
    """NCTI of one model: three parts, each on a scale that does not depend on the sample size.

        log(||H||_*/(sqrt(n) d)) + 1/n sum_i P(y_i | x_i)
            - log(sum_c ||P_c||_*/sum_c sqrt(n_c))

    H (n, d) are the coordinates of linear discriminant analysis, d = min(C - 1, q), on the q
    leading principal components, with within-class variance 1 (divisor n); P_c (n_c, C) are its
    posterior probabilities for the examples of class c, with the shares of the classes as prior. q
    is at most 64 and (n - C)/2, so that the within-class covariance is not singular.

    **Not the published total**, which rescales each part to [0, 1] over the models compared and so
    does not exist for one model: ``ncti_of_models`` gives it from the ``ncti_parts`` of several.
    The published shrinkage, exp(-sum of variances), depends on the feature scale and is left out.

    Range: about -log(C)/2 to infinity. No unit. Invariant under permutation, relabelling, gaps in
    the labels, translation, rotation and scaling.

    It misleads because all three parts are measured on the examples that fitted the discriminants:
    with few examples a direction noise has high values, too. O(n p min(n, p)) time.

    Source: Wang, Luo, Zheng, Huang, Baktashmotlagh (2023), ICCV, eq. 5, 7, 9, and published code.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, fewer than two classes, the same features for all
            examples, fewer than C + 2 examples, classes without variance.

    Examples:
        >>> x = torch.tensor([[0.0], [2.0], [8.0], [10.0]])
        >>> round(ncti(x, torch.tensor([0, 0, 1, 1])), 4)
        2.4166
    """
    sample = Sample.of(features, labels)
    return discriminant_score(coordinates_of(sample), sample)


def ncti_parts(features: Array, labels: Labels) -> NctiParts:
    """The parts of NCTI as published, to be compared over models by ``ncti_of_models``.

    Args, invariances, cost and errors as for ``ncti``.

    Source: Wang et al. (2023), eq. 5, 7, 9, and published code.

    Examples:
        >>> x = torch.tensor([[0.0], [2.0], [8.0], [10.0]])
        >>> round(ncti_parts(x, torch.tensor([0, 0, 1, 1])).nearest_centre, 4)
        1.0
    """
    sample = Sample.of(features, labels)
    return _parts(coordinates_of(sample), sample)


def ncti_of_models(parts: Sequence[NctiParts]) -> list[float]:
    """The published NCTI of several models on the same examples.

    Each part is rescaled to [0, 1] over the models; the total is seli + nearest_centre -
    variability. A part that is the same for all models counts 0.

    Source: Wang et al. (2023), eq. 10.

    Args:
        parts: of each model.

    Raises:
        ValueError: fewer than two models.

    Examples:
        >>> ncti_of_models([NctiParts(1.0, 0.5, 3.0), NctiParts(2.0, 0.9, 3.0)])
        [0.0, 2.0]
    """
    if len(parts) < 2:
        raise ValueError(
            f"parts: expected at least two models, got {len(parts)}; do ncti for one model"
        )
    values = torch.tensor(parts, dtype=torch.float64)
    spread = values.amax(dim=0) - values.amin(dim=0)
    scaled = (values - values.amin(dim=0)) / torch.where(spread > 0.0, spread, 1.0)
    return (scaled @ torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)).tolist()


def coordinates_of(sample: Sample) -> Tensor:
    """Principal components (n, q) that the discriminants are fitted on.

    Raises:
        ValueError: the same features for all examples, fewer than C + 2 examples.
    """
    spare = (len(sample.index) - sample.n_classes) // 2
    if spare < 1:
        raise ValueError(
            f"features: expected at least two examples more than classes, got "
            f"{len(sample.index)} of {sample.n_classes} classes; do pass more examples"
        )
    return principal_components(sample, min(MAX_DIRECTIONS, spare))


def discriminant_score(coordinates: Tensor, sample: Sample) -> float:
    """NCTI of one model from its principal components."""
    parts = _parts(coordinates, sample)
    n, q = coordinates.shape
    width = math.sqrt(n) * min(int((sample.counts > 0).sum()) - 1, q)
    collapsed = math.log(float(sample.counts.sqrt().sum()))
    return math.log(parts.seli / width) + parts.nearest_centre - (parts.variability - collapsed)


def _parts(coordinates: Tensor, sample: Sample) -> NctiParts:
    counts = sample.counts
    seen = counts > 0
    n = len(coordinates)
    z = coordinates - coordinates.mean(dim=0)
    means = sample.class_sums(z) / counts.clamp_min(1.0)[:, None]
    residuals = z - means.index_select(0, sample.index)
    factor, failed = torch.linalg.cholesky_ex(residuals.T @ residuals / n)
    rounding = 1e-13 * float(z.square().sum()) / n
    if bool(failed) or float(factor.diagonal().square().min()) <= rounding:
        raise ValueError(
            "features: expected variance within classes in every direction, got none in one; do "
            "check for collapsed or repeated examples"
        )
    white = torch.linalg.solve_triangular(factor, z.T, upper=False).T
    centres = torch.linalg.solve_triangular(factor, means.T, upper=False).T
    lengths = torch.linalg.svdvals(counts.sqrt()[:, None] * centres).square()
    d = min(int(seen.sum()) - 1, z.shape[1])
    seli = float((n + lengths[:d]).sqrt().sum())
    logits = white @ centres.T - 0.5 * centres.square().sum(dim=1) + counts.log()
    posteriors = logits.softmax(dim=1)
    right = posteriors.gather(1, sample.index[:, None])
    return NctiParts(seli, float(right.mean()), math.log(_nuclear_norms(posteriors, sample)))


def _nuclear_norms(posteriors: Tensor, sample: Sample) -> float:
    """sum_c ||P_c||_*."""
    rows = sample.index.argsort(stable=True).split(sample.counts.long().tolist())
    return math.fsum(float(torch.linalg.svdvals(posteriors[r]).sum()) for r in rows if len(r))
