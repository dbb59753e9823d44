"""When to stop probing: at a precision, a number of examples or seconds, or on Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from geocollapse.estimate import SEQUENTIAL_Z, Estimate
from geocollapse.numerics import is_count
from geocollapse.runtime.processes import share

_FIRST_LOOK = 512
_LOOK_GROWTH = 1.25


@dataclass(frozen=True)
class StoppingRule:
    """When an estimate needs no further examples.

    Attributes:
        rtol: relative half-width of the 95 % interval: stop at z SE / value <= log(1 + rtol) with
            z = 2.24.
        atol: standard error: stop at SE <= atol, in the unit of the estimate.
        max_samples: probe at most this many examples.
        max_seconds: start no batch of probes after this time.

    Raises:
        ValueError: a number out of range, or both precisions at once.

    Source: definitions 1, stopping when precise enough; Chow and Robbins (1965).
    """

    rtol: float | None = None
    atol: float | None = None
    max_samples: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, example in (("rtol", 0.05), ("atol", 0.1), ("max_seconds", 60)):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0.0):
                raise ValueError(
                    f"{name}: expected a positive number, got {value}; do {name}={example}"
                )
        most = self.max_samples
        if most is not None and (not is_count(most) or most < 2):
            raise ValueError(
                f"max_samples: expected a whole number of at least 2, got {most}; do "
                f"max_samples=512"
            )
        if self.rtol is not None and self.atol is not None:
            raise ValueError(
                f"atol: expected one precision to stop at, got rtol={self.rtol:g} and "
                f"atol={self.atol:g}; do leave one of them out"
            )

    @property
    def is_sequential(self) -> bool:
        """True if the sample size depends on looks at the estimate."""
        return self.rtol is not None or self.atol is not None

    @property
    def given(self) -> list[str]:
        """The arguments that were given; each needs examples in a random order."""
        return [name for name, value in vars(self).items() if value is not None]

    def check_shared(self) -> None:
        """Refuse to stop by the clock when several processes share the work.

        Raises:
            ValueError: ``max_seconds`` with more than one process, each of which has its own clock.
        """
        if self.max_seconds is not None and share()[1] > 1:
            raise ValueError(
                f"max_seconds: expected None with {share()[1]} processes, got "
                f"{self.max_seconds:g}; do max_samples= or rtol=, at which all stop together"
            )

    def check_first_look(self, n_examples: int, n_classes: int) -> None:
        """Refuse a ``max_samples`` below the first look at the estimate.

        Raises:
            ValueError: names the smallest ``max_samples`` that works.
        """
        first = min(first_look(n_classes), n_examples)
        if self.is_sequential and self.max_samples is not None and self.max_samples < first:
            name = "rtol" if self.rtol is not None else "atol"
            raise ValueError(
                f"max_samples: expected at least {first}, where {name} has its first look, got "
                f"{self.max_samples}; do max_samples={first}, or leave {name} out"
            )

    def largest_error(self, value: float) -> float:
        """The standard error at which an estimate of ``value`` is precise enough."""
        if self.atol is not None:
            return self.atol
        return math.inf if self.rtol is None else math.log1p(self.rtol) * value / SEQUENTIAL_Z

    def is_met(self, estimate: Estimate) -> bool:
        """True if ``estimate`` is precise enough; an estimate of 0 always is."""
        if estimate.value == 0.0 or estimate.stderr == 0.0:
            return True
        return estimate.stderr <= self.largest_error(estimate.value)

    def marked(self, estimate: Estimate, n_population: int | None, ending: str) -> Estimate:
        """``estimate`` with a warning where precision, time or Ctrl-C cut the request short."""
        n = estimate.n_samples
        notes = []
        if self.is_sequential and not self.is_met(estimate):
            notes.append(self._missed(estimate, is_whole=n == n_population))
        read = f"{n} examples" if n_population is None else f"{n} of {n_population} examples"
        if ending == "seconds":
            notes.append(f"max_seconds={self.max_seconds:g} ended the probes after {read}")
        if ending == "interrupted":
            notes.append(f"interrupted after {read}: the estimate so far")
        if not notes:
            return estimate
        return replace(
            estimate, interrupted=ending == "interrupted", warnings=(*estimate.warnings, *notes)
        )

    def _missed(self, estimate: Estimate, *, is_whole: bool) -> str:
        """A note that the precision was not reached, and how close the estimate came."""
        wanted = f"rtol={self.rtol:g}" if self.rtol is not None else f"atol={self.atol:g}"
        low, high = estimate.interval()
        reached = (high / low) ** 0.5 - 1.0 if low > 0.0 else math.inf
        why = ", and there are no more; do raise n_probes" if is_whole else ""
        return (
            f"{wanted} was not reached with {estimate.n_samples} examples: the interval is "
            f"+-{reached:.1%}, the standard error {estimate.stderr:.3g}{why}"
        )


def first_look(n_classes: int = 0) -> int:
    """Examples at the first look at a sequential estimate: max(512, 2 C)."""
    return max(_FIRST_LOOK, 2 * n_classes)


def looks(n_examples: int, n_classes: int = 0) -> list[int]:
    """Sample sizes at the looks: max(512, 2 C), then each time a quarter more, up to n.

    Source: definitions 1, stopping when precise enough.
    """
    sizes = [first_look(n_classes)]
    while sizes[-1] < n_examples:
        sizes.append(math.ceil(_LOOK_GROWTH * sizes[-1]))
    return [min(size, n_examples) for size in sizes]


@contextmanager
def first_interrupt_asks() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to end after the current batch.

    A second Ctrl-C interrupts as usual. Yields a function that tells if Ctrl-C was pressed; it
    never does outside the main thread, with several processes, or in a program that handles
    Ctrl-C itself.
    """
    pressed = threading.Event()
    is_ours = (
        share()[1] == 1
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def ask(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.set()

    if is_ours:
        signal.signal(signal.SIGINT, ask)
    try:
        yield pressed.is_set
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
