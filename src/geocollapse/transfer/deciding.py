"""Decisions between classes that rounding never makes."""

from __future__ import annotations

import torch
from torch import Tensor

TIE = 1e-12  # of an episode's largest score: below it lies rounding


def strictly_largest(scores: Tensor, rounding: Tensor | None = None) -> Tensor:
    """True where the score of a query's own class is the one largest: (e, n_way, q).

    Scores that differ by rounding alone are a tie, and a tie is an error.

    Args:
        scores: (e, n_way, q, n_way), of query q of class w for every class.
        rounding: a difference that is a tie (e, 1, 1, 1); default ``rounding_of(scores)``.
    """
    own = scores.diagonal(dim1=1, dim2=3).mT  # (e, n_way, q)
    if rounding is None:
        rounding = rounding_of(scores)
    return (scores >= own[..., None] - rounding).sum(dim=3) == 1


def rounding_of(scores: Tensor, tie: float = TIE) -> Tensor:
    """The difference of two scores of an episode that rounding explains: (e, 1, ..., 1)."""
    return tie * scores.abs().amax(dim=tuple(range(1, scores.ndim)), keepdim=True)


def without_rounding(moved: Tensor, before: Tensor) -> Tensor:
    """Vectors (e, ..., p) that lost their digits to a subtraction, as 0.

    Equal features are then equal after centring too, where their mean has an error of rounding.

    Args:
        moved: features minus a centre.
        before: all features of the episode before (e, ..., p).
    """
    largest = before.norm(dim=-1).flatten(1).amax(dim=1)
    smallest = TIE * largest.view(-1, *(1,) * (moved.ndim - 1))
    return torch.where(moved.norm(dim=-1, keepdim=True) > smallest, moved, 0.0)
