"""When a p decides, and how a family of verdicts shares one level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from geocollapse.multiple_tests import holm
from geocollapse.papers.verdict import Verdict

LEVEL = 0.05
_ROUNDING = 1e-12  # 6 * (1/120) is 0.05, whatever its last bit


def is_significant(p: float) -> bool:
    """True if p is at most 0.05, up to rounding; False for NaN."""
    return p <= LEVEL + _ROUNDING


def with_holm(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts with their p of either side corrected within each claim, claim by claim."""
    corrected: list[Verdict] = []
    for claim in dict.fromkeys(verdict.claim for verdict in verdicts):
        family = [verdict for verdict in verdicts if verdict.claim == claim]
        expected = holm([verdict.p for verdict in family])
        opposite = holm([verdict.p_opposite for verdict in family])
        corrected += [
            replace(verdict, p_holm=p, p_opposite=q)
            for verdict, p, q in zip(family, expected, opposite, strict=True)
        ]
    return corrected


def decided(verdict: Verdict) -> Verdict:
    """The verdict by its corrected p of either side."""
    if is_significant(verdict.p_holm):
        return replace(verdict, verdict="holds")
    if is_significant(verdict.p_opposite):
        return replace(verdict, verdict="does not hold")
    return replace(verdict, verdict="undecided")


def noted_over_sweeps(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of one view, with a note where counting all sweeps would undecide one.

    Holm's correction counts the verdicts on one claim in one sweep.

    Args:
        verdicts: of every sweep of a folder, decided, with their uncorrected p.
    """
    noted = list(verdicts)
    for claim in dict.fromkeys(verdict.claim for verdict in verdicts):
        family = [i for i, verdict in enumerate(verdicts) if verdict.claim == claim]
        for i, p in zip(family, holm([verdicts[i].p for i in family]), strict=True):
            if verdicts[i].verdict == "holds" and not is_significant(p):
                note = f"Undecided if Holm counts all sweeps of this folder (p = {p:.3f})."
                noted[i] = replace(verdicts[i], note=f"{verdicts[i].note} {note}".strip())
    return noted
