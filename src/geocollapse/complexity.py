"""Geometric complexity of a map over a data set: the mean squared Frobenius norm of its Jacobian, with its error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocollapse.batches import Batch, MapExamples, StreamExamples, as_examples
from geocollapse.borrow import borrowed, check_independent, device_of, dtype_of
from geocollapse.estimate import LARGEST_SHARE_LIMIT, Estimate, Population, total_variance
from geocollapse.features import CallableMap
from geocollapse.jacobian import Estimator, Map, ProbePlan, SquaredNorms, check_estimator, track
from geocollapse.probes import random_order

_SECOND_PROBES = 200  # examples with a second probe, where one probe is the default
_SECOND_PROBES_PER_CLASS = 20
_WARN_SAMPLES = 200  # largest_share says nothing about fewer examples


def geometric_complexity(
    f: Map,
    inputs: Any,
    *,
    estimator: Estimator = "rademacher",
    n_probes: int | Literal["auto"] = "auto",
    max_samples: int | None = None,
    population: Population = "dataset",
    seed: int = 0,
    batch_size: int | None = None,
) -> Estimate:
    """Geometric complexity of f's own output over a data set.

    GC(f, D) = 1/n sum_x ||J_f(x)||_F^2,  J_f(x) = df/dx in R^{p x d}

    Range [0, inf). Degree 2 in f, -2 in the input scale; invariant under rotations of either. Unit: (output unit /
    input unit)^2: compare models at the same preprocessing only. Cost: one forward pass and one vector-Jacobian
    product for each example and probe; memory of one batch's graph. The same seed gives the same value, to rounding,
    for any batch size and order.

    Source: Dherin, Munn, Rosca, Barrett (2022), definition 1; standard error and interval: definitions 1.

    Args:
        f: a map (n, ...) -> (n, ...) that treats examples independently, in evaluation mode.
        inputs: (n, ...) floating, or a data set, a loader, or a pair (inputs, labels); labels are not used.
        estimator: ``exact``, ``rademacher``, ``gaussian``, ``orthogonal`` or ``outputs``.
        n_probes: probes for each example; ``auto``: one, and a second one on a random 200 examples to learn the error.
        max_samples: measure at most this many examples, drawn at random.
        population: what the standard error speaks about: the ``dataset`` at hand or the ``distribution`` behind it.
        seed: of the probes and of the sample.
        batch_size: examples that go through f together.

    Returns:
        An Estimate on the log scale; ``values`` holds ||J||_F^2 of each example measured, in the order of the data.

    Raises:
        ValueError, TypeError: see ``squared_jacobian_norms``; also an empty data set.
        RuntimeError: f mixes the examples of a batch (batch normalisation or dropout in training mode).

    Examples:
        >>> f = torch.nn.Linear(3, 2, bias=False)
        >>> gc = geometric_complexity(f, torch.randn(500, 3), estimator="exact")
        >>> bool(abs(gc.value - f.weight.detach().double().square().sum()) < 1e-6)
        True
    """
    check_estimator(estimator, 1 if n_probes == "auto" else n_probes)
    module = f if isinstance(f, nn.Module) else None
    check_independent(module)
    plan, feature_map, readings = ProbePlan(estimator, seed), CallableMap(f), Readings()
    with borrowed(module, evaluation=False), torch.enable_grad():
        examples = as_examples(inputs, batch_size=batch_size)
        schedule = schedule_probes(examples, estimator=estimator, n_probes=n_probes, max_samples=max_samples, seed=seed)
        for batch in examples.batches(*schedule.probed):
            leaf = track(move(batch.inputs, f))
            readings.add(schedule.norms(plan, feature_map(leaf), leaf, batch, f=feature_map), batch)
    norms, indices = readings.gathered()
    settings = {"estimator": estimator, "n_probes": schedule.n_counted, "population": population}
    labels, counts = known_classes(examples, indices)
    classes = None if labels is None else norms_by_class(norms, labels, counts, **settings)
    n_population = len(examples) if isinstance(examples, MapExamples) else len(indices)
    return dataset_complexity(norms, n_population, classes, counts, **settings)


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
    seed: int = 0,
) -> ProbeSchedule:
    """Plan the probes of one pass over the data: each example goes forward once, the probed ones first.

    ``auto`` is one probe, and a second one on max(200, 20 C) examples that estimates the probes' own variance. A
    sample is drawn in the order of the hash of (seed, position), the same number of each class where labels are known.

    Raises:
        ValueError: ``max_samples`` below 2, or asked of a stream.
    """
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
    n_second = min(n_sampled, max(_SECOND_PROBES, _SECOND_PROBES_PER_CLASS * n_classes)) if has_second else 0
    segments = (order[:n_second], order[n_second:n_sampled].sort().values, order[n_sampled:].sort().values)
    return ProbeSchedule(segments, (2, n_counted, 0), n_counted)


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


def dataset_complexity(
    norms: SquaredNorms,
    n_population: int,
    classes: Mapping[int, Estimate] | None,
    counts: Mapping[int, int] | None,
    **settings: Any,
) -> Estimate:
    """Geometric complexity of a data set from a sample: by class where it was stratified, else the plain mean.

    A sample that is the whole data set says the same either way, and about the distribution only as a whole.
    """
    is_whole = len(norms.values) == n_population and settings.get("population") == "distribution"
    if classes is None or counts is None or is_whole:
        return mean_norm(norms, n_population, **settings)
    return stratified_mean(list(classes.values()), [counts[label] for label in classes], norms.values)


def norms_by_class(
    norms: SquaredNorms, labels: Tensor, class_counts: Mapping[int, int], **settings: Any
) -> dict[int, Estimate]:
    """Geometric complexity of each class, GC(f, Q_c): the mean over the inputs of class c."""
    return {
        label: mean_norm(norms[labels == label], count, min_known=_SECOND_PROBES_PER_CLASS, **settings)
        for label, count in class_counts.items()
    }


def mean_norm(
    norms: SquaredNorms,
    n_population: int,
    *,
    estimator: Estimator = "exact",
    n_probes: int = 1,
    population: Population = "dataset",
    min_known: int = _SECOND_PROBES,
) -> Estimate:
    """Mean of squared Jacobian norms of n_s examples drawn at random from n, with its standard error.

    SE^2 = s^2/n_s (1 - n_s/n) + w/(r n_s) n_s/n, s^2 the variance of the y_i, w/r the mean variance of one y_i given
    its example. Where w cannot be estimated, or for the distribution behind the data: SE^2 = s^2/n_s.

    Source: definitions 1 (derived there): only the between part carries the finite population factor.
    """
    values, n = norms.values, len(norms.values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0, n_probes, population, estimator, warnings=("no example was sampled",))
    between = float(values.var()) if n > 1 else math.nan
    known = ~norms.variances.isnan()
    is_known = bool(known.all()) or int(known.sum()) >= min_known
    if population == "distribution" or not is_known:
        variance = between / n
    else:
        share = n / n_population
        within = float(norms.variances[known].mean())
        variance = (between / n * (1.0 - share) if share < 1.0 else 0.0) + within / n * share
    return _estimate(
        values,
        float(values.mean()),
        math.sqrt(variance),
        dof=max(n - 1, 1),
        estimator=estimator,
        n_probes=n_probes,
        population=population,
    )


def stratified_mean(classes: Sequence[Estimate], counts: Sequence[int], values: Tensor) -> Estimate:
    """Mean over a data set from the means of its classes.

    GC = sum_c (N_c/n) G_c,  SE^2 = sum_c (N_c/n)^2 SE_c^2, with Satterthwaite degrees of freedom.

    Source: definitions 1.
    """
    weights = [count / sum(counts) for count in counts]
    value = math.fsum(w * c.value for w, c in zip(weights, classes, strict=True))
    variances = [(w * c.stderr) ** 2 for w, c in zip(weights, classes, strict=True)]
    stderr, dof = total_variance(variances, [c.dof for c in classes])
    first = classes[0]
    return _estimate(
        values, value, stderr, dof=dof, estimator=first.estimator, n_probes=first.n_probes, population=first.population
    )


def move(inputs: Tensor, model: object) -> Tensor:
    """``inputs`` on the model's device and, where both are floating, in its dtype."""
    dtype = dtype_of(model) if inputs.is_floating_point() else None
    return inputs.to(device=device_of(model) or inputs.device, dtype=dtype or inputs.dtype)


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


def _estimate(values: Tensor, value: float, stderr: float, **settings: Any) -> Estimate:
    total = float(values.sum())
    largest = float(values.max()) / total if total > 0.0 else None
    notes = []
    if value == 0.0:
        notes.append("geometric complexity is 0: the features do not depend on the inputs")
    if largest is not None and largest > LARGEST_SHARE_LIMIT and len(values) >= _WARN_SAMPLES:
        notes.append(f"one example carries {largest:.1%} of geometric complexity: the interval may be too short")
    return Estimate(
        value, stderr, n_samples=len(values), largest_share=largest, values=values, warnings=tuple(notes), **settings
    )
