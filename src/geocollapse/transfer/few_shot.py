"""Few-shot accuracy of features over seeded episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from torch import Tensor

from geocollapse.arrays import Array, Labels, as_classes, labelled_arrays
from geocollapse.estimate import Estimate, IntervalDict, finite_or_none
from geocollapse.transfer.across_classes import across_classes
from geocollapse.transfer.episode_classifier import EpisodeClassifier
from geocollapse.transfer.episodes import Episodes, EpisodeSizes, draw_episodes
from geocollapse.transfer.nearest_mean import NearestMean, NormalisedNearestMean
from geocollapse.transfer.neighbours import NearestNeighbours
from geocollapse.transfer.probes import LinearProbe, LogisticProbe

Classifier = Literal[
    "nearest_mean",
    "nearest_mean_normalised",
    "nearest_mean_centred",
    "linear_probe",
    "logistic_probe",
    "knn",
]
CLASSIFIERS: dict[Classifier, EpisodeClassifier] = {
    "nearest_mean": NearestMean(),
    "nearest_mean_normalised": NormalisedNearestMean(centre=None),
    "nearest_mean_centred": NormalisedNearestMean(),
    "linear_probe": LinearProbe(),
    "logistic_probe": LogisticProbe(),
    "knn": NearestNeighbours(),
}
DEFAULT_CLASSIFIERS: tuple[Classifier, ...] = ("nearest_mean", "linear_probe")


class FewShotIntervalDict(IntervalDict):
    """A few-shot accuracy with its intervals.

    Attributes:
        ci95: 95 % interval over episodes, for these classes and these examples of them.
        classes_ci95: 95 % interval for other classes like these; null where every episode holds all
            classes.
    """

    classes_ci95: tuple[float | None, float | None]


@dataclass(frozen=True, repr=False)
class FewShotAccuracy(Estimate):
    """Few-shot accuracy, or a paired difference of two, as the mean over episodes.

    ``interval()`` is over episodes: it takes the classes and their examples as given.
    ``classes_interval()`` is for other classes like these.

    Attributes:
        classes_stderr: standard error for classes drawn anew; NaN if every episode holds all.
        classes_dof: its degrees of freedom.
        ways: classes of each episode (n_episodes, n_way).
        n_classes: classes that episodes were drawn from.
        episodes: a hash of the episodes, equal for two models that saw the same ones.
    """

    classes_stderr: float = math.nan
    classes_dof: float = math.nan
    ways: Tensor | None = field(default=None, repr=False, compare=False)
    n_classes: int = 0
    episodes: str = ""

    @property
    def speaks_about(self) -> str:
        """What the interval is about, in words."""
        return "further episodes of these classes and examples"

    def classes_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided confidence interval at ``level`` for other classes like these.

        The classes at hand are taken as a random draw from a population of classes, each with its
        examples, and all subsets of n_way of them as the episodes: a jackknife over classes with
        Student's t (``across_classes``). NaN where every episode holds all classes.

        Measured coverage, 400 draws of Gaussian classes of unequal difficulty, 5 ways, 5 shots, 600
        episodes: 0.953, 0.935, 0.955, 0.953 and 0.963 for 6, 10, 20, 64 and 300 classes. With fewer
        than 10 classes it is wide, and it knows no others: a class unlike all of these may lie
        outside.
        """
        return replace(
            self, stderr=self.classes_stderr, dof=self.classes_dof, sequential=False
        ).interval(level)

    def to_interval_dict(self) -> FewShotIntervalDict:
        """Return value, standard error and intervals as strict JSON; undefined numbers are None."""
        low, high = self.classes_interval()
        return {
            **super().to_interval_dict(),
            "classes_ci95": (finite_or_none(low), finite_or_none(high)),
        }


def few_shot_accuracy(
    features: Array,
    labels: Labels,
    *,
    n_way: int = 5,
    k_shot: int = 5,
    n_query: int = 15,
    n_episodes: int = 600,
    seed: int = 0,
    classifier: Classifier | EpisodeClassifier = "nearest_mean",
) -> FewShotAccuracy:
    """N-way k-shot accuracy of fixed features, averaged over seeded episodes.

    An episode draws N classes, and from each k labelled examples and n_query others, all without
    replacement. A tie between classes, also one that rounding alone would break, is an error.

        nearest_mean:             argmin_c ||f(x) - mean of c's k examples||
        nearest_mean_normalised:  the same of features scaled to unit length
        nearest_mean_centred:     centred on the mean of the labelled examples, then scaled so
        linear_probe:             ridge regression of one-vs-rest targets +-1 with intercept
        logistic_probe:           multinomial logistic regression with an L2 penalty
        knn:                      the nearest labelled example

    Other settings are objects: ``NormalisedNearestMean(centre=mean)``, ``LinearProbe(penalty=10)``,
    ``LogisticProbe(penalty=0.1)``, ``NearestNeighbours(5)``.

    The episodes depend on the labels, the sizes and the seed alone. Two models see the same ones,
    so compare them by ``paired_difference``. The interval is over episodes and takes the features
    as given; ``classes_interval()`` is for other classes. Invariant under rotation and scaling of
    the features, and under translation but for ``nearest_mean_normalised``. Cost: O(episodes N (k +
    n_query) p), probes and neighbours times the labelled examples; memory bounded.

    Source: Snell, Swersky, Zemel (2017), eq. 1 and 2; Galanti, György, Hutter (2022), section 2.
    The classifiers name theirs.

    Args:
        features: (n, p).
        labels: (n,) integers, or names of classes.
        n_way: classes N of an episode, up to all.
        k_shot: labelled examples k of each.
        n_query: examples of each that are classified.
        n_episodes: episodes, at least 2.
        seed: of the episodes; the global random state is left alone.
        classifier: a name above, or an object with settings of your own.

    Returns:
        An Estimate on the linear scale, ``values`` (n_episodes,) in float64.

    Raises:
        ValueError: more ways than classes, a class with too few examples (it is named), or a count
            that is too small.
        TypeError: labels that are neither integers nor names.

    Examples:
        >>> x = torch.arange(100.0)[:, None] // 20
        >>> float(few_shot_accuracy(x, torch.arange(100) // 20, n_episodes=10, k_shot=2))
        1.0
    """
    numbers, names = as_classes(labels)
    x, y = labelled_arrays(features, numbers)
    sizes = EpisodeSizes(n_way, k_shot, n_query, n_episodes)
    episodes = draw_episodes(y, sizes, seed, dict(enumerate(names or ())))
    return measured(x, episodes, find_classifier(classifier))


