"""Geometric complexity of a data set and of its classes, with its error, from squared norms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocollapse.complexity.schedule import SECOND_PROBES, SECOND_PROBES_PER_CLASS
from geocollapse.complexity.stopping import StoppingRule, looks
from geocollapse.estimate import LARGEST_SHARE_LIMIT, Estimate, Population, total_variance
from geocollapse.jacobian import SquaredNorms
from geocollapse.jacobian.probes import random_order

_WARN_SAMPLES = 200  # with fewer examples largest_share says nothing


@dataclass(frozen=True)
class EstimateSettings:
    """The settings behind an Estimate, which records them.

    Attributes:
        estimator: of the squared Jacobian norms.
        n_probes: probes that count for each example.
        population: the ``dataset`` at hand or the ``distribution`` behind it.
        sequential: the sample size was chosen by looking at the estimate.
        layer: the layer of the features; None if unknown.
    """

    estimator: str = "exact"
    n_probes: int = 1
    population: Population = "dataset"
    sequential: bool = False
    layer: str | None = None


_EXACT = EstimateSettings()


def samples_needed(norms: SquaredNorms, rtol: float, seed: int) -> int:
    """Number of examples that ``rtol`` would have probed, from the norms of a whole data set."""
    n = len(norms)
    rule = StoppingRule(rtol)
    order = random_order(seed, torch.arange(n))
    return next((k for k in looks(n) if rule.is_met(mean_norm(norms[order[:k]], n))), n)


def dataset_complexity(
    norms: SquaredNorms,
    n_population: float,
    labels: Tensor | None,
    counts: Mapping[int, float],
    settings: EstimateSettings = _EXACT,
) -> Estimate:
    """Geometric complexity of a data set from a sample.

    A stratified mean over classes if ``labels`` are given, else the plain mean; both agree on a
    sample that is the whole data set. Classes with fewer than two examples in the sample have no
    variance and are pooled into one stratum.
    """
    if labels is None or len(norms) == n_population:
        return mean_norm(norms, n_population, settings)
    classes = norms_by_class(norms, labels, counts, settings)
    thin = _thin_classes(classes)
    others = [label for label in classes if label not in set(thin)]
    strata = [classes[label] for label in others]
    sizes = [counts[label] for label in others]
    if thin:
        n_pooled = sum(counts[label] for label in thin)
        pooled = norms[torch.isin(labels, torch.tensor(thin))]
        strata.append(mean_norm(pooled, n_pooled, settings))
        sizes.append(n_pooled)
    return stratified_mean(strata, sizes, norms.values, settings)


def _thin_classes(classes: Mapping[int, Estimate]) -> list[int]:
    """Classes with fewer than two examples, and the smallest others that make them two together."""
    thin = [label for label, estimate in classes.items() if estimate.n_samples < 2]
    if not thin:
        return thin
    by_size = sorted(set(classes) - set(thin), key=lambda label: classes[label].n_samples)
    while by_size and sum(classes[label].n_samples for label in thin) < 2:
        thin.append(by_size.pop(0))
    return thin


def norms_by_class(
    norms: SquaredNorms,
    labels: Tensor,
    class_counts: Mapping[int, float],
    settings: EstimateSettings = _EXACT,
) -> dict[int, Estimate]:
    """Geometric complexity GC(f, Q_c) of each class: the mean over the inputs of class c."""
    present, sizes = labels.unique(return_counts=True)
    order = labels.argsort(stable=True)
    members = dict(zip(present.tolist(), order.split(sizes.tolist()), strict=True))
    none = order[:0]
    return {
        label: mean_norm(
            norms[members.get(label, none)], count, settings, min_known=SECOND_PROBES_PER_CLASS
        )
        for label, count in class_counts.items()
    }


def mean_norm(
    norms: SquaredNorms,
    n_population: float,
    settings: EstimateSettings = _EXACT,
    *,
    min_known: int = SECOND_PROBES,
) -> Estimate:
    """Mean and standard error of the squared Jacobian norms of n_s examples drawn from n.

        SE^2 = s^2/n_s (1 - n_s/n) + w/(r n_s) n_s/n

    s^2 is the variance of the y_i, and w/r the mean variance of one y_i given its example, from the
    examples with a second probe (``SquaredNorms.filled_variances``). With fewer than ``min_known``
    of those, or for the distribution behind the data, SE^2 = s^2/n_s.

    Source: definitions 1 (derived there): only the between part carries the finite population
    factor.
    """
    values = norms.values
    n = len(values)
    if n == 0:
        none = _estimate(values, math.nan, math.nan, 1.0, settings)
        return replace(none, largest_share=None, dof=math.inf, warnings=("no example was sampled",))
    between = float(values.var()) if n > 1 else math.nan
    known = ~norms.variances.isnan()
    is_known = bool(known.all()) or int((known & (norms.n_probes == 1)).sum()) >= min_known
    if settings.population == "distribution" or not is_known:
        variance = between / n
    else:
        share = n / n_population
        within = float(norms.filled_variances().mean())
        variance = (between / n * (1.0 - share) if share < 1.0 else 0.0) + within / n * share
    return _estimate(values, float(values.mean()), math.sqrt(variance), max(n - 1, 1), settings)


def stratified_mean(
    classes: Sequence[Estimate],
    counts: Sequence[float],
    values: Tensor,
    settings: EstimateSettings = _EXACT,
) -> Estimate:
    """Mean over a data set from the means of its classes.

        GC = sum_c (N_c/n) G_c,  SE^2 = sum_c (N_c/n)^2 SE_c^2

    with Satterthwaite degrees of freedom.

    Source: definitions 1.
    """
    weights = [count / sum(counts) for count in counts]
    value = math.fsum(w * c.value for w, c in zip(weights, classes, strict=True))
    variances = [(w * c.stderr) ** 2 for w, c in zip(weights, classes, strict=True)]
    stderr, dof = total_variance(variances, [c.dof for c in classes])
    return _estimate(values, value, stderr, dof, settings)


def _estimate(
    values: Tensor, value: float, stderr: float, dof: float, settings: EstimateSettings
) -> Estimate:
    """An Estimate on the log scale, with warnings on the terms behind it."""
    total = float(values.sum())
    largest = float(values.max()) / total if total > 0.0 else None
    notes = []
    if value == 0.0:
        notes.append(
            "geometric complexity is 0: the derivative of the features in the inputs is 0 at every "
            "example"
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
        n_probes=settings.n_probes,
        population=settings.population,
        estimator=settings.estimator,
        largest_share=largest,
        dof=dof,
        sequential=settings.sequential,
        layer=settings.layer,
        values=values,
        warnings=tuple(notes),
    )
