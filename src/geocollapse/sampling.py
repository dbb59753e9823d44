"""Which examples of a data set are probed, in what order, and how often."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from geocollapse.batches import Batch, MapExamples, StreamExamples, as_map
from geocollapse.estimate import Estimate
from geocollapse.inputs import Enter, Inputs, move, rows_of
from geocollapse.jacobian import Estimator, ProbedBatch, ProbePlan, SquaredNorms, examples_that_fit
from geocollapse.jacobian.plan import ALIGNED_EXAMPLES, WITHOUT_REPLACEMENT
from geocollapse.jacobian.probes import random_order
from geocollapse.runtime.processes import agreed, shards, share
from geocollapse.stopping import StoppingRule, looks

SECOND_PROBES_PER_CLASS = 20
SECOND_PROBES = 200  # examples with a second probe, where one probe is the default
LARGE = 5.0  # times the mean of the pilot: norms above it get a second probe of their own
_MAX_PROBES = 64  # where the number of probes is chosen by the variances

Ending = Literal["complete", "precise", "seconds", "interrupted"]


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
    examples: MapExamples | StreamExamples,
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
        ValueError: a rule that needs examples in any order, of a stream; fewer than 2 examples a
        class.
    """
    n_counted = 1 if n_probes == "auto" else n_probes
    for name in rule.given:
        as_map(examples, name)
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


class Readings:
    """Squared Jacobian norms gathered batch by batch, with the positions of their examples."""

    def __init__(self) -> None:
        self._norms: list[SquaredNorms] = []
        self._indices: list[Tensor] = []
        self._n_exchanged = 0  # parts that all processes have

    def __len__(self) -> int:
        return sum(map(len, self._indices))

    def add(self, norms: SquaredNorms, batch: Batch) -> None:
        """Take the norms of one batch."""
        self._norms.append(norms)
        self._indices.append(batch.indices)

    def exchange(self) -> None:
        """Take what the other processes have read since the last exchange; each process must call
        it.
        """
        if share()[1] == 1:
            return
        new = slice(self._n_exchanged, None)
        own = [
            norms.packed(indices)
            for norms, indices in zip(self._norms[new], self._indices[new], strict=True)
        ]
        everyone = [SquaredNorms.unpacked(rows) for rows in shards(torch.cat(own) if own else None)]
        self._norms[new], self._indices[new] = (
            [norms for norms, _ in everyone],
            [indices for _, indices in everyone],
        )
        self._n_exchanged = len(self._norms)

    def gathered(self) -> tuple[SquaredNorms, Tensor]:
        """All norms in the order of the data set and their positions (n,), on the CPU.

        Raises:
            ValueError: no example was read.
        """
        if len(self) == 0:
            raise ValueError("data: expected at least one example, got none; do check the loader")
        indices = torch.cat(self._indices)
        order = indices.argsort()
        return SquaredNorms.cat(self._norms).cpu()[order], indices[order]


