"""Verdicts on Morse networks as detectors, from the stored benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geocollapse.papers.margins import MIN_SEEDS, Margin, corrected
from geocollapse.papers.morse.cells import Cells
from geocollapse.papers.morse.claims import (
    AS_GOOD,
    AUROC_MARGIN,
    CHOSEN_ON,
    IMAGES,
    LABELLED,
    LABELS,
    NEAR,
    NEAR_AND_FAR,
    NOISE,
    RIVALS,
    SETS,
    UNLABELLED,
)
from geocollapse.papers.verdict import Verdict

_NOT_FITTED = "MSP"
RULE = (
    "Margins over networks: a difference in AUROC is averaged over the seeds of each network, then "
    "over the networks, with Student's 95 % interval and one-sided p, and Holm's correction over "
    "the verdicts on a claim. Holds: all of the interval lies on the side of the margin that is "
    "claimed, and p ≤ 0.05 with the correction; does not hold: the same on the other side; "
    f"undecided otherwise, and below {MIN_SEEDS} networks. The network on which the defaults were "
    "chosen does not count."
)


def judge(path: Path) -> tuple[Verdict, ...]:
    """Every verdict, from a file of ``benchmarks/ood.py``.

    A network counts when all detectors of the claims are stored with the same seeds.
    """
    return judge_cells(Cells.read(path))


def judge_cells(cells: Cells) -> tuple[Verdict, ...]:
    """Every verdict on the cells of a file."""
    fitted = (LABELLED, UNLABELLED, *(name for name in RIVALS if name != _NOT_FITTED))
    networks = [
        name
        for name in cells.networks
        if name != CHOSEN_ON and cells.has(name, fitted, (_NOT_FITTED,))
    ]
    return tuple(corrected([pair.judged(cells, networks) for pair in PAIRS]))


@dataclass(frozen=True)
class Pair:
    """A mean AUROC that must not lie further below another than a margin.

    Attributes:
        claim: name of the claim.
        statement: in words.
        first: a detector and the sets that its AUROC is averaged over.
        second: what it is compared with.
        margin: below the second that is allowed.
        counts_sets: the verdict says on how many sets the first is ahead.
    """

    claim: str
    statement: str
    first: tuple[str, Sequence[str]]
    second: tuple[str, Sequence[str]]
    margin: float = 0.0
    counts_sets: bool = False

    def judged(self, cells: Cells, networks: Sequence[str]) -> Verdict:
        """The verdict over the networks, which is undecided where there are few."""
        first = [cells.auroc(network, *self.first) for network in networks]
        second = [cells.auroc(network, *self.second) for network in networks]
        differences = np.array([a.mean() - b.mean() for a, b in zip(first, second, strict=True)])
        remark = ""
        if self.counts_sets and networks:
            ahead = np.count_nonzero(np.mean(first, axis=0) > np.mean(second, axis=0))
            remark = f"ahead on {ahead} of {len(self.first[1])} sets"
        verdict = Verdict(
            claim=self.claim,
            statement=self.statement,
            sweep="all runs",
            x=self.first[0],
            y=self.second[0],
            verdict="undecided",
            n_runs=len(networks),
            figure="",
            effect_name="difference",
            remark=remark,
        )
        margin = Margin(-self.margin, 1, unit="networks")
        return margin.judged(verdict, differences) if networks else verdict


PAIRS = (
    Pair(
        NEAR_AND_FAR.name,
        "a higher AUROC on Fashion-MNIST and MNIST than on CIFAR-100",
        (LABELLED, IMAGES),
        (LABELLED, (NEAR,)),
    ),
    Pair(
        NEAR_AND_FAR.name,
        "a higher AUROC on noise than on CIFAR-100",
        (LABELLED, NOISE),
        (LABELLED, (NEAR,)),
    ),
    Pair(
        LABELS.name,
        "a higher AUROC on CIFAR-100 with labels than without",
        (LABELLED, (NEAR,)),
        (UNLABELLED, (NEAR,)),
    ),
    *(
        Pair(
            AS_GOOD.name,
            f"a mean AUROC at most {AUROC_MARGIN} below {rival}",
            (LABELLED, SETS),
            (rival, SETS),
            AUROC_MARGIN,
            counts_sets=True,
        )
        for rival in RIVALS
    ),
)
