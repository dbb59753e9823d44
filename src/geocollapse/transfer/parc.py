"""PARC: do examples that differ in features differ in labels?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels
from geocollapse.estimate import Estimate
from geocollapse.transfer.sample import Sample

MAX_EXACT = 20_000  # examples: 1.6 GB of pairs
GROUP_SIZE = 500  # Bolya et al. (2021)
_BLOCK = 1024
_GRID = 1e12  # correlations closer than 1e-12 are equal
_EXAMPLES_PER_CLASS = 5
_MIN_GROUPS = 3


def parc(features: Array, labels: Labels) -> float:
    """PARC: Spearman's correlation of feature distances and label distances over all pairs.

        rho_s({1 - corr(f_i, f_j)}, {1 - corr(y_i, y_j)}),    i < j,    y one-hot

    corr is Pearson's correlation of two feature vectors over their p entries. The label distance
    takes two values, so that the rank correlation is a sum of ranks over the pairs of one class,
    and one sort of the n(n - 1)/2 feature distances gives it exactly, with mean ranks for ties.
    Distances closer than 1e-12 are ties.

    Range [-1, 1], in truth far from 1 with many classes: classes that are all separated give
    sqrt(3 s (1 - s)), s the share of pairs within a class, 0.17 for 100 classes. Published values
    are 100 times these. Invariant under permutation, relabelling, gaps in the labels and scaling;
    **not** under rotation or translation, for a correlation over the entries of a vector depends on
    the axes.

    It misleads where samples differ in the number or balance of classes, which set the largest
    value. O(n^2 p + n^2 log n) time, 8 bytes a pair; ``parc_sampled`` for more examples.

    Source: Bolya, Mittapalli, Hoffman (2021), NeurIPS, arXiv 2111.06977, section 4.

    Args:
        features: (n, p) floating point, p >= 2.
        labels: (n,) integers, or names of classes.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, fewer than two classes, no class of two examples,
            an example with the same value in all entries, equal distances of all pairs, more than
            20,000 examples.

    Examples:
        >>> x = torch.tensor([[1.0, 0.0, 0.1], [1.0, 0.2, 0.0], [0.0, 1.0, 0.9], [0.1, 0.9, 1.0]])
        >>> round(parc(x, torch.tensor([0, 0, 1, 1])), 4)
        0.8281
    """
    sample = Sample.of(features, labels)
    if len(sample.features) > MAX_EXACT:
        raise ValueError(
            f"features: expected at most {MAX_EXACT} examples for all pairs, got "
            f"{len(sample.features)}; do parc_sampled(features, labels)"
        )
    value, _ = _correlation(standardised(sample), sample.index)
    return value


def parc_sampled(
    features: Array,
    labels: Labels,
    *,
    group_size: int = GROUP_SIZE,
    max_groups: int = 20,
    seed: int = 0,
) -> Estimate:
    """PARC from disjoint random groups of the examples, with a standard error.

    The examples are dealt at random, class by class, to groups of ``group_size``, at least five for
    each class; PARC of each group is exact. A group has another share s of pairs within a class
    than the whole, so that its value is multiplied by sqrt(s (1 - s)) of the whole over its own.
    Each group is a sample of its own, so the standard error is that of a mean of independent
    values; it speaks about data like these. O(groups group_size^2 p) time.

    Source: Bolya, Mittapalli, Hoffman (2021), who take one subset of 500 examples.

    Args:
        features: (n, p) floating point, p >= 2.
        labels: (n,) integers, or names of classes.
        group_size: examples of a group.
        max_groups: groups to use at most.
        seed: of the groups; the global random state is left alone.

    Returns:
        An Estimate on the linear scale, ``values`` (n_groups,).

    Raises:
        TypeError: see ``parc``.
        ValueError: see ``parc``; fewer examples than three groups.

    Examples:
        >>> x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
        >>> parc_sampled(x, torch.arange(400) % 2, group_size=100).n_samples
        4
    """
    sample = Sample.of(features, labels)
    n = len(sample.features)
    size = _least_size(sample, group_size)
    n_groups = min(max_groups, n // size)
    if n_groups < _MIN_GROUPS:
        raise ValueError(
            f"features: expected examples for {_MIN_GROUPS} groups of {size}, got {n}; do "
            "parc(features, labels)"
        )
    z = standardised(sample)
    share = _share_within(sample.counts)
    values = []
    for rows in dealt(sample, n // size, seed)[:n_groups]:
        value, own = _correlation(z[rows], sample.index[rows])
        values.append(value * math.sqrt(share * (1.0 - share) / (own * (1.0 - own))))
    terms = torch.tensor(values, dtype=torch.float64)
    return Estimate(
        value=float(terms.mean()),
        stderr=float(terms.std()) / math.sqrt(n_groups),
        n_samples=n_groups,
        population="distribution",
        estimator=f"{n_groups} groups of {size}",
        dof=n_groups - 1,
        scale="linear",
        values=terms,
    )


def has_groups(sample: Sample, group_size: int = GROUP_SIZE) -> bool:
    """Return True if there are examples for three groups."""
    return len(sample.index) >= _MIN_GROUPS * _least_size(sample, group_size)


def _least_size(sample: Sample, group_size: int) -> int:
    return max(group_size, _EXAMPLES_PER_CLASS * sample.n_classes)


def dealt(sample: Sample, n_groups: int, seed: int) -> list[Tensor]:
    """Disjoint random groups of equal size to 1, each with its share of every class."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(sample.index), generator=generator).to(sample.index.device)
    by_class = order[sample.index[order].argsort(stable=True)]
    return [by_class[start::n_groups] for start in range(n_groups)]


