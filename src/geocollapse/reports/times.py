"""Times of runs in words: what they cost, apart from pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geocollapse.experiments.results.pauses import FACTOR, pauses

if TYPE_CHECKING:
    from geocollapse.experiments.results.tables import SweepResults


def median_history_share(results: SweepResults) -> float | None:
    """Records on the way over the time of the steps: the median run, which no pause moves.

    None where no run has both times.
    """
    runs = results.runs
    if not {"seconds_history", "seconds_training"} <= set(runs.columns):
        return None
    training = runs["seconds_training"].astype(float)
    shares = (runs["seconds_history"].astype(float) / training.where(training > 0)).dropna()
    return float(shares.median()) if len(shares) else None


def pause_note(results: SweepResults) -> str:
    """The pauses that the times of a sweep contain, by run; nothing where there are none."""
    named = [
        f"{_what(pause.part)} step {pause.step} of run {pause.run_id} took {pause.seconds:,.0f} s"
        for pause in pauses(results.history)
    ]
    if not named:
        return ""
    return (
        f"A pause and no cost, though the sums contain it: {', '.join(named)}, more than "
        f"{FACTOR:.0f} times as long as usual in that run."
    )


def _what(part: str) -> str:
    return "the record at" if part == "record" else "the steps up to"
