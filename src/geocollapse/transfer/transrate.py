"""TransRate: how much shorter a code of the features gets when the classes are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels
from geocollapse.transfer.sample import Sample

EPSILON = 1e-4  # Huang et al. (2022): the distortion of the code


def transrate(features: Array, labels: Labels, *, epsilon: float = EPSILON) -> float:
    """TransRate: coding rate of the features less that of the features within classes.

        TrR = R(Z) - sum_c n_c/n R(Z_c),    R(Z) = 1/2 log det(I + Z^T Z/(n epsilon))

    Z are the features less their mean, **divided so that their mean squared length is 1**: without
    it, as published, the value depends on the scale of the features, and a model is ranked by it.
    Classes are weighed by their share, with which TrR is never negative; the published code weighs
    them the same, which is the same number on balanced classes.

    Range [0, inf); in nats. Invariant under permutation, relabelling, gaps in the labels,
    translation, rotation and scaling.

    It misleads because it grows with the number of directions in use and with p/n, for any labels:
    with few examples a class it is large for noise, too. Read it beside its value under shuffled
    labels. Two classes at opposite points of one line take the same directions and count as one.
    O(n p min(n, p)) time.

    Source: Huang, Huang, Rong, Yang, Wei (2022), ICML, arXiv 2106.09362, eq. 4 and listing 1; the
    weights: Yu et al. (2020), arXiv 2006.08558, eq. 8.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.
        epsilon: distortion, as a share of the mean squared length.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, fewer than two classes, the same features for all
            examples, an epsilon that is not positive.

    Examples:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(transrate(x, torch.tensor([0, 0, 1, 1]), epsilon=1.0), 4)  # log(1.5) - log(2)/2
        0.0589
    """
    if not epsilon > 0.0:
        raise ValueError(
            f"epsilon: expected a positive number, got {epsilon}; do epsilon={EPSILON}"
        )
    sample = Sample.of(features, labels)
    return float(coding_gain(sample, sample.weights, epsilon))


@dataclass(frozen=True, eq=False)
class CodedFeatures:
    """The part of TransRate that does not depend on the labels.

    Attributes:
        features: less their mean, of mean squared length 1 (n, p).
        rate: R(Z).
    """

    features: Tensor
    rate: Tensor

    @classmethod
    def of(cls, sample: Sample, weights: Tensor, epsilon: float = EPSILON) -> CodedFeatures:
        """Scale the features, and code them without classes."""
        n = weights.sum()
        z = sample.centred
        z = z - weights @ z / n
        z = z * (n / (weights @ z.square().sum(dim=1))).sqrt()
        return cls(z, _rate(z, weights, epsilon))

    def gain(self, sample: Sample, weights: Tensor, epsilon: float = EPSILON) -> Tensor:
        """TrR (0-d)."""
        rows = sample.index.argsort(stable=True).split(sample.counts.long().tolist())
        parts = [
            weights[r].sum() * _rate(self.features[r], weights[r], epsilon) for r in rows if len(r)
        ]
        return self.rate - torch.stack(parts).sum() / weights.sum()


def coding_gain(sample: Sample, weights: Tensor, epsilon: float = EPSILON) -> Tensor:
    """TrR (0-d) of weighted examples."""
    return CodedFeatures.of(sample, weights, epsilon).gain(sample, weights, epsilon)


def _rate(z: Tensor, weights: Tensor, epsilon: float) -> Tensor:
    """R(Z) (0-d), by the smaller of the two Gram matrices."""
    n, p = z.shape
    scaled = (weights / (epsilon * weights.sum())).sqrt()[:, None] * z
    gram = scaled.T @ scaled if p <= n else scaled @ scaled.T
    identity = torch.eye(len(gram), dtype=z.dtype, device=z.device)
    return torch.linalg.cholesky(gram + identity).diagonal().log().sum()
