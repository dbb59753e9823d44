"""The repetitions of a verdict in other views, beside the main one."""

from __future__ import annotations

from collections.abc import Iterable

from geocollapse.experiments.results.tables import GC, GC_PER_VARIANCE
from geocollapse.papers.verdict import Verdict, View


def same_pair(verdict: Verdict) -> tuple[str, ...]:
    """The key that a verdict shares with its repetitions: the sweep, and the pair with plain GC."""
    pair = (name.replace(GC_PER_VARIANCE, GC) for name in (verdict.x, verdict.y))
    return (verdict.sweep, *pair)


def repeated(verdict: Verdict, view: View, verdicts: Iterable[Verdict]) -> Verdict | None:
    """A verdict as another view has it; None where that view leaves the pair out.

    Args:
        verdict: of the view `main`.
        view: of the repetition.
        verdicts: all of the sweep.
    """
    key = (verdict.claim, same_pair(verdict))
    found = (v for v in verdicts if v.view == view and (v.claim, same_pair(v)) == key)
    return next(found, None)
