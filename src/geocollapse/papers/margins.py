"""Quantities over seeds, judged by their interval against a margin that is fixed before the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from geocollapse.multiple_tests import holm
from geocollapse.papers.significance import decided, is_significant, with_holm
from geocollapse.papers.statistics import Array, mean_interval, student_p
from geocollapse.papers.verdict import Outcome, Verdict

Scale = Literal["linear", "ratio", "correlation"]

MIN_SEEDS = 3
LARGEST_RHO = 0.999  # of a seed, for Fisher's z: that of 1 is infinite
RULE = (
    "Margins: a quantity is averaged over the seeds, with Student's 95 % interval (of logarithms "
    f"for ratios; of Fisher's z for correlations, cut at ±{LARGEST_RHO:g}) and one-sided p, with "
    "Holm's correction over the margins of a claim. Holds: all of the interval lies on the side of "
    "the margin that is claimed, and p ≤ 0.05 with the correction; does not hold: the same on the "
    f"other side; undecided otherwise, and below {MIN_SEEDS} seeds."
)


def _fisher_z(rho: Array) -> Array:
    return np.arctanh(np.clip(rho, -LARGEST_RHO, LARGEST_RHO))


_SCALES: Mapping[Scale, tuple[Callable[[Array], Array], Callable[[float], float]]] = {
    "linear": (lambda values: values, lambda value: value),
    "ratio": (np.log, math.exp),
    "correlation": (_fisher_z, math.tanh),
}


@dataclass(frozen=True)
class Margin:
    """A claim that a mean over seeds lies above or below a margin.

    Attributes:
        at: the margin.
        sign: +1 if the mean must lie above it, -1 if below.
        scale: on which the values are averaged and tested: `linear` as they are, `ratio` by their
            logarithms, `correlation` by Fisher's z.
        unit: what the values are of.
    """

    at: float
    sign: int
    scale: Scale = "linear"
    unit: str = "seeds"

    def judged(self, verdict: Verdict, values: Array, *, can_hold: bool = True) -> Verdict:
        """The verdict with the mean of the values, its interval and p, decided by the interval.

        The mean of ratios is geometric; that of correlations is their own, not that of Fisher's z.
        A single verdict needs no more: its p is at most 0.025 where the interval is beyond the
        margin. `corrected` is for several.

        Args:
            verdict: with its words.
            values: (n_seeds,), finite.
            can_hold: False where values are bounds on the side of the claim.
        """
        scaled, shown = _SCALES[self.scale]
        own = scaled(values)
        mean, interval = mean_interval(own)
        low, high = (shown(end) for end in interval)
        effect = mean_interval(values)[0] if self.scale == "correlation" else shown(mean)
        verdict = replace(verdict, effect=effect, interval=(low, high))
        if len(values) < MIN_SEEDS:
            note = f"{len(values)} {self.unit}: below {MIN_SEEDS} a verdict is always undecided."
            return replace(verdict, note=f"{verdict.note} {note}".strip())
        beyond = self.sign * (own - scaled(np.asarray(self.at)))
        sides = sorted((self.sign * (low - self.at), self.sign * (high - self.at)))
        outcome: Outcome = "undecided"
        if sides[0] > 0.0 and can_hold:
            outcome = "holds"
        elif sides[1] < 0.0:
            outcome = "does not hold"
        return replace(
            verdict,
            verdict=outcome,
            test="Student's t",
            p=student_p(beyond) if can_hold else 1.0,
            p_opposite=student_p(-beyond),
        )


def corrected(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of margins with Holm's correction within each claim, which undecides some."""
    return [
        verdict if decided(verdict).verdict == verdict.verdict else _undecided(verdict)
        for verdict in with_holm(verdicts)
    ]


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of every setting: holds if all hold, fails if one fails.

    It fails by the smallest p of the other side, with Holm's correction over the settings; it holds
    by the largest p, which needs none. Its other numbers are those of the setting that decides: the
    failing one, or the first undecided one.

    Source: Berger (1982) for the largest p, as an intersection-union test.
    """
    opposite = holm([verdict.p_opposite for verdict in verdicts])
    settings = [
        _undecided(verdict)
        if verdict.verdict == "does not hold" and not is_significant(p)
        else verdict
        for verdict, p in zip(verdicts, opposite, strict=True)
    ]
    ranked = {"does not hold": 0, "undecided": 1, "holds": 2}
    found = min(settings, key=lambda verdict: ranked[verdict.verdict])
    known = [p for p in opposite if not math.isnan(p)]
    return replace(
        found,
        p=float(np.max([verdict.p for verdict in verdicts])),
        p_opposite=min(known, default=math.nan),
    )


def _undecided(verdict: Verdict) -> Verdict:
    return replace(verdict, verdict="undecided")
