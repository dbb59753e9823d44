"""Claim and Paper: the records by which a paper's folder says what is judged, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from geocollapse.experiments.results.tables import SweepResults
    from geocollapse.papers.verdict import Verdict

Judgement = Literal["correlation", "threshold", "methods"]


class Judge(Protocol):
    """Every verdict of a paper on a sweep."""

    def __call__(self, results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]: ...


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, with what a report shows beside its verdicts.

    Attributes:
        name: unique among all papers, in kebab case; `Verdict.claim` refers to it.
        statement: the claim, in a sentence.
        judged_by: `correlation`: the rank correlation of two columns, with p; `threshold`: a
            quantity over all runs; `methods`: one threshold for each of several methods.
        effect: the numbers beside its verdicts, in words.
        figures: charts that show it, by the start of their names.
        cautions: what can mislead a reader.
        pairs: words for the pair of a verdict, by the verdict's ``x``, where they are no columns.
    """

    name: str
    statement: str
    judged_by: Judgement
    effect: str
    figures: tuple[str, ...]
    cautions: tuple[str, ...]
    pairs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """A paper whose claims can be judged.

    Attributes:
        name: in kebab case; recipes refer to it under `claims.papers`.
        citation: authors and year, as a sentence has them.
        claims: in published order.
        judge: the verdicts on them.
    """

    name: str
    citation: str
    claims: tuple[Claim, ...]
    judge: Judge
