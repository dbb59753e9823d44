"""Pairs of measures whose correlation over the settings of a sweep a recipe expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geocollapse.experiments.recipe import ClaimsConfig
from geocollapse.papers.collapse_transfer.expectations import Hypothesis

RULE = (
    "Correlations: Spearman's rho of the means over seeds of each setting, with an exact "
    "permutation test, one-sided, and Holm's correction within a claim of a sweep. Holds: p ≤ 0.05 "
    "on the side fixed before the run, and the bootstrap interval of rho beyond 0; does not hold: "
    "the same on the other side; undecided otherwise, and below 5 settings."
)


@dataclass(frozen=True)
class Pair:
    """Two columns, and how the recipe names them under `claims.expected_signs`.

    Attributes:
        key: the name.
        x: the first column.
        y: the second column.
        words: what goes with what, for a positive sign.
    """

    key: str
    x: str
    y: str
    words: str

    def hypothesis(self, claim: str, figure: str, signs: Mapping[str, int]) -> Hypothesis:
        """The hypothesis with the sign that a recipe expects."""
        sign = signs.get(self.key, 0)
        return Hypothesis(claim, self.x, self.y, sign, self.words, figure, self.key)


def expected_signs(recipe: Mapping[str, object]) -> Mapping[str, int]:
    """The expected signs of an expanded recipe."""
    claims = recipe.get("claims")
    stated = claims.get("expected_signs") if isinstance(claims, Mapping) else None
    return ClaimsConfig.of({"expected_signs": stated or {}}).expected_signs
