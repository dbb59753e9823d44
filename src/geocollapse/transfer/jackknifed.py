"""A mean over episodes with its values without each group of examples, to be paired."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from geocollapse.estimate import Estimate, total_variance


@dataclass(frozen=True, eq=False)
class Jackknifed:
    """A mean over episodes, and the same mean without each of G disjoint groups of examples.

        SE^2 = (G - 1)/G sum_g (theta_(g) - mean theta)^2 + Var_e(values)/n_episodes

    The second term is there where episodes hold some of the classes only. Two of the same labels
    and seed have the same groups and episodes, so that their difference is paired: what both find
    hard cancels in each group.

    Source: Efron (1982), chapter 2.

    Attributes:
        values: of each episode (n_episodes,).
        left_out: the mean without each group (G,), or none (0,) where classes are too small.
        is_drawn: True if there are more classes than an episode holds.
        estimator: how the values were obtained.
        warnings: what a reader must know before using the number.
    """

    values: Tensor
    left_out: Tensor
    is_drawn: bool
    estimator: str
    warnings: tuple[str, ...] = ()

    def __sub__(self, other: Jackknifed) -> Jackknifed:
        return replace(
            self,
            values=self.values - other.values,
            left_out=self.left_out - other.left_out,
            warnings=tuple(dict.fromkeys((*self.warnings, *other.warnings))),
        )

    def complement(self) -> Jackknifed:
        """The accuracy of an error, and the other way round."""
        return replace(self, values=1.0 - self.values, left_out=1.0 - self.left_out)

    def estimate(self) -> Estimate:
        """The mean with its error for other examples and classes; NaN without groups."""
        n_groups = len(self.left_out)
        if n_groups:
            spread = float((self.left_out - self.left_out.mean()).square().sum())
            of_examples = spread * (1.0 - 1.0 / n_groups)
        else:
            of_examples = 0.0
        n_episodes = len(self.values)
        of_sets = float(self.values.var()) / n_episodes if self.is_drawn else 0.0
        error, dof = total_variance([of_examples, of_sets], [max(n_groups - 1, 1), n_episodes - 1])
        return Estimate(
            value=float(self.values.mean()),
            stderr=error if n_groups else math.nan,
            n_samples=n_episodes,
            population="distribution",
            estimator=self.estimator,
            dof=dof,
            scale="linear",
            values=self.values,
            warnings=self.warnings,
        )
