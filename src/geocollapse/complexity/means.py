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
    classes: Mapping[int, Estimate] | None = None,
) -> Estimate:
    """Geometric complexity of a data set from a sample.

    A stratified mean over classes if ``labels`` are given, else the plain mean; both agree on a
    sample that is the whole data set. A class without a standard error of its own (one example)
    shares that of a pooled stratum, in which each class keeps its weight. A class of which no
    example was read, as after an early end, is left out with a warning. ``classes`` are those of
    ``norms_by_class``, where a caller has them.
    """
    is_whole = len(norms) == n_population
    if labels is None or (is_whole and settings.population == "distribution"):
        return mean_norm(norms, n_population, settings)
    if classes is None:
        classes = norms_by_class(norms, labels, counts, settings)
    n_classes = len(classes)
    classes = {label: estimate for label, estimate in classes.items() if estimate.n_samples}
    if not classes:
        return mean_norm(norms, n_population, settings)
    thin = _thin_classes(classes)
    others = [label for label in classes if label not in set(thin)]
    strata = [classes[label] for label in others]
    sizes = [counts[label] for label in others]
    if thin:
        strata.append(_pooled([classes[label] for label in thin], [counts[k] for k in thin]))
        sizes.append(sum(counts[label] for label in thin))
    found = stratified_mean(strata, sizes, norms.values, settings)
    if len(classes) == n_classes:
        return found
    note = (
        f"geometric complexity is over {len(classes)} of {n_classes} classes: no example of the "
        f"others was probed; do probe more examples"
    )
    return replace(found, warnings=(*found.warnings, note))


def _thin_classes(classes: Mapping[int, Estimate]) -> list[int]:
    """Classes without a standard error, and the smallest others that make them two examples."""
    thin = [label for label, estimate in classes.items() if math.isnan(estimate.stderr)]
    if not thin:
        return thin
    by_size = sorted(set(classes) - set(thin), key=lambda label: classes[label].n_samples)
    while by_size and sum(classes[label].n_samples for label in thin) < 2:
        thin.append(by_size.pop(0))
    return thin


def _pooled(classes: Sequence[Estimate], counts: Sequence[float]) -> Estimate:
    """Several classes as one stratum: their weighted mean, with the spread of all its terms.

        G = sum_i w_i y_i,  SE^2 = m/(m - 1) sum_i w_i^2 (y_i - G)^2,  w_i = N_c / (n_c sum_c N_c)

    over the m examples i, each of its class c.

    Source: the variance of a ratio estimate with unequal weights, Cochran (1977), chapter 9.
    """
    terms = [c.values for c in classes if c.values is not None]
    weights = [n / c.n_samples / sum(counts) for n, c in zip(counts, classes, strict=True)]
    y = torch.cat(terms)
    w = torch.cat([torch.full_like(v, weight) for v, weight in zip(terms, weights, strict=True)])
    value = float(w @ y)
    m = len(y)
    variance = m / (m - 1) * float((w * (y - value)).square().sum()) if m > 1 else math.nan
    return replace(classes[0], value=value, stderr=math.sqrt(variance), dof=max(m - 1, 1))


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
    examples with a second probe (``SquaredNorms.filled_variances``), which count as degrees of
    freedom. With fewer than ``min_known`` random ones of those, or for the distribution behind the
    data, SE^2 = s^2/n_s.

    Source: definitions 1 (derived there): only the between part carries the finite population
    factor.
    """
    values = norms.values
    n = len(values)
    if n == 0:
        none = _estimate(values, math.nan, math.nan, 1.0, settings)
        return replace(none, largest_share=None, dof=math.inf, warnings=("no example was sampled",))
    between = float(values.var()) / n if n > 1 else math.nan
    if settings.population == "distribution" or not _tells_variances(norms, min_known):
        return _estimate(values, float(values.mean()), math.sqrt(between), max(n - 1, 1), settings)
    share = n / n_population
    n_known = int((~norms.variances.isnan()).sum())
    stderr, dof = total_variance(
        [
            between * (1.0 - share) if share < 1.0 else 0.0,
            float(norms.filled_variances().mean()) / n * share,
        ],
        [max(n - 1, 1), n_known],
    )
    return _estimate(values, float(values.mean()), stderr, dof, settings)


def _tells_variances(norms: SquaredNorms, min_known: int) -> bool:
    """True if the variances of the probes are all known, or told by enough random examples.

    The larger half of these may be examples that tell nothing of the unknown ones.
    """
    if not bool(norms.variances.isnan().any()):
        return True
    n_random = int(norms.is_random.sum())
    return n_random >= min_known and int(norms.tells_unknown.sum()) >= min_known // 2


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
