"""Quantities over seeds, judged by their interval against a margin that is fixed before the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geocollapse.papers.statistics import Array, mean_interval
from geocollapse.papers.verdict import Outcome, Verdict

MIN_SEEDS = 3
RULE = (
    "Margins: a quantity is averaged over the seeds, with Student's 95 % interval. Holds: all of "
    "the interval lies on the side of the margin that is claimed; does not hold: all of it lies on "
    f"the other side; undecided otherwise, and below {MIN_SEEDS} seeds."
)


@dataclass(frozen=True)
class Margin:
    """A claim that a mean over seeds lies above or below a margin.

    Attributes:
        at: the margin.
        sign: +1 if the mean must lie above it, -1 if below.
        is_ratio: the values are logarithms of ratios, shown as ratios; ``at`` is a ratio.
    """

    at: float
    sign: int
    is_ratio: bool = False

    def judged(self, verdict: Verdict, values: Array, *, can_hold: bool = True) -> Verdict:
        """The verdict with the mean of the values, its interval, and the decision.

        Args:
            verdict: with its words.
            values: (n_seeds,), finite.
            can_hold: False where values are bounds on the side of the claim.
        """
        mean, interval = mean_interval(values)
        shown = np.exp if self.is_ratio else np.asarray
        low, high = (float(shown(end)) for end in interval)
        verdict = replace(verdict, effect=float(shown(mean)), interval=(low, high))
        if len(values) < MIN_SEEDS:
            note = f"{len(values)} seeds: below {MIN_SEEDS} a verdict is always undecided."
            return replace(verdict, note=f"{verdict.note} {note}".strip())
        sides = sorted((self.sign * (low - self.at), self.sign * (high - self.at)))
        outcome: Outcome = "undecided"
        if sides[0] > 0.0 and can_hold:
            outcome = "holds"
        elif sides[1] < 0.0:
            outcome = "does not hold"
        return replace(verdict, verdict=outcome)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of every setting: holds if all hold, fails if one fails.

    Its numbers are those of the setting that decides: the failing one, or the first undecided one.
    """
    ranked = {"does not hold": 0, "undecided": 1, "holds": 2}
    return min(verdicts, key=lambda verdict: ranked[verdict.verdict])
