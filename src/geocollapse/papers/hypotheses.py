"""Hypotheses: two columns, and the sign that a recipe expects of their correlation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from geocollapse.experiments.recipe import ClaimsConfig
from geocollapse.experiments.results.tables import GC, GC_PER_VARIANCE


@dataclass(frozen=True)
class Hypothesis:
    """Two columns and the sign that the recipe expects of their correlation: +1, -1, or 0 for none.

    Attributes:
        claim: name of the claim.
        x: the first column.
        y: the second column.
        sign: the sign expected.
        statement: the hypothesis, in words.
        figure: start of the name of the chart that shows it.
        key: the recipe's name of the pair, or the swept key, under `claims.expected_signs`.
        peak_of: words for the second column, where the claim is that the first mirrors its peak.
    """

    claim: str
    x: str
    y: str
    sign: int
    statement: str
    figure: str
    key: str
    peak_of: str = ""

    @property
    def speaks_of_gc(self) -> bool:
        """True if one of the columns is GC."""
        return GC in (self.x, self.y)

    @property
    def is_swept(self) -> bool:
        """True if the first column is a swept value."""
        return self.x.startswith("swept.")

    def per_variance(self) -> Hypothesis:
        """This hypothesis with GC divided by the total feature variance."""
        swap = {GC: GC_PER_VARIANCE}
        return replace(self, x=swap.get(self.x, self.x), y=swap.get(self.y, self.y))


@dataclass(frozen=True)
class Pair:
    """Two columns, and how the recipe names them under `claims.expected_signs`.

    Attributes:
        key: the name.
        x: the first column.
        y: the second column.
        words: what goes with what, for a positive sign.
        peak_of: words for the second column, where the claim is that the first mirrors its peak.
    """

    key: str
    x: str
    y: str
    words: str
    peak_of: str = ""

    def hypothesis(self, claim: str, figure: str, signs: Mapping[str, int]) -> Hypothesis:
        """The hypothesis with the sign that a recipe expects."""
        sign = signs.get(self.key, 0)
        return Hypothesis(claim, self.x, self.y, sign, self.words, figure, self.key, self.peak_of)


def expected_signs(recipe: Mapping[str, object]) -> Mapping[str, int]:
    """The expected signs of an expanded recipe."""
    claims = recipe.get("claims")
    stated = claims.get("expected_signs") if isinstance(claims, Mapping) else None
    return ClaimsConfig.of({"expected_signs": stated or {}}).expected_signs
