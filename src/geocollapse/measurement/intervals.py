"""Estimates of a layer's measures for the population behind the data, paired over models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.collapse import LabelledFeatures
from geocollapse.collapse.example_terms import ExampleTerms
from geocollapse.collapse.linearised import (
    CorrectedDistances,
    Linearised,
    cdnv_linearised,
    centred,
    directional_linearised,
    nearest_mean_linearised,
    shifts,
    total_variance_linearised,
)
from geocollapse.collapse.linearised_nc1 import nc1_linearised
from geocollapse.estimate import Estimate, Scale
from geocollapse.influence import Influence
from geocollapse.numerics import ROUNDING_UNITS
from geocollapse.store import KeptLayer

_NOISY = 0.2  # share of the noise of the means in their squared distances: first order is rough
_NO_INTERVAL = (
    "a class has fewer than two probed examples, or the class means do not stand out of their noise"
)
_POOLED = -1  # the stratum of classes with fewer than two examples


def estimates_of(
    kept: KeptLayer, data: LabelledFeatures, terms: ExampleTerms | None
) -> dict[str, Estimate]:
    """The measures that are ranked, by their names in ``geocollapse.measures``, as Estimates.

    Each speaks about the population behind the data: examples drawn anew within each class. The
    value is corrected for bias of order 1/n_c, so it can differ from the plug-in one. Measures that
    the layer does not have are left out. One pass over the features, after ``terms`` has read them.

    Source: definitions 1 to 4.
    """
    found = _Found(kept, data)
    _add_accuracy(found)
    probed = _Probed.of(found)
    for name, group in probed.items():
        found.add(name, *group.mean)
    if terms is not None:
        _add_collapse(found, terms, probed)
    return found.estimates


def _add_collapse(found: _Found, terms: ExampleTerms, probed: Mapping[str, _Probed]) -> None:
    """Add what depends on the class means, whose slopes share one pass over the features."""
    data = found.data
    distances = CorrectedDistances(data)
    found.notes = _about_noise(distances.noise_share)
    variance = total_variance_linearised(data, terms)
    collapse = {
        "cdnv": cdnv_linearised(data, terms, distances),
        "directional_cdnv": directional_linearised(data, terms, distances),
        "nc1": nc1_linearised(data, terms),
        "nearest_mean_error": nearest_mean_linearised(data, terms, distances),
    }
    slopes = [variance.slopes, *(entry.slopes for entry in collapse.values())]
    slopes += [distances.slopes(group.by_class) for group in probed.values()]
    of_variance, *moved = shifts(data, slopes)
    for (name, entry), shift in zip(collapse.items(), moved, strict=False):
        found.add_linearised(name, entry, shift)
    found.estimates["cdnv_bias_corrected"] = found.estimates["cdnv"]
    total = variance.value, centred(variance.own + of_variance, data.index)
    for (name, group), shift in zip(probed.items(), moved[len(collapse) :], strict=True):
        prefix = "per_pixel." if name == "gc_pixel" else ""
        found.add(f"{prefix}gc_per_variance", *_ratio(group.mean, total))
        found.add(f"{prefix}geometric_collapse", *_collapse(group, distances, shift, data.index))


@dataclass
class _Found:
    """The estimates so far, and what all of them share."""

    kept: KeptLayer
    data: LabelledFeatures

    def __post_init__(self) -> None:
        self.estimates: dict[str, Estimate] = {}
        self.notes: tuple[str, ...] = ()
        self.ids = self.kept.context.ids
        self.labels = self.kept.labels
        self.index = self.data.index.cpu()
        self.rounding = ROUNDING_UNITS * torch.finfo(self.kept.features.dtype).eps

    def add(self, name: str, value: float, terms: Tensor, *, scale: Scale = "log") -> None:
        """Add an estimate whose examples have the influences ``terms``."""
        context = self.kept.context
        influence = Influence(terms.cpu(), self.labels, self.ids, self.rounding)
        stderr, dof = influence.spread(self.index)
        is_defined = not math.isnan(value) and not math.isnan(stderr)
        is_probed = name.startswith(("g", "per_pixel"))
        self.estimates[name] = Estimate(
            value,
            stderr,
            n_samples=len(context.probed) if is_probed else len(self.ids),
            n_probes=context.settings.n_probes,
            population="distribution",
            estimator="delta",
            dof=dof,
            scale=scale,
            sequential=context.settings.sequential and is_probed,
            interrupted=context.ending == "interrupted",
            layer=self.kept.layer,
            indices=self.ids,
            influence=influence,
            warnings=self.notes if is_defined else (_NO_INTERVAL,),
        )

    def add_linearised(self, name: str, entry: Linearised, shift: Tensor) -> None:
        """Add a measure of the features alone."""
        terms = centred(entry.own + shift, self.data.index)
        variance = float(terms.square().sum())
        if variance > 0.0:
            terms = terms * math.sqrt(1.0 + entry.extra_variance / variance)
        scale: Scale = "share" if name == "nearest_mean_error" else "log"
        self.add(name, entry.value, terms, scale=scale)


@dataclass(frozen=True, eq=False)
class _Probed:
    """Squared Jacobian norms, in one unit of the inputs.

    Attributes:
        norms: g (m,) of the probed examples.
        rows: the positions of these (m,) among all that were read.
        mean: their mean with each class at its share of the data, and its influences.
        by_class: mean of each class (C,), NaN without two examples.
    """

    norms: Tensor
    rows: Tensor
    mean: tuple[float, Tensor]
    by_class: Tensor

    @classmethod
    def of(cls, found: _Found) -> dict[str, _Probed]:
        """In the units of the inputs, and in raw pixels where their scale is known."""
        kept = found.kept
        rows = kept.context.probed
        if len(rows) == 0:
            return {}
        pixel = kept.norms.per_pixel()
        units = {"geometric_complexity": kept.norms.values}
        if pixel is not None:
            units["gc_pixel"] = pixel.values
        device = found.data.index.device
        rows = rows.to(device)
        return {name: cls.from_norms(g.to(device), rows, found.data) for name, g in units.items()}

    @classmethod
    def from_norms(cls, norms: Tensor, rows: Tensor, data: LabelledFeatures) -> _Probed:
        """Squared norms of the examples at ``rows``."""
        g = norms.double()
        index = data.index.index_select(0, rows)
        n_classes = len(data.statistics.counts)
        counts = index.bincount(minlength=n_classes).double()
        sums = g.new_zeros(n_classes).index_add_(0, index, g)
        by_class = torch.where(counts > 1, sums / counts, torch.nan)
        return cls(g, rows, stratified_mean(g, rows, data), by_class)


def stratified_mean(y: Tensor, rows: Tensor, data: LabelledFeatures) -> tuple[float, Tensor]:
    """Mean of y over examples, with each class at its share of the data, and influences (n,).

    y is that of the examples at ``rows``. Classes with fewer than two of them are one stratum, in
    which each keeps its share. Source: Cochran (1977), chapter 9.
    """
    index = data.index.index_select(0, rows)
    counts = index.bincount(minlength=len(data.statistics.counts)).double()
    weights = (data.statistics.counts / counts).index_select(0, index)
    weights = weights / weights.sum()
    strata, of_class = _strata(counts).unique(return_inverse=True)
    stratum = of_class.index_select(0, index)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(strata)).index_add_(0, stratum, values)

    means = total(weights * y) / total(weights)
    sizes = counts.new_zeros(len(strata)).index_add_(0, of_class, counts)
    deviations = y - means.index_select(0, stratum)
    own = sizes.index_select(0, stratum) * weights * deviations
    terms = y.new_zeros(len(data.labels)).index_copy_(0, rows, centred(own, stratum))
    return float(weights @ y), terms


def _strata(counts: Tensor) -> Tensor:
    """The stratum of each class (C,): its own row, or one that classes with an example share."""
    strata = torch.arange(len(counts), device=counts.device)
    strata[counts == 1] = _POOLED
    if int((counts == 1).sum()) == 1:  # one example tells no variance: the smallest class joins
        strata[torch.where(counts > 1, counts, torch.inf).argmin()] = _POOLED
    return strata


def _add_accuracy(found: _Found) -> None:
    """Add the accuracy of the model's own classifier, where its outputs were kept."""
    context = found.kept.context
    if context.accuracy is None or context.logits is None:
        return
    hits = (
        (context.logits.argmax(dim=1).cpu() == context.labels).double().to(found.data.index.device)
    )
    _, terms = stratified_mean(hits, torch.arange(len(hits), device=hits.device), found.data)
    found.add("accuracy", context.accuracy, terms, scale="share")