def standardised(sample: Sample) -> Tensor:
    """Features less the mean of their entries, of length 1 (n, p): products are correlations.

    Raises:
        ValueError: an example with the same value in all entries.
    """
    x = sample.features
    z = x - x.mean(dim=1, keepdim=True)
    lengths = z.norm(dim=1, keepdim=True)
    flat = (lengths <= 1e-14 * x.norm(dim=1, keepdim=True)).squeeze(1)
    if bool(flat.any()):
        raise ValueError(
            f"features: expected entries that differ within each example, got {int(flat.sum())} "
            f"examples with one value (first at row {int(flat.nonzero()[0])}); do drop them"
        )
    return z / lengths


@dataclass(frozen=True, eq=False)
class PairRanks:
    """The part of PARC that does not depend on the labels, for up to some thousand examples.

    Attributes:
        ranks: mean ranks of the distances of all pairs (n, n), 0 on the diagonal.
        order: the pairs by distance, positions in the upper triangle by rows.
        deviation: root mean square deviation of the ranks.
    """

    ranks: Tensor
    order: Tensor
    deviation: float

    @classmethod
    def of(cls, sample: Sample) -> PairRanks:
        """Rank the pairs.

        Raises:
            ValueError: see ``standardised``; equal distances of all pairs.
        """
        z = standardised(sample)
        n = len(z)
        rows, columns = torch.triu_indices(n, n, 1)
        keys = ((z @ z.T)[rows, columns] * -_GRID).round_().cpu().numpy()
        order = keys.argsort()
        ranks = torch.from_numpy(_mean_ranks(keys, order)).to(z.device)
        deviation = float(ranks.std(correction=0))
        _check_deviation(deviation)
        full = z.new_zeros(n, n)
        full[rows, columns] = ranks
        return cls(full + full.T, torch.from_numpy(order).to(z.device), deviation)

    def score(self, sample: Sample) -> float:
        """PARC of these labels."""
        share = _share_within(sample.counts)
        within = float(sample.class_sums(self._to_own_class(sample)).sum()) / 2.0
        n_pairs = len(self.order)
        mean = within / (share * n_pairs)
        total = float(self.ranks.sum()) / 2.0
        between = (total - within) / ((1.0 - share) * n_pairs)
        return (between - mean) * math.sqrt(share * (1.0 - share)) / self.deviation

    def influences(self, sample: Sample) -> Tensor:
        """Derivatives of the score in the weights of the examples (n,).

        The score is a multiple of A - 1/2, A the probability that a pair of two classes is farther
        apart than a pair of one. A pair within a class adds the share of the other pairs that are
        farther, a pair of two classes the share of pairs within a class that are nearer.
        """
        n = len(self.ranks)
        rows, columns = torch.triu_indices(n, n, 1)
        same = (sample.index[rows] == sample.index[columns])[self.order].double()
        n_same = same.sum()
        n_other = len(same) - n_same
        same_below = (same.cumsum(0) - 0.5 * same) / n_same
        other_below = ((1.0 - same).cumsum(0) - 0.5 * (1.0 - same)) / n_other
        area = (same * (1.0 - other_below)).sum() / n_same
        terms = torch.where(
            same > 0, (1.0 - other_below - area) / n_same, (same_below - area) / n_other
        )
        sums = terms.new_zeros(n)
        sums.index_add_(0, rows[self.order], terms)
        sums.index_add_(0, columns[self.order], terms)
        share = float(n_same) / len(same)
        return sums * len(same) * math.sqrt(share * (1.0 - share)) / self.deviation

    def _to_own_class(self, sample: Sample) -> Tensor:
        """Sum of the ranks of an example's pairs within its class (n,)."""
        sums = sample.class_sums(self.ranks)  # (C, n): ranks are symmetric
        return sums[sample.index, torch.arange(len(sample.index), device=sums.device)]


