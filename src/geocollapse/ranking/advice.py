"""What follows from a ranking, in plain words, and how many examples would decide a tie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geocollapse.estimate import Estimate
from geocollapse.measures import SCORES
from geocollapse.ranking.agreement import Agreement
from geocollapse.ranking.result import RankedModel, Target
from geocollapse.ranking.ties import ALPHA, Pair, tied_with, two_sided_p

POWER = 0.8
_FASTER = 0.8  # of the time of the next one: one batch is timed, and times vary
_Z_POWER = 0.84
_STEP = 1.15  # between the numbers of examples that are tried
_N_SIMULATED = 500
_MOST = 100_000  # examples a class: a difference that needs more is none in practice


def examples_needed(
    outcomes: Tensor,
    labels: Tensor,
    difference: Estimate,
    *,
    n_pairs: int = 1,
    seed: int = 0,
) -> int | None:
    """Examples of each class with which two models would be told apart in 8 of 10 samples.

    Data sets are simulated: of each class so many examples are drawn from those at hand, each with
    its difference of outcomes, and the paired test at level 0.05/n_pairs is made on them, which
    Holm's correction over the pairs of a ranking never falls below. Its error is scaled to that of
    ``difference``, which has the labelled examples' share of the error too, and its degrees of
    freedom are at most those of ``difference``. The difference found is taken for the true one, so
    the number is as uncertain as that.

    Args:
        outcomes: (n,) share of episodes in which the first model gets an example right, less that
            of the second; NaN for an example that was never classified.
        labels: (n,).
        difference: of the mean accuracies, with its error over examples.
        n_pairs: pairs of models that are tested, this one among them.
        seed: of the simulation.

    Returns:
        Two significant digits; None if 100,000 would not do, or if there is no difference.
    """
    classes = _by_class(outcomes, labels)
    own = math.sqrt(sum(float(d.var(ddof=1)) / len(d) for d in classes)) / len(classes)
    if difference.value == 0.0 or not own > 0.0 or not difference.stderr > 0.0:
        return None
    scale = difference.stderr / own
    level = ALPHA / n_pairs
    ratio = (NormalDist().inv_cdf(1.0 - level / 2) + _Z_POWER) * difference.stderr
    ratio /= abs(difference.value)
    guess = max(2.0, ratio**2 * sum(map(len, classes)) / len(classes))  # of a normal test
    test = _Test(level, difference.value, scale, difference.dof)
    generator = np.random.default_rng(seed)

    def suffices(n_examples: float) -> bool:
        return test.power(classes, round(n_examples), generator) >= POWER

    if guess > _MOST:
        return None
    while guess > 2.0 and suffices(guess / _STEP):
        guess = max(2.0, guess / _STEP)
    while not suffices(guess):
        guess *= _STEP
    return None if guess > _MOST else _two_digits(round(guess))


def _by_class(outcomes: Tensor, labels: Tensor) -> list[NDArray[np.float64]]:
    """Differences of outcomes of each class that has two, less the class's mean."""
    values = outcomes.double().cpu().numpy()
    of = labels.cpu().numpy()
    known = ~np.isnan(values)
    parts = [values[(of == label) & known] for label in np.unique(of)]
    return [part - part.mean() for part in parts if len(part) > 1]


@dataclass(frozen=True)
class _Test:
    """The paired test of a ranking on simulated data sets.

    Attributes:
        level: at which the two-sided test is made.
        difference: of the mean accuracies in the population.
        scale: error of the difference in units of that of the outcomes.
        dof: degrees of freedom of the error, at most.
    """

    level: float
    difference: float
    scale: float
    dof: float

    def power(
        self,
        classes: Sequence[NDArray[np.float64]],
        n_examples: int,
        generator: np.random.Generator,
    ) -> float:
        """Share of data sets of ``n_examples`` a class in which the test finds the difference.

        Means and variances of many draws of one class are drawn at once by their multinomial
        counts.
        """
        means = np.zeros(_N_SIMULATED)
        variances = np.zeros(_N_SIMULATED)
        for values in classes:
            shares = np.full(len(values), 1.0 / len(values))
            counts = generator.multinomial(n_examples, shares, size=_N_SIMULATED)
            mean = counts @ values / n_examples
            squares = counts @ np.square(values) / n_examples - np.square(mean)
            means += mean
            variances += squares * n_examples / (n_examples - 1) / n_examples
        mean = self.difference + self.scale * means / len(classes)
        stderr = self.scale * np.sqrt(variances) / len(classes)
        dof = float(len(classes) * (n_examples - 1))
        if self.dof < dof:  # the error varies more than that of the outcomes, by so few halves
            dof = self.dof
            stderr *= np.sqrt(generator.chisquare(dof, size=_N_SIMULATED) / dof)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = two_sided_p(np.abs(mean) / stderr, dof)
        return float(np.mean(p <= self.level))


