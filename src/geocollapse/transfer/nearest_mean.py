"""Nearest-mean classifiers of episodes: plain, and on features of unit length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from geocollapse.arrays import row_slices
from geocollapse.transfer.deciding import strictly_largest, without_rounding
from geocollapse.transfer.episode_classifier import EpisodeClassifier, shares
from geocollapse.transfer.episodes import Episodes


@dataclass(frozen=True)
class NearestMean(EpisodeClassifier):
    """The class whose labelled examples have the nearest mean.

        argmin_c ||f(x) - m_c||,   m_c the mean of c's k labelled examples

    Invariant under translation, rotation and scaling of the features.

    Source: Snell, Swersky, Zemel (2017), eq. 1 and 2; Galanti, György, Hutter (2022), section 2.
    """

    @property
    def name(self) -> str:
        """Its name in results."""
        return "nearest_mean"

    def right(self, support: Tensor, query: Tensor) -> Tensor:
        """True for each query that gets its own class."""
        return strictly_largest(_scores(support.mean(dim=2), query))

    def accuracies(self, x: Tensor, episodes: Episodes) -> Tensor:
        """Share of each episode's queries that get their own class: (n_episodes,) in float64.

        Features of float32 are first scored in float32, which takes half of the time; an episode
        with a margin within the rounding of that is scored again in float64.
        """
        if not _float32_is_exact(x):
            return super().accuracies(x, episodes)
        values, is_doubtful = _in_float32(x, episodes)
        again = is_doubtful.nonzero().flatten()
        if len(again):
            part = Episodes(
                episodes.rows[again], episodes.ways[again], episodes.classes, episodes.k_shot
            )
            values[again] = super().accuracies(x, part)
        return values


@dataclass(frozen=True, eq=False)
class NormalisedNearestMean(EpisodeClassifier):
    """The nearest mean of features that are centred and scaled to unit length.

        z(x) = (f(x) - centre) / ||f(x) - centre||,   argmin_c ||z(x) - mean of c's k z's||

    Without a centre this is L2N of SimpleShot, and with one CL2N. Centring without the unit length
    changes no nearest mean, so there is no such classifier. SimpleShot centres on the mean of its
    base classes. Target features alone do not hold that mean: by default an episode is centred on
    the mean of its own labelled examples, which looks at no query. A feature at the centre stays 0.

    Invariant under rotation and scaling of the features, with ``centre="support"`` also under
    translation.

    Source: Wang, Chao, Weinberger, van der Maaten (2019), SimpleShot, section 3.

    Attributes:
        centre: ``support``, a point (p,) such as the mean feature of the pre-training data, or None
            for features as they are.
    """

    centre: Tensor | Literal["support"] | None = "support"

    @property
    def name(self) -> str:
        """Its name in results."""
        return "nearest_mean_normalised" if self.centre is None else "nearest_mean_centred"

    def origin(self, x: Tensor, episodes: Episodes) -> Tensor:
        """The centre, 0 without one, or any example where the centre is taken from episodes."""
        if self.centre is None:
            return x.new_zeros(x.shape[1], dtype=torch.float64)
        if isinstance(self.centre, Tensor):
            if self.centre.shape != x.shape[1:]:
                raise ValueError(
                    f"centre: expected shape {tuple(x.shape[1:])}, a number for each feature, "
                    f"got {tuple(self.centre.shape)}; do centre=features.mean(dim=0)"
                )
            return self.centre.to(x.device, torch.float64)
        return super().origin(x, episodes)

    def right(self, support: Tensor, query: Tensor) -> Tensor:
        """True for each query that gets its own class."""
        if isinstance(self.centre, str):
            centre = support.mean(dim=(1, 2), keepdim=True)
            query = without_rounding(query - centre, support)
            support = without_rounding(support - centre, support)
        return strictly_largest(_scores(_unit(support).mean(dim=2), _unit(query)))


def _unit(x: Tensor) -> Tensor:
    """Vectors scaled to unit length; 0 stays 0."""
    length = x.norm(dim=3, keepdim=True)
    return torch.where(length > 0.0, x / length, 0.0)


def _scores(means: Tensor, query: Tensor) -> Tensor:
    """Scores (e, n_way, q, n_way): <x, m_c> - ||m_c||^2/2, largest for the nearest mean."""
    flat = query.flatten(1, 2)
    scores = flat @ means.mT - means.square().sum(dim=2)[:, None, :] / 2
    return scores.view(*query.shape[:3], -1)


def _float32_is_exact(x: Tensor) -> bool:
    """True if float32 products of these features round as float32 does, and not coarser."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and torch.get_float32_matmul_precision() == "highest"
    )


def _in_float32(x: Tensor, episodes: Episodes) -> tuple[Tensor, Tensor]:
    """Accuracies (n_episodes,), and True for those that rounding in float32 may have changed."""
    moved, rows = _moved(x, episodes.rows)
    n, n_way, n_taken = rows.shape
    k = episodes.k_shot
    squares = moved.square().sum(dim=1)
    values = torch.empty(n, dtype=torch.float64)
    is_doubtful = torch.empty(n, dtype=torch.bool)
    for part in row_slices(n, n_way * n_taken * x.shape[1] // 4, x.device):
        support = rows[part, :, :k].reshape(-1, k)
        means = functional.embedding_bag(support, moved, mode="mean")  # gathers and means at once
        query = moved.index_select(0, rows[part, :, k:].flatten())
        shape = (-1, n_way, n_taken - k, x.shape[1])
        scores = _scores(means.view(-1, n_way, x.shape[1]), query.view(shape))
        largest = squares[rows[part]].amax(dim=(1, 2))
        values[part], is_doubtful[part] = _decided(scores, _rounding(largest, x.shape[1], k))
    return values, is_doubtful


def _moved(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Features relative to one example, all or those that episodes take, and their positions."""
    is_taken = torch.zeros(len(x), dtype=torch.bool)
    is_taken[rows] = True
    origin = x[rows[0, 0, 0]]
    if 2 * int(is_taken.sum()) > len(x):
        return x - origin, rows
    return x[is_taken] - origin, (is_taken.cumsum(0) - 1)[rows]


def _decided(scores: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracies (e,), and True for episodes with a margin that ``rounding`` (e,) may change."""
    own = scores.diagonal(dim1=1, dim2=3).mT
    is_own = torch.eye(scores.shape[1], dtype=torch.bool)[:, None, :]
    margins = own - scores.masked_fill(is_own, -torch.inf).amax(dim=3)
    sure = margins.abs() > rounding[:, None, None]  # False for NaN, where float32 overflows
    return shares(margins > 0), ~sure.flatten(1).all(dim=1)


def _rounding(largest: Tensor, p: int, k_shot: int) -> Tensor:
    """A bound (e,) of the error of a margin, from the largest squared length R^2 of a feature.

    With the unit of rounding u = eps/2: p u R^2 from the product of query and mean, half of that
    from the squared mean, k u R^2 from each mean, and u R from moving to the origin; a margin is
    the difference of two scores.
    """
    limits = torch.finfo(torch.float32)
    return (1.5 * p + 2 * k_shot + 10) * (limits.eps * largest + limits.tiny)
