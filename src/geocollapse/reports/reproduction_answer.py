"""What a reproduction found, in plain sentences made from its verdicts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from geocollapse.experiments.results.tables import ACCURACY, GC, GCOL, NC, TARGET_NC, converged
from geocollapse.papers.collapse_transfer.claims import (
    COMPLEXITY_COLLAPSE,
    POINCARE_BOUND,
    SAMPLING,
    TRAINING_CHOICES,
    TRANSFER,
)
from geocollapse.papers.collapse_transfer.poincare import RATIO
from geocollapse.papers.verdict import Verdict, count
from geocollapse.reports.repetitions import repeated
from geocollapse.reports.reproduction import Reproduction, Row
from geocollapse.reports.reproduction_table import MATCHED
from geocollapse.reports.wording import interval, listed, signed

_SWEPT = {
    "swept.training.learning_rate": "a larger learning rate",
    "swept.training.batch_size": "a smaller batch",
    "swept.training.weight_decay": "stronger L2",
    "swept.training.gc_penalty.weight": "a penalty on GC",
}
_BOUND = "nearest-mean bound"
_PAPER = "sweep of the paper"
_OWN = "sweep of this project's own"
_MOSTLY = 2 / 3  # of the verdicts, for "mostly repeats"; a third for "repeats in part"


class Passed(NamedTuple):
    """A main verdict and the experiment that it is on."""

    row: Row
    verdict: Verdict

    @property
    def name(self) -> str:
        """The sweep in words."""
        return self.row.name_of(self.verdict.sweep)

    @property
    def is_judged(self) -> bool:
        """True if a sign was expected."""
        return math.isnan(self.verdict.p_two_sided)


def answer(found: Reproduction) -> list[str]:
    """The answer in a few sentences, on the paper's experiments alone."""
    published = _passed(found, is_published=True)
    return [
        *_summary(published),
        *_training_choices(published, _PAPER),
        *_transfer(published, _PAPER),
        *_ratio(published, _PAPER),
        *_matched(published),
    ]


def details(found: Reproduction) -> list[str]:
    """The other claims on the paper's experiments, and what this project's own say."""
    published = _passed(found, is_published=True)
    own = _passed(found, is_published=False)
    return [
        *_collapse(published, _PAPER),
        *_bound(published, _PAPER),
        *_sampling(published),
        *_training_choices(own, _OWN),
        *_collapse(own, _OWN),
        *_transfer(own, _OWN),
        *_ratio(own, _OWN),
    ]


def _passed(found: Reproduction, *, is_published: bool) -> list[Passed]:
    """The main verdicts on the experiments of the paper, or on those of this project."""
    return [
        Passed(row, verdict)
        for row in found.stored
        for verdict in row.verdicts
        if row.experiment.is_published == is_published
    ]


def counted(passed: Sequence[Passed], noun: str = "sweep") -> str:
    """In how many sweeps a claim holds; those where it goes the other way are named."""
    outcomes = count(p.verdict for p in passed)
    against = [p.name for p in passed if p.verdict.verdict == "does not hold"]
    exceptions = []
    if against:
        exceptions.append(f"the other way in {listed(against)}")
    if outcomes["undecided"]:
        exceptions.append(f"{outcomes['undecided']} undecided")
    said = f"in {outcomes['holds']} of {_several(len(passed), noun)}"
    return f"{said} ({'; '.join(exceptions)})" if exceptions else said


def _several(n: int, noun: str) -> str:
    """A number of things: ``3 sweeps of the paper``; the number alone without a noun."""
    first, _, rest = noun.partition(" ")
    plural = f"{first}s" if first and n != 1 else first
    return " ".join(filter(None, [str(n), plural, rest]))


def _summary(passed: Sequence[Passed]) -> Iterator[str]:
    """The paper's three accounts, each in three words."""
    judged = [p for p in passed if p.is_judged]
    accounts = {
        "the paper's account of training": (TRAINING_CHOICES, COMPLEXITY_COLLAPSE),
        "its account of transfer": (TRANSFER,),
        "its one Poincaré constant for all runs": (POINCARE_BOUND,),
    }
    said = []
    for account, claims in accounts.items():
        names = {claim.name for claim in claims}
        own = [p for p in judged if p.verdict.claim in names and p.verdict.x != _BOUND]
        if own:
            said.append(f"{account} {_repeats(own)}")
    if said:
        yield f"On small networks and few images, {listed(said)}."


def _repeats(passed: Sequence[Passed]) -> str:
    share = count(p.verdict for p in passed)["holds"] / len(passed)
    if share == 1.0:
        return "repeats"
    if share >= _MOSTLY:
        return "mostly repeats"
    return "repeats in part" if share >= 1.0 - _MOSTLY else "mostly does not repeat"


def _training_choices(passed: Sequence[Passed], noun: str) -> Iterator[str]:
    """What the training choices lower."""
    own = [p for p in passed if p.verdict.x in _SWEPT and p.is_judged]
    choices = [said for key, said in _SWEPT.items() if any(p.verdict.x == key for p in own)]
    if not own:
        return
    of_measure = {y: [p for p in own if p.verdict.y == y] for y in (GC, GCOL, NC)}
    yield (
        f"GC falls with {listed(choices)} {counted(of_measure[GC], noun)}; with it geometric "
        f"collapse falls {counted(of_measure[GCOL], '')} and NC {counted(of_measure[NC], '')}."
    )


