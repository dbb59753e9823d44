"""Samples of finite populations, and how often the intervals of a measurement contain the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from geocollapse.collapse import LabelledFeatures, measure_collapse
from geocollapse.collapse.example_terms import ExampleTerms
from geocollapse.collapse.projections import read
from geocollapse.complexity.means import EstimateSettings
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.estimate import Estimate
from geocollapse.jacobian import SquaredNorms
from geocollapse.measurement.intervals import estimates_of
from geocollapse.store import KeptLayer
from geocollapse.store.kept import Context

PROBED = ("geometric_complexity", "gc_per_variance", "geometric_collapse")
PER_PIXEL = ("gc_pixel", "per_pixel.gc_per_variance", "per_pixel.geometric_collapse")


def kept_layer(
    features: Tensor,
    labels: Tensor,
    norms: Tensor | None = None,
    logits: Tensor | None = None,
    *,
    probed: Tensor | None = None,
    pixel_norms: Tensor | None = None,
) -> KeptLayer:
    """Features as a measurement keeps them, with a squared Jacobian norm of each of ``probed``.

    ``pixel_norms`` are these norms per unit of the raw pixel.
    """
    n = len(labels)
    rows = torch.arange(n)
    values = torch.zeros(0) if norms is None else norms
    probed = rows[: len(values)] if probed is None else probed
    counts = dict(enumerate(labels.bincount().double().tolist()))
    right = None if logits is None else float((logits.argmax(dim=1) == labels).double().mean())
    context = Context(
        labels=labels,
        ids=rows,
        logits=logits,
        probed=probed,
        n_population=n,
        class_counts=counts,
        is_stratified=True,
        settings=EstimateSettings("rademacher"),
        rule=StoppingRule(),
        ending="complete",
        class_names=None,
        accuracy=right,
        split=None,
        lambda_max=None,
        preprocessing={},
        provenance={},
    )
    nothing = torch.full((len(values),), math.nan, dtype=torch.float64)
    single = torch.ones(len(values), dtype=torch.int64)
    if pixel_norms is None:
        squared = SquaredNorms(values.double(), nothing, single)
    else:
        squared = SquaredNorms(values.double(), nothing, single, pixel_norms.double(), nothing)
    return KeptLayer("fc:in", features, squared, None, context)


def estimates(kept: KeptLayer) -> dict[str, Estimate]:
    """The estimates of ``measure``, without its other measures."""
    data = LabelledFeatures.of(kept.features, kept.labels)
    terms = ExampleTerms.of(data)
    if terms is not None:
        read(data, [terms], terms.spectrum.basis)
    return estimates_of(kept, data, terms)


def plug_in(kept: KeptLayer) -> dict[str, float]:
    """The values of a whole population, with its own means, by the plug-in formulas."""
    data = LabelledFeatures.of(kept.features, kept.labels)
    found = measure_collapse(data)
    names = ("cdnv", "directional_cdnv", "nc1", "nearest_mean_error")
    values = {name: float(getattr(found, name)) for name in names}
    if kept.context.accuracy is not None:
        values["accuracy"] = kept.context.accuracy
    pixel = kept.norms.per_pixel()
    if len(kept.norms):
        of_inputs = probed_values(data, kept.norms.values)
        values |= dict(zip(PROBED, of_inputs, strict=True))
    if pixel is not None:
        values |= dict(zip(PER_PIXEL, probed_values(data, pixel.values), strict=True))
    return values


def probed_values(data: LabelledFeatures, norms: Tensor) -> tuple[float, float, float]:
    """Geometric complexity, the same per variance, and geometric collapse of all examples."""
    g = norms.double()
    x = data.features.double()
    total = float((x - x.mean(dim=0)).square().sum(dim=1).mean())
    means = data.statistics.means
    inverse = torch.cdist(means, means).square().fill_diagonal_(math.inf).reciprocal()
    by_class = torch.stack([g[data.labels == c].mean() for c in range(len(means))])
    collapse = float((inverse.sum(dim=1) * by_class).sum()) / (len(means) * (len(means) - 1))
    return float(g.mean()), float(g.mean()) / total, collapse


def drawn(population: KeptLayer, n_class: int, seed: int) -> KeptLayer:
    """``n_class`` examples of each class, drawn independently."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for label in population.labels.unique():
        members = (population.labels == label).nonzero().flatten()
        parts.append(members[torch.randint(len(members), (n_class,), generator=generator)])
    rows = torch.cat(parts)
    logits = population.context.logits
    pixel = population.norms.per_pixel()
    return kept_layer(
        population.features[rows],
        population.labels[rows],
        population.norms.values[rows] if len(population.norms) else None,
        None if logits is None else logits[rows],
        pixel_norms=None if pixel is None else pixel.values[rows],
    )


def coverage(
    population: KeptLayer, n_class: int, repeats: int, factors: Sequence[float] = (1.0,)
) -> dict[float, dict[str, float]]:
    """Shares of intervals that contain the value of the population, by measure.

    One set of shares for each factor, by which the standard errors are multiplied.
    """
    truth = plug_in(population)
    hits = {factor: dict.fromkeys(truth, 0) for factor in factors}
    for seed in range(repeats):
        found = estimates(drawn(population, n_class, seed))
        for factor, counts in hits.items():
            for name, value in truth.items():
                wrong = replace(found[name], stderr=factor * found[name].stderr)
                low, high = wrong.interval()
                counts[name] += low <= value <= high
    return {
        factor: {name: count / repeats for name, count in counts.items()}
        for factor, counts in hits.items()
    }


def marks(low: float, high: float, repeats: int) -> tuple[float, float]:
    """Both ends of a range of rates, moved out by two binomial errors of ``repeats``."""
    return (
        low - 2 * math.sqrt(low * (1 - low) / repeats),
        high + 2 * math.sqrt(high * (1 - high) / repeats),
    )
