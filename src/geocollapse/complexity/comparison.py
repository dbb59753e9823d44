"""``compare_complexity``: which of two maps has the lower geometric complexity."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from geocollapse.batches import Batch, MapExamples, as_map
from geocollapse.complexity.means import EstimateSettings, mean_norm
from geocollapse.complexity.schedule import SECOND_PROBES
from geocollapse.complexity.setup import Data, Model, Request, Setup, set_up
from geocollapse.complexity.stopping import StoppingRule, first_interrupt_asks
from geocollapse.estimate import Estimate, Population
from geocollapse.inputs import move
from geocollapse.jacobian import Estimator, ProbedBatch, SquaredNorms, mean_of_probes
from geocollapse.jacobian.probes import random_order
from geocollapse.numerics import ROUNDING_UNITS
from geocollapse.runtime.processes import alone

Decision = Literal["first is lower", "second is lower", "undecided"]

_FIRST_LOOK = 256


@dataclass(frozen=True)
class ComplexityComparison:
    """Geometric complexity of one map minus that of another, on the same examples.

    Attributes:
        difference: GC(f) - GC(g) with its standard error.
        interval: of the difference, at level 1 - alpha / J to pay for J looks, and wider by 16
            units of rounding of the larger value.
        decision: which is lower, or ``undecided`` after the last look.
        alpha: probability of calling one of two equal maps lower, over all looks together.
        looks: sample sizes of the looks, up to the decision.
        first: GC(f) from the same sample.
        second: GC(g) from the same sample.
        layers: the layers of f and g; ``""`` is the output.
    """

    difference: Estimate
    interval: tuple[float, float]
    decision: Decision
    alpha: float
    looks: tuple[int, ...]
    first: float
    second: float
    layers: tuple[str, str]

    def __str__(self) -> str:
        low, high = self.interval
        names = list(dict.fromkeys(layer or "the output" for layer in self.layers))
        return (
            f"{self.decision}: GC {self.first:.4g} and {self.second:.4g} at {' and '.join(names)}, "
            f"difference {self.difference.value:.4g} [{low:.4g}, {high:.4g}] after "
            f"{self.difference.n_samples} examples and {len(self.looks)} "
            f"look{'s' if len(self.looks) > 1 else ''}"
        )

    def _repr_html_(self) -> str:
        """The decision and its numbers, for a notebook."""
        return f"<pre>{html.escape(str(self))}</pre>"


def compare_complexity(
    f: Model,
    g: Model,
    inputs: Data,
    *,
    layer: str | None = None,
    alpha: float = 0.05,
    estimator: Estimator = "rademacher",
    n_probes: int | Literal["auto"] = "auto",
    max_samples: int | None = None,
    population: Population = "dataset",
    seed: int = 0,
    batch_size: int | None = None,
    autocast: torch.dtype | None = None,
) -> ComplexityComparison:
    """Decide which of two maps has the lower geometric complexity, from few examples.

        D = 1/n sum_x ( ||J_f(x)||_F^2 - ||J_g(x)||_F^2 )

    Both maps see the same examples and the same probes, so that what they share cancels. The sample
    sizes of the J looks, 256 2^j, are fixed beforehand, and each look decides at level alpha / J:
    two equal maps are told apart in at most a share alpha of the cases, against 4 in 10 when 95 %
    intervals are watched until they part. Compare only maps of the same inputs and the same feature
    scale. Cost: that of two ``geometric_complexity`` up to the decision.

    Source: definitions 1, stopping on a comparison (Bonferroni over fixed looks).

    Args:
        f: a module in evaluation mode, or a callable (n, ...) -> (n, ...).
        g: another one of the same inputs.
        inputs: as for ``geometric_complexity``; examples are drawn at random, labels are not used.
        layer: of each module, as for ``geometric_complexity``: by default its embedding, ``""`` for
            its output. A callable is its own output.
        alpha: probability of a wrong decision between equal maps.
        estimator: see ``geometric_complexity``.
        n_probes: probes for each example and map; ``auto``: one, and a second one on the first 200
            examples.
        max_samples: use at most this many examples.
        population: the population that the difference speaks about: the ``dataset`` at hand or the
            ``distribution`` behind it.
        seed: of the sample and the probes.
        batch_size: examples that go through a map together.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to run both under ``torch.autocast``.

    Returns:
        A ComplexityComparison, which names the layers compared. A first Ctrl-C ends with the last
        look, its difference marked ``interrupted``.

    Raises:
        ValueError: alpha outside (0, 1), a stream, an empty data set; see
            ``squared_jacobian_norms``.
        RuntimeError: a map mixes the examples of a batch or draws at random; names the module.

    Examples:
        >>> f = torch.nn.Linear(3, 2)
        >>> compare_complexity(f, lambda x: 2 * f(x), torch.randn(2000, 3), layer="").decision
        'first is lower'
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha: expected a number between 0 and 1, got {alpha}; do alpha=0.05")
    request = Request(
        layer=layer,
        estimator=estimator,
        n_probes=n_probes,
        rule=StoppingRule(max_samples=max_samples),
        population=population,
        seed=seed,
        batch_size=batch_size,
        autocast=autocast,
        evaluation=False,
    )
    with alone(), ExitStack() as stack:
        interrupted = stack.enter_context(first_interrupt_asks())
        first = stack.enter_context(set_up(f, inputs, _request_of(f, g, request)))
        second = stack.enter_context(set_up(g, inputs, _request_of(g, f, request)))
        return _compared(_Pairs(first, second), alpha, interrupted)


def _request_of(model: Model, other: Model, request: Request) -> Request:
    """The request for one model; beside a module, a callable is its own output."""
    is_output = not isinstance(model, nn.Module) and isinstance(other, nn.Module)
    return replace(request, layer=None) if is_output else request