def _correlation(z: Tensor, index: Tensor) -> tuple[float, float]:
    """Spearman's correlation of standardised features, and the share of pairs within a class."""
    distances, within = _pairs(z, index)
    n_pairs = len(distances)
    share = len(within) / n_pairs
    if not 0.0 < share < 1.0:
        raise ValueError(
            "labels: expected pairs within a class and of two classes, got one kind only; do pass "
            "two examples of a class"
        )
    distances.sort()
    within.sort()
    ranks = (distances.searchsorted(within) + distances.searchsorted(within, "right") + 1.0) / 2.0
    mean = (n_pairs + 1.0) / 2.0
    squares = (float(n_pairs) ** 3 - n_pairs - _ties(distances)) / 12.0
    deviation = math.sqrt(max(squares, 0.0) / n_pairs)
    _check_deviation(deviation)
    # the mean rank of the other pairs follows from that of these
    gap = (mean - float(ranks.mean())) / (1.0 - share)
    return gap * math.sqrt(share * (1.0 - share)) / deviation, share


def _pairs(z: Tensor, index: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Distances of all pairs i < j, and of those within a class, in steps of 1e-12."""
    n = len(z)
    distances = np.empty(n * (n - 1) // 2)
    within = []
    filled = 0
    for start in range(0, n, _BLOCK):
        for other in range(start, n, _BLOCK):
            block = z[start : start + _BLOCK] @ z[other : other + _BLOCK].T
            keys = block.mul_(-_GRID).round_()
            same = index[start : start + _BLOCK, None] == index[other : other + _BLOCK]
            if start == other:
                above = torch.ones_like(same).triu_(1)
                same &= above
                part = keys[above]
            else:
                part = keys.flatten()
            distances[filled : filled + len(part)] = part.cpu().numpy()
            filled += len(part)
            within.append(keys[same].cpu().numpy())
    return distances, np.concatenate(within)


def _ties(ordered: np.ndarray) -> float:
    """sum (t^3 - t) over runs of t equal values."""
    equal = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(equal) == 0:
        return 0.0
    breaks = np.flatnonzero(np.diff(equal) > 1) + 1
    lengths = np.array([len(run) + 1 for run in np.split(equal, breaks)], dtype=float)
    return float((lengths**3 - lengths).sum())


def _mean_ranks(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Ranks from 1, the mean of them for equal values; ``order`` sorts the values."""
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    lengths = np.diff(np.append(starts, len(values)))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(starts + (lengths + 1) / 2.0, lengths)
    return ranks


def _share_within(counts: Tensor) -> float:
    """Share of the pairs that lie within a class.

    Raises:
        ValueError: there are none.
    """
    if not bool((counts > 1).any()):
        raise ValueError(
            "labels: expected a class of two examples, got one example of each; do add examples"
        )
    n = float(counts.sum())
    return float((counts * (counts - 1.0)).sum()) / (n * (n - 1.0))


def _check_deviation(deviation: float) -> None:
    if deviation == 0.0:
        raise ValueError(
            "features: expected pairs at different distances, got one distance for all; do check "
            "the layer"
        )
