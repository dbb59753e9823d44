"""Verdict: what the data of a sweep say about one pair of quantities."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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

# The claims of Munn, Dherin, Gonzalvo (NeurIPS 2024) that a report judges, by number.
CLAIMS = {
    1: "Lower geometric complexity goes with lower geometric collapse and with lower neural collapse.",
    2: "A larger learning rate, a smaller batch, stronger L2 and an explicit GC penalty each lower geometric "
    "complexity, and with it geometric collapse and neural collapse.",
    3: "Lower source geometric complexity goes with lower target neural collapse and higher 5-shot accuracy.",
    4: "One Poincaré constant serves all runs, and the nearest-mean bound lies above the measured error and is not "
    "vacuous late in training.",
    5: "Estimates of geometric complexity from few examples, few outputs or a masked Jacobian agree with the full "
    "value.",
}


@dataclass(frozen=True)
class Verdict:
    """One judgement and the numbers behind it.

    Attributes:
        claim: number of the claim, 1 to 5.
        statement: what is judged, in words.
        sweep: the sweep it is judged within; `all runs` for claims 4 and 5.
        x: column of the first quantity (or the method of a sampling study).
        y: column of the second quantity.
        view: `main`, or the repetition that this is.
        verdict: `holds`, `does not hold` or `undecided`.
        n_runs: runs behind it.
        n_settings: settings behind it (means over seeds); None where settings play no part.
        effect_name: what `effect` is, e.g. Spearman's rho.
        effect: effect size; NaN where it is undefined.
        interval: 95 % interval of the effect; NaN where there is none.
        p: one-sided p on the expected side.
        p_holm: the same after Holm's correction within the claim.
        p_opposite: Holm-corrected p on the other side, behind `does not hold`.
        remark: a few words that belong to the verdict itself, such as how often a bound is vacuous.
        note: what a reader must know beside it.
        figure: name of the figure that shows it.
    """

    claim: int
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
    p: float = math.nan
    p_holm: float = math.nan
    p_opposite: float = math.nan
    remark: str = ""
    note: str = ""


def count(verdicts: Iterable[Verdict]) -> dict[Outcome, int]:
    """How many verdicts were passed, by outcome."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    return {outcome: counts[outcome] for outcome in ("holds", "does not hold", "undecided")}
