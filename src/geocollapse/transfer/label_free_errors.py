"""What the standard errors of RankMe and alpha-ReQ are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.transfer.label_free import FIT_RANGE, power_law_exponent
from geocollapse.transfer.sample import Sample, eigenvalue_cut


def rankme_influences(sample: Sample) -> Tensor:
    """Derivatives of RankMe in the weights of the examples (n,), without its epsilon.

    d s_k/d w_i = (v_k f_i)^2/(2 s_k),    d RankMe/d s_k = -RankMe (log p_k + H)/sum_j s_j
    """
    eigenvalues, vectors = sample.raw_spectrum
    squares = (sample.reduced @ vectors).square()
    lengths = eigenvalues.sqrt()
    shares = lengths / lengths.sum()
    entropy = torch.special.entr(shares).sum()
    slopes = -entropy.exp() * (shares.log() + entropy) / lengths.sum()
    return squares @ (slopes / (2.0 * lengths))


@dataclass(frozen=True, eq=False)
class LeadingDirections:
    """The examples in the leading principal directions, where alpha-ReQ of a part is soon refitted.

    Twice as many directions as the fit takes, at most all: the eigenvalues of a part in these are
    those of all its features but for what the last fitted ones lose to directions beyond.

    Attributes:
        coordinates: deviations from the mean along these directions (n, q).
    """

    coordinates: Tensor

    @classmethod
    def of(cls, sample: Sample) -> LeadingDirections:
        """Project the examples."""
        return cls(sample.centred @ sample.spectrum.vectors[:, : 2 * FIT_RANGE[1]])

    def alpha_req(self, rows: Tensor) -> float:
        """alpha-ReQ of the examples at ``rows``; NaN where they span too few directions."""
        first, last = FIT_RANGE
        z = self.coordinates[rows]
        z = z - z.mean(dim=0)
        eigenvalues = torch.linalg.eigvalsh(z.T @ z)
        above = eigenvalues[eigenvalues > eigenvalue_cut(eigenvalues, len(rows))].flip(0)
        if len(above) < last:
            return math.nan
        return power_law_exponent(above[first - 1 : last].log(), first)
