"""k nearest neighbours: votes that neither order nor rounding decides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.transfer.deciding import rounding_of
from geocollapse.transfer.episode_classifier import EpisodeClassifier


@dataclass(frozen=True)
class NearestNeighbours(EpisodeClassifier):
    """The class with most votes among the labelled examples nearest to a query.

    The ``n_neighbours`` nearest examples vote, and all others that are as near as the last of them;
    with fewer labelled examples, all vote. Among classes with equal votes the one with the nearest
    example wins; equal distances of these are a tie, and an error. Invariant under translation,
    rotation and scaling of the features.

    Source: Cover and Hart (1967), section 2, with the rule for ties above.
    """

    n_neighbours: int = 1

    def __post_init__(self) -> None:
        if self.n_neighbours < 1:
            raise ValueError(
                f"n_neighbours: expected a whole number of at least 1, got {self.n_neighbours!r}; "
                f"do n_neighbours=1"
            )

    @property
    def name(self) -> str:
        """Its name in results."""
        return "knn"

    def right(self, support: Tensor, query: Tensor) -> Tensor:
        """True for each query that gets its own class."""
        n_way, k_shot = support.shape[1:3]
        labelled = support.flatten(1, 2)
        nearness = query.flatten(1, 2) @ labelled.mT
        nearness -= labelled.square().sum(dim=2)[:, None, :] / 2  # largest for the nearest
        classes = torch.eye(n_way, dtype=torch.bool, device=support.device)
        members = classes.repeat_interleave(k_shot, dim=0)
        own = classes.repeat_interleave(query.shape[2], dim=0)
        right = wins(nearness, members, own, self.n_neighbours, rounding_of(nearness))
        return right.view(query.shape[:3])


def wins(
    nearness: Tensor, members: Tensor, own: Tensor, n_neighbours: int, rounding: Tensor
) -> Tensor:
    """True where the own class of a query wins the vote: (..., m).

    Args:
        nearness: of labelled example s to query i, larger for nearer (..., m, n).
        members: True where labelled example s is of class c (n, C).
        own: True where query i is of class c (m, C).
        n_neighbours: that vote.
        rounding: a difference in nearness that is a tie.
    """
    last = nearness.topk(min(n_neighbours, nearness.shape[-1]), dim=-1).values[..., -1:]
    has_vote = nearness >= last - rounding
    votes = has_vote.to(nearness.dtype) @ members.to(nearness.dtype)
    class_of = members.byte().argmax(dim=-1).expand(nearness.shape)
    nearest = torch.full_like(votes, -torch.inf).scatter_reduce(-1, class_of, nearness, "amax")
    most = votes.amax(dim=-1, keepdim=True)
    first = nearest.masked_fill(votes < most, -torch.inf)
    own_first = first.masked_fill(~own, -torch.inf).amax(dim=-1, keepdim=True)
    return (first >= own_first - rounding).sum(dim=-1) == 1  # C where the own class has lost