def _compared(pairs: _Pairs, alpha: float, interrupted: Callable[[], bool]) -> ComplexityComparison:
    """Look at the fixed sample sizes until one map is lower, or Ctrl-C ends with the last look."""
    ends = comparison_looks(pairs.n_examples)
    found: ComplexityComparison | None = None
    for number, end in enumerate(ends):
        if not pairs.read_until(end, interrupted):
            if found is None:
                raise KeyboardInterrupt
            return replace(found, difference=replace(found.difference, interrupted=True))
        difference = pairs.difference()
        first, second = pairs.values()
        low, high = difference.interval(1.0 - alpha / len(ends))
        rounding = ROUNDING_UNITS * pairs.unit_of_rounding * max(first, second)
        interval = (low - rounding, high + rounding)
        found = ComplexityComparison(
            difference=difference,
            interval=interval,
            decision=_decide(interval),
            alpha=alpha,
            looks=tuple(ends[: number + 1]),
            first=first,
            second=second,
            layers=pairs.layers,
        )
        if found.decision != "undecided":
            break
    if found is None:
        raise ValueError("inputs: expected at least one example, got none; do check the data set")
    return found


def comparison_looks(n_examples: int) -> list[int]:
    """Sample sizes at which two models are compared: 256, 512, 1024, ... and all n examples."""
    sizes = [_FIRST_LOOK]
    while sizes[-1] < n_examples:
        sizes.append(2 * sizes[-1])
    return [min(size, n_examples) for size in sizes]


class _Pairs:
    """The squared Jacobian norms of two maps, for the same examples and the same probes."""

    def __init__(self, first: Setup, second: Setup) -> None:
        request = first.request
        self._setups = (first, second)
        self._examples: MapExamples = as_map(first.examples, "inputs")
        self._estimator = first.plan.estimator
        self._population = request.population
        self._n_counted = 1 if request.n_probes == "auto" else request.n_probes
        has_second = request.n_probes == "auto" and self._estimator != "exact"
        self._n_second = SECOND_PROBES if has_second else 0
        self._order = random_order(request.seed, self._examples.indices)
        self._n_read = 0
        self.unit_of_rounding = 0.0
        self._norms: list[tuple[SquaredNorms, SquaredNorms, SquaredNorms]] = []
        self.n_examples = min(request.rule.max_samples or len(self._order), len(self._order))
        self.layers = (first.layers[0], second.layers[0])

    def read_until(self, end: int, interrupted: Callable[[], bool]) -> bool:
        """Send the first ``end`` examples of the order through both maps; False on Ctrl-C.

        The first 200 get a second probe.
        """
        second = self._order[self._n_read : min(end, self._n_second)]
        rest = self._order[max(self._n_read, self._n_second) : end]
        for batch in self._examples.batches(second, rest):
            if interrupted():
                return False
            n_probes = self._n_counted + (batch.segment == 0)
            f, g = (self._probed(number, batch, n_probes) for number in (0, 1))
            self._norms.append((self._difference(f, g), f.norms[0].cpu(), g.norms[0].cpu()))
        self._n_read = end
        return True

    def difference(self) -> Estimate:
        """GC(f) - GC(g) from the examples read so far."""
        norms = SquaredNorms.cat([difference for difference, _, _ in self._norms]).cpu()
        # a difference has no size to which the variance of its probes would be in proportion
        known = norms.variances[~norms.variances.isnan()]
        variances = norms.variances.nan_to_num(float(known.mean()) if len(known) else math.nan)
        norms = replace(norms, variances=variances)
        mean = mean_norm(norms, len(self._examples), EstimateSettings(population=self._population))
        return Estimate(
            mean.value,
            mean.stderr,
            n_samples=len(norms),
            n_probes=self._n_counted,
            population=self._population,
            estimator=self._estimator,
            dof=mean.dof,
            scale="linear",
            values=norms.values,
            indices=self._order[: self._n_read],
        )

    def values(self) -> tuple[float, float]:
        """GC of each map, from the same sample."""
        _, first, second = zip(*self._norms, strict=True)
        means = [float(SquaredNorms.cat(list(norms)).values.mean()) for norms in (first, second)]
        return means[0], means[1]

    def _probed(self, number: int, batch: Batch, n_probes: int) -> ProbedBatch:
        """A batch probed by the map of that number."""
        setup = self._setups[number]
        take, x = setup.feature_map.enter(move(batch.inputs, setup.model))
        found = setup.plan.probe(take, x, batch.indices, n_probes, n_counted=self._n_counted)
        unit = torch.finfo(setup.request.autocast or found.features[0].dtype).eps
        self.unit_of_rounding = max(self.unit_of_rounding, unit)
        return found

    def _difference(self, f: ProbedBatch, g: ProbedBatch) -> SquaredNorms:
        """||J_f||^2 - ||J_g||^2 of each example, with the variance of its probes.

        What the probes of both maps share cancels, unless they are drawn without replacement from
        different numbers: then they are independent.
        """
        if f.n_distinct == g.n_distinct and len(f.terms[0]) == len(g.terms[0]) > 1:
            terms = (f.terms[0] - g.terms[0]).cpu()
            return mean_of_probes(terms[:, :1], self._n_counted, f.n_distinct[0])
        first, second = f.norms[0].cpu(), g.norms[0].cpu()
        variances = first.variances + second.variances
        return SquaredNorms(first.values - second.values, variances, first.n_probes)


def _decide(interval: tuple[float, float]) -> Decision:
    if interval[1] < 0.0:
        return "first is lower"
    return "second is lower" if interval[0] > 0.0 else "undecided"