def _ratio(a: tuple[float, Tensor], b: tuple[float, Tensor]) -> tuple[float, Tensor]:
    """a/b with its influences, from two values with theirs."""
    if not b[0] > 0.0:
        return math.nan, a[1] * math.nan
    ratio = a[0] / b[0]
    return ratio, (a[1] - ratio * b[1]) / b[0]


def _collapse(
    group: _Probed, distances: CorrectedDistances, shift: Tensor, index: Tensor
) -> tuple[float, Tensor]:
    """Geometric collapse with its influences. Source: definitions 3."""
    mine = index.index_select(0, group.rows)
    terms = centred(shift, index)
    own = distances.weights.index_select(0, mine) * group.norms
    terms.index_add_(0, group.rows, centred(own, mine))
    return float((distances.weights * group.by_class).sum()), terms


def about_estimates(estimates: Mapping[str, Estimate]) -> tuple[str, ...]:
    """Notes on estimates that are undefined or rough."""
    undefined = [name for name, e in estimates.items() if _NO_INTERVAL in e.warnings]
    notes = [note for e in estimates.values() for note in e.warnings if note != _NO_INTERVAL]
    if undefined:
        notes.append(f"estimates: no interval for {', '.join(undefined)}: {_NO_INTERVAL}")
    return tuple(dict.fromkeys(notes))


def _about_noise(share: float) -> tuple[str, ...]:
    """A note where the noise of the class means is a good part of their squared distances."""
    if share <= _NOISY:
        return ()
    return (
        f"estimates: {share:.0%} of the squared distances of the class means is noise, so "
        f"intervals are rough; do measure more examples of each class",
    )
