"""Which of two models has the lower geometric complexity: paired differences, looked at with a
corrected level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from geocollapse.batches import Batch, MapExamples, as_examples, as_map
from geocollapse.complexity.means import mean_norm
from geocollapse.complexity.schedule import SECOND_PROBES, fitted_plan
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.estimate import Estimate, Population
from geocollapse.features import CallableMap
from geocollapse.features.borrow import borrowed
from geocollapse.features.independence import check_independence
from geocollapse.features.mixing import check_mixing_layers
from geocollapse.inputs import Map, move
from geocollapse.jacobian import Estimator, ProbePlan, SquaredNorms, check_estimator, mean_of_probes
from geocollapse.jacobian.probes import random_order

Decision = Literal["first is lower", "second is lower", "undecided"]

_FIRST_LOOK = 256


@dataclass(frozen=True)
class ComplexityComparison:
    """Geometric complexity of one model minus that of another, on the same examples.

    Attributes:
        difference: GC(f) - GC(g) with its standard error.
        interval: of the difference, at the level 1 - alpha / J that J looks cost.
        decision: which is lower, or ``undecided`` after the last look.
        alpha: probability of naming a lower one of two equal models, over all looks together.
        looks: sample sizes at which it was looked, up to the decision.
        first: GC(f) from the same sample.
        second: GC(g) from the same sample.
    """

    difference: Estimate
    interval: tuple[float, float]
    decision: Decision
    alpha: float
    looks: tuple[int, ...]
    first: float
    second: float

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.decision}: GC {self.first:.4g} and {self.second:.4g}, difference "
            f"{self.difference.value:.4g} "
            f"[{low:.4g}, {high:.4g}] after {self.difference.n_samples} examples and "
            f"{len(self.looks)} looks"
        )


def compare_complexity(
    f: Map,
    g: Map,
    inputs: Any,
    *,
    alpha: float = 0.05,
    estimator: Estimator = "rademacher",
    n_probes: int | Literal["auto"] = "auto",
    max_samples: int | None = None,
    population: Population = "dataset",
    seed: int = 0,
    batch_size: int | None = None,
) -> ComplexityComparison:
    """Decide which of two maps has the lower geometric complexity, with as few examples as the
    difference needs.

        D = 1/n sum_x ( ||J_f(x)||_F^2 - ||J_g(x)||_F^2 )

    Both maps see the same examples and the same probes, so that what they share cancels. The sample
    sizes of the J looks, 256 2^j, are fixed beforehand; each look decides at level alpha / J, so
    that two equal models are told apart in at most a share alpha of the cases, where looking at 95
    % intervals until they part does so in 4 of 10. Compare maps of the same inputs and the same
    feature scale only. Cost: as two ``geometric_complexity`` up to the decision.

    Source: definitions 1, stopping on a comparison (Bonferroni over fixed looks).

    Args:
        f: a map (n, ...) -> (n, ...), in evaluation mode.
        g: another map of the same inputs.
        inputs: as ``geometric_complexity`` takes them; examples are drawn at random, labels are not
            used.
        alpha: probability of a wrong decision between equal models.
        estimator: see ``geometric_complexity``.
        n_probes: probes for each example and map; ``auto``: one, and a second one on the first 200
            examples.
        max_samples: look at most at this many examples.
        population: what the difference speaks about: the ``dataset`` at hand or the
            ``distribution`` behind it.
        seed: of the sample and the probes.
        batch_size: examples that go through a map together.

    Raises:
        ValueError: alpha outside (0, 1), a stream, an empty data set; see
        ``squared_jacobian_norms``.
        RuntimeError: a map mixes the examples of a batch, or draws at random; names the module.

    Examples:
        >>> f = torch.nn.Linear(3, 2)
        >>> compare_complexity(f, lambda x: 2 * f(x), torch.randn(2000, 3)).decision
        'first is lower'
    """
    check_estimator(estimator, n_probes)
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha: expected a number between 0 and 1, got {alpha}; do alpha=0.05")
    rule = StoppingRule(max_samples=max_samples)
    modules = [h if isinstance(h, nn.Module) else None for h in (f, g)]
    for module in modules:
        check_mixing_layers(module)
    with borrowed(modules[0], evaluation=False), borrowed(modules[1], evaluation=False):
        examples = as_map(as_examples(inputs, batch_size=batch_size), "inputs")
        for h, module in zip((f, g), modules, strict=True):
            check_independence(CallableMap(h).enter, move(examples.peek(2), h), module)
        pairs = _Pairs(ProbePlan(estimator, seed), (f, g), examples, n_probes, population)
        ends = comparison_looks(min(rule.max_samples or len(examples), len(examples)))
        level = 1.0 - alpha / len(ends)
        looked = []
        for end in ends:
            looked.append(end)
            pairs.read_until(end)
            difference = pairs.difference()
            interval = difference.interval(level)
            decision = _decide(interval)
            if decision != "undecided":
                break
    first, second = pairs.values()
    return ComplexityComparison(difference, interval, decision, alpha, tuple(looked), first, second)


def comparison_looks(n_examples: int) -> list[int]:
    """Sample sizes at which two models are compared: 256, 512, 1024, ... and all n examples."""
    sizes = [_FIRST_LOOK]
    while sizes[-1] < n_examples:
        sizes.append(2 * sizes[-1])
    return [min(size, n_examples) for size in sizes]


class _Pairs:
    """Both maps' squared Jacobian norms of the same examples with the same probes, read in a random
    order.
    """

    def __init__(
        self,
        plan: ProbePlan,
        maps: tuple[Map, Map],
        examples: MapExamples,
        n_probes: int | Literal["auto"],
        population: Population,
    ) -> None:
        self._plan, self._maps, self._examples, self._population = plan, maps, examples, population
        self._enter = [CallableMap(h).enter for h in maps]
        self._plans = [
            fitted_plan(plan, enter, examples, h)
            for enter, h in zip(self._enter, maps, strict=True)
        ]
        self._n_counted = 1 if n_probes == "auto" else n_probes
        self._n_second = SECOND_PROBES if n_probes == "auto" and plan.estimator != "exact" else 0
        self._order = random_order(plan.seed, examples.indices)
        self._n_read = 0
        self._norms: list[tuple[SquaredNorms, SquaredNorms, SquaredNorms]] = []

    def read_until(self, end: int) -> None:
        """Send the examples up to the ``end``-th of the order through both maps; the first 200 with
        a second probe.
        """
        second = self._order[self._n_read : min(end, self._n_second)]
        rest = self._order[max(self._n_read, self._n_second) : end]
        for batch in self._examples.batches(second, rest):
            n_probes = self._n_counted + (batch.segment == 0)
            f, g = (self._terms(number, batch, n_probes) for number in (0, 1))
            self._norms.append((self._mean(f - g), self._mean(f), self._mean(g)))
        self._n_read = end

    def difference(self) -> Estimate:
        """GC(f) - GC(g) from what was read so far."""
        norms = SquaredNorms.cat([difference for difference, _, _ in self._norms]).cpu()
        mean = mean_norm(norms, len(self._examples), population=self._population)
        return Estimate(
            mean.value,
            mean.stderr,
            n_samples=len(norms),
            n_probes=self._n_counted,
            population=self._population,
            estimator=self._plan.estimator,
            dof=mean.dof,
            scale="linear",
            values=norms.values,
            indices=self._order[: self._n_read],
        )

    def values(self) -> tuple[float, float]:
        """GC of each map alone, from the same sample."""
        _, first, second = zip(*self._norms, strict=True)
        means = [float(SquaredNorms.cat(list(norms)).values.mean()) for norms in (first, second)]
        return means[0], means[1]

    def _terms(self, number: int, batch: Batch, n_probes: int) -> Tensor:
        take, x = self._enter[number](move(batch.inputs, self._maps[number]))
        return self._plans[number].probe(take, x, batch.indices, n_probes).terms[0].cpu()

    def _mean(self, terms: Tensor) -> SquaredNorms:
        if self._plan.estimator == "exact":
            return SquaredNorms.exact(terms[0, 0])
        return mean_of_probes(terms, self._n_counted)


def _decide(interval: tuple[float, float]) -> Decision:
    if interval[1] < 0.0:
        return "first is lower"
    return "second is lower" if interval[0] > 0.0 else "undecided"
