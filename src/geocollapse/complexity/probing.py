"""The loop over batches: which are probed, with how many probes, and when to stop."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Literal

import torch

from geocollapse.batches import Batch, Examples
from geocollapse.complexity.means import EstimateSettings, dataset_complexity
from geocollapse.complexity.readings import Readings
from geocollapse.complexity.setup import Setup
from geocollapse.estimate import Estimate
from geocollapse.inputs import Inputs, rows_of
from geocollapse.jacobian import ProbedBatch, SquaredNorms
from geocollapse.jacobian.plan import WITHOUT_REPLACEMENT
from geocollapse.runtime.processes import agreed

LARGE = 5.0  # times the mean of the pilot: norms above it get a second probe of their own
MAX_PROBES = 64  # if the number of probes is chosen by the variances
Ending = Literal["complete", "precise", "seconds", "interrupted"]


class Probing:
    """Probes the batches that the schedule wants, until the stopping rule is met.

    Several processes each read their share of the batches. They look at the estimates together, at
    the ends of the segments, from what all have read by then.

    Args:
        setup: the model, the data, and how they are probed.
        counts_forward: the forward pass is made for the probes alone, so its cost weighs in the
            choice between more examples and more probes.

    Attributes:
        schedule: which examples are probed.
        settings: the settings that the estimates record, one entry a layer.
        readings: the squared Jacobian norms so far, one entry a layer.
        ending: how the probes came to their end.
    """

    def __init__(self, setup: Setup, *, counts_forward: bool = True) -> None:
        self.schedule = setup.schedule()
        self.settings = setup.settings(self.schedule)
        self.readings = [Readings() for _ in self.settings]
        self.ending: Ending = "complete"
        self._examples = setup.examples
        self._rule = setup.request.rule
        self._plan = setup.plan
        self._enter = setup.feature_map.enter
        self._counts_forward = counts_forward
        self._n_probes = self.schedule.n_counted
        self._most_probes = MAX_PROBES
        self._large: list[float] = []
        self._segment = 0
        self._ahead = [
            number
            for number, segment in enumerate(self.schedule.probed)
            if number > 0 and len(segment) > 0
        ]
        self._start = time.perf_counter()
        self._forward_seconds = 0.0

    def estimates(self) -> list[Estimate]:
        """Geometric complexity of the data set from the examples read so far, one a layer."""
        pairs = zip(self.readings, self.settings, strict=True)
        return [_so_far(readings, self._examples, settings) for readings, settings in pairs]

    def final_estimates(self) -> list[Estimate]:
        """The estimates at the end, with warnings where the stopping rule was not met."""
        size = self._examples.size
        return [self._rule.marked(estimate, size, self.ending) for estimate in self.estimates()]

    def wants(self, batch: Batch) -> bool:
        """True if ``batch`` is to be probed; looks at the estimates when a segment has ended."""
        self._reach(batch.segment)
        if self.schedule.n_probes[batch.segment] == 0 or self.ending != "complete":
            return False
        if self._is_late() and self.has_enough:
            self.ending = "seconds"
        return self.ending == "complete"

    def finish(self) -> None:
        """Take part in the remaining looks and exchange readings; each process must call it."""
        self._reach(len(self.schedule.segments))
        self._exchange()

    def interrupt(self) -> bool:
        """End here if there are enough examples for an estimate; tells if it did."""
        if self.has_enough and self.ending == "complete":
            self.ending = "interrupted"
        return self.has_enough

    @property
    def has_enough(self) -> bool:
        """True if there are enough examples for an estimate."""
        return len(self.readings[0]) >= self.schedule.n_least

    def probe(self, inputs: Inputs, batch: Batch) -> ProbedBatch:
        """Send a wanted batch forward, with ``inputs`` on the model's device, and probe it."""
        take, x = self._enter(inputs)
        n_counted = self.schedule.n_counted
        is_pilot = batch.segment == 0 and self.schedule.n_probes[0] > n_counted
        n_counted = n_counted if is_pilot else self._n_probes
        n_probes = self.schedule.n_probes[0] if is_pilot else n_counted
        probed = self._plan.probe(take, x, batch.indices, n_probes, n_counted=n_counted)
        found = probed.norms
        if self.schedule.has_pilot and not is_pilot and n_probes == 1:
            found = self._with_second_probes(inputs, batch, found)
        for readings, norms in zip(self.readings, found, strict=True):
            readings.add(norms, batch)
        if self._plan.estimator in WITHOUT_REPLACEMENT:
            self._most_probes = min(self._most_probes, *(z.shape[1] for z in probed.features))
        self._forward_seconds += probed.forward_seconds
        return probed

    def _with_second_probes(
        self, inputs: Inputs, batch: Batch, first: list[SquaredNorms]
    ) -> list[SquaredNorms]:
        """``first`` with variances for its few large norms, from a second probe of each.

        The choice of these norms depends on first probes alone, so no value moves and no variance
        is biased.
        """
        is_large = [norms.values > large for norms, large in zip(first, self._large, strict=True)]
        rows = torch.stack(is_large).any(dim=0).nonzero().flatten()
        if len(rows) == 0:
            return first
        indices = batch.indices.to(rows.device)[rows]
        take, x = self._enter(rows_of(inputs, rows))
        second = self._plan.probe(take, x, indices, 2, n_counted=1).norms
        return [
            norms.with_variances(rows, others) for norms, others in zip(first, second, strict=True)
        ]

    def _is_late(self) -> bool:
        limit = self._rule.max_seconds
        return limit is not None and time.perf_counter() - self._start > limit

    def _reach(self, segment: int) -> None:
        """Pass the ends of all earlier segments, even those of which this process has no batch."""
        while self._ahead and self._ahead[0] <= segment and self.ending == "complete":
            self._segment = self._ahead.pop(0)
            seconds = time.perf_counter() - self._start
            self._exchange()
            if self.schedule.has_pilot and not self._large:
                self._large = [
                    LARGE * float(readings.gathered()[0].values.mean())
                    for readings in self.readings
                ]
            self._look(seconds)

    def _exchange(self) -> None:
        for readings in self.readings:
            readings.exchange()

    def _look(self, seconds: float) -> None:
        """Stop if all estimates are precise; else balance further examples against more probes."""
        if not self._rule.is_sequential or len(self.readings[0]) == 0:
            return
        estimates = self.estimates()
        is_a_look = self._segment > 1  # the pilot ends before it, and only balances the effort
        if is_a_look and all(map(self._rule.is_met, estimates)):
            self.ending = "precise"
        elif self.schedule.is_auto:
            self._balance(estimates, seconds)
        self.ending, self._n_probes = agreed((self.ending, self._n_probes))

    def _balance(self, estimates: list[Estimate], seconds: float) -> None:
        """Choose the number of probes for the examples to come."""
        n_left = sum(map(len, self.schedule.probed)) - len(self.readings[0])
        probing = (seconds - self._forward_seconds) / self.schedule.n_probes[0]
        weighs_forward = self._counts_forward and self._segment == 1
        ratio = self._forward_seconds / probing if weighs_forward else 0.0
        wanted = [
            probes_worth(
                reading.gathered()[0], self._rule.largest_error(estimate.value), n_left, ratio
            )
            for reading, estimate in zip(self.readings, estimates, strict=True)
        ]
        self._n_probes = min(max(self._n_probes, *wanted), self._most_probes)