def _two_digits(number: int) -> int:
    """Rounded up to two significant digits."""
    step = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step


def advise(models: Sequence[RankedModel], pairs: Sequence[Pair], target: Target) -> str:
    """Which model to take, and what would settle a tie, in a sentence or two.

    The number of examples is that for the best model and the first one tied with it.

    Args:
        models: best first.
        pairs: of them.
        target: the examples and the episodes.
    """
    best = models[0]
    if len(models) == 1:
        return f"{best.label} is the only model: there is nothing to compare it with."
    ties = tied_with(best.label, pairs)
    if not ties:
        return f"{best.label} is best, and told apart from all others."
    tied = [model for model in models if model.label in ties]
    others = _listed([model.label for model in tied])
    enough = _enough(best, tied[0], pairs)
    if enough and len(tied) > 1:
        enough += f" for {best.label} and {tied[0].label}"
    advice = (
        f"{best.label} comes first, and cannot be told apart from {others} with "
        f"{target.smallest_class:,} examples a class{enough}."
    )
    fastest = _fastest([best, *tied])
    return advice if fastest is None else f"{advice} {fastest} is the fastest of them."


def _enough(best: RankedModel, other: RankedModel, pairs: Sequence[Pair]) -> str:
    """How many examples would tell two models apart; empty where their outcomes are not known."""
    if best.sampled is None or other.sampled is None:
        return ""
    pair = next(p for p in pairs if {p.first, p.second} == {best.label, other.label})
    if math.isnan(pair.difference.stderr):
        return ""
    needed = examples_needed(
        best.sampled.examples - other.sampled.examples,
        best.kept.labels,
        pair.difference,
        n_pairs=len(pairs),
    )
    return "; even 100,000 would hardly do" if needed is None else f"; about {needed:,} would do"


def advise_checkpoint(
    models: Sequence[RankedModel],
    pairs: Sequence[Pair],
    path: Sequence[str],
    found: Mapping[str, Agreement],
) -> str:
    """Where transfer peaked over a training, and which score would have picked it.

    Args:
        models: checkpoints, best first.
        pairs: of them.
        path: their labels in the order of training.
        found: the agreement of each score with the measured accuracy.
    """
    best, ties = models[0], tied_with(models[0].label, pairs)
    last = next(label for label in reversed(path) if label in {m.label for m in models})
    value = f"{best.ranked_by.value:.1%}"
    if best.label == last:
        peak = f"Transfer is best at the end, {last}: {value}"
    elif last in ties:
        peak = f"Transfer peaks at {best.label} ({value}), but {last} cannot be told apart from it"
    else:
        end = next(m.ranked_by.value for m in models if m.label == last)
        peak = f"Transfer peaks at {best.label} ({value}) and falls to {end:.1%} at {last}"
    closest = min(found, key=lambda name: found[name].regret, default=None)
    if closest is None:
        return f"{peak}."
    picked, lost = found[closest].picked, found[closest].regret
    return (
        f"{peak}. {SCORES[closest].short} comes closest to knowing it: it picks {picked}, "
        f"{100 * lost:.1f} points below."
    )


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _fastest(models: Sequence[RankedModel]) -> str | None:
    """The label of the model of the shortest forward pass, if none comes near it."""
    times = {model.label: model.seconds_per_example for model in models}
    known = {label: seconds for label, seconds in times.items() if seconds is not None}
    if len(known) < len(times):
        return None
    first, second = sorted(known, key=known.__getitem__)[:2]
    return first if known[first] < _FASTER * known[second] else None
