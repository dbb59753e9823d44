"""Few-shot accuracy of one model's features, with the error of a sample of examples."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels, labelled_arrays
from geocollapse.estimate import Estimate
from geocollapse.transfer.episode_classifier import shares
from geocollapse.transfer.episodes import Episodes, EpisodeSizes, draw_episodes
from geocollapse.transfer.few_shot import (
    Classifier,
    FewShotAccuracy,
    find_classifier,
    over_episodes,
    paired_difference,
)

N_HALVES = 40
HALF_EPISODES = 100


@dataclass(frozen=True)
class EpisodeSettings:
    """The episodes that all models of a ranking see.

    Attributes:
        n_way: classes of an episode.
        k_shot: labelled examples of each.
        n_query: examples of each to classify.
        n_episodes: number of episodes.
        classifier: of the features.
        seed: of the episodes and of the half-samples.
    """

    n_way: int = 5
    k_shot: int = 5
    n_query: int = 15
    n_episodes: int = 600
    classifier: Classifier = "nearest_mean"
    seed: int = 0

    @property
    def sizes(self) -> EpisodeSizes:
        """The sizes of the episodes."""
        return EpisodeSizes(self.n_way, self.k_shot, self.n_query, self.n_episodes)


@dataclass(frozen=True, eq=False)
class SampledAccuracy:
    """The accuracies of one model in all episodes, and in those of random halves of the examples.

    Two models with the same labels and settings see the same episodes and halves, so that the
    difference of two ``SampledAccuracy`` is paired.

    Attributes:
        over_episodes: the mean over episodes, with the errors for further episodes of these
            examples and for other classes; ``values`` (n_episodes,).
        halves: accuracy of each episode of each half-sample (N_HALVES, HALF_EPISODES), or none.
        examples: share of its queries in which each example was right (n,), NaN if it was none.
    """

    over_episodes: FewShotAccuracy
    halves: Tensor
    examples: Tensor

    def __sub__(self, other: SampledAccuracy) -> SampledAccuracy:
        return SampledAccuracy(
            paired_difference(self.over_episodes, other.over_episodes),
            self.halves - other.halves,
            self.examples - other.examples,
        )

    def estimate(self) -> Estimate:
        """The mean accuracy, with the error over other examples of these classes.

            SE^2 = Var_h(mean_e a_he) - mean_h Var_e(a_he)/E + Var_e(a_e)/n_episodes

        over halves h of the examples of each class, drawn without replacement, and E episodes of
        each. A half is as far from the whole as the whole is from its population, up to terms of
        order 1/n^2; the second term removes what the finite number of episodes adds. The interval
        over episodes alone takes the examples as given: two models of equal accuracy differ on a
        sample of examples, and enough episodes tell any two apart.

        Source: McCarthy (1969), balanced half-samples; Politis and Romano (1994) for subsamples.
        """
        found = self.over_episodes
        return Estimate(
            value=found.value,
            stderr=math.sqrt(self._variance_over_halves() + found.stderr**2),
            n_samples=found.n_samples,
            population="distribution",
            estimator="half-samples",
            dof=max(len(self.halves) - 1, 1),
            scale="linear",
            values=found.values,
        )

    def _variance_over_halves(self) -> float:
        """The variance that the choice of examples adds; NaN without half-samples."""
        n_halves, n_episodes = self.halves.shape
        if n_halves == 0:
            return math.nan
        of_episodes = float(self.halves.var(dim=1).mean()) / n_episodes
        return max(float(self.halves.mean(dim=1).var()) - of_episodes, 0.0)


@dataclass(frozen=True, eq=False)
class Draws:
    """The episodes of a ranking and those of half-samples, the same for all models.

    Attributes:
        episodes: of all examples.
        halves: rows of each half-sample and episodes of these; none where half of a class holds no
            query beside the labelled examples.
    """

    episodes: Episodes
    halves: list[tuple[Tensor, Episodes]]

    @classmethod
    def of(cls, labels: Tensor, settings: EpisodeSettings) -> Draws:
        """Draw them from the labels (n,)."""
        episodes = draw_episodes(labels, settings.sizes, settings.seed)
        smallest = int(labels.unique(return_counts=True)[1].min())
        n_query = min(settings.n_query, smallest // 2 - settings.k_shot)
        if n_query < 1:
            return cls(episodes, [])
        sizes = replace(settings.sizes, n_query=n_query, n_episodes=HALF_EPISODES)
        drawn = [
            (rows, draw_episodes(labels[rows], sizes, settings.seed + number))
            for number, rows in enumerate(half_samples(labels, settings.seed), start=1)
        ]
        return cls(episodes, drawn)


def sampled_accuracy(
    features: Array, labels: Labels, settings: EpisodeSettings, draws: Draws | None = None
) -> SampledAccuracy:
    """Few-shot accuracy over seeded episodes, and over those of half-samples of the examples.

    Where half of a class holds no query beside the labelled examples there are no half-samples,
    and the error is NaN. ``draws`` are those of these labels and settings, where a caller has them.
    Cost: ``n_episodes`` + N_HALVES HALF_EPISODES episodes.

    Raises:
        ValueError: see ``geocollapse.few_shot_accuracy``.
    """
    x, y = labelled_arrays(features, labels)
    classifier = find_classifier(settings.classifier)
    draws = draws or Draws.of(y, settings)
    right = classifier.outcomes(x, draws.episodes)
    halves = [classifier.accuracies(x[rows], episodes) for rows, episodes in draws.halves]
    none = right.new_zeros(0, HALF_EPISODES, dtype=torch.float64)
    queries = draws.episodes.rows[:, :, settings.k_shot :]
    return SampledAccuracy(
        over_episodes(shares(right), draws.episodes, classifier),
        torch.stack(halves) if halves else none,
        _share_right(right, queries, len(y)),
    )


def _share_right(right: Tensor, rows: Tensor, n: int) -> Tensor:
    """Share of its queries in which each of ``n`` examples was right; NaN where it was none."""
    hits = torch.zeros(n, dtype=torch.float64)
    hits.index_add_(0, rows.flatten(), right.flatten().double())
    return hits / torch.bincount(rows.flatten(), minlength=n)


def half_samples(labels: Tensor, seed: int) -> list[Tensor]:
    """Rows of N_HALVES random halves of the examples of each class."""
    y = labels.cpu()
    counts = y.unique(return_counts=True)[1].tolist()
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(N_HALVES):
        order = torch.randperm(len(y), generator=generator)
        by_class = order[y[order].argsort(stable=True)].split(counts)
        rows = torch.cat([rows[: len(rows) // 2] for rows in by_class])
        found.append(rows.sort().values.to(labels.device))
    return found