def probes_worth(norms: SquaredNorms, largest_error: float, n_left: int, cost_ratio: float) -> int:
    """The number of probes for each further example that lowers the error at the least cost.

        r = max( sqrt(w c / S^2),  n_left w / (n^2 SE^2 - V) )

    w is the variance of one probe, S^2 that between examples, c the cost of an example's forward
    pass in units of a probe (the first term is rounded to a power of 2, so that the result does
    not depend on a stopwatch), and V the sum of the variances of the values at hand. The second
    term is what it takes if all examples have to be read. At most 64 probes.

    Source: definitions 1 (standard error); the first term is optimal allocation in two-stage
    sampling, Cochran (1977).
    """
    known = ~norms.variances.isnan()
    if not bool(known.any()) or n_left == 0:
        return 1
    variances = norms.filled_variances()
    single = float((variances * norms.n_probes).mean())
    between = float(norms.values.var()) - float(variances.mean())
    n = len(norms.values) + n_left
    room = (n * largest_error) ** 2 - float(variances.sum())
    by_need = n_left * single / room if room > 0.0 else math.inf
    by_cost = _probes_by_cost(single, between, cost_ratio)
    return math.ceil(min(max(by_cost, by_need, 1.0), MAX_PROBES))


def _probes_by_cost(single: float, between: float, cost_ratio: float) -> float:
    """sqrt(w c / S^2), rounded to a power of 2 from 1 to 64."""
    if cost_ratio <= 0.0 or single <= 0.0:
        return 1.0
    most = math.log2(MAX_PROBES)
    exponent = math.log2(single * cost_ratio / between) / 2.0 if between > 0.0 else most
    return 2.0 ** round(min(max(exponent, 0.0), most))


def _so_far(readings: Readings, examples: Examples, settings: EstimateSettings) -> Estimate:
    """Geometric complexity from the examples read so far."""
    norms, indices = readings.gathered()
    n_population = len(indices) if examples.size is None else examples.size
    labels = examples.labels_at(indices)
    counts = examples.class_counts()
    estimate = dataset_complexity(norms, n_population, labels, counts, settings)
    return replace(estimate, indices=indices)
