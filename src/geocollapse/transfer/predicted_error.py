"""Few-shot error of the nearest-mean classifier, predicted from class moments without episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels, labelled_arrays
from geocollapse.bounds.moments import DecisionMoments, Rivals, corrected_triples, triples
from geocollapse.collapse import LabelledFeatures
from geocollapse.estimate import Estimate
from geocollapse.transfer.class_sample import (
    GROUPS,
    LEAST_EXAMPLES,
    LEFT_OUT_EPISODES,
    ClassSample,
)
from geocollapse.transfer.decision_law import positive_probability
from geocollapse.transfer.episodes import EpisodeSizes
from geocollapse.transfer.jackknifed import Jackknifed
from geocollapse.transfer.query_conditional import right_probabilities

Method = Literal["auto", "joint_normal", "query_conditional"]

# from here on the prediction was within 2 points of simulations and episodes
ENOUGH_DIMENSIONS = 25
ENOUGH_SHOTS = 5


def predicted_error(
    features: Array,
    labels: Labels,
    *,
    n_way: int = 5,
    k_shot: int = 5,
    n_episodes: int = 600,
    method: Method = "auto",
    seed: int = 0,
) -> Estimate:
    """N-way k-shot error of the nearest-mean classifier, predicted from the geometry of classes.

    An episode is not drawn but computed, from means, covariances and the third and fourth moments
    of its classes, under one of two normal approximations:

        joint_normal:       1 - P(N(E T_a., Cov T_a.) > 0 in all N - 1 coordinates),
                            T_ab = (||x - m_b||^2 - ||x - m_a||^2)/2, averaged over classes a
        query_conditional:  1 - int phi(u) prod_b Phi((nu_b - nu_a - s_a u)/s_b) du,
                            ||x - m_c||^2 of mean nu_c and standard deviation s_c given the query
                            x, averaged over queries x of class a and over classes

    The average is over the classes of the ``n_episodes`` episodes that ``few_shot_accuracy`` draws
    with this seed. ``auto`` takes the query-conditional form, which was the better one in all cases
    tried, where every class has more than k + 1 examples after a tenth of them is left out, and the
    joint normal form otherwise. Moments are corrected for the finite number of examples.

    The standard error covers the finite sample of examples (a jackknife over 10 groups of the
    examples within classes) and, with more classes than ways, of class sets. It does not cover the
    error of the normal approximation. That was below 0.5 points on Gaussian classes of effective
    dimension (tr S)^2/tr S^2 of 200, and below 2 points at 30. It grows to 5 points in fewer
    dimensions and at one shot; below 5 shots or 25 dimensions ``warnings`` say so. 20 classes at
    equal distances in as many directions are predicted 1 to 4 points too high, classes of
    sub-clusters with many shots too low. Nor does the standard error cover the choice of the
    classes, or another model.

    Range [0, 1]. Invariant under translation, rotation and scaling of the features. Cost:
    O((2000 + max_c n_c) n p) for the query-conditional form, eleven times O(n p (C + p) + C^2 p^2)
    for the joint normal one. At most 2,000 examples of a class and 2,000 queries are used.

    Source: derived in definitions 4, "The decision statistic" and "Prediction, not a bound"; Genz
    (1992) for the orthant probability. Sorscher, Ganguli, Sompolinsky (2022) print an
    approximation.

    Args:
        features: (n, p).
        labels: (n,) integers, or names of classes; 4 examples of each class at least, 5 for a
            standard error.
        n_way: classes N of an episode.
        k_shot: labelled examples k of each.
        n_episodes: sets of N classes, at least 2; drawn as ``few_shot_accuracy`` does.
        method: ``auto``, ``joint_normal`` or ``query_conditional``.
        seed: of the class sets, groups and points; the global random state is left alone.

    Returns:
        An Estimate of the error on the linear scale, ``values`` (n_episodes,) in float64: the
        predicted error among the classes of each episode.

    Raises:
        ValueError: more ways than classes, a class with too few examples (it is named), an unknown
            method, or a count that is too small.
        TypeError: labels that are neither integers nor names.

    Examples:
        >>> x = torch.randn(500, 64) + torch.arange(500)[:, None] % 5
        >>> error = predicted_error(x, torch.arange(500) % 5)
        >>> error.estimator, 0.0 <= float(error) <= 1.0
        ('query_conditional', True)
    """
    return predicted_errors(
        features,
        labels,
        n_way=n_way,
        k_shots=(k_shot,),
        n_episodes=n_episodes,
        method=method,
        seed=seed,
    )[0]


def predicted_errors(
    features: Array,
    labels: Labels,
    *,
    n_way: int = 5,
    k_shots: Sequence[int] = (1, 5),
    n_episodes: int = 600,
    method: Method = "auto",
    seed: int = 0,
) -> list[Estimate]:
    """``predicted_error`` for several numbers of shots, with moments computed once.

    Args:
        features: (n, p).
        labels: (n,) integers, or names of classes.
        n_way: classes N of an episode.
        k_shots: labelled examples k of each, one number for each Estimate.
        n_episodes: sets of N classes.
        method: ``auto``, ``joint_normal`` or ``query_conditional``.
        seed: of the class sets, groups and points.
    """
    sizes = [EpisodeSizes(n_way, k_shot, 1, n_episodes) for k_shot in k_shots]
    return errors_of(_sample(features, labels, sizes[0], seed), k_shots, method)


def jackknifed_error(
    features: Array,
    labels: Labels,
    *,
    n_way: int = 5,
    k_shot: int = 5,
    n_episodes: int = 600,
    seed: int = 0,
) -> Jackknifed:
    """``predicted_error`` with its values without each group of examples, to pair two models.

    Args:
        features: (n, p).
        labels: (n,) integers, or names of classes.
        n_way: classes N of an episode.
        k_shot: labelled examples k of each.
        n_episodes: sets of N classes.
        seed: of the class sets, groups and points.
    """
    sizes = EpisodeSizes(n_way, k_shot, 1, n_episodes)
    return jackknifed_errors(_sample(features, labels, sizes, seed), [k_shot])[0]


def _sample(features: Array, labels: Labels, sizes: EpisodeSizes, seed: int) -> ClassSample:
    """The examples, without the selections of the jackknife where a class is too small for them."""
    x, y = labelled_arrays(features, labels)
    sample = ClassSample.of(x, y, sizes, seed)
    return sample.whole() if int(sample.counts.min()) <= LEAST_EXAMPLES else sample


def errors_of(
    sample: ClassSample, k_shots: Sequence[int], method: Method = "auto"
) -> list[Estimate]:
    """``predicted_errors`` of a sample; without a standard error if it has no selections."""
    return [_clipped(error.estimate()) for error in jackknifed_errors(sample, k_shots, method)]


def _clipped(error: Estimate) -> Estimate:
    """The error within [0, 1], which rounding can leave."""
    return replace(error, value=min(1.0, max(0.0, error.value)))


def jackknifed_errors(
    sample: ClassSample, k_shots: Sequence[int], method: Method = "auto"
) -> list[Jackknifed]:
    """The predicted errors of a sample by number of shots, whole and without each group."""
    chosen = [_chosen(method, sample, k_shot) for k_shot in k_shots]
    found: dict[int, Jackknifed] = {}
    for form in dict.fromkeys(chosen):
        shots = [k for k, name in zip(k_shots, chosen, strict=True) if name == form]
        errors, dimension = _FORMS[form](sample, shots)
        for k_shot, part in zip(shots, errors, strict=True):
            found[k_shot] = Jackknifed(
                values=part[0, sample.episodes].cpu(),
                left_out=part[1:, sample.episodes[:LEFT_OUT_EPISODES]].mean(dim=1).cpu(),
                is_drawn=sample.is_drawn,
                estimator=form,
                warnings=_notes(dimension, k_shot, int(sample.counts.min())),
            )
    return [found[k_shot] for k_shot in k_shots]


def _chosen(method: Method, sample: ClassSample, k_shot: int) -> Method:
    """The form that ``method`` means for this sample."""
    if method not in ("auto", *_FORMS):
        raise ValueError(
            f"method: expected auto, {' or '.join(_FORMS)}, got {method!r}; do method='auto'"
        )
    left = sample.counts - (sample.counts + GROUPS - 1) // GROUPS - 1
    is_enough = int(left.min()) > k_shot
    if method == "query_conditional" and not is_enough:
        raise ValueError(
            f"k_shot: expected at most {int(left.min()) - 1} for method='query_conditional' and "
            f"{int(sample.counts.min())} examples of a class, got {k_shot}; do "
            f"method='joint_normal'"
        )
    if method == "auto":
        return "query_conditional" if is_enough else "joint_normal"
    return method


def is_by_queries(sample: ClassSample, k_shots: Sequence[int]) -> bool:
    """True if ``auto`` takes the query-conditional form for all these numbers of shots."""
    return all(_chosen("auto", sample, k_shot) == "query_conditional" for k_shot in k_shots)


def _joint_normal(sample: ClassSample, k_shots: Sequence[int]) -> tuple[Tensor, float]:
    """Errors by shots, selections and class sets, and the effective dimension."""
    errors = sample.empty_errors(k_shots)
    dimension = math.nan
    for r, kept in enumerate(sample.kept.T):
        data = LabelledFeatures(sample.features[kept], sample.index[kept])
        moments = DecisionMoments.of(data, stable_rank=False).corrected()
        sets = sample.sets(r)
        n_way = sample.ways.shape[1]
        rest = torch.tensor([[b for b in range(n_way) if b != a] for a in range(n_way)])
        ways = sample.ways[sets]
        rivals = Rivals(ways.flatten(), ways[:, rest].flatten(0, 1))
        along = corrected_triples(triples(data, rivals), rivals, moments)
        for i, k_shot in enumerate(k_shots):
            right = positive_probability(*moments.joint(rivals, along, k_shot), sample.seed)
            errors[i, r, sets] = 1.0 - right.unflatten(0, (-1, n_way)).mean(dim=1)
        if r == 0:
            dimension = _effective_dimension(moments.traces, moments.products.diagonal())
    return errors, dimension


def _effective_dimension(traces: Tensor, squares: Tensor) -> float:
    """The median of (tr S)^2/tr S^2 over classes."""
    return float((traces.square() / squares).nanmedian())


def _query_conditional(sample: ClassSample, k_shots: Sequence[int]) -> tuple[Tensor, float]:
    """Errors by shots, selections and class sets, and the effective dimension."""
    terms, weights = sample.query_terms()
    errors = sample.empty_errors(k_shots)
    for i, k_shot in enumerate(k_shots):
        law = terms.law(k_shot)
        for r in range(sample.kept.shape[1]):
            for a, queries in enumerate(terms.rows):
                sets, others = sample.rivals(a, r)
                right = right_probabilities(
                    law.means[r, queries], law.deviations[r, queries], a, others
                )
                errors[i, r, sets] += 1.0 - weights[a][:, r] @ right
    return errors / sample.ways.shape[1], float(terms.effective_dimensions.nanmedian())


_FORMS: dict[str, Callable[[ClassSample, Sequence[int]], tuple[Tensor, float]]] = {
    "joint_normal": _joint_normal,
    "query_conditional": _query_conditional,
}


def _notes(dimension: float, k_shot: int, least_examples: int) -> tuple[str, ...]:
    """What a reader of the predicted error must know."""
    found = []
    if k_shot < ENOUGH_SHOTS:
        found.append(
            f"predicted_error: approximate below {ENOUGH_SHOTS} shots, up to 5 points too high "
            f"on real embeddings; few_shot_accuracy measures it"
        )
    if dimension < ENOUGH_DIMENSIONS:
        found.append(
            f"predicted_error: effective dimension {dimension:.1f} is below {ENOUGH_DIMENSIONS}, "
            f"where the normal approximation can be 5 points off"
        )
    if least_examples <= LEAST_EXAMPLES:
        found.append(
            f"predicted_error: no standard error from classes of {LEAST_EXAMPLES} examples"
        )
    return tuple(found)
