"""Estimates of a layer's measures for the population behind the data, paired over models."""

from __future__ import annotations

import math
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
from geocollapse.store import KeptLayer

_NOISY = 0.2  # share of the noise of the means in their squared distances: first order is rough
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
    if terms is None:
        return found.estimates
    distances = CorrectedDistances(data)
    variance = total_variance_linearised(data, terms)
    collapse = {
        "cdnv": cdnv_linearised(data, terms, distances),
        "directional_cdnv": directional_linearised(data, terms, distances),
        "nc1": nc1_linearised(data, terms),
        "nearest_mean_error": nearest_mean_linearised(data, terms, distances),
    }
    slopes = [variance.slopes, *(entry.slopes for entry in collapse.values())]
    slopes += [distances.slopes(group.by_class) for group in probed.values()]
    moved = shifts(data, slopes)
    notes = _about_noise(distances.noise_share)
    for (name, entry), shift in zip(collapse.items(), moved[1:], strict=False):
        found.add_linearised(name, entry, shift, notes)
    if "cdnv" in found.estimates:
        found.estimates["cdnv_bias_corrected"] = found.estimates["cdnv"]
    total = centred(variance.own, data.index) + centred(moved[0], data.index)
    for (name, group), shift in zip(probed.items(), moved[1 + len(collapse) :], strict=True):
        _add_ratios(found, name, group, (variance.value, total), shift, distances, notes)
    return found.estimates


@dataclass
class _Found:
    """The estimates so far, and what all of them share."""

    kept: KeptLayer
    data: LabelledFeatures

    def __post_init__(self) -> None:
        self.estimates: dict[str, Estimate] = {}
        self.ids = self.kept.context.ids
        self.labels = self.kept.labels

    def add(
        self,
        name: str,
        value: float,
        terms: Tensor,
        *,
        scale: Scale = "log",
        notes: tuple[str, ...] = (),
    ) -> None:
        """Add an estimate whose examples have the influences ``terms``."""
        context = self.kept.context
        influence = Influence(terms.cpu(), self.labels, self.ids)
        stderr, dof = influence.spread()
        is_defined = not math.isnan(value) and not math.isnan(stderr)
        about = f"{name}: no interval, the noise of the class means is larger than their distances"
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
            warnings=notes if is_defined else (about,),
        )

    def add_linearised(
        self, name: str, entry: Linearised, shift: Tensor, notes: tuple[str, ...]
    ) -> None:
        """Add a measure of the features alone."""
        index = self.data.index
        terms = centred(entry.own, index) + centred(shift, index)
        if entry.extra_variance > 0.0:
            variance = float(terms.square().sum())
            terms = terms * math.sqrt(1.0 + entry.extra_variance / variance)
        scale: Scale = "share" if name == "nearest_mean_error" else "log"
        self.add(name, entry.value, terms, scale=scale, notes=notes)


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
        index = data.index[rows]
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
    index = data.index[rows]
    counts = index.bincount(minlength=len(data.statistics.counts)).double()
    weights = (data.statistics.counts / counts)[index]
    weights = weights / weights.sum()
    strata = _strata(counts)[index]
    _, stratum, sizes = strata.unique(return_inverse=True, return_counts=True)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(sizes)).index_add_(0, stratum, values)

    means = total(weights * y) / total(weights)
    own = sizes[stratum] * weights * (y - means[stratum])
    terms = y.new_zeros(len(data.labels)).index_copy_(0, rows, centred(own, strata))
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
    value, terms = stratified_mean(hits, torch.arange(len(hits), device=hits.device), found.data)
    found.add("accuracy", value, terms, scale="share")


def _add_ratios(
    found: _Found,
    name: str,
    group: _Probed,
    variance: tuple[float, Tensor],
    shift: Tensor,
    distances: CorrectedDistances,
    notes: tuple[str, ...],
) -> None:
    """Add geometric complexity over the feature variance, and geometric collapse."""
    prefix = "per_pixel." if name == "gc_pixel" else ""
    gc, of_gc = group.mean
    total, of_total = variance
    ratio = gc / total if total > 0.0 else math.nan
    found.add(f"{prefix}gc_per_variance", ratio, (of_gc - ratio * of_total) / total)
    index = found.data.index
    own = distances.weights[index[group.rows]] * group.norms
    terms = centred(shift, index).index_add_(0, group.rows, centred(own, index[group.rows]))
    value = float((distances.weights * group.by_class).sum())
    found.add(f"{prefix}geometric_collapse", value, terms, notes=notes)


def _about_noise(share: float) -> tuple[str, ...]:
    """A note where the noise of the class means is a good part of their squared distances."""
    if share <= _NOISY:
        return ()
    return (
        f"{share:.0%} of the squared distances of the class means is noise: intervals are rough; "
        f"do measure more examples of each class",
    )
