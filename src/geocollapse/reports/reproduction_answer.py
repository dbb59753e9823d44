"""What a reproduction found, in plain sentences made from its verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import ACCURACY, GC, GCOL, NC, TARGET_NC
from geocollapse.papers.collapse_transfer.claims import (
    COMPLEXITY_COLLAPSE,
    POINCARE_BOUND,
    SAMPLING,
    TRAINING_CHOICES,
    TRANSFER,
)
from geocollapse.papers.correlations import setting_means
from geocollapse.papers.statistics import bootstrap_interval, spearman
from geocollapse.papers.verdict import Verdict, count
from geocollapse.reports.reproduction import Reproduction, Row
from geocollapse.reports.wording import interval, signed

if TYPE_CHECKING:
    import pandas as pd

_SWEPT = {
    "swept.training.learning_rate": "a larger learning rate",
    "swept.training.batch_size": "a smaller batch",
    "swept.training.weight_decay": "stronger L2",
    "swept.training.gc_penalty.weight": "a penalty on GC",
}
_MEASURES = {GC: "GC", GCOL: "geometric collapse", NC: "NC"}


def answer(found: Reproduction) -> list[str]:
    """One sentence for each claim: in how many sweeps it holds."""
    passed = [verdict for row in found.stored for verdict in row.verdicts]
    return [
        *_training_choices(passed),
        *_pairs(
            passed,
            COMPLEXITY_COLLAPSE.name,
            "Lower GC goes with lower {}",
            {GCOL: "geometric collapse", NC: "NC"},
        ),
        *_pairs(
            passed,
            TRANSFER.name,
            "Lower source GC goes with {} on classes that training never saw",
            {TARGET_NC: "lower NC", ACCURACY: "higher 5-shot accuracy"},
        ),
        *_thresholds(passed),
        *_sampling(passed),
    ]


def counted(verdicts: Sequence[Verdict]) -> str:
    """In how many sweeps a claim holds, with the exceptions: ``in 3 of 4 sweeps (1 undecided)``."""
    outcomes = count(verdicts)
    n = len(verdicts)
    others = {
        "the other way": outcomes["does not hold"],
        "undecided": outcomes["undecided"],
    }
    exceptions = ", ".join(f"{number} {words}" for words, number in others.items() if number)
    sweeps = "sweep" if n == 1 else "sweeps"
    return f"in {outcomes['holds']} of {n} {sweeps}{f' ({exceptions})' if exceptions else ''}"


def _training_choices(passed: Sequence[Verdict]) -> Iterator[str]:
    """Each training choice with what it lowers."""
    for swept, choice in _SWEPT.items():
        own = [v for v in passed if v.claim == TRAINING_CHOICES.name and v.x == swept]
        if not own:
            continue
        parts = [f"{name} {counted([v for v in own if v.y == y])}" for y, name in _MEASURES.items()]
        yield f"{choice[0].upper()}{choice[1:]} lowers {', '.join(parts[:-1])}, and {parts[-1]}."


def _pairs(
    passed: Sequence[Verdict], claim: str, sentence: str, names: dict[str, str]
) -> Iterator[str]:
    """One sentence for the pairs of a claim whose sign is expected."""
    own = [v for v in passed if v.claim == claim and np.isnan(v.p_two_sided)]
    parts = [
        f"{name} {counted(of_pair)}"
        for y, name in names.items()
        if (of_pair := [v for v in own if v.y == y])
    ]
    if parts:
        yield f"{sentence.format(' and '.join(parts))}."


def _thresholds(passed: Sequence[Verdict]) -> Iterator[str]:
    """The nearest-mean bound."""
    for verdict in passed:
        if verdict.claim == POINCARE_BOUND.name and verdict.x == "nearest-mean bound":
            errors = {"holds": "No measured error", "does not hold": "A measured error"}
            if verdict.verdict in errors:
                said = errors[verdict.verdict]
                yield f"{said} lies above the nearest-mean bound; {verdict.remark}."


def _sampling(passed: Sequence[Verdict]) -> Iterator[str]:
    """The ways of sampling GC."""
    own = [v for v in passed if v.claim == SAMPLING.name]
    if own:
        good = [v.x for v in own if v.verdict == "holds"]
        yield (
            f"Sampled estimates of GC have honest intervals and a median error of at most 5 % in "
            f"{len(good)} of {len(own)} ways of sampling."
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


def lessons(found: Reproduction) -> list[str]:
    """What the paper does not say: does lower source NC go with better transfer?

    For each sweep with target classes, rho over settings of source NC with target NC and with
    5-shot accuracy.
    """
    return [sentence for row in found.stored for sentence in _source_nc(row)]


def _source_nc(row: Row) -> Iterator[str]:
    report = row.report
    if report is None:
        return
    results = report.results
    converged = results.runs[results.runs["converged"].astype(bool)]["run_id"]
    for sweep in results.sweeps:
        members = results.of_sweep(sweep)
        members = members[members["run_id"].isin(converged)]
        said = [
            f"{name} rho = {signed(rho)} {interval(bounds)}"
            for name, y in (("target NC", TARGET_NC), ("5-shot accuracy", ACCURACY))
            for rho, bounds in _rho(members, NC, y)
        ]
        if said:
            name = f"{row.experiment.recipe}, {sweep.replace('_', ' ')}"
            yield f"{name}: source NC with {' and with '.join(said)}."


def _rho(members: pd.DataFrame, x: str, y: str) -> Iterator[tuple[float, tuple[float, float]]]:
    """Rho over settings with its interval; nothing below five settings."""
    (first, second), _ = setting_means(members, x, y)
    if len(first) >= 5:
        yield spearman(first, second), bootstrap_interval(first, second)
