"""The classifier of an episode: it learns from its labelled examples and classifies its queries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from geocollapse.transfer.episodes import Episodes


class EpisodeClassifier(ABC):
    """A classifier that learns from the labelled examples of one episode alone.

    Attributes:
        n_chunks: chunks of features that one step works on.
    """

    n_chunks: ClassVar[int] = 1

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in results."""

    @abstractmethod
    def right(self, support: Tensor, query: Tensor) -> Tensor:
        """True for each query that gets its own class, (e, n_way, q); a tie is an error.

        Args:
            support: labelled examples (e, n_way, k, p) in float64.
            query: examples to classify (e, n_way, q, p).
        """

    def origin(self, x: Tensor, episodes: Episodes) -> Tensor:
        """The point (p,) that features are relative to: an example, so equal ones are exactly 0.

        Any point near the data would do for what is invariant under translation.
        """
        return x[episodes.rows[0, 0, 0]].double()

    def outcomes(self, x: Tensor, episodes: Episodes) -> Tensor:
        """True for each query of each episode that gets its own class (n_episodes, n_way, q)."""
        parts = episodes.gathered(x, self.origin(x, episodes), self.n_chunks)
        return torch.cat([self.right(*part) for part in parts]).cpu()

    def accuracies(self, x: Tensor, episodes: Episodes) -> Tensor:
        """Share of each episode's queries that get their own class: (n_episodes,) in float64."""
        return shares(self.outcomes(x, episodes))


def shares(right: Tensor) -> Tensor:
    """The mean over classes and queries: (e,) in float64."""
    return right.flatten(1).double().mean(dim=1)
