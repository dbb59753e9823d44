"""Few-shot accuracy against the number of labelled examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geocollapse.arrays import Array, Labels, as_classes, labelled_arrays
from geocollapse.transfer.episode_classifier import EpisodeClassifier
from geocollapse.transfer.episodes import EpisodeSizes, draw_episodes
from geocollapse.transfer.few_shot import (
    Classifier,
    FewShotAccuracy,
    find_classifiers,
    measured,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LearningCurve:
    """Few-shot accuracy by classifier and number of shots.

    Attributes:
        accuracy: an Estimate by classifier and number of shots.
        n_way: classes of an episode.
        n_query: examples of each class to classify.
        n_episodes: number of episodes.
        n_classes: classes that episodes draw from.
    """

    accuracy: Mapping[str, Mapping[int, FewShotAccuracy]]
    n_way: int
    n_query: int
    n_episodes: int
    n_classes: int

    @property
    def k_shots(self) -> tuple[int, ...]:
        """The numbers of shots, in the order asked for."""
        return tuple(next(iter(self.accuracy.values())))

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each classifier and number of shots.

        Columns: classifier, k_shot, value, stderr, low and high (interval over episodes),
        classes_low and classes_high (interval for other classes).
        """
        import pandas as pd

        columns = ("classifier", "k_shot", "value", "stderr")
        ends = ("low", "high", "classes_low", "classes_high")
        rows = [
            (name, k, found.value, found.stderr, *found.interval(), *found.classes_interval())
            for name, by_shots in self.accuracy.items()
            for k, found in by_shots.items()
        ]
        return pd.DataFrame(rows, columns=[*columns, *ends])


def learning_curve(
    features: Array,
    labels: Labels,
    *,
    k_shots: Sequence[int] = (1, 2, 5, 10, 20),
    classifiers: Sequence[Classifier | EpisodeClassifier] = ("nearest_mean",),
    n_way: int = 5,
    n_query: int = 15,
    n_episodes: int = 600,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> LearningCurve:
    """Few-shot accuracy of fixed features for several numbers of labelled examples.

    Each entry is ``few_shot_accuracy`` with these settings. Episodes of more shots have the classes
    and the labelled examples of those of fewer, so the curve is less ragged than its intervals; all
    classifiers see the same episodes. ``geocollapse.charts.learning_curve_chart`` draws it.

    Args:
        features: (n, p).
        labels: (n,) integers, or names of classes.
        k_shots: numbers of labelled examples of a class.
        classifiers: names or objects, as in ``few_shot_accuracy``.
        n_way: classes of an episode.
        n_query: examples of each that are classified.
        n_episodes: episodes, at least 2.
        seed: of the episodes.
        class_names: name of class 0, 1, ..., for errors.

    Raises:
        ValueError: a class with fewer than k + n_query examples for the largest k (it is named), no
            number of shots, or two classifiers of one name.

    Examples:
        >>> y = torch.arange(200) % 5
        >>> curve = learning_curve(torch.nn.functional.one_hot(y).float(), y, k_shots=(1, 5))
        >>> curve.to_frame()["value"].tolist()
        [1.0, 1.0]
    """
    y, own_names = as_classes(labels)
    x, y = labelled_arrays(features, y)
    found = find_classifiers(classifiers)
    if not k_shots or not found:
        missing = "classifiers" if k_shots else "k_shots"
        raise ValueError(f"{missing}: expected at least one, got none; do leave it out")
    names = dict(enumerate(class_names or own_names or ()))
    drawn = {
        k: draw_episodes(y, EpisodeSizes(n_way, k, n_query, n_episodes), seed, names)
        for k in sorted(k_shots, reverse=True)  # the one that asks for most fails first
    }
    return LearningCurve(
        accuracy={
            name: {k: measured(x, drawn[k], classifier) for k in k_shots}
            for name, classifier in found.items()
        },
        n_way=n_way,
        n_query=n_query,
        n_episodes=n_episodes,
        n_classes=len(y.unique()),
    )
