"""The schedule of probes: which examples are probed, in what order, and how often."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from geocollapse.batches import Examples, MapExamples, StreamExamples, as_map
from geocollapse.complexity.stopping import StoppingRule, looks
from geocollapse.inputs import Enter, Inputs, move
from geocollapse.jacobian import Estimator, ProbePlan, examples_that_fit
from geocollapse.jacobian.plan import ALIGNED_EXAMPLES
from geocollapse.jacobian.probes import random_order

SECOND_PROBES_PER_CLASS = 20
SECOND_PROBES = 200  # examples with a second probe, if one probe is the default


@dataclass(frozen=True)
class ProbeSchedule:
    """Which examples are probed, in what order, and how often.

    Attributes:
        segments: positions in reading order; empty for a stream, which is read as it comes.
        n_probes: probes for each example of a segment.
        n_counted: probes that count for an example; further ones serve only the standard error.
        n_least: the fewest examples that allow an estimate: two of each class if labels are known.
        is_auto: the number of probes may be raised where that lowers the error at less cost.
    """

    segments: tuple[Tensor, ...]
    n_probes: tuple[int, ...]
    n_counted: int
    n_least: int = 2
    is_auto: bool = False

    @property
    def probed(self) -> tuple[Tensor, ...]:
        """The segments that are read with probes."""
        return tuple(segment for segment, n in zip(self.segments, self.n_probes) if n > 0)

    @property
    def has_pilot(self) -> bool:
        """True if the first segment is a pilot: its second probes measure their variance."""
        return len(self.segments) > 0 and len(self.segments[0]) > 0


def schedule_probes(
    examples: Examples,
    rule: StoppingRule,
    *,
    estimator: Estimator = "rademacher",
    n_probes: int | Literal["auto"] = "auto",
    seed: int = 0,
) -> ProbeSchedule:
    """Plan one pass over the data: every example goes forward once, the probed ones first.

    ``auto`` is one probe, and a second one, to estimate the variance of the probes, on a pilot of
    max(200, 20 C) examples and on each example whose first probe exceeds 5 times the mean of the
    pilot. A sample is drawn in the order of the hash of (seed, position), the same number from
    each class if labels are known. With a precision to stop at, the sample is read in segments
    that end at the looks.

    Raises:
        ValueError: fewer than 2 examples per class.
    """
    n_counted = 1 if n_probes == "auto" else n_probes
    if isinstance(examples, StreamExamples):
        return ProbeSchedule((), (n_counted,), n_counted)
    order, n_classes = _sampling_order(examples, seed)
    n_sampled = min(rule.max_samples or len(order), len(order))
    n_least = min(max(2, 2 * n_classes), len(order))
    if n_sampled < n_least:
        raise ValueError(
            f"max_samples: expected at least {n_least}, two for each of {n_classes} classes, got "
            f"{rule.max_samples}; do max_samples={n_least}"
        )
    rule.check_first_look(len(order), n_classes)
    has_second = n_probes == "auto" and estimator != "exact"
    n_second = max(SECOND_PROBES, SECOND_PROBES_PER_CLASS * n_classes) if has_second else 0
    n_second = min(n_sampled, n_second)
    ends = looks(n_sampled, n_classes) if rule.is_sequential else [n_sampled]
    ends = [n_second, *(max(end, n_second) for end in ends), len(order)]
    segments = tuple(order[start:end] for start, end in zip([0, *ends], ends))
    return ProbeSchedule(
        segments,
        (2, *[n_counted] * (len(ends) - 2), 0),
        n_counted,
        n_least,
        is_auto=has_second and rule.is_sequential,
    )


def bounded_by_memory(
    examples: Examples, enter: Enter, first: Inputs, memory_limit: int
) -> MapExamples:
    """The examples in batches whose graph fits into ``memory_limit`` bytes.

    Raises:
        ValueError: a single example does not fit; a stream, whose batches are given; sequences,
            whose length has no bound.
    """
    batched = as_map(
        examples, "memory_limit", wanted="in any batches", remedy="make its batches smaller"
    )
    if not isinstance(first, Tensor) or not first.is_floating_point():
        raise ValueError(
            "memory_limit: expected inputs of one shape, got inputs by name or tokens; do "
            "batch_size=16"
        )
    n_fitting = examples_that_fit(*enter(first), memory_limit)
    return replace(batched, batch_size=min(batched.batch_size, n_fitting))


def fitted_plan(plan: ProbePlan, enter: Enter, examples: Examples, model: object) -> ProbePlan:
    """``plan`` with the directions of aligned probes, fitted to the first examples of the sample.

    Raises:
        ValueError: a stream, whose examples can be read only once.
    """
    if plan.estimator != "aligned":
        return plan
    ordered = as_map(
        examples, "estimator", wanted="in any order for 'aligned'", remedy="estimator='rademacher'"
    )
    first = random_order(plan.seed, ordered.indices)[:ALIGNED_EXAMPLES]
    batch = next(replace(ordered, batch_size=ALIGNED_EXAMPLES).batches(first))
    return plan.fitted(*enter(move(batch.inputs, model)))


def _sampling_order(examples: MapExamples, seed: int) -> tuple[Tensor, int]:
    """Positions in sampling order, and the number of classes; known classes take turns."""
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