class Probing:
    """Decides batch by batch whether examples are probed, how often, and when there are enough of
    them.

    With several processes, each of which reads its share of the batches, all make the same looks at
    the ends of the segments, at what all have read by then.

    Args:
        schedule: which examples are probed.
        rule: until when.
        plan: how.
        current: the estimates from what has been read so far, one a layer.
        counts_forward: the forward pass is made for the probes alone, so that its cost weighs in
            the choice between more examples and more probes.
    """

    def __init__(
        self,
        schedule: ProbeSchedule,
        rule: StoppingRule,
        plan: ProbePlan,
        current: Callable[[], list[Estimate]],
        *,
        n_layers: int = 1,
        counts_forward: bool = True,
    ) -> None:
        self.ending: Ending = "complete"
        self.readings = [Readings() for _ in range(n_layers)]
        self._schedule, self._rule, self._plan, self._current = schedule, rule, plan, current
        self._counts_forward = counts_forward
        self._n_probes = schedule.n_counted
        self._most_probes = _MAX_PROBES
        self._has_pilot = len(schedule.segments) > 0 and len(schedule.segments[0]) > 0
        self._large: list[float] = []
        self._segment = 0
        self._ahead = [
            number
            for number, segment in enumerate(schedule.probed)
            if number > 0 and len(segment) > 0
        ]
        self._start = time.perf_counter()
        self._forward_seconds = 0.0

    def wants(self, batch: Batch) -> bool:
        """Whether the examples of ``batch`` are to be probed; looks at the estimates when a segment
        has ended.
        """
        self._reach(batch.segment)
        if self._schedule.n_probes[batch.segment] == 0 or self.ending != "complete":
            return False
        if self._is_late() and self.has_enough:
            self.ending = "seconds"
        return self.ending == "complete"

    def finish(self) -> None:
        """Look where other processes still do, and take what they have read; each process must call
        it at its end.
        """
        self._reach(len(self._schedule.segments))
        self._exchange()

    def interrupt(self) -> bool:
        """End here, if there are examples enough for an estimate; says whether it does."""
        if self.has_enough and self.ending == "complete":
            self.ending = "interrupted"
        return self.has_enough

    @property
    def has_enough(self) -> bool:
        """Whether there are examples enough for an estimate."""
        return len(self.readings[0]) >= self._schedule.n_least

    def probe(self, enter: Enter, inputs: Inputs, batch: Batch) -> ProbedBatch:
        """Send a batch that is wanted forward, and probe the Jacobians of its layers."""
        take, x = enter(inputs)
        is_pilot = batch.segment == 0 and self._schedule.n_probes[0] > self._schedule.n_counted
        n_counted = self._schedule.n_counted if is_pilot else self._n_probes
        n_probes = self._schedule.n_probes[0] if is_pilot else n_counted
        probed = self._plan.probe(take, x, batch.indices, n_probes, n_counted=n_counted)
        found = probed.norms
        if self._has_pilot and not is_pilot and n_probes == 1:
            found = self._with_second_probes(enter, inputs, batch, found)
        for readings, norms in zip(self.readings, found, strict=True):
            readings.add(norms, batch)
        if self._plan.estimator in WITHOUT_REPLACEMENT:
            self._most_probes = min(self._most_probes, *(z.shape[1] for z in probed.features))
        self._forward_seconds += probed.forward_seconds
        return probed

    def _with_second_probes(
        self, enter: Enter, inputs: Inputs, batch: Batch, first: list[SquaredNorms]
    ) -> list[SquaredNorms]:
        """``first`` with the variances of the few norms that carry a heavy tail, from a second
        probe of their own.

        Which ones they are is a function of first probes alone, so that no value moves and no
        variance is biased.
        """
        is_large = [norms.values > large for norms, large in zip(first, self._large, strict=True)]
        rows = torch.stack(is_large).any(dim=0).nonzero().flatten()
        if len(rows) == 0:
            return first
        indices = batch.indices.to(rows.device)[rows]
        take, x = enter(rows_of(inputs, rows))
        second = self._plan.probe(take, x, indices, 2, n_counted=1).norms
        return [
            norms.with_variances(rows, others) for norms, others in zip(first, second, strict=True)
        ]

    def _is_late(self) -> bool:
        limit = self._rule.max_seconds
        return limit is not None and time.perf_counter() - self._start > limit

    def _reach(self, segment: int) -> None:
        """Pass the ends of all segments before ``segment``, also of those that this process has no
        batch in.
        """
        while self._ahead and self._ahead[0] <= segment and self.ending == "complete":
            self._segment = self._ahead.pop(0)
            seconds = time.perf_counter() - self._start
            self._exchange()
            if self._has_pilot and not self._large:
                self._large = [
                    LARGE * float(readings.gathered()[0].values.mean())
                    for readings in self.readings
                ]
            self._look(seconds)

    def _exchange(self) -> None:
        for readings in self.readings:
            readings.exchange()

    def _look(self, seconds: float) -> None:
        """Stop where all estimates are precise enough; else share the effort between examples and
        probes.
        """
        if not self._rule.is_sequential or len(self.readings[0]) == 0:
            return
        estimates = self._current()
        if self._segment > 1 and all(
            map(self._rule.is_met, estimates)
        ):  # the first look ends the second segment
            self.ending = "precise"
        elif self._schedule.is_auto:
            self._share_effort(estimates, seconds)
        self.ending, self._n_probes = agreed((self.ending, self._n_probes))

    def _share_effort(self, estimates: list[Estimate], seconds: float) -> None:
        """Choose the probes of the examples to come."""
        n_left = sum(map(len, self._schedule.probed)) - len(self.readings[0])
        probing = (seconds - self._forward_seconds) / self._schedule.n_probes[0]
        ratio = (
            self._forward_seconds / probing if self._counts_forward and self._segment == 1 else 0.0
        )
        wanted = [
            probes_worth(
                reading.gathered()[0], self._rule.largest_error(estimate.value), n_left, ratio
            )
            for reading, estimate in zip(self.readings, estimates, strict=True)
        ]
        self._n_probes = min(max(self._n_probes, *wanted), self._most_probes)


def probes_worth(norms: SquaredNorms, largest_error: float, n_left: int, cost_ratio: float) -> int:
    """Probes for each further example that lower the error at the least cost.

        r = max( sqrt(w c / S^2),  n_left w / (n^2 SE^2 - V) )

    w is the variance of one probe and S^2 that between examples, c the cost of an example's forward
    pass in units of a probe (rounded to a power of 2, so that the result does not hang on a
    stopwatch), V the sum of the variances of the values at hand. The second term is what it takes
    if all examples have to be read; at most 64 probes.

    Source: definitions 1 (standard error); the first term is optimal allocation in two-stage
    sampling, Cochran (1977).
    """
    known = ~norms.variances.isnan()
    if not bool(known.any()) or n_left == 0:
        return 1
    variances = norms.filled_variances()
    single = float((variances * norms.n_probes).mean())
    between = float(norms.values.var()) - float(variances.mean())
    by_cost = 1.0
    if cost_ratio > 0.0 and single > 0.0:
        exponent = (
            math.log2(single * cost_ratio / between) / 2.0
            if between > 0.0
            else math.log2(_MAX_PROBES)
        )
        by_cost = 2.0 ** round(min(max(exponent, 0.0), math.log2(_MAX_PROBES)))
    n = len(norms.values) + n_left
    room = (n * largest_error) ** 2 - float(variances.sum())
    by_need = n_left * single / room if room > 0.0 else math.inf
    return math.ceil(min(max(by_cost, by_need, 1.0), _MAX_PROBES))


def bounded_by_memory(
    examples: MapExamples | StreamExamples, enter: Enter, first: Inputs, memory_limit: int
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


def fitted_plan(
    plan: ProbePlan, enter: Enter, examples: MapExamples | StreamExamples, model: object
) -> ProbePlan:
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


def known_classes(
    examples: MapExamples | StreamExamples, indices: Tensor
) -> tuple[Tensor | None, dict[int, int]]:
    """Labels of the examples at ``indices`` and the counts of all classes, where they were known
    before reading.
    """
    if isinstance(examples, StreamExamples) or examples.labels is None:
        return None, {}
    classes, counts = examples.labels.unique(return_counts=True)
    rows = torch.searchsorted(examples.indices, indices)
    return examples.labels[rows], dict(zip(classes.tolist(), counts.tolist(), strict=True))


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
