"""Influence: how much each example moves an estimate, from which its error follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Influence:
    """How much each example moves an estimate, to first order, with classes resampled apart.

        estimate - truth ~ sum_i u_i,    SE^2 = sum_i u_i^2

    u_i is the influence value of example i over the size of its class, centred in the class, times
    sqrt(n_c/(n_c - 1)). The u_i of two models on the same examples subtract: this pairs them.

    Source: the infinitesimal jackknife, Efron (1982), chapter 6, in each class.

    Attributes:
        terms: u (n,) in float64; 0 for an example that the estimate does not use.
        classes: (n,) the class of each example.
        indices: (n,) their positions in the data set.
        rounding: relative error of the estimate by the rounding of the features; a difference of
            two models below it decides nothing.
    """

    terms: Tensor
    classes: Tensor
    indices: Tensor
    rounding: float = 0.0

    def spread(self, index: Tensor | None = None) -> tuple[float, float]:
        """Standard error, and its degrees of freedom from the fourth moments of the terms.

            dof = 2 SE^4 / sum_c (sum_i u_i^4 - (sum_i u_i^2)^2 / n_c)

        For Gaussian terms these are those of Satterthwaite, for heavier tails they are fewer.

        Args:
            index: (n,) the classes counted from 0, where a caller has them.
        """
        squares = self.terms.square()
        total = float(squares.sum())
        if index is None:
            index = self.classes.unique(return_inverse=True)[1]
        counts = index.bincount()
        sums = squares.new_zeros(len(counts)).index_add_(0, index, squares)
        noise = float(squares.square().sum() - (sums.square() / counts).sum())
        dof = 2.0 * total * total / noise if noise > 0.0 else math.inf
        return math.sqrt(total), max(1.0, min(dof, float(len(squares))))

    def is_of_the_examples_of(self, other: Influence) -> bool:
        """True if both are of the same positions of a data set, in the same classes."""
        return torch.equal(self.indices, other.indices) and torch.equal(self.classes, other.classes)
