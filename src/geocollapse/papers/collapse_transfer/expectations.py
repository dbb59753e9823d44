"""What a recipe fixes before the run: the hypotheses of claims 1 to 3 with their signs, the
thresholds of 4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from geocollapse.experiments.results.tables import (
    ACCURACY,
    GC,
    GC_PER_VARIANCE,
    GCOL,
    NC,
    TARGET_NC,
)


@dataclass(frozen=True)
class Hypothesis:
    """Two columns and the sign (+1, -1) that the recipe expects of their correlation; 0: it expects
    none.
    """

    claim: int
    x: str
    y: str
    sign: int
    statement: str
    figure: str

    @property
    def speaks_of_gc(self) -> bool:
        return GC in (self.x, self.y)

    def per_variance(self) -> Hypothesis:
        """The same with GC divided by the total feature variance."""
        swap = {GC: GC_PER_VARIANCE}
        return replace(self, x=swap.get(self.x, self.x), y=swap.get(self.y, self.y))


@dataclass(frozen=True)
class Expectations:
    """The `claims` of an expanded recipe.

    Attributes:
        signs: expected sign of each correlation, by the name of the pair or of the swept key.
        poincare_factor: how far the largest Poincare ratio may vary over the runs (claim 4).
        coverage: least share of intervals that hold the full value (claim 5).
        relative_error: largest median relative error (claim 5).
    """

    signs: Mapping[str, int] = field(default_factory=dict)
    poincare_factor: float = 3.0
    coverage: float = 0.93
    relative_error: float = 0.05

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> Expectations:
        """Read from an expanded recipe; a threshold that it does not name has the value of
        definitions 5.
        """
        claims = recipe.get("claims") or {}
        thresholds = {
            key: claims[key]
            for key in ("poincare_factor", "coverage", "relative_error")
            if key in claims
        }
        return cls(signs=claims.get("expected_signs") or {}, **thresholds)

    def hypotheses(self, swept: list[str]) -> list[Hypothesis]:
        """Claims 1 to 3 for a sweep over the dotted keys ``swept``."""
        return [
            self._between(
                1, GC, GCOL, "gc_gcol", "lower GC goes with lower GCol", "gc-and-collapse"
            ),
            self._between(1, GC, NC, "gc_nc", "lower GC goes with lower NC", "gc-and-collapse"),
            *(
                self._swept(key, y, name)
                for key in swept
                for y, name in ((GC, "GC"), (GCOL, "GCol"), (NC, "NC"))
            ),
            self._between(
                3,
                GC,
                TARGET_NC,
                "gc_target_nc",
                "lower source GC goes with lower target NC",
                "transfer",
            ),
            self._between(
                3,
                GC,
                ACCURACY,
                "gc_accuracy",
                "lower source GC goes with higher 5-shot accuracy",
                "transfer",
            ),
        ]

    def _between(
        self, claim: int, x: str, y: str, name: str, statement: str, figure: str
    ) -> Hypothesis:
        return Hypothesis(claim, x, y, self.signs.get(name, 0), statement, figure)

    def _swept(self, key: str, y: str, name: str) -> Hypothesis:
        sign = self.signs.get(key, 0)
        words = key.removeprefix("training.").replace("_", " ").replace(".", " ")
        statement = (
            f"{'larger' if sign < 0 else 'smaller'} {words} lowers {name}"
            if sign
            else f"{words} moves {name}"
        )
        return Hypothesis(2, f"swept.{key}", y, sign, statement, "settings")
