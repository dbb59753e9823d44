"""Verdicts on the claims of Dherin and Rosca (2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import SweepResults, finished
from geocollapse.papers.corridors.claims import (
    ACCURACY_MARGIN,
    CORRIDOR_ACCURACY,
    CORRIDOR_STEPS,
    CORRIDOR_TIME,
    LINEAR_FALL,
    STEPS_FACTOR,
)
from geocollapse.papers.margins import Margin, corrected
from geocollapse.papers.verdict import Verdict
from geocollapse.papers.within_runs import record_correlations, seed_means

if TYPE_CHECKING:
    import pandas as pd

_DRIFT = "dynamics.drift_ratio"
_DEFECT = "dynamics.linearity_defect"
_LARGEST = "training.corridor.max_learning_rate"


def judge(results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]:
    """Every verdict that the sweep allows.

    SGD, apart for each schedule, and ALI-G are compared at the rate with the fewest steps
    (geometric mean over seeds) among those that reach the goal with every seed. A run of the
    corridor rate that does not reach the goal counts with its limit of steps, so that its claim
    cannot hold.

    Args:
        results: a sweep folder as read by `read_sweep`.
        seed: unused, as nothing is sampled.
    """
    del seed
    done = finished(results.runs)
    comparisons = [_Comparison.of(done, rival) for rival in _RIVALS]
    judged = [
        judge_linear_fall(done, results.history),
        *(comparison.steps() for comparison in comparisons),
        *(comparison.time() for comparison in comparisons),
        *(comparison.accuracy() for comparison in comparisons),
    ]
    return tuple(corrected(judged))


def judge_linear_fall(runs: pd.DataFrame, history: pd.DataFrame) -> Verdict:
    """Judge if drift ratio and linearity defect are correlated over the records of a run.

    One value a seed: the mean over its runs.
    """
    verdict = Verdict(
        claim=LINEAR_FALL.name,
        statement="a smaller drift ratio goes with a smaller linearity defect",
        sweep="all runs",
        x=_DRIFT,
        y=_DEFECT,
        verdict="undecided",
        n_runs=0,
        figure="corridor-diagnostics",
        effect_name="mean rho over records",
    )
    if not {_DRIFT, _DEFECT} <= set(history.columns):
        return replace(verdict, note="No run recorded `measuring.dynamics`.")
    found = record_correlations(runs, history, _DRIFT, _DEFECT)
    margin = Margin(0.0, 1, scale="correlation")
    return margin.judged(replace(verdict, n_runs=len(found)), seed_means(found))


@dataclass(frozen=True)
class _Rival:
    """A learning rate that the corridor rate is compared with, at the best rate of a grid.

    Attributes:
        name: in words.
        optimizer: of its runs.
        rate: the column of its rates.
        schedule: of its rate.
    """

    name: str
    optimizer: str
    rate: str
    schedule: str = "constant"

    def among(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Its runs, which have a rate."""
        if self.rate not in runs:
            return runs.iloc[:0]
        chosen = runs[runs["training.optimizer"] == self.optimizer]
        return chosen[(chosen["training.schedule"] == self.schedule) & chosen[self.rate].notna()]


_RIVALS = (
    _Rival("SGD, constant rate", "sgd", "training.learning_rate"),
    _Rival("SGD, cosine rate", "sgd", "training.learning_rate", "cosine"),
    _Rival("ALI-G, largest rate", "corridor", _LARGEST),  # the corridor rate, but for a largest one
)


