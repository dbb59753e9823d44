"""Squared distances between all pairs of class means, in tiles of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

TILE = 768  # classes a side: 5 MB of float64, so that every pass over a tile is in cache
DEVICE_TILE = 4096  # on an accelerator large tiles keep the kernels busy
GRAM_LIMIT = 1e-6  # tau of definitions 4: below it the Gram form loses digits in float64
_PAIR_NUMBERS = 1 << 22


def distances_squared(means: Tensor) -> Tensor:
    """||mu_i - mu_j||^2 of all pairs, a symmetric (C, C) float64 matrix with zero diagonal.

    From the Gram matrix of the centred means, and again from the differences for the pairs with
    d^2 < tau (||a||^2 + ||b||^2), tau = 1e-6, where the Gram form loses the digits that are
    promised. Invariant under rotation and translation. Source: definitions 4, "All pairs at once".

    Args:
        means: (C, p); a row of NaN (a class without examples) gives NaN distances.

    Examples:
        >>> distances_squared(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
        [[0.0, 25.0], [25.0, 0.0]]
    """
    full = torch.zeros(len(means), len(means), dtype=torch.float64, device=means.device)
    for a, b, block in distance_blocks(means):
        full[a, b] = block
        full[b, a] = block.T
    return full


def distances_squared_to(means: Tensor, columns: slice) -> Tensor:
    """Columns of ``distances_squared`` (C, columns) of float64 ``means`` that are centred."""
    squares = torch.linalg.vector_norm(means, dim=1).square()
    block = _block(means, means[columns], squares[:, None] + squares[columns])
    block[columns].fill_diagonal_(0.0)
    return block


def distance_blocks(means: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield tiles of ``distances_squared`` on and above the diagonal as rows, columns, block."""
    centred = means.double() - means.double().nanmean(dim=0)
    squares = torch.linalg.vector_norm(centred, dim=1).square()
    for a, b in upper_tiles(len(means), means.device):
        block = _block(centred[a], centred[b], squares[a][:, None] + squares[b])
        yield a, b, (symmetric(block) if a == b else block)


def upper_tiles(n_classes: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Yield row and column slices of the tiles on and above the diagonal."""
    tile = TILE if device.type == "cpu" else DEVICE_TILE
    for i in range(0, n_classes, tile):
        for j in range(i, n_classes, tile):
            yield slice(i, min(i + tile, n_classes)), slice(j, min(j + tile, n_classes))


def symmetric(block: Tensor) -> Tensor:
    """Mirror the upper triangle of a diagonal tile, so that rounding breaks no symmetry."""
    upper = block.triu(1)
    return upper + upper.T


def pair_weights(means: Tensor, rounding: float = 0.0) -> Tensor:
    """Weight of each class in NC and geometric collapse (C,).

        w_i = 1/(C(C-1)) sum_{j != i} 1/||mu_i - mu_j||^2

    NaN where a mean is NaN or two means coincide: their squared distance is at most ``rounding``.
    Source: definitions 2.

    Examples:
        >>> pair_weights(torch.tensor([[0.0], [2.0]])).tolist()
        [0.125, 0.125]
    """
    n_classes = len(means)
    sums = torch.zeros(n_classes, dtype=torch.float64, device=means.device)
    for a, b, block in distance_blocks(means):
        inverse = torch.where(block > rounding, block, torch.nan).reciprocal()
        if a == b:
            inverse.fill_diagonal_(0.0)
        else:
            sums[b] += inverse.sum(dim=0)
        sums[a] += inverse.sum(dim=1)
    return sums / (n_classes * (n_classes - 1))


def _block(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """||a_i - b_j||^2 by the Gram form, and by differences where that loses digits.

    ``scale`` is ||a_i||^2 + ||b_j||^2.
    """
    squared = torch.addmm(scale, a, b.T, alpha=-2.0)
    # for most tiles this saves the search below, which reads them four times
    if bool(squared.min() >= GRAM_LIMIT * scale.max()):
        return squared
    i, j = (squared < GRAM_LIMIT * scale).nonzero(as_tuple=True)
    for k in range(0, len(i), step := max(1, _PAIR_NUMBERS // a.shape[1])):
        near = slice(k, k + step)
        squared[i[near], j[near]] = (a[i[near]] - b[j[near]]).square().sum(dim=1)
    return squared
