"""The hypotheses of the paper, and its thresholds, as a recipe fixes them before the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from geocollapse.experiments.recipe import ClaimsConfig
from geocollapse.experiments.results.tables import (
    ACCURACY,
    GC,
    GCOL,
    NC,
    TARGET_NC,
)
from geocollapse.papers.claims import Claim
from geocollapse.papers.collapse_transfer.claims import (
    COMPLEXITY_COLLAPSE,
    TRAINING_CHOICES,
    TRANSFER,
)
from geocollapse.papers.hypotheses import Hypothesis

_NAMES = {
    GC: "source GC",
    GCOL: "GCol",
    NC: "NC",
    TARGET_NC: "target NC",
    ACCURACY: "5-shot accuracy",
}
_KEYS = ("expected_signs", "poincare_factor", "coverage", "relative_error")


@dataclass(frozen=True)
class Expectations:
    """The `claims` of an expanded recipe.

    Attributes:
        signs: expected sign of each correlation, by the name of the pair or of the swept key.
        poincare_factor: how far the largest Poincare ratio may vary over the runs.
        coverage: least share of intervals that hold the full value.
        relative_error: largest median relative error of sampled estimates.
    """

    signs: Mapping[str, int] = field(default_factory=dict)
    poincare_factor: float = 3.0
    coverage: float = 0.93
    relative_error: float = 0.05

    @classmethod
    def of(cls, recipe: Mapping[str, object]) -> Expectations:
        """Read an expanded recipe; a threshold it does not name has the value of definitions 5."""
        claims = recipe.get("claims")
        stated = claims if isinstance(claims, Mapping) else {}
        given = ClaimsConfig.of({key: stated[key] for key in _KEYS if key in stated})
        return cls(
            given.expected_signs, given.poincare_factor, given.coverage, given.relative_error
        )

    def hypotheses(self, swept: list[str], *, has_target: bool = False) -> list[Hypothesis]:
        """The hypotheses on a sweep over the dotted keys ``swept``.

        With target classes, a key of which the recipe expects nothing is also tied to transfer: it
        is the sweep's own question. No sign is expected there either.
        """
        open_keys = [key for key in swept if has_target and not self.signs.get(key, 0)]
        return [
            self._between(GC, GCOL, "gc_gcol", "lower GC goes with lower GCol"),
            self._between(GC, NC, "gc_nc", "lower GC goes with lower NC"),
            *(
                self._swept(key, y, name)
                for key in swept
                for y, name in ((GC, "GC"), (GCOL, "GCol"), (NC, "NC"))
            ),
            self._between(
                GC, TARGET_NC, "gc_target_nc", "lower source GC goes with lower target NC"
            ),
            self._between(
                GC, ACCURACY, "gc_accuracy", "lower source GC goes with higher 5-shot accuracy"
            ),
            *(
                self._swept(key, y, _NAMES[y], claim=TRANSFER)
                for key in open_keys
                for y in (TARGET_NC, ACCURACY)
            ),
        ]

    def _between(self, x: str, y: str, name: str, statement: str) -> Hypothesis:
        """A hypothesis on two measures; ``name`` is the recipe's name of the pair."""
        claim = TRANSFER if y in (TARGET_NC, ACCURACY) else COMPLEXITY_COLLAPSE
        sign = self.signs.get(name, 0)
        if not sign:
            statement = f"{_NAMES[x]} goes with {_NAMES[y]}"
        return Hypothesis(claim.name, x, y, sign, statement, claim.figures[0], name)

    def _swept(self, key: str, y: str, name: str, *, claim: Claim = TRAINING_CHOICES) -> Hypothesis:
        """The hypothesis that a swept key moves a measure."""
        sign = self.signs.get(key, 0)
        words = (
            key.removeprefix("training.").removeprefix("data.").replace("_", " ").replace(".", " ")
        )
        direction = "larger" if sign < 0 else "smaller"
        statement = f"{direction} {words} lowers {name}" if sign else f"{words} moves {name}"
        return Hypothesis(claim.name, f"swept.{key}", y, sign, statement, claim.figures[0], key)
