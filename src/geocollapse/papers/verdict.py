"""Verdict: the judgement of one pair of quantities from the data of a sweep."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from typing_extensions import TypedDict

from geocollapse.estimate import strict_json

Outcome = Literal["holds", "does not hold", "undecided"]
View = Literal[
    "main", "with non-converged runs", "at matched training loss", "GC divided by feature variance"
]

VIEWS: tuple[View, ...] = (
    "main",
    "with non-converged runs",
    "at matched training loss",
    "GC divided by feature variance",
)


@dataclass(frozen=True)
class Verdict:
    """One judgement and the numbers behind it.

    Attributes:
        claim: name of the claim.
        statement: what is judged, in words.
        sweep: the sweep it is judged within, or `all runs`.
        x: column of the first quantity (or the method of a sampling study).
        y: column of the second quantity.
        view: `main`, or which repetition it is.
        verdict: `holds`, `does not hold` or `undecided`.
        n_runs: runs behind it.
        n_settings: settings behind it (means over seeds); None where settings play no part.
        effect_name: the name of `effect`, e.g. Spearman's rho.
        effect: effect size; NaN where it is undefined.
        interval: 95 % interval of the effect; NaN where there is none.
        test: the test behind p, in words; empty where there is none.
        p: one-sided p on the expected side.
        p_holm: p after Holm's correction within the claim.
        p_opposite: Holm-corrected p on the other side, behind `does not hold`.
        p_two_sided: p on both sides, where no sign is expected; it decides nothing.
        kendall: Kendall's tau over the settings, beside rho.
        partial: rho given the log of the training loss at the end of the runs.
        within_seeds: mean over the seeds of rho within a seed.
        remark: a few words that belong to the verdict itself, such as how often a bound is vacuous.
        note: what a reader must know beside it.
        figure: name of the figure that shows it.
    """

    claim: str
    statement: str
    sweep: str
    x: str
    y: str
    verdict: Outcome
    n_runs: int
    figure: str
    view: View = "main"
    n_settings: int | None = None
    effect_name: str = "Spearman's rho"
    effect: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    test: str = ""
    p: float = math.nan
    p_holm: float = math.nan
    p_opposite: float = math.nan
    p_two_sided: float = math.nan
    kendall: float = math.nan
    partial: float = math.nan
    within_seeds: float = math.nan
    remark: str = ""
    note: str = ""


class VerdictDict(TypedDict):
    """The JSON form of a ``geocollapse.papers.verdict.Verdict``; null where it has NaN."""

    claim: str
    statement: str
    sweep: str
    x: str
    y: str
    view: str
    verdict: str
    n_runs: int
    n_settings: int | None
    effect_name: str
    effect: float | None
    interval: tuple[float | None, float | None]
    test: str
    p: float | None
    p_holm: float | None
    p_opposite: float | None
    p_two_sided: float | None
    kendall: float | None
    partial: float | None
    within_seeds: float | None
    remark: str
    note: str
    figure: str


def to_json(verdict: Verdict) -> VerdictDict:
    """The JSON form of a verdict."""
    return VerdictDict(**strict_json(asdict(verdict)))  # type: ignore[typeddict-item]


def count(verdicts: Iterable[Verdict]) -> dict[Outcome, int]:
    """How many verdicts were passed, by outcome."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    return {outcome: counts[outcome] for outcome in ("holds", "does not hold", "undecided")}