def measured(x: Tensor, episodes: Episodes, classifier: EpisodeClassifier) -> FewShotAccuracy:
    """The accuracy of a classifier on drawn episodes of features (n, p)."""
    return over_episodes(classifier.accuracies(x, episodes), episodes, classifier)


def over_episodes(
    values: Tensor, episodes: Episodes, classifier: EpisodeClassifier
) -> FewShotAccuracy:
    """The mean of the accuracies (n_episodes,) of a classifier on drawn episodes."""
    return _of_values(
        values,
        name=classifier.name,
        ways=episodes.ways,
        n_classes=len(episodes.classes),
        digest=episodes.digest,
    )


def paired_difference(a: FewShotAccuracy, b: FewShotAccuracy) -> FewShotAccuracy:
    """The accuracy of ``a`` minus that of ``b`` on the same episodes.

    Episodes that are hard for one model are mostly hard for the other, so the interval of the
    difference is shorter than those of the two accuracies suggest. An interval that holds 0 means
    that the two cannot be told apart: by ``interval()`` on these classes, by ``classes_interval()``
    on others like them.

    Raises:
        ValueError: accuracies of different episodes: another seed, size, order or set of labels.

    Examples:
        >>> y = torch.arange(100) // 20
        >>> x = y[:, None] + torch.linspace(0.0, 0.9, 100)[:, None]
        >>> a, b = (few_shot_accuracy(f, y, n_episodes=10) for f in (x, -2.0 * x))
        >>> paired_difference(a, b).interval()
        (0.0, 0.0)
    """
    if a.values is None or b.values is None or a.ways is None:
        raise ValueError(
            "a, b: expected accuracies with their values, got one without; do "
            "few_shot_accuracy(...)"
        )
    if a.episodes != b.episodes:
        raise ValueError(
            f"a, b: expected accuracies of the same episodes, got {a.episodes or 'unknown ones'} "
            f"and {b.episodes or 'unknown ones'}; do pass the same labels in the same order, sizes "
            f"and seed to both"
        )
    return _of_values(
        a.values - b.values,
        name=f"{a.estimator} minus {b.estimator}",
        ways=a.ways,
        n_classes=a.n_classes,
        digest=a.episodes,
    )


def find_classifier(classifier: Classifier | EpisodeClassifier) -> EpisodeClassifier:
    """The classifier of that name, or the one given.

    Raises:
        ValueError: no such name.
    """
    if isinstance(classifier, EpisodeClassifier):
        return classifier
    if classifier not in CLASSIFIERS:
        *names, last = get_args(Classifier)
        raise ValueError(
            f"classifier: expected {', '.join(names)} or {last}, got {classifier!r}; do "
            "classifier='nearest_mean'"
        )
    return CLASSIFIERS[classifier]


def find_classifiers(
    classifiers: Sequence[Classifier | EpisodeClassifier],
) -> dict[str, EpisodeClassifier]:
    """The classifiers by name, in the order given.

    Raises:
        ValueError: no such name, or two of one name.
    """
    found = [find_classifier(classifier) for classifier in classifiers]
    by_name = {classifier.name: classifier for classifier in found}
    if len(by_name) < len(found):
        names = ", ".join(classifier.name for classifier in found)
        raise ValueError(
            f"classifiers: expected one of each name, got {names}; do one call for each"
        )
    return by_name


def _of_values(
    values: Tensor, *, name: str, ways: Tensor, n_classes: int, digest: str
) -> FewShotAccuracy:
    """The mean of the values of episodes with both standard errors."""
    n = len(values)
    classes_stderr, classes_dof = across_classes(values, ways, n_classes)
    return FewShotAccuracy(
        value=float(values.mean()),
        stderr=float(values.std()) / math.sqrt(n),
        n_samples=n,
        estimator=name,
        dof=n - 1,
        scale="linear",
        values=values,
        classes_stderr=classes_stderr,
        classes_dof=classes_dof,
        ways=ways,
        n_classes=n_classes,
        episodes=digest,
    )
