"""The stored benchmark of detectors, ``benchmarks/results/ood.json``, as a table of values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geocollapse.papers.morse.claims import SETS
from geocollapse.papers.statistics import Array

_TIMES = ("fit_seconds", "microseconds_per_image")


@dataclass(frozen=True)
class Cell:
    """One detector on the features of one network, fitted with one seed.

    Attributes:
        network: its name.
        detector: its name.
        seed: of the half of the training images, and of the fit.
        auroc: on each set.
        auroc_stderr: DeLong's, of the test images.
        fpr95: at 95 % TPR, on each set.
        fit_seconds: of one thread.
        microseconds_per_image: of scoring features.
    """

    network: str
    detector: str
    seed: int
    auroc: Mapping[str, float]
    auroc_stderr: Mapping[str, float]
    fpr95: Mapping[str, float]
    fit_seconds: float
    microseconds_per_image: float


@dataclass(frozen=True)
class Cells:
    """All cells of a file, in its order."""

    cells: tuple[Cell, ...]

    @classmethod
    def read(cls, path: Path) -> Cells:
        """The cells of a file of ``benchmarks/ood.py``."""
        stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return cls(
            tuple(_cell(key, one, [one[time] for time in _TIMES]) for key, one in stored.items())
        )

    @property
    def networks(self) -> list[str]:
        """Their names, in the order of the file."""
        return list(dict.fromkeys(cell.network for cell in self.cells))

    @property
    def detectors(self) -> list[str]:
        """Their names, in the order of the file."""
        return list(dict.fromkeys(cell.detector for cell in self.cells))

    def of(self, network: str, detector: str) -> list[Cell]:
        """The cells of all seeds."""
        return [cell for cell in self.cells if (cell.network, cell.detector) == (network, detector)]

    def has(self, network: str, fitted: Iterable[str], others: Iterable[str] = ()) -> bool:
        """True where fitted detectors have the same seeds, and others have one."""
        seeds = [{cell.seed for cell in self.of(network, name)} for name in fitted]
        same = bool(seeds) and bool(seeds[0]) and all(one == seeds[0] for one in seeds)
        return same and all(self.of(network, name) for name in others)

    def auroc(self, network: str, detector: str, sets: Iterable[str]) -> Array:
        """The mean over seeds on each set, (k,)."""
        names = list(sets)
        values = [[cell.auroc[name] for name in names] for cell in self.of(network, detector)]
        return np.asarray(np.mean(values, axis=0))


def _cell(key: str, of_sets: Mapping[str, Mapping[str, float]], times: Sequence[float]) -> Cell:
    network, detector, seed = key.split("/")
    auroc, stderr, fpr95 = (
        {name: float(of_sets[name][value]) for name in SETS}
        for value in ("auroc", "auroc_stderr", "fpr95")
    )
    return Cell(network, detector, int(seed), auroc, stderr, fpr95, *times)
