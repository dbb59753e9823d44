"""Few-shot accuracies of features, and what all labels give, as strict JSON."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict

from geocollapse.arrays import Array, Labels, as_labels
from geocollapse.estimate import IntervalDict
from geocollapse.transfer.curves import LearningCurve, learning_curve
from geocollapse.transfer.episode_classifier import EpisodeClassifier
from geocollapse.transfer.few_shot import (
    DEFAULT_CLASSIFIERS,
    Classifier,
    FewShotIntervalDict,
)
from geocollapse.transfer.full_data import FullDataClassifier, full_data_accuracy
from geocollapse.transfer.prediction import prediction

FULL_DATA: tuple[FullDataClassifier, ...] = ("linear_probe", "knn")


class FullDataDict(TypedDict):
    """Accuracy over all classes of classifiers that learn from all labels but a test part.

    Attributes:
        accuracy: share of the test examples that are right, by classifier.
        n_train: examples learned from.
        n_test: examples tested.
    """

    accuracy: dict[str, IntervalDict]
    n_train: int
    n_test: int


class EpisodeValuesDict(TypedDict):
    """The value of each episode, in the order of the episodes.

    Attributes:
        classes: labels of the classes of each episode, by number of shots.
        accuracy: accuracy in each episode, by classifier and number of shots.
    """

    classes: dict[str, list[list[int]]]
    accuracy: dict[str, dict[str, list[float]]]


class TransferDict(TypedDict):
    """Few-shot accuracies by classifier and number of shots.

    Attributes:
        accuracy: mean over episodes, by classifier and number of shots.
        predicted_error: error of the nearest mean predicted from the geometry, by number of shots.
        predicted_error_intervals: the predicted errors with intervals; empty where there are none.
        full_data: what the labels of all examples give; null if it was not asked for.
        n_way: classes of an episode.
        n_query: examples of each class to classify.
        n_episodes: number of episodes.
        n_classes: classes that episodes draw from.
        episodes: a hash of the episodes, by number of shots: equal for models that saw the same.
        episode_values: the value of each episode; null if it was not asked for.
        warnings: what a reader must know.
    """

    accuracy: dict[str, dict[str, FewShotIntervalDict]]
    predicted_error: dict[str, float | None]
    predicted_error_intervals: dict[str, IntervalDict]
    full_data: FullDataDict | None
    n_way: int
    n_query: int
    n_episodes: int
    n_classes: int
    episodes: dict[str, str]
    episode_values: EpisodeValuesDict | None
    warnings: list[str]


def transfer(
    features: Array,
    labels: Labels,
    *,
    n_way: int = 5,
    k_shots: Sequence[int] = (1, 5),
    n_query: int = 15,
    n_episodes: int = 600,
    seed: int = 0,
    classifiers: Sequence[Classifier | EpisodeClassifier] = DEFAULT_CLASSIFIERS,
    full_data: bool = True,
    episode_values: bool = False,
    class_names: Sequence[str] | None = None,
) -> TransferDict:
    """``learning_curve`` and ``full_data_accuracy`` as strict JSON.

    Args:
        features: (n, p).
        labels: (n,) integers, or names of classes.
        n_way: classes of an episode.
        k_shots: numbers of labelled examples of a class.
        n_query: examples of each that are classified.
        n_episodes: episodes, at least 2.
        seed: of the episodes and of the split of all labels.
        classifiers: names or objects, as in ``few_shot_accuracy``.
        full_data: also measure a linear probe and nearest neighbours that learn from all labels but
            a test part.
        episode_values: also give the value of each episode.
        class_names: name of class 0, 1, ..., for errors.
    """
    curve = learning_curve(
        features,
        labels,
        k_shots=k_shots,
        classifiers=classifiers,
        n_way=n_way,
        n_query=n_query,
        n_episodes=n_episodes,
        seed=seed,
        class_names=class_names,
    )
    return summarise(
        curve, features, labels, full_data=full_data, episode_values=episode_values, seed=seed
    )


def summarise(
    curve: LearningCurve,
    features: Array,
    labels: Labels,
    *,
    full_data: bool = True,
    episode_values: bool = False,
    seed: int = 0,
) -> TransferDict:
    """The JSON form of a learning curve, with what else the features and labels give."""
    first = next(iter(curve.accuracy.values()))
    numbers = as_labels(labels)
    predicted = prediction(features, numbers, curve.n_way, curve.k_shots, curve.n_episodes, seed)
    return {
        "accuracy": {
            name: {str(k): found.to_interval_dict() for k, found in by_shots.items()}
            for name, by_shots in curve.accuracy.items()
        },
        "predicted_error": predicted.values,
        "predicted_error_intervals": predicted.intervals,
        "full_data": of_all_labels(features, numbers, seed=seed) if full_data else None,
        "n_way": curve.n_way,
        "n_query": curve.n_query,
        "n_episodes": curve.n_episodes,
        "n_classes": curve.n_classes,
        "episodes": {str(k): found.episodes for k, found in first.items()},
        "episode_values": _episode_values(curve) if episode_values else None,
        "warnings": [*_warnings(curve), *predicted.warnings],
    }


def of_all_labels(features: Array, labels: Labels, *, seed: int = 0) -> FullDataDict:
    """A linear probe and nearest neighbours on all labels but a fifth, as strict JSON."""
    found = {
        name: full_data_accuracy(features, labels, classifier=name, seed=seed) for name in FULL_DATA
    }
    first = found[FULL_DATA[0]]
    return {
        "accuracy": {name: accuracy.to_interval_dict() for name, accuracy in found.items()},
        "n_train": first.n_train,
        "n_test": first.n_samples,
    }


def _episode_values(curve: LearningCurve) -> EpisodeValuesDict:
    first = next(iter(curve.accuracy.values()))
    return {
        "classes": {
            str(k): [] if found.ways is None else found.ways.tolist() for k, found in first.items()
        },
        "accuracy": {
            name: {
                str(k): [] if found.values is None else found.values.tolist()
                for k, found in by_shots.items()
            }
            for name, by_shots in curve.accuracy.items()
        },
    }


def _warnings(curve: LearningCurve) -> list[str]:
    if curve.n_way < curve.n_classes:
        return []
    return [
        f"classes_ci95: every episode holds all {curve.n_classes} classes, so nothing is known "
        f"about others; fewer ways than classes give an interval"
    ]
