"""Times two ways to do the same work, interleaved, and stores their ratio with the machine."""

from __future__ import annotations

import json
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
Work = Callable[[], Any]
Machine = dict[str, str | int | None]
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what ``ONLY=`` selects by its beginning.
        work: what is done, in words.
        against: what it is compared with, in words.
        reach: the ratio aimed at; smaller is better.
        prepare: makes the two pieces of work, (ours, theirs); not timed.
        repeats: interleaved repetitions; the median counts.
        check: compares the two results, raises if they are not the same number.
        times: how often the other work would have to be repeated for our result; it is timed once.
        allowance: seconds that are added to the other work, for a budget.
        single: on one thread, in processor time, which other jobs on the machine disturb less.
    """

    name: str
    work: str
    against: str
    reach: float
    prepare: Callable[[], tuple[Work, Work]]
    repeats: int = 5
    check: Callable[[Any, Any], None] | None = None
    times: Callable[[Any], float] = lambda _: 1.0
    allowance: float = 0.0
    single: bool = False


@dataclass(frozen=True)
class Result:
    """A measured row: medians in seconds, their ratio, and peak memory above the start in MB."""

    name: str
    work: str
    against: str
    reach: float
    seconds: float
    seconds_against: float
    ratio: float
    ratio_range: tuple[float, float]
    peak_mb: float
    peak_mb_against: float
    repeats: int
    machine: Machine


def run(row: Row) -> Result:
    """Measure one row; an untimed repetition of each warms up, and ``check`` compares these two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if row.single else threads)
    try:
        return _measured(row, time.process_time if row.single else time.perf_counter)
    finally:
        torch.set_num_threads(threads)


def _measured(row: Row, clock: Callable[[], float]) -> Result:
    ours, theirs = row.prepare()
    first, peak = with_peak_memory(ours)
    other, peak_against = with_peak_memory(theirs)
    if row.check is not None:
        row.check(first, other)
    times = row.times(first)
    del first, other
    pairs = [
        (timed(ours, clock), times * timed(theirs, clock) + row.allowance)
        for _ in range(row.repeats)
    ]
    ratios = sorted(a / b for a, b in pairs)
    seconds, against = (statistics.median(column) for column in zip(*pairs))
    return Result(
        row.name,
        row.work,
        row.against,
        row.reach,
        seconds,
        against,
        statistics.median(ratios),
        (ratios[0], ratios[-1]),
        peak,
        peak_against,
        row.repeats,
        machine(),
    )


def timed(work: Work, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time ``work`` in seconds, including the accelerator's queue."""
    synchronise()
    start = clock()
    work()
    synchronise()
    return clock() - start


def synchronise() -> None:
    """Wait for the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def with_peak_memory(work: Callable[[], T]) -> tuple[T, float]:
    """Return the result of ``work`` and its peak memory, in MB above the start.

    The resident set is sampled every 5 ms.
    """
    with _sampled_memory() as samples:
        result = work()
    return result, (max(samples) - samples[0]) / 2**20


@contextmanager
def _sampled_memory() -> Iterator[list[int]]:
    samples = [_resident_bytes()]
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.005):
            samples.append(_resident_bytes())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        samples.append(_resident_bytes())
        stop.set()
        thread.join()


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


def machine() -> Machine:
    """Describe the machine that the numbers are measured on."""
    return {
        "processor": _processor(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def store(results: list[Result], path: Path) -> None:
    """Merge ``results`` into the file; rows that were not run keep their last result."""
    known = (
        {entry["name"]: entry for entry in json.loads(path.read_text())} if path.exists() else {}
    )
    known |= {result.name: asdict(result) for result in results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([known[name] for name in sorted(known)], indent=1) + "\n")


def show(results: list[Result]) -> None:
    """Print the table."""
    table = Table(
        "row",
        "work",
        "against",
        "ratio",
        "range",
        "reach",
        "seconds",
        "peak MB",
        title="make bench",
    )
    for r in results:
        style = "green" if r.ratio <= r.reach else "red"
        table.add_row(
            r.name,
            r.work,
            r.against,
            f"[{style}]{r.ratio:.3g}[/]",
            f"{r.ratio_range[0]:.3g}-{r.ratio_range[1]:.3g}",
            f"<= {r.reach:g}",
            f"{r.seconds:.3g} / {r.seconds_against:.3g}",
            f"{r.peak_mb:.0f} / {r.peak_mb_against:.0f}",
        )
    console = Console(width=160)
    console.print(table)
    console.print(str(machine()))
