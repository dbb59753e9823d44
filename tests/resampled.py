"""Samples of finite populations, and how often the intervals of a measurement contain the truth."""

from __future__ import annotations

import math

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


def kept_layer(
    features: Tensor,
    labels: Tensor,
    norms: Tensor | None = None,
    logits: Tensor | None = None,
    *,
    probed: Tensor | None = None,
) -> KeptLayer:
    """Features as a measurement keeps them, with a squared Jacobian norm of each of ``probed``."""
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
    squared = SquaredNorms(values.double(), nothing, torch.ones(len(values), dtype=torch.int64))
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
    if len(kept.norms):
        g = kept.norms.values.double()
        x = kept.features.double()
        total = float((x - x.mean(dim=0)).square().sum(dim=1).mean())
        means = data.statistics.means
        inverse = torch.cdist(means, means).square().fill_diagonal_(math.inf).reciprocal()
        by_class = torch.stack([g[kept.labels == c].mean() for c in range(len(means))])
        n_pairs = len(means) * (len(means) - 1)
        values["geometric_complexity"] = float(g.mean())
        values["gc_per_variance"] = float(g.mean()) / total
        values["geometric_collapse"] = float((inverse.sum(dim=1) * by_class).sum()) / n_pairs
    return values


def drawn(population: KeptLayer, n_class: int, seed: int) -> KeptLayer:
    """``n_class`` examples of each class, drawn independently."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for label in population.labels.unique():
        members = (population.labels == label).nonzero().flatten()
        parts.append(members[torch.randint(len(members), (n_class,), generator=generator)])
    rows = torch.cat(parts)
    logits = population.context.logits
    return kept_layer(
        population.features[rows],
        population.labels[rows],
        population.norms.values[rows] if len(population.norms) else None,
        None if logits is None else logits[rows],
    )
