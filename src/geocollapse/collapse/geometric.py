"""Geometric collapse: class-wise geometric complexity over squared distances of class means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor
from typing_extensions import TypedDict

from geocollapse.arrays import Array, as_features, as_tensor
from geocollapse.collapse.distances import pair_weights
from geocollapse.collapse.sampled import (
    PairSample,
    has_too_many_pairs,
    inverse_distances,
    sampled_weights,
)
from geocollapse.estimate import LARGEST_SHARE_LIMIT, Estimate, total_variance

_MIN_SAMPLES_FOR_SHARE = 200


class PoincareRatios(TypedDict):
    """Empirical Poincare ratios Var_i / GC_i.

    Attributes:
        weighted_mean: their mean with weights w_i GC_i, which is NC / GCol.
        max: the largest.
        per_class: all of them (C,).
    """

    weighted_mean: float
    max: float
    per_class: Tensor


@overload
def geometric_collapse(
    class_gc: Sequence[Estimate], class_means: Array, *, rounding: float = ...
) -> Estimate: ...
@overload
def geometric_collapse(class_gc: Array, class_means: Array, *, rounding: float = ...) -> Tensor: ...
def geometric_collapse(
    class_gc: Sequence[Estimate] | Array, class_means: Array, *, rounding: float = 0.0
) -> Estimate | Tensor:
    """Geometric collapse: mean over class pairs of geometric complexity over squared distance.

        GCol = Avg_{i != j} (GC_i + GC_j) / (2 ||mu_i - mu_j||^2) = sum_i w_i GC_i,
            SE^2 = sum_i w_i^2 SE_i^2

    with w_i = 1/(C(C-1)) sum_{j != i} 1/||mu_i - mu_j||^2 and Satterthwaite degrees of freedom. The
    error is that of the data set at hand, its means taken as exact; for the distribution behind it
    see ``geometric_collapse_of_distribution``. Invariant under translation, rotation and scaling of
    the features; with inputs x/s it becomes s^2 GCol. O(C^2 p).

    Of Estimates for more than 8,192 classes, w_i is estimated from 500,000 random class pairs in
    O(m p), with a warning; SE^2 then has the error of these pairs, s^2/m (1 - m/M), as well.

    Source: Munn, Dherin, Gonzalvo (2024), arXiv 2405.15706; the standard error: definitions 3.

    Args:
        class_gc: GC of each class, C Estimates or a (C,) tensor or array.
        class_means: (C, p), in the same order.
        rounding: the squared distance up to which two means coincide, see
            ``ClassStatistics.rounding_squared``.

    Returns:
        An Estimate if ``class_gc`` holds Estimates, else a 0-d float64 tensor; NaN where two means
        coincide.

    Raises:
        TypeError: ``class_gc`` is neither.
        ValueError: the numbers of classes and means differ, fewer than two classes, or estimates of
            the distribution.

    Examples:
        >>> means = torch.tensor([[0.0], [2.0]])
        >>> float(geometric_collapse(torch.tensor([1.0, 3.0]), means))
        0.5
        >>> estimates = [Estimate(1.0, 0.3, 100, dof=99), Estimate(3.0, 0.4, 100, dof=99)]
        >>> geometric_collapse(estimates, means).stderr
        0.0625
    """
    means = as_features(class_means)
    if isinstance(class_gc, Sequence):
        _check_estimates(class_gc, means)
        if has_too_many_pairs(len(means)):
            return _of_sampled_pairs(class_gc, means, rounding)
        return _weighted_sum(class_gc, pair_weights(means, rounding).tolist())
    gc = as_tensor("class_gc", class_gc).double().to(means.device)
    _check_classes("class_gc", gc, means)
    return (pair_weights(means, rounding) * gc).sum()


def poincare_ratios(
    variances: Array,
    class_gc: Sequence[Estimate] | Array,
    class_means: Array,
    *,
    rounding: float = 0.0,
) -> PoincareRatios:
    """Empirical Poincare ratios rho_i = Var_i / GC_i, lower bounds on the Poincare constants.

        weighted_mean = NC / GCol = sum_i w_i Var_i / sum_i w_i GC_i
            (w_i as in geometric_collapse)

    Invariant under translation, rotation and scaling of the features; with inputs x/s they become
    rho/s^2. A class with GC_i = 0 has ratio inf, or NaN if its variance is 0 too. NC <= max_i rho_i
    GCol is an identity of arithmetic. Above 8,192 classes w_i is estimated from the 500,000 random
    class pairs of ``geometric_collapse``.

    Source: definitions 3; Munn, Dherin, Gonzalvo (2024), arXiv 2405.15706, for the inequality NC <=
    c GCol.

    Args:
        variances: Var_i (C,), from ``ClassStatistics.variances``.
        class_gc: GC_i, C Estimates or (C,).
        class_means: (C, p).
        rounding: as in ``geometric_collapse``.

    Raises:
        ValueError: different numbers of classes.

    Examples:
        >>> means = torch.tensor([[0.0], [1.0]])
        >>> poincare_ratios(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]), means)["max"]
        2.0
    """
    means = as_features(class_means)
    if isinstance(class_gc, Sequence):
        class_gc = torch.tensor([float(value) for value in class_gc], dtype=torch.float64)
    gc = as_tensor("class_gc", class_gc).double().to(means.device)
    var = as_tensor("variances", variances).double().to(means.device)
    _check_classes("class_gc", gc, means)
    _check_classes("variances", var, means)
    ratios = var / gc
    if has_too_many_pairs(len(means)):
        sample = PairSample.of(len(means), device=means.device)
        weights = sampled_weights(means, sample, rounding)
    else:
        weights = pair_weights(means, rounding)
    weighted = (weights * var).sum() / (weights * gc).sum()
    return {"weighted_mean": float(weighted), "max": float(ratios.max()), "per_class": ratios}


def _of_sampled_pairs(
    estimates: Sequence[Estimate], means: Tensor, rounding: float, seed: int = 0
) -> Estimate:
    """Geometric collapse from random class pairs, whose error is added."""
    sample = PairSample.of(len(means), seed=seed, device=means.device)
    gc = torch.tensor([e.value for e in estimates], dtype=torch.float64, device=means.device)
    inverse = inverse_distances(means, sample, rounding)
    values = (gc[sample.first] + gc[sample.second]) / 2.0 * inverse
    found = _weighted_sum(
        estimates,
        sampled_weights(means, sample, rounding).tolist(),
        (sample.error_squared(values), len(sample) - 1.0),
    )
    note = (
        f"geometric collapse: from {len(sample):,} random class pairs of {sample.n_all:,}; their "
        "error is part of the interval"
    )
    return replace(found, warnings=(*found.warnings, note))


def _weighted_sum(
    estimates: Sequence[Estimate],
    weights: list[float],
    of_pairs: tuple[float, float] = (0.0, math.inf),
) -> Estimate:
    """Sum w_i GC_i; ``of_pairs`` are the variance that the weights add and its dof."""
    terms = [w * e.value for w, e in zip(weights, estimates)]
    stderr, dof = total_variance(
        [*((w * e.stderr) ** 2 for w, e in zip(weights, estimates)), of_pairs[0]],
        [*(e.dof for e in estimates), of_pairs[1]],
    )
    value = math.fsum(terms)
    largest = _largest_share(estimates, terms, value)
    n_samples = sum(e.n_samples for e in estimates)
    return Estimate(
        value=value,
        stderr=stderr,
        n_samples=n_samples,
        n_probes=min(e.n_probes for e in estimates),
        estimator=estimates[0].estimator,
        largest_share=largest,
        dof=dof,
        sequential=any(e.sequential for e in estimates),
        warnings=_warnings(estimates, value, largest, n_samples),
    )


def _largest_share(estimates: Sequence[Estimate], terms: list[float], value: float) -> float | None:
    shares = [
        e.largest_share * term for e, term in zip(estimates, terms) if e.largest_share is not None
    ]
    return max(shares) / value if len(shares) == len(terms) and value > 0.0 else None


def _warnings(
    estimates: Sequence[Estimate], value: float, largest: float | None, n_samples: int
) -> tuple[str, ...]:
    reasons = []
    if math.isnan(value):
        reasons.append(
            "geometric collapse: undefined, a class has no mean or GC, or two class means are equal"
        )
    if any(math.isnan(e.stderr) for e in estimates):
        reasons.append(
            "geometric collapse: no standard error, a class has none; do measure 2 examples of each"
        )
    if (
        largest is not None
        and largest > LARGEST_SHARE_LIMIT
        and n_samples >= _MIN_SAMPLES_FOR_SHARE
    ):
        reasons.append(
            f"geometric collapse: one example carries {largest:.0%} of it; the interval may be too "
            "short"
        )
    return tuple(reasons)


def _check_estimates(estimates: Sequence[Estimate], means: Tensor) -> None:
    _check_classes("class_gc", torch.empty(len(estimates)), means)
    for estimate in estimates:
        if not isinstance(estimate, Estimate):
            raise TypeError(
                f"class_gc: expected Estimates or a tensor, got a sequence with "
                f"{type(estimate).__name__}; "
                "do torch.tensor(class_gc)"
            )
        if estimate.population != "dataset":
            raise ValueError(
                f"class_gc: expected estimates of the data set, got "
                f"population={estimate.population!r}; "
                "do geometric_collapse_of_distribution(squared_norms, features, labels)"
            )


def _check_classes(name: str, values: Tensor, means: Tensor) -> None:
    if len(means) < 2:
        raise ValueError(
            f"class_means: expected at least two classes, got {len(means)}; do pass another class"
        )
    if values.shape != (len(means),):
        raise ValueError(
            f"{name}: expected shape ({len(means)},) as class_means, got {tuple(values.shape)}; do "
            "pass one value for each row of class_means"
        )
