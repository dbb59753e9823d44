"""How fast a run is on this machine, timed over a few steps and one record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

_SLOW_RECORD = 5.0  # seconds
_SLOW_STEPS = 20.0  # seconds after which no further step is timed
_TIMED_STEPS = 20  # steps behind the estimate of a run's cost


@dataclass(frozen=True)
class Pace:
    """The parts of a run's cost.

    Attributes:
        seconds_per_step: one update, or one turn of a game.
        seconds_per_record: one record.
        n_steps: steps of the run, if it does not end early.
        n_records: its records.
    """

    seconds_per_step: float
    seconds_per_record: float
    n_steps: int
    n_records: int

    @property
    def seconds(self) -> float:
        """The run up to its last step, with its records."""
        return self.seconds_per_step * self.n_steps + self.seconds_per_record * self.n_records


def timed(
    step: Callable[[], object],
    record: Callable[[], object],
    *,
    n_steps: int,
    n_records: int,
    wait: Callable[[], object] = lambda: None,
) -> Pace:
    """Time steps and a record; the first of either does not count, unless it is slow.

    Args:
        step: makes one step.
        record: takes one record.
        n_steps: of a whole run.
        n_records: of a whole run.
        wait: returns when the device has made all steps.
    """
    step()
    wait()
    n_timed = 0
    started = time.perf_counter()
    while n_timed < min(_TIMED_STEPS, n_steps):
        step()
        n_timed += 1
        if time.perf_counter() - started > _SLOW_STEPS:
            break
    wait()
    per_step = (time.perf_counter() - started) / n_timed
    per_record = math.inf
    for _ in range(2):
        started = time.perf_counter()
        record()
        per_record = min(per_record, time.perf_counter() - started)
        if per_record > _SLOW_RECORD:
            break
    return Pace(per_step, per_record, n_steps, n_records)
