"""Geometric complexity and its error from squared Jacobian norms: of a data set, of its classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from geocollapse.batches import MapExamples, StreamExamples
from geocollapse.complexity.probing import Readings
from geocollapse.complexity.schedule import (
    SECOND_PROBES,
    SECOND_PROBES_PER_CLASS,
    ProbeSchedule,
    known_classes,
)
from geocollapse.complexity.stopping import StoppingRule, looks
from geocollapse.estimate import LARGEST_SHARE_LIMIT, Estimate, Population, total_variance
from geocollapse.jacobian import Estimator, ProbePlan, SquaredNorms
from geocollapse.jacobian.probes import random_order

_WARN_SAMPLES = 200  # largest_share says nothing about fewer examples


def estimate_settings(
    plan: ProbePlan, schedule: ProbeSchedule, rule: StoppingRule, population: Population = "dataset"
) -> dict[str, Any]:
    """What an Estimate records of how it was made."""
    return {
        "estimator": plan.estimator,
        "n_probes": schedule.n_counted,
        "population": population,
        "sequential": rule.is_sequential,
    }


def complexity_so_far(
    readings: Readings, examples: MapExamples | StreamExamples, **settings: Any
) -> Estimate:
    """Geometric complexity of the data set from the examples read so far."""
    norms, indices = readings.gathered()
    labels, counts = known_classes(examples, indices)
    n_population = len(examples) if isinstance(examples, MapExamples) else len(indices)
    estimate = dataset_complexity(norms, n_population, labels, counts, **settings)
    return replace(estimate, indices=indices)


def samples_needed(norms: SquaredNorms, rtol: float, seed: int) -> int:
    """Examples that ``rtol`` would have probed, from the norms of a whole data set in its order."""
    n, rule = len(norms), StoppingRule(rtol)
    order = random_order(seed, torch.arange(n))
    return next((k for k in looks(n) if rule.is_met(mean_norm(norms[order[:k]], n))), n)


def dataset_complexity(
    norms: SquaredNorms,
    n_population: float,
    labels: Tensor | None,
    counts: Mapping[int, float],
    **settings: Any,
) -> Estimate:
    """Geometric complexity of a data set from a sample: by class where ``labels`` are given, else
    the plain mean.

    A sample that is the whole data set says the same either way. Classes with fewer than two
    examples in the sample tell no variance: they make one stratum.
    """
    if labels is None or len(norms) == n_population:
        return mean_norm(norms, n_population, **settings)
    classes = norms_by_class(norms, labels, counts, **settings)
    thin = [label for label, estimate in classes.items() if estimate.n_samples < 2]
    if thin:
        by_size = sorted(set(classes) - set(thin), key=lambda label: classes[label].n_samples)
        while by_size and sum(classes[label].n_samples for label in thin) < 2:
            thin.append(by_size.pop(0))
        rest = torch.isin(labels, torch.tensor(thin))
        n_rest = sum(counts[label] for label in thin)
        kept = [classes[label] for label in classes if label not in set(thin)]
        sizes = [counts[label] for label in classes if label not in set(thin)]
        return stratified_mean(
            [*kept, mean_norm(norms[rest], n_rest, **settings)], [*sizes, n_rest], norms.values
        )
    return stratified_mean(
        list(classes.values()), [counts[label] for label in classes], norms.values
    )


def norms_by_class(
    norms: SquaredNorms, labels: Tensor, class_counts: Mapping[int, float], **settings: Any
) -> dict[int, Estimate]:
    """Geometric complexity of each class, GC(f, Q_c): the mean over the inputs of class c."""
    present, sizes = labels.unique(return_counts=True)
    order = labels.argsort(stable=True)
    members = dict(zip(present.tolist(), order.split(sizes.tolist()), strict=True))
    return {
        label: mean_norm(
            norms[members.get(label, order[:0])],
            count,
            min_known=SECOND_PROBES_PER_CLASS,
            **settings,
        )
        for label, count in class_counts.items()
    }


def mean_norm(
    norms: SquaredNorms,
    n_population: float,
    *,
    estimator: Estimator = "exact",
    n_probes: int = 1,
    population: Population = "dataset",
    sequential: bool = False,
    min_known: int = SECOND_PROBES,
) -> Estimate:
    """Mean of squared Jacobian norms of n_s examples drawn at random from n, with its standard
    error.

    SE^2 = s^2/n_s (1 - n_s/n) + w/(r n_s) n_s/n, s^2 the variance of the y_i, w/r the mean variance
    of one y_i given its example, from the examples with a second probe
    (``SquaredNorms.filled_variances``). Where it cannot be estimated, or for the distribution
    behind the data: SE^2 = s^2/n_s.

    Source: definitions 1 (derived there): only the between part carries the finite population
    factor.
    """
    values, n = norms.values, len(norms.values)
    if n == 0:
        return Estimate(
            math.nan,
            math.nan,
            0,
            n_probes,
            population,
            estimator,
            warnings=("no example was sampled",),
        )
    between = float(values.var()) if n > 1 else math.nan
    known = ~norms.variances.isnan()
    is_known = bool(known.all()) or int((known & (norms.n_probes == 1)).sum()) >= min_known
    if population == "distribution" or not is_known:
        variance = between / n
    else:
        share = n / n_population
        within = float(norms.filled_variances().mean())
        variance = (between / n * (1.0 - share) if share < 1.0 else 0.0) + within / n * share
    return _estimate(
        values,
        float(values.mean()),
        math.sqrt(variance),
        dof=max(n - 1, 1),
        estimator=estimator,
        n_probes=n_probes,
        population=population,
        sequential=sequential,
    )


def stratified_mean(
    classes: Sequence[Estimate], counts: Sequence[float], values: Tensor
) -> Estimate:
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
        values,
        value,
        stderr,
        dof=dof,
        estimator=first.estimator,
        n_probes=first.n_probes,
        population=first.population,
        sequential=first.sequential,
    )


def _estimate(values: Tensor, value: float, stderr: float, **settings: Any) -> Estimate:
    total = float(values.sum())
    largest = float(values.max()) / total if total > 0.0 else None
    notes = []
    if value == 0.0:
        notes.append(
            "geometric complexity is 0: the features have no derivative in the inputs but 0"
        )
    if largest is not None and largest > LARGEST_SHARE_LIMIT and len(values) >= _WARN_SAMPLES:
        notes.append(
            f"one example carries {largest:.1%} of geometric complexity: the interval may be too "
            f"short"
        )
    return Estimate(
        value,
        stderr,
        n_samples=len(values),
        largest_share=largest,
        values=values,
        warnings=tuple(notes),
        **settings,
    )
