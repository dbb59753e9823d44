"""Class sets of few-shot episodes, and examples of their classes with the groups of a jackknife."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocollapse.transfer.episodes import EpisodeSizes, draw_episodes
from geocollapse.transfer.query_conditional import QueryTerms

LEAST_EXAMPLES = 4  # of a class: the unbiased tr Sigma^2 divides by n - 3
GROUPS = 10  # of examples, left out one after the other
MAX_EXAMPLES = 2000  # of a class
MAX_QUERIES = 2000
LEFT_OUT_EPISODES = 100  # whose class sets are computed again without a group


@dataclass(frozen=True, eq=False)
class ClassSample:
    """Examples of the classes that episodes hold, and the selections of the jackknife.

    Attributes:
        features: (n, p), sorted by class; in random order within each.
        index: row of each example's class (n,).
        counts: examples of each class (C,).
        kept: which examples belong to each selection (n, R): to the first all, to the others all
            but one group.
        ways: the different sets of classes (S, n_way).
        episodes: the set of each episode (n_episodes,).
        is_drawn: true if there are more classes than ways.
        seed: of the points.
        n_queries: queries of all classes together.
    """

    features: Tensor
    index: Tensor
    counts: Tensor
    kept: Tensor
    ways: Tensor
    episodes: Tensor
    is_drawn: bool
    seed: int
    n_queries: int = MAX_QUERIES

    @classmethod
    def of(cls, x: Tensor, y: Tensor, sizes: EpisodeSizes, seed: int) -> ClassSample:
        """Examples of the classes of the episodes, checked; at most 2,000 of each class.

        Raises:
            ValueError: more ways than classes, or a class with too few examples.
        """
        classes, sizes_of = y.unique(return_counts=True)
        if len(classes) >= 2:
            _check_examples(classes, sizes_of)
        ways, episodes = class_sets(y, sizes.n_way, sizes.n_episodes, seed)
        used, ways = ways.unique(return_inverse=True)
        rows = _shuffled(y, classes[used], seed)
        counts = torch.tensor([len(part) for part in rows], device=x.device)
        place = torch.cat([torch.arange(len(part)) for part in rows]).to(x.device)
        groups = torch.arange(GROUPS, device=x.device)
        is_left = (place[:, None] % GROUPS) != groups
        everything = torch.ones_like(is_left[:, :1])
        return cls(
            features=x[torch.cat(rows)],
            index=torch.arange(len(used), device=x.device).repeat_interleave(counts),
            counts=counts,
            kept=torch.cat([everything, is_left], dim=1),
            ways=ways,
            episodes=episodes,
            is_drawn=len(classes) > sizes.n_way,
            seed=seed,
        )

    def whole(self) -> ClassSample:
        """The sample without the selections of the jackknife."""
        return replace(self, kept=self.kept[:, :1])

    def empty_errors(self, k_shots: Sequence[int]) -> Tensor:
        """Zeros by shots, selections and class sets (shots, R, S) in float64."""
        shape = (len(k_shots), self.kept.shape[1], len(self.ways))
        return torch.zeros(shape, dtype=torch.float64, device=self.features.device)

    def sets(self, selection: int) -> Tensor:
        """Class sets to compute: all for the whole sample, those of 100 episodes for its parts."""
        few = self.episodes if selection == 0 else self.episodes[:LEFT_OUT_EPISODES]
        return few.unique()

    def rivals(self, own: int, selection: int) -> tuple[Tensor, Tensor]:
        """The class sets that hold class ``own``, and its rivals in each (sets, n_way - 1)."""
        sets = self.sets(selection)
        sets = sets[(self.ways[sets] == own).any(dim=1)]
        others = self.ways[sets]
        return sets, others[others != own].view(len(sets), self.ways.shape[1] - 1)

    def query_terms(self) -> tuple[QueryTerms, list[Tensor]]:
        """The terms of the distances from queries to all classes, and the queries' weights.

        The weights (queries, R) of a class are 0 where the query is left out, and sum to 1.
        """
        sizes = self.counts.tolist()
        share = max(2, self.n_queries // len(sizes))
        classes = [part.double() for part in self.features.split(sizes)]
        kept = list(self.kept.split(sizes))
        queries = [part[:share].double() for part in kept]
        rows = [torch.arange(len(part), device=self.index.device) for part in queries]
        return QueryTerms.of(classes, kept, rows), [part / part.sum(dim=0) for part in queries]


def class_sets(labels: Tensor, n_way: int, n_episodes: int, seed: int) -> tuple[Tensor, Tensor]:
    """The different sets of classes (S, n_way) of the episodes, and the set of each episode."""
    rows = draw_episodes(labels, EpisodeSizes(n_way, 1, 1, n_episodes), seed).rows
    index = torch.searchsorted(labels.unique(), labels)
    drawn = index[rows[:, :, 0].to(index.device)].sort(dim=1).values
    ways, episodes = drawn.unique(dim=0, return_inverse=True)
    return ways, episodes


def _check_examples(classes: Tensor, counts: Tensor) -> None:
    smallest = int(counts.argmin())
    if counts[smallest] < LEAST_EXAMPLES:
        raise ValueError(
            f"labels: expected at least {LEAST_EXAMPLES} examples of each class, got "
            f"{int(counts[smallest])} of class {int(classes[smallest])}; do drop the class"
        )


def _shuffled(y: Tensor, classes: Tensor, seed: int) -> list[Tensor]:
    """Positions of the examples of each class, in seeded random order."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for label in classes:
        of_class = (y == label).nonzero().flatten()
        order = torch.randperm(len(of_class), generator=generator)[:MAX_EXAMPLES]
        rows.append(of_class[order.to(y.device)])
    return rows