def _collapse(passed: Sequence[Passed], noun: str) -> Iterator[str]:
    """GC with geometric collapse and with NC, over settings."""
    yield from _pairs(
        [p for p in passed if p.verdict.claim == COMPLEXITY_COLLAPSE.name],
        "Over settings, lower GC goes with {}",
        {GCOL: "lower geometric collapse", NC: "lower NC"},
        noun,
    )


def _transfer(passed: Sequence[Passed], noun: str) -> Iterator[str]:
    """Source GC with NC and accuracy of the target."""
    yield from _pairs(
        [p for p in passed if p.verdict.claim == TRANSFER.name],
        "On classes that training never saw, lower source GC goes with {}",
        {TARGET_NC: "lower NC", ACCURACY: "higher 5-shot accuracy"},
        noun,
    )


def _pairs(
    passed: Sequence[Passed], sentence: str, names: dict[str, str], noun: str
) -> Iterator[str]:
    """One sentence for the pairs of a claim whose sign is expected."""
    judged = [p for p in passed if p.is_judged]
    of_pairs = {name: [p for p in judged if p.verdict.y == y] for y, name in names.items()}
    nouns = itertools.chain([noun], itertools.repeat(""))
    parts = [f"{name} {counted(pairs, next(nouns))}" for name, pairs in of_pairs.items() if pairs]
    if parts:
        yield f"{sentence.format(listed(parts))}."


def _ratio(passed: Sequence[Passed], noun: str) -> Iterator[str]:
    """In how many experiments one Poincaré constant serves the runs."""
    own = [p for p in passed if p.verdict.y == RATIO]
    if not own:
        return
    n_hold = count(p.verdict for p in own)["holds"]
    spreads = [p.verdict.effect for p in own if p.verdict.verdict == "does not hold"]
    experiments = _several(len(own), noun.replace("sweep", "experiment"))
    said = f"One Poincaré constant serves the runs in {n_hold} of {experiments}"
    if spreads:
        ends = dict.fromkeys(f"{spread:.2g}" for spread in (min(spreads), max(spreads)))
        said += (
            f"; elsewhere the Poincaré ratio differs between runs by a factor of "
            f"{' to '.join(ends)}"
        )
    yield f"{said}."


def _matched(passed: Iterable[Passed]) -> Iterator[str]:
    """How many of the correlations that hold survive a comparison at one training loss."""
    pairs = [
        (verdict, again)
        for row, verdict in passed
        for again in [repeated(verdict, MATCHED, row.report.verdicts if row.report else ())]
        if again is not None
    ]
    counts = count(again for verdict, again in pairs if verdict.verdict == "holds")
    gained = count(again for verdict, again in pairs if verdict.verdict != "holds")["holds"]
    if any(counts.values()):
        yield (
            f"Of the {sum(counts.values())} correlations that hold, {counts['holds']} also hold at "
            f"matched training loss, {counts['undecided']} become undecided and "
            f"{counts['does not hold']} turn round; {gained} others hold only there."
        )


def _bound(passed: Sequence[Passed], noun: str) -> Iterator[str]:
    """The nearest-mean bound: that it is above every error, and where it says something."""
    own = [p for p in passed if p.verdict.x == _BOUND]
    if not own:
        return
    experiments = counted(own, noun.replace("sweep", "experiment"))
    vacuous = [part for population in ("source", "target") for part in _vacuous(own, population)]
    said = f"No measured error lies above the nearest-mean bound {experiments}"
    if vacuous:
        said += f"; at the end of training it is vacuous in {listed(vacuous)}"
    yield f"{said}."


def _vacuous(own: Iterable[Passed], population: str) -> Iterator[str]:
    column = f"{population}.nearest_mean_bound.inf.vacuous"
    values: list[bool] = []
    for passed in own:
        if passed.row.report is not None:
            runs = converged(passed.row.report.results.runs)
            values += [bool(value) for value in runs[column].dropna()] if column in runs else []
    if values:
        yield f"{sum(values)} of {len(values)} runs on {population} classes"


def _sampling(passed: Iterable[Passed]) -> Iterator[str]:
    """The ways of sampling GC."""
    own = [p.verdict for p in passed if p.verdict.claim == SAMPLING.name]
    if own:
        yield (
            f"Sampled estimates of GC have honest intervals and a median error of at most 5 % in "
            f"{count(own)['holds']} of {len(own)} ways of sampling."
        )


def learning_rate_sign(found: Reproduction) -> str:
    """What the learning rate does to GC in each sweep; empty without such a sweep."""
    parts = [
        f"{row.experiment.recipe} rho = {signed(verdict.effect)} {interval(verdict.interval)}"
        for row in found.stored
        for verdict in row.verdicts
        if verdict.x == "swept.training.learning_rate" and verdict.y == GC
    ]
    return f"Learning rate with GC: {'; '.join(parts)}." if parts else ""
