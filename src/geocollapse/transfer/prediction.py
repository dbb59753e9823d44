"""Predicted error as an entry of other results, with a reason where it cannot be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from geocollapse.arrays import Array, labelled_arrays
from geocollapse.estimate import Estimate, IntervalDict
from geocollapse.transfer.class_sample import LEAST_EXAMPLES, ClassSample
from geocollapse.transfer.episodes import EpisodeSizes
from geocollapse.transfer.predicted_error import errors_of, is_by_queries, predicted_errors

_QUICK_EPISODES = 100
_QUICK_QUERIES = 500
_QUICK_PRODUCTS = 1e11  # multiplications: a few seconds on one core
_REPEATED_PRODUCTS = 1e9  # the same where each group of examples takes as long as all of them


@dataclass(frozen=True)
class Prediction:
    """Predicted errors by number of shots, and what a reader must know of them.

    Attributes:
        k_shots: the numbers of shots.
        errors: an Estimate for each; empty where the error cannot be predicted.
        warnings: notes on them, or why there are none.
    """

    k_shots: tuple[int, ...]
    errors: tuple[Estimate, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, k_shots: Sequence[int], errors: Sequence[Estimate]) -> Prediction:
        """The Estimates with their warnings, each said once."""
        notes = dict.fromkeys(note for error in errors for note in error.warnings)
        return cls(tuple(k_shots), tuple(errors), tuple(notes))

    @property
    def values(self) -> dict[str, float | None]:
        """The errors by number of shots; None where there are none."""
        found: dict[str, float | None] = {str(k): None for k in self.k_shots}
        found.update({str(k): float(e) for k, e in zip(self.k_shots, self.errors, strict=False)})
        return found

    @property
    def intervals(self) -> dict[str, IntervalDict]:
        """The errors with their intervals by number of shots; empty where there are none."""
        found = zip(self.k_shots, self.errors, strict=False)
        return {str(k): error.to_interval_dict() for k, error in found}


def prediction(
    features: Array, labels: Array, n_way: int, k_shots: Sequence[int], n_episodes: int, seed: int
) -> Prediction:
    """``predicted_errors`` of the class sets of the episodes, or why it is undefined."""
    x, y = labelled_arrays(features, labels)
    reason = _too_few(y)
    if reason:
        return Prediction(tuple(k_shots), (), (reason,))
    errors = predicted_errors(x, y, n_way=n_way, k_shots=k_shots, n_episodes=n_episodes, seed=seed)
    return Prediction.of(k_shots, errors)


def quick_prediction(
    x: Tensor,
    y: Tensor,
    k_shots: Sequence[int],
    seed: int,
    *,
    n_way: int | None = None,
    n_queries: int = _QUICK_QUERIES,
    with_errors: bool = False,
) -> Prediction:
    """Predicted errors from a part of the queries and the class sets of 100 episodes.

    500 queries leave a standard error of one to two points. None where more than 1e11
    multiplications would be needed.

    Args:
        x: features (n, p).
        y: labels (n,).
        k_shots: labelled examples of each class.
        seed: of the class sets, groups and points.
        n_way: classes of an episode; None for 5, or all where there are fewer.
        n_queries: of all classes together.
        with_errors: also compute the standard errors, at two to five times the cost; left out where
            classes of few examples would make that minutes.
    """
    reason = _too_few(y)
    if reason:
        return Prediction(tuple(k_shots), (), (reason,))
    sizes = EpisodeSizes(n_way or min(5, len(y.unique())), 1, 1, _QUICK_EPISODES)
    sample = replace(ClassSample.of(x, y, sizes, seed), n_queries=n_queries)
    n_products = max(n_queries, 2 * len(sample.counts)) * sample.features.numel()
    if n_products > _QUICK_PRODUCTS:
        reason = (
            "predicted_error: left out, too many features and examples; do "
            "geocollapse.predicted_error(m.features, m.labels)"
        )
        return Prediction(tuple(k_shots), (), (reason,))
    notes = []
    if not with_errors or int(sample.counts.min()) <= LEAST_EXAMPLES:
        sample = sample.whole()
    elif not is_by_queries(sample, k_shots) and n_products > _REPEATED_PRODUCTS:
        sample = sample.whole()
        notes = [
            "predicted_error: no interval, too many features and examples; do "
            "geocollapse.predicted_error(m.features, m.labels)"
        ]
    found = Prediction.of(k_shots, errors_of(sample, k_shots))
    return replace(found, warnings=(*found.warnings, *notes))


def _too_few(y: Tensor) -> str:
    """Why the error is undefined: the smallest class has too few examples."""
    classes, counts = y.unique(return_counts=True)
    smallest = int(counts.argmin())
    if counts[smallest] >= LEAST_EXAMPLES:
        return ""
    return (
        f"predicted_error: undefined, class {int(classes[smallest])} has {int(counts[smallest])} "
        f"examples and {LEAST_EXAMPLES} are needed"
    )