@dataclass(frozen=True)
class _Comparison:
    """The corridor rate and a rival at its best rate, seed by seed.

    Attributes:
        rival: what it is compared with.
        rate: its best one; None if none reaches the goal with every seed.
        pairs: one row a seed: columns `*.rival` and `*.corridor`.
        censored: how many runs of the corridor rate did not reach the goal.
    """

    rival: _Rival
    rate: float | None
    pairs: pd.DataFrame
    censored: int

    @classmethod
    def of(cls, runs: pd.DataFrame, rival: _Rival) -> _Comparison:
        corridor = runs[runs["training.optimizer"] == "corridor"]
        corridor = _uncapped(corridor).drop_duplicates("seed")
        reached = corridor["stop_step"].notna()
        steps = corridor["stop_step"].fillna(corridor["training.max_steps"])
        corridor = corridor.assign(stop_step=steps)
        rivals = rival.among(runs)
        rate = _best_rate(rivals, rival.rate)
        chosen = rivals[rivals[rival.rate] == rate] if rate is not None else rivals.iloc[:0]
        pairs = chosen.drop_duplicates("seed").merge(
            corridor, on="seed", suffixes=(".rival", ".corridor")
        )
        return cls(rival, rate, pairs, int((~reached).sum()))

    def steps(self) -> Verdict:
        """The verdict on the steps to the goal."""
        verdict = self._verdict(CORRIDOR_STEPS.name, "stop_step", "ratio of steps")
        return self._within_factor(verdict, "steps", self._ratio("stop_step"))

    def time(self) -> Verdict:
        """The verdict on the training seconds to the goal."""
        verdict = self._verdict(CORRIDOR_TIME.name, "seconds_training", "ratio of seconds")
        seconds = self._seconds_a_step("corridor") / self._seconds_a_step("rival")
        return self._within_factor(verdict, "time", self._ratio("stop_step") * seconds)

    def _within_factor(self, verdict: Verdict, of: str, ratios: np.ndarray) -> Verdict:
        """The verdict on ratios, one a seed, that a run without the goal keeps from holding."""
        if self.pairs.empty:
            return verdict
        note = f"Runs of the corridor rate that missed the goal: {self.censored}."
        verdict = replace(
            verdict,
            statement=f"at most {STEPS_FACTOR:g} times the {of} of {self.rival.name}",
            note=note if self.censored else "",
        )
        margin = Margin(STEPS_FACTOR, -1, scale="ratio")
        return margin.judged(verdict, ratios, can_hold=not self.censored)

    def accuracy(self) -> Verdict:
        """The verdict on the test accuracy at the end."""
        verdict = self._verdict(
            CORRIDOR_ACCURACY.name, "test_accuracy", "difference in test accuracy"
        )
        verdict = replace(
            verdict,
            statement=f"test accuracy at most {100 * ACCURACY_MARGIN:g} points below "
            f"{self.rival.name}",
        )
        names = ("test_accuracy.corridor", "test_accuracy.rival")
        if not set(names) <= set(self.pairs.columns) or self.pairs.empty:
            return replace(verdict, n_runs=0, note="No pair of runs recorded test accuracy.")
        ours, theirs = (self.pairs[name].to_numpy(dtype=float) for name in names)
        return Margin(-ACCURACY_MARGIN, 1).judged(verdict, ours - theirs)

    def _verdict(self, claim: str, y: str, effect_name: str) -> Verdict:
        at = f" at {self.rate:g}" if self.rate is not None else ""
        missing = (
            "No rate of the rival reaches the goal with every seed, or no run has the corridor "
            "rate."
        )
        return Verdict(
            claim=claim,
            statement=f"the corridor rate against {self.rival.name}",
            sweep="all runs",
            x=f"{self.rival.name}{at}",
            y=y,
            verdict="undecided",
            n_runs=2 * len(self.pairs),
            figure="corridor-steps",
            effect_name=effect_name,
            note=missing if self.pairs.empty else "",
        )

    def _ratio(self, column: str) -> np.ndarray:
        ours = self.pairs[f"{column}.corridor"].to_numpy(dtype=float)
        return np.asarray(ours / self.pairs[f"{column}.rival"].to_numpy(dtype=float))

    def _seconds_a_step(self, method: str) -> np.ndarray:
        seconds = self.pairs[f"seconds_training.{method}"].to_numpy(dtype=float)
        return np.asarray(seconds / self.pairs[f"steps.{method}"].to_numpy(dtype=float))


def _uncapped(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the corridor rate as it comes: without a largest rate."""
    return runs[runs[_LARGEST].isna()] if _LARGEST in runs else runs


def _best_rate(runs: pd.DataFrame, column: str) -> float | None:
    """The rate with the fewest steps among those that reach the goal with every seed."""
    means: dict[float, float] = {}
    for rate in runs[column].unique():
        steps = runs[runs[column] == rate]["stop_step"].to_numpy(dtype=float)
        if np.isfinite(steps).all():
            means[float(rate)] = float(np.log(steps).mean())
    return min(means, key=means.__getitem__) if means else None
