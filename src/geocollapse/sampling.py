"""Which examples of a data set are probed, in what order, how often, and until when."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from geocollapse.batches import Batch, MapExamples, StreamExamples
from geocollapse.estimate import SEQUENTIAL_Z, Estimate
from geocollapse.jacobian import Estimator, Map, ProbePlan, SquaredNorms
from geocollapse.probes import random_order

SECOND_PROBES_PER_CLASS = 20
SECOND_PROBES = 200  # examples with a second probe, where one probe is the default
_FIRST_LOOK = 512
_LOOK_GROWTH = 1.25


@dataclass(frozen=True)
class ProbeSchedule:
    """Which examples are probed, and how often.

    Attributes:
        segments: positions in the order they are read; empty for a stream, which is read as it comes.
        n_probes: probes for the examples of each segment.
        n_counted: probes of an example that count; a further one only serves the standard error.
    """

    segments: tuple[Tensor, ...]
    n_probes: tuple[int, ...]
    n_counted: int

    @property
    def probed(self) -> tuple[Tensor, ...]:
        """The segments that are read with probes."""
        return tuple(segment for segment, n in zip(self.segments, self.n_probes) if n > 0)

    def is_probed(self, batch: Batch) -> bool:
        """Whether the examples of ``batch`` are probed at all."""
        return self.n_probes[batch.segment] > 0

    def norms(
        self, plan: ProbePlan, features: Tensor, leaf: Tensor, batch: Batch, *, f: Map, keep_graph: bool = False
    ) -> SquaredNorms:
        """Squared Jacobian norms of a batch, with the probes of its segment."""
        n_probes = self.n_probes[batch.segment]
        return plan.norms(features, leaf, batch.indices, n_probes, f=f, n_counted=self.n_counted, keep_graph=keep_graph)


def schedule_probes(
    examples: MapExamples | StreamExamples,
    *,
    estimator: Estimator = "rademacher",
    n_probes: int | Literal["auto"] = "auto",
    max_samples: int | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> ProbeSchedule:
    """Plan the probes of one pass over the data: each example goes forward once, the probed ones first.

    ``auto`` is one probe, and a second one on max(200, 20 C) examples that estimates the probes' own variance. A
    sample is drawn in the order of the hash of (seed, position), the same number of each class where labels are known.
    With ``rtol`` the sample is read in segments that end at the looks: max(512, 2 C) examples, then 1.25 times more.

    Raises:
        ValueError: ``max_samples`` below 2, ``rtol`` not positive, or either asked of a stream.
    """
    _check_rtol(rtol, examples)
    if max_samples is not None and (max_samples < 2 or isinstance(examples, StreamExamples)):
        got = f"{max_samples} for a stream of batches" if isinstance(examples, StreamExamples) else max_samples
        raise ValueError(
            f"max_samples: expected at least 2, of a data set that can be read in any order, got {got}; "
            f"do pass a map-style data set or a loader over one"
        )
    n_counted = 1 if n_probes == "auto" else n_probes
    if isinstance(examples, StreamExamples):
        return ProbeSchedule((), (n_counted,), n_counted)
    order, n_classes = _sampling_order(examples, seed)
    n_sampled = min(max_samples or len(order), len(order))
    has_second = n_probes == "auto" and estimator != "exact"
    n_second = min(n_sampled, max(SECOND_PROBES, SECOND_PROBES_PER_CLASS * n_classes)) if has_second else 0
    ends = [n_sampled] if rtol is None else looks(n_sampled, n_classes)
    ends = [n_second, *(max(end, n_second) for end in ends), len(order)]
    segments = tuple(order[start:end].sort().values for start, end in zip([0, *ends], ends))
    return ProbeSchedule(segments, (2, *[n_counted] * (len(ends) - 2), 0), n_counted)


def looks(n_examples: int, n_classes: int = 0) -> list[int]:
    """Sample sizes at which a sequential estimate is looked at: max(512, 2 C), then each time 1.25 times more.

    Source: definitions 1, stopping when precise enough; Chow and Robbins (1965).
    """
    sizes = [max(_FIRST_LOOK, 2 * n_classes)]
    while sizes[-1] < n_examples:
        sizes.append(math.ceil(_LOOK_GROWTH * sizes[-1]))
    return [min(size, n_examples) for size in sizes]


def is_precise(estimate: Estimate, rtol: float) -> bool:
    """Whether z SE / value <= log(1 + rtol), with the z = 2.24 that the looking costs."""
    if estimate.value == 0.0 or estimate.stderr == 0.0:
        return True
    return SEQUENTIAL_Z * estimate.stderr / estimate.value <= math.log1p(rtol)


class Stopping:
    """Stops the probes at the first look at which every estimate is precise enough.

    Args:
        rtol: relative half-width asked for, or None to probe the whole sample.
        current: the estimates from what has been read so far, one a layer.
    """

    def __init__(self, rtol: float | None, current: Callable[[], list[Estimate]]) -> None:
        self._rtol = rtol
        self._current = current
        self._segment = 0
        self.is_met = False

    def wants(self, batch: Batch) -> bool:
        """Whether the examples of ``batch`` are to be probed; looks when a segment has ended."""
        if self._rtol is None or self.is_met:
            return not self.is_met
        if batch.segment > max(self._segment, 1):  # the first look is behind the first two segments
            self.is_met = all(is_precise(estimate, self._rtol) for estimate in self._current())
        self._segment = batch.segment
        return not self.is_met


def _check_rtol(rtol: float | None, examples: MapExamples | StreamExamples) -> None:
    if rtol is None:
        return
    if not (math.isfinite(rtol) and rtol > 0.0):
        raise ValueError(f"rtol: expected a positive number, got {rtol}; do rtol=0.05")
    if isinstance(examples, StreamExamples):
        raise ValueError(
            "rtol: expected a data set that can be read in any order, got a stream of batches; "
            "do pass a map-style data set or a loader over one"
        )


class Readings:
    """Squared Jacobian norms gathered batch by batch, with the positions of their examples."""

    def __init__(self) -> None:
        self._norms: list[SquaredNorms] = []
        self._indices: list[Tensor] = []

    def add(self, norms: SquaredNorms, batch: Batch) -> None:
        """Take the norms of one batch."""
        self._norms.append(norms)
        self._indices.append(batch.indices)

    def gathered(self) -> tuple[SquaredNorms, Tensor]:
        """All norms in the order of the data set and their positions (n,), on the CPU.

        Raises:
            ValueError: no example was read.
        """
        if not self._norms:
            raise ValueError("data: expected at least one example, got none; do check the loader")
        indices = torch.cat(self._indices)
        order = indices.argsort()
        return SquaredNorms.cat(self._norms).cpu()[order], indices[order]


def known_classes(examples: MapExamples | StreamExamples, indices: Tensor) -> tuple[Tensor | None, dict[int, int]]:
    """Labels of the examples at ``indices`` and the counts of all classes, where they were known before reading."""
    if isinstance(examples, StreamExamples) or examples.labels is None:
        return None, {}
    classes, counts = examples.labels.unique(return_counts=True)
    rows = torch.searchsorted(examples.indices, indices)
    return examples.labels[rows], dict(zip(classes.tolist(), counts.tolist(), strict=True))


def _sampling_order(examples: MapExamples, seed: int) -> tuple[Tensor, int]:
    """Positions in the order they are sampled: classes take turns where labels are known; and how many classes."""
    order = random_order(seed, examples.indices)
    if examples.labels is None:
        return order, 0
    labels = examples.labels[torch.searchsorted(examples.indices, order)]
    classes, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    by_class = inverse.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(inverse)
    rank[by_class] = torch.arange(len(inverse)) - starts[inverse[by_class]]
    return order[rank.argsort(stable=True)], len(classes)
