"""Leave-one-out accuracy of the k nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels
from geocollapse.numerics import keeps_float32_products
from geocollapse.transfer.sample import Sample

_BLOCK = 1024
_GATHERED = 64  # rows whose shortlists are compared at a time, in cache
_MANY = 2048  # examples from which a shortlist is faster
_SPARE = 4  # examples on the shortlist beyond the wanted
_TIE = 1e-10  # of the mean squared length of a centred feature: closer distances are equal


def loo_knn_accuracy(features: Array, labels: Labels, *, k: int = 5) -> float:
    """Leave-one-out accuracy of k nearest neighbours by Euclidean distance.

        1/n sum_i [ most frequent label among the k examples nearest to f_i, without i, is y_i ]

    **Ties.** Of classes with equally many votes, the one with the nearest voter wins. Of examples
    that are equally far but for rounding (1e-10 of the mean squared length of a centred feature,
    in squared distance), the earlier one in the data counts as nearer.

    Range [0, 1], a share. Invariant under relabelling, gaps in the labels, translation, rotation
    and scaling; under permutation too, but for equal distances.

    It misleads where examples are repeated, for a copy is a neighbour of the right class, and where
    classes differ in number, for a large class has more neighbours to offer. O(n^2 p) time,
    O(n k) memory beyond the features.

    Source: Cover, Hart (1967); as a score of transferability: Garbas et al. (2024),
    arXiv 2409.05997.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.
        k: neighbours, 1 to n - 1.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, fewer than two classes, the same features for all
            examples, a k that is not 1 to n - 1.

    Examples:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [7.0], [8.0]])
        >>> loo_knn_accuracy(x, torch.tensor([0, 0, 1, 1, 1]), k=1)
        0.8
    """
    sample = Sample.of(features, labels)
    neighbours = nearest_neighbours(sample, k)
    return float(is_correct(neighbours, sample).mean())


def is_correct(neighbours: Tensor, sample: Sample, rows: Tensor | None = None) -> Tensor:
    """One where the neighbours (m, k), nearest first, vote for the class of the example (m,).

    Of all examples, or of those at ``rows``.
    """
    votes = sample.index[neighbours]
    counts = (votes[:, :, None] == votes[:, None, :]).sum(dim=2)  # of each voter's own class
    winner = votes.gather(1, counts.argmax(dim=1, keepdim=True)).squeeze(1)  # the first of the best
    return (winner == (sample.index if rows is None else sample.index[rows])).double()


def nearest_neighbours(sample: Sample, k: int) -> Tensor:
    """Positions of the k nearest other examples (n, k), nearest first."""
    n = len(sample.features)
    if not 1 <= k < n:
        raise ValueError(f"k: expected 1 to {n - 1} (n - 1) neighbours, got {k}; do k=1")
    z = sample.centred / sample.centred.square().sum(dim=1).mean().sqrt()
    n_kept = min(k + 1, n - 1)  # one more, to see ties of the last
    if n > _MANY and n_kept + _SPARE < n and keeps_float32_products():
        values, positions = _by_shortlist(z, n_kept)
    else:
        values, positions = _candidates(z, z.square().sum(dim=1), n_kept).topk(n_kept)
    tied = (values.diff(dim=1) <= _TIE).any(dim=1).nonzero().squeeze(1)
    for rows in tied.split(_BLOCK):
        positions[rows, :k] = _first_of_equals(z, rows, k)
    return positions[:, :k]


def _by_shortlist(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of all rows in float64, from a shortlist by float32 distances.

    Where the rounding of float32 could hide a nearer example, float64 distances to all decide.
    """
    low = z.float()
    lengths = z.norm(dim=1)
    limits, shortlist = _candidates(low, low.square().sum(dim=1), k + _SPARE).topk(k + _SPARE)
    rounding = (z.shape[1] + 4) * torch.finfo(torch.float32).eps
    certain = limits[:, -1].double() - rounding * (lengths + lengths.max()).square()
    values = z.new_empty(len(z), k)
    positions = shortlist.new_empty(len(z), k)
    for rows in torch.arange(len(z), device=z.device).split(_GATHERED):
        near = shortlist[rows]
        exact = (z[near] - z[rows, None]).square_().sum(dim=2)
        values[rows], order = exact.topk(k, dim=1, largest=False)
        positions[rows] = near.gather(1, order)
    doubtful = (values[:, -1] >= certain).nonzero().squeeze(1)
    for rows in doubtful.split(_BLOCK):
        distances = _distances(z, z.square().sum(dim=1), rows, slice(None))
        distances.scatter_(1, rows[:, None], torch.inf)
        values[rows], positions[rows] = distances.topk(k, dim=1, largest=False)
    return values, positions


class _Candidates:
    """Nearest examples of each block so far: squared distances and positions of every row."""

    def __init__(self, n_blocks: int) -> None:
        self._values: list[list[Tensor]] = [[] for _ in range(n_blocks)]
        self._positions: list[list[Tensor]] = [[] for _ in range(n_blocks)]

    def add(self, block: int, distances: Tensor, start: int, k: int) -> None:
        """Add the k nearest of distances (m, columns), the first column of which is ``start``."""
        values, positions = distances.topk(min(k, distances.shape[1]), dim=1, largest=False)
        self._values[block].append(values)
        self._positions[block].append(positions + start)

    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest of all rows (n, k), nearest first."""
        parts = zip(self._values, self._positions, strict=True)
        merged = [_merged(torch.cat(v, dim=1), torch.cat(p, dim=1), k) for v, p in parts]
        values, positions = zip(*merged, strict=True)
        return torch.cat(values), torch.cat(positions)


def _merged(values: Tensor, positions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    nearest, order = values.topk(k, dim=1, largest=False)
    return nearest, positions.gather(1, order)


def _candidates(z: Tensor, squares: Tensor, k: int) -> _Candidates:
    """Go through the pairs of blocks once: a block of distances serves its rows and its columns."""
    starts = range(0, len(z), _BLOCK)
    found = _Candidates(len(starts))
    for i, a in enumerate(starts):
        for j, b in enumerate(starts[: i + 1]):
            distances = _distances(z, squares, slice(a, a + _BLOCK), slice(b, b + _BLOCK))
            if i == j:
                found.add(i, distances.fill_diagonal_(torch.inf), b, k)
            else:
                found.add(i, distances, b, k)
                found.add(j, distances.T.contiguous(), a, k)
    return found


def _distances(z: Tensor, squares: Tensor, rows: slice | Tensor, columns: slice) -> Tensor:
    distances = torch.addmm(squares[columns], z[rows], z[columns].T, alpha=-2.0)
    return distances.add_(squares[rows][:, None])


def _first_of_equals(z: Tensor, rows: Tensor, k: int) -> Tensor:
    """Neighbours of ``rows`` (m, k), by distance in steps of a tie and then by position."""
    n = len(z)
    distances = _distances(z, z.square().sum(dim=1), rows, slice(None))
    keys = (distances / _TIE).round_().clamp_(0.0, 2.0**52 / n).mul_(n)
    keys += torch.arange(n, dtype=z.dtype, device=z.device)
    keys.scatter_(1, rows[:, None], torch.inf)
    return keys.topk(k, dim=1, largest=False).indices
