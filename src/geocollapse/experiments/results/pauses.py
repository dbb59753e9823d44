"""Pauses in the recorded times of runs: a process that is suspended goes on being timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

FACTOR = 20.0  # times the median of the run
_SHORTEST = 60.0  # seconds; below it, work that is done once explains a long record

Part = Literal["record", "steps"]


@dataclass(frozen=True)
class Pause:
    """A record, or the steps before one, that took far longer than others of its run.

    Attributes:
        run_id: of the run.
        step: of the record.
        part: what was timed.
        seconds: that it took, the pause included.
    """

    run_id: str
    step: int
    part: Part
    seconds: float


def pauses(history: pd.DataFrame) -> list[Pause]:
    """The records above 20 times the run's median record, and the steps above 20 times its pace.

    Both only from a minute on.

    Args:
        history: as of a sweep, with `seconds` and `seconds_measuring` since the start of a run.
    """
    if not {"run_id", "step", "seconds", "seconds_measuring"} <= set(history.columns):
        return []
    return [pause for _, run in history.groupby("run_id", sort=False) for pause in _of_run(run)]


def _of_run(run: pd.DataFrame) -> Iterator[Pause]:
    steps = run["step"].to_numpy(dtype=np.float64)
    measuring = np.diff(run["seconds_measuring"].to_numpy(dtype=np.float64), prepend=0.0)
    training = np.diff(run["seconds"].to_numpy(dtype=np.float64), prepend=0.0) - measuring
    taken = np.diff(steps, prepend=0.0)
    pace = np.divide(training, taken, out=np.zeros_like(training), where=taken > 0)
    per_unit: tuple[tuple[Part, NDArray[np.float64], NDArray[np.float64]], ...] = (
        ("record", measuring, measuring),
        ("steps", training, pace),
    )
    for part, seconds, cost in per_unit:
        known = cost[cost > 0]
        usual = float(np.median(known)) if known.size else 0.0
        for i in np.flatnonzero((cost > FACTOR * usual) & (seconds > _SHORTEST)):
            yield Pause(str(run["run_id"].iloc[0]), int(steps[i]), part, float(seconds[i]))
