"""Page's test for a trend over ordered settings, with the seeds of a sweep as blocks.

A mean over seeds throws away what each seed says by itself: five settings have 120 orders of means,
and 120^3 orders of three seeds.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from geocollapse.papers.statistics import (
    EXACT_SETTINGS,
    N_PERMUTATIONS,
    Array,
    permutations,
    ranks,
)

_SCALE = 4  # mean ranks are halves, so four times a product of two ranks is an integer


def page_p(x: Array, y: Array, blocks: NDArray[np.generic], *, sign: int, seed: int = 0) -> float:
    """The p of Page's L: of a trend of y with x within blocks, on the side of ``sign``.

        L = sum_b sum_j rank_b(x_bj) rank_b(y_bj),    ties share their mean rank
        p = share of orders, permuted within each block, with sign * L >= sign * L observed

    For sign 0 the p of both sides: |L - mean L| at least as far. Blocks may lack settings: each is
    ranked by itself, and one without order (a single setting, or a constant) adds nothing. NaN if
    no block has an order. Unchanged by increasing transforms of x, and of y within each block.

    Exact up to 8 settings a block: the null distribution of L is the convolution of those of the
    blocks. Above it 20,000 seeded orders and the observed one. Cost: n! sums a block.

    Source: Page (1963), "Ordered hypotheses for multiple treatments"; Phipson and Smyth (2010) for
    the observed order in a sampled test.

    Args:
        x: the ordered setting of each run (n_runs,).
        y: the measured value of each run (n_runs,).
        blocks: the block (seed) of each run (n_runs,).
        sign: +1 or -1, the side expected; 0 for both.
        seed: of the sampled orders.

    Examples:
        >>> x = np.tile(np.arange(5.0), 3)
        >>> bool(np.isclose(page_p(x, x**2, np.repeat([0, 1, 2], 5), sign=1), 120.0**-3))
        True
    """
    ranked = _ranked_blocks(x, y, blocks)
    if not ranked:
        return math.nan
    observed = sum(_scaled(rx, ry) for rx, ry in ranked)
    center = sum(_SCALE * len(rx) * rx.mean() * ry.mean() for rx, ry in ranked)
    if all(len(rx) <= EXACT_SETTINGS for rx, _ in ranked):
        values, weights = _null(ranked)
        return float(weights[_as_far(values, observed, center, sign)].sum())
    sampled = _sampled(ranked, seed)
    as_far = int(np.count_nonzero(_as_far(sampled, observed, center, sign)))
    return (as_far + 1) / (len(sampled) + 1)


def mean_rank_correlation(x: Array, y: Array, blocks: NDArray[np.generic]) -> float:
    """Mean of Spearman's rho over the blocks that have one; NaN if none has.

    Range [-1, 1]. With complete blocks without ties it is Page's L moved and scaled to that range.

    Source: Page (1963).

    Args:
        x: the ordered setting of each run (n_runs,).
        y: the measured value of each run (n_runs,).
        blocks: the block (seed) of each run (n_runs,).
    """
    ranked = _ranked_blocks(x, y, blocks)
    rhos = [float(np.corrcoef(rx, ry)[0, 1]) for rx, ry in ranked]
    return float(np.mean(rhos)) if rhos else math.nan


def _ranked_blocks(x: Array, y: Array, blocks: NDArray[np.generic]) -> list[tuple[Array, Array]]:
    """Ranks of x and y within each block that has an order."""
    of_blocks = [(x[blocks == block], y[blocks == block]) for block in np.unique(blocks)]
    return [
        (ranks(bx[None])[0], ranks(by[None])[0])
        for bx, by in of_blocks
        if len(np.unique(bx)) > 1 and len(np.unique(by)) > 1
    ]


def _scaled(rx: Array, ry: Array) -> int:
    """A block's part of L, times 4: an integer."""
    return round(_SCALE * float(rx @ ry))


def _null(ranked: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The values of L, times 4, and their probabilities when the orders in all blocks are equal."""
    start = 0
    weights = np.ones(1)
    for rx, ry in ranked:
        sums = np.rint(_SCALE * (ry[permutations(len(ry))] @ rx)).astype(np.int64)
        start += int(sums.min())
        counts = np.bincount(sums - sums.min())
        weights = np.convolve(weights, counts / counts.sum())
    return start + np.arange(float(len(weights))), weights


def _sampled(ranked: list[tuple[Array, Array]], seed: int) -> Array:
    """L, times 4, of seeded orders."""
    generator = np.random.default_rng(seed)
    total = np.zeros(N_PERMUTATIONS)
    for rx, ry in ranked:
        orders = generator.permuted(np.tile(ry, (N_PERMUTATIONS, 1)), axis=1)
        total += np.rint(_SCALE * (orders @ rx))
    return total


def _as_far(values: Array, observed: float, center: float, sign: int) -> NDArray[np.bool_]:
    """The values of L that are at least as far as the observed one."""
    if sign == 0:
        return np.asarray(np.abs(values - center) >= abs(observed - center) - 1e-9)
    return np.asarray(sign * values >= sign * observed - 1e-9)
