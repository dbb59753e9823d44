"""Upper bounds on the error of the m-shot nearest-mean classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from typing_extensions import TypedDict

from geocollapse.arrays import Array, Labels
from geocollapse.bounds.moments import DecisionMoments
from geocollapse.collapse import LabelledFeatures, geometric_collapse, mean_cdnv, poincare_ratios
from geocollapse.estimate import Estimate, finite_or_none


class BoundDict(TypedDict):
    """The JSON form of a ``NearestMeanBound``.

    Attributes:
        best: the least of the bounds that are guarantees.
        vacuous: true if it is 1 or more, or undefined.
    """

    general: float | None
    published: float | None
    directional: float | None
    gc_empirical: float | None
    best: float | None
    vacuous: bool


MAX_MOMENT_CLASSES = 2000


@dataclass(frozen=True)
class NearestMeanBound:
    """Bounds on the error of the nearest-mean classifier over k classes, averaged over classes.

    They are not clipped: a bound may exceed 1.

    Attributes:
        k_shot: shots m for each class mean; ``math.inf`` for the class means themselves.
        n_classes: k.
        general: 4 (k-1) (1 + 1/m) NC, for all laws of finite variance.
        published: the least of 16 (k-1) (1/m + 1/s) NC and 4 (k-1) (s^(-1/3) + m^(-1/3))^3 NC, s
            the stable rank.
        directional: Cantelli's inequality on the decision statistic; NaN above 2,000 classes, where
            the moments of all pairs would take hours and many (C, C) matrices (the stable rank is
            then taken as 1).
        gc_empirical: the general form with NC replaced by max rho GCol. It rests on an empirical
            constant, so it is no guarantee; None without class-wise geometric complexity.
        stable_rank: s = min_c tr S_c / lambda_max(S_c).
    """

    k_shot: float
    n_classes: int
    general: float
    published: float
    directional: float
    gc_empirical: float | None
    stable_rank: float

    @property
    def best(self) -> float:
        """The least bound that is a guarantee.

        Undefined bounds (NaN, where two class means coincide) are left out.
        """
        bounds = (self.general, self.published, self.directional)
        return min((bound for bound in bounds if not math.isnan(bound)), default=math.nan)

    @property
    def vacuous(self) -> bool:
        """True if the best bound says nothing: it is 1 or more, or undefined."""
        return not self.best < 1.0

    def to_dict(self) -> BoundDict:
        """Return the strict JSON form; undefined numbers are None."""
        surrogate = self.gc_empirical
        return {
            "general": finite_or_none(self.general),
            "published": finite_or_none(self.published),
            "directional": finite_or_none(self.directional),
            "gc_empirical": None if surrogate is None else finite_or_none(surrogate),
            "best": finite_or_none(self.best),
            "vacuous": self.vacuous,
        }


def nearest_mean_bound(
    features: Array,
    labels: Labels,
    *,
    k_shot: float = 5,
    class_gc: Sequence[Estimate] | Array | None = None,
) -> NearestMeanBound:
    """Bound the error of the nearest-mean classifier with ``k_shot`` examples a class.

        general:      E err <= 4 (k-1) (1 + 1/m) NC
        published:    E err <= 16 (k-1) (1/m + 1/s) NC,
            or 4 (k-1) (s^(-1/3) + m^(-1/3))^3 NC, whichever is less
        directional:  E err_a <= sum_{b != a} Var T_ab / (Var T_ab + (E T_ab)^2),
            a term being 1 where E T_ab <= 0

    They hold exactly for the empirical class laws of ``features``, with shots and queries drawn
    from them with replacement. Invariant under translation, rotation and scaling of the features.
    They are true and almost always vacuous (1 or more), so a bound above the measured error is no
    evidence for anything. O(n p (C + p)), float64.

    Source: Galanti, György, Hutter (2022), published form; general and directional forms:
    definitions 4.

    Args:
        features: (n, p).
        labels: (n,) integers, or names of classes.
        k_shot: m, a whole number of at least 1; ``math.inf`` for the class means themselves.
        class_gc: geometric complexity of each class, in ascending order of the labels.

    Raises:
        ValueError: ``k_shot`` is no such number, ``class_gc`` has the wrong number of classes, or
            ``geocollapse.neural_collapse`` refuses the features or labels.

    Examples:
        >>> x = torch.tensor([[0.0, 0.1], [0.0, -0.1], [9.0, 0.1], [9.0, -0.1]])
        >>> nearest_mean_bound(x, torch.tensor([0, 0, 1, 1]), k_shot=5).vacuous
        False
    """
    return nearest_mean_bounds(features, labels, (k_shot,), class_gc=class_gc)[0]


def nearest_mean_bounds(
    features: Array,
    labels: Labels,
    k_shots: Sequence[float] = (math.inf, 1, 5),
    *,
    class_gc: Sequence[Estimate] | Array | None = None,
) -> list[NearestMeanBound]:
    """``nearest_mean_bound`` for several numbers of shots, with moments computed once."""
    _check_shots(k_shots)
    data = LabelledFeatures.of(features, labels)
    nc = float(mean_cdnv(data.statistics)[0])
    return bounds_of(data, k_shots, nc, None if class_gc is None else _gc_surrogate(data, class_gc))


def bounds_of(
    data: LabelledFeatures, k_shots: Sequence[float], nc: float, surrogate: float | None
) -> list[NearestMeanBound]:
    """``nearest_mean_bounds`` of checked features with CDNV ``nc``.

    ``surrogate`` is max_i rho_i GCol.
    """
    n_classes = len(data.statistics.classes)
    moments = DecisionMoments.of(data) if n_classes <= MAX_MOMENT_CLASSES else None
    return [_bound(n_classes, moments, nc, surrogate, k_shot) for k_shot in k_shots]


def _check_shots(k_shots: Sequence[float]) -> None:
    for k_shot in k_shots:
        if not (k_shot == math.inf or (k_shot >= 1 and k_shot == int(k_shot))):
            raise ValueError(
                f"k_shot: expected a whole number of at least 1 or math.inf, got {k_shot}; do "
                "k_shot=5, or k_shot=math.inf for the class means themselves"
            )


def _bound(
    n_classes: int,
    moments: DecisionMoments | None,
    nc: float,
    surrogate: float | None,
    k_shot: float,
) -> NearestMeanBound:
    # the published form holds with s = 1 for all laws
    s = 1.0 if moments is None else moments.stable_rank
    general = 4.0 * (n_classes - 1) * (1.0 + 1.0 / k_shot)
    halved = 16.0 * (n_classes - 1) * (1.0 / k_shot + 1.0 / s)
    split = 4.0 * (n_classes - 1) * (s ** (-1 / 3) + k_shot ** (-1 / 3)) ** 3
    return NearestMeanBound(
        k_shot=k_shot,
        n_classes=n_classes,
        general=general * nc,
        published=min(halved, split) * nc,
        directional=math.nan if moments is None else _directional(moments, k_shot),
        gc_empirical=None if surrogate is None else general * surrogate,
        stable_rank=s,
    )


def _directional(moments: DecisionMoments, k_shot: float) -> float:
    """Cantelli's inequality for each T_ab, a union bound over b, averaged over a."""
    mean = moments.mean(k_shot)
    variance = moments.variance(k_shot)
    terms = torch.where(mean > 0, variance / (variance + mean.square()), torch.ones_like(mean))
    terms = torch.where(mean.isnan(), mean, terms)
    return float(terms.fill_diagonal_(0.0).sum(dim=1).mean())


def _gc_surrogate(data: LabelledFeatures, class_gc: Sequence[Estimate] | Array) -> float:
    """max_i rho_i GCol, which is never below NC."""
    values = torch.as_tensor([float(value) for value in class_gc], dtype=torch.float64)
    means = data.statistics.means
    rounding = data.statistics.rounding_squared()
    ratios = poincare_ratios(data.statistics.variances(), values, means, rounding=rounding)
    return ratios["max"] * float(geometric_collapse(values, means, rounding=rounding))
