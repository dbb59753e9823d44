"""Probing batch by batch: which examples, how often, and when there are enough of them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from geocollapse.batches import Batch, Examples
from geocollapse.complexity.means import EstimateSettings, dataset_complexity
from geocollapse.complexity.readings import Readings
from geocollapse.complexity.schedule import ProbeSchedule
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.estimate import Estimate
from geocollapse.inputs import Enter, Inputs, rows_of
from geocollapse.jacobian import ProbedBatch, ProbePlan, SquaredNorms
from geocollapse.jacobian.plan import WITHOUT_REPLACEMENT
from geocollapse.runtime.processes import agreed

LARGE = 5.0  # times the mean of the pilot: norms above it get a second probe of their own
MAX_PROBES = 64  # where the number of probes is chosen by the variances
Ending = Literal["complete", "precise", "seconds", "interrupted"]


class Probing:
    """Decides batch by batch whether examples are probed, how often, and when to stop.

    Several processes each read their share of the batches; all look at the ends of the segments, at
    what all have read by then.

    Args:
        examples: the data.
        schedule: which examples are probed.
        rule: until when.
        plan: how.
        settings: what the estimates record, one entry a layer.
        counts_forward: the forward pass is made for the probes alone, so that its cost weighs in
            the choice between more examples and more probes.
    """

    def __init__(
        self,
        examples: Examples,
        schedule: ProbeSchedule,
        rule: StoppingRule,
        plan: ProbePlan,
        settings: Sequence[EstimateSettings],
        *,
        counts_forward: bool = True,
    ) -> None:
        self.ending: Ending = "complete"
        self.readings = [Readings() for _ in settings]
        self._examples = examples
        self._schedule = schedule
        self._rule = rule
        self._plan = plan
        self._settings = tuple(settings)
        self._counts_forward = counts_forward
        self._n_probes = schedule.n_counted
        self._most_probes = MAX_PROBES
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

    def estimates(self) -> list[Estimate]:
        """Geometric complexity of the data set from the examples read so far, one a layer."""
        pairs = zip(self.readings, self._settings, strict=True)
        return [_so_far(readings, self._examples, settings) for readings, settings in pairs]

    def final_estimates(self) -> list[Estimate]:
        """The same at the end, marked where less was reached than asked for."""
        size, ending = self._examples.size, self.ending
        return [self._rule.marked(estimate, size, ending) for estimate in self.estimates()]

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
        estimates = self.estimates()
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
            else math.log2(MAX_PROBES)
        )
        by_cost = 2.0 ** round(min(max(exponent, 0.0), math.log2(MAX_PROBES)))
    n = len(norms.values) + n_left
    room = (n * largest_error) ** 2 - float(variances.sum())
    by_need = n_left * single / room if room > 0.0 else math.inf
    return math.ceil(min(max(by_cost, by_need, 1.0), MAX_PROBES))


def _so_far(readings: Readings, examples: Examples, settings: EstimateSettings) -> Estimate:
    norms, indices = readings.gathered()
    n_population = len(indices) if examples.size is None else examples.size
    labels = examples.labels_at(indices)
    counts = examples.class_counts()
    estimate = dataset_complexity(norms, n_population, labels, counts, settings)
    return replace(estimate, indices=indices)
