"""Which examples of a data set are probed, in what order, and how often."""

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
SECOND_PROBES = 200  # examples with a second probe, where one probe is the default


@dataclass(frozen=True)
class ProbeSchedule:
    """Which examples are probed, and how often.

    Attributes:
        segments: positions in the order they are read; empty for a stream, which is read as it
            comes.
        n_probes: probes for the examples of each segment.
        n_counted: probes of an example that count; a further one only serves the standard error.
        n_least: examples below which nothing is estimated: two of each class where labels are
            known.
        is_auto: the number of probes may be raised where that lowers the error for less cost.
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


def schedule_probes(
    examples: Examples,
    rule: StoppingRule,
    *,
    estimator: Estimator = "rademacher",
    n_probes: int | Literal["auto"] = "auto",
    seed: int = 0,
) -> ProbeSchedule:
    """Plan the probes of one pass over the data: each example goes forward once, the probed ones
    first.

    ``auto`` is one probe, and a second one that estimates the probes' own variance: on max(200, 20
    C) examples, and on those whose first is above 5 times the mean of these. A sample is drawn in
    the order of the hash of (seed, position), the same number of each class where labels are known.
    With a precision to stop at, the sample is read in segments that end at the looks.

    Raises:
        ValueError: fewer than 2 examples a class.
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
            f"{rule.max_samples}; "
            f"do max_samples={n_least}"
        )
    rule.check_first_look(len(order), n_classes)
    has_second = n_probes == "auto" and estimator != "exact"
    n_second = (
        min(n_sampled, max(SECOND_PROBES, SECOND_PROBES_PER_CLASS * n_classes)) if has_second else 0
    )
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
    """The same examples in batches whose graph fits into ``memory_limit`` bytes.

    Raises:
        ValueError: not one example fits, a stream, which comes in batches of its own, or sequences,
            of which each may be as long as it likes.
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
    """``plan`` with what it has to learn from the data: from the first examples of the sampling
    order.

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
    """Positions in the order they are sampled: classes take turns where labels are known; and how
    many classes.
    """
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
