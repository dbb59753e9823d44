"""Paired tests between all models of a ranking, corrected for their number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from geocollapse.estimate import Estimate
from geocollapse.multiple_tests import holm

ALPHA = 0.05
_ROUNDING = 1e-7  # of an accuracy from float32 features: a smaller difference decides nothing


@dataclass(frozen=True)
class Pair:
    """Two models compared on the same examples and episodes.

    Attributes:
        first: label of one model.
        second: label of the other.
        difference: score of the first less that of the second.
        p: of no difference, two-sided; NaN where the error is unknown.
        p_holm: corrected for all pairs of the ranking.
        is_tie: the two cannot be told apart.
    """

    first: str
    second: str
    difference: Estimate
    p: float
    p_holm: float
    is_tie: bool


class Paired(Protocol):
    """The accuracy of one model on examples that other models share."""

    def __sub__(self, other: Self, /) -> Self:
        """The paired difference."""
        ...

    def estimate(self) -> Estimate:
        """The mean, with the error over other examples of these classes."""
        ...


Sampled = TypeVar("Sampled", bound=Paired)


def compare_all(accuracies: Mapping[str, Sampled], *, alpha: float = ALPHA) -> list[Pair]:
    """Test every pair of models for a difference of their accuracy on the same examples.

    Student's t of the paired difference with the error over examples: from half-samples where the
    accuracy was measured (``SampledAccuracy``), from ten groups left out in turn where it was
    predicted (``Jackknifed``). Holm's correction over the M (M - 1)/2 pairs: of equal models, any
    two are told apart with probability alpha at most.
    """
    names = list(itertools.combinations(accuracies, 2))
    found = [(accuracies[first] - accuracies[second]).estimate() for first, second in names]
    return with_tests(names, found, alpha=alpha)


def with_tests(
    names: Sequence[tuple[str, str]], differences: Sequence[Estimate], *, alpha: float = ALPHA
) -> list[Pair]:
    """The pairs with their tests, corrected for their number."""
    p_values = [p_value(difference) for difference in differences]
    corrected = holm(p_values)
    return [
        Pair(*pair, difference, p, p_holm, is_tie=not p_holm <= alpha)
        for pair, difference, p, p_holm in zip(names, differences, p_values, corrected, strict=True)
    ]


def p_value(difference: Estimate) -> float:
    """Two-sided p of a difference of 0, by Student's t; 1 for a difference within rounding."""
    if abs(difference.value) <= _ROUNDING:
        return 1.0
    if math.isnan(difference.stderr):
        return math.nan
    if difference.stderr == 0.0:
        return 0.0
    t = abs(difference.value) / difference.stderr
    return float(two_sided_p(np.asarray(t), difference.dof))


def two_sided_p(t: NDArray[np.float64], dof: float) -> NDArray[np.float64]:
    """Probability of a Student's t at least as far from 0."""
    from scipy import special  # scipy.stats takes a second to import

    below = special.ndtr(-t) if math.isinf(dof) else special.stdtr(dof, -t)
    return np.asarray(2.0 * below)


def tied_with(label: str, pairs: Sequence[Pair]) -> list[str]:
    """The models that cannot be told apart from one."""
    ties = [(pair.first, pair.second) for pair in pairs if pair.is_tie]
    return [b if a == label else a for a, b in ties if label in (a, b)]
