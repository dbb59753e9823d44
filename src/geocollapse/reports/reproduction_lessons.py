"""What the paper does not say: where lower source NC goes with better transfer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from geocollapse.experiments.results.tables import ACCURACY, NC, TARGET_NC, converged
from geocollapse.papers.correlations import MIN_SETTINGS, setting_means
from geocollapse.papers.statistics import bootstrap_interval, spearman
from geocollapse.reports.reproduction import Reproduction, Row
from geocollapse.reports.wording import MISSING, interval, listed, signed

_BETTER = {TARGET_NC: 1, ACCURACY: -1}  # sign of rho if lower source NC goes with better transfer
_NAMES = {TARGET_NC: "target NC", ACCURACY: "5-shot accuracy"}

HEADINGS = tuple(
    f"{first} with {name}" for first in ("source NC", "setting") for name in _NAMES.values()
)  # of `Lesson.cells`


class Rho(NamedTuple):
    """A rank correlation over settings, with its bootstrap interval."""

    value: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        return f"{signed(self.value)} {interval(self.interval)}"


@dataclass(frozen=True)
class Lesson:
    """A sweep with target classes.

    Attributes:
        name: of the recipe, and of the sweep.
        of_source_nc: its rho with target NC and with accuracy.
        of_setting: rho of the swept value with the same two.
    """

    name: str
    of_source_nc: dict[str, Rho]
    of_setting: dict[str, Rho]

    @property
    def cells(self) -> tuple[str, ...]:
        """The four correlations as a table has them."""
        found = [rhos.get(y) for rhos in (self.of_source_nc, self.of_setting) for y in _BETTER]
        return tuple(MISSING if rho is None else str(rho) for rho in found)

    def transfer(self, measure: str) -> str:
        """How lower source NC goes with transfer: `better`, `worse`, or `undecided`.

        By the interval of rho, which must exclude 0.
        """
        low, high = sorted(_BETTER[measure] * end for end in self.of_source_nc[measure].interval)
        if low > 0.0:
            return "better"
        return "worse" if high < 0.0 else "undecided"


def lessons(found: Reproduction) -> list[Lesson]:
    """One lesson for each stored sweep with target classes and five settings."""
    return [lesson for row in found.stored for lesson in _lessons(row)]


def conclusions(learned: Sequence[Lesson]) -> list[str]:
    """When lower source NC goes with worse transfer: a sentence for each measure of transfer."""
    return [
        sentence
        for measure in _BETTER
        for sentence in _conclusion(measure, [le for le in learned if measure in le.of_source_nc])
    ]


def _conclusion(measure: str, learned: Sequence[Lesson]) -> Iterator[str]:
    said = []
    for outcome, lead in (("worse", "with worse transfer in"), ("better", "with better in")):
        names = [lesson.name for lesson in learned if lesson.transfer(measure) == outcome]
        said.append(f"{lead} {listed(names) if names else 'none'}")
    names = [lesson.name for lesson in learned if lesson.transfer(measure) == "undecided"]
    said.append(f"undecided in {listed(names) if names else 'none'}")
    if learned:
        yield f"By {_NAMES[measure]}, lower source NC goes {'; '.join(said)}."


def _lessons(row: Row) -> Iterator[Lesson]:
    if row.report is None:
        return
    results = row.report.results
    for sweep in results.sweeps:
        runs = converged(results.of_sweep(sweep))
        swept = next(name for name in runs.columns if name.startswith("swept."))
        found = [
            {
                y: Rho(spearman(first, second), bootstrap_interval(first, second))
                for y in _BETTER
                for first, second in [setting_means(runs, x, y)[0]]
                if len(first) >= MIN_SETTINGS
            }
            for x in (NC, swept)
        ]
        if found[0]:
            yield Lesson(row.name_of(sweep), *found)
