"""All measures of one layer, from what the pass over the model kept."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from geocollapse.bounds import MAX_MOMENT_CLASSES, bounds_of
from geocollapse.collapse import (
    LabelledFeatures,
    PoincareRatios,
    geometric_collapse,
    measure_collapse,
    poincare_ratios,
)
from geocollapse.complexity.means import dataset_complexity, norms_by_class, samples_needed
from geocollapse.estimate import Estimate
from geocollapse.jacobian import SquaredNorms
from geocollapse.measurement.layer import SUGGESTED_RTOL, LayerMeasurement, PoincareDict
from geocollapse.store import KeptLayer
from geocollapse.store.kept import Head
from geocollapse.transfer.label_free import label_free

_BOUND_SHOTS = (math.inf, 1, 5)
_NO_NORMS = (
    "geometric_complexity, geometric_collapse and what follows from them: undefined without "
    "squared Jacobian norms; "
    "do geocollapse measure MODEL DATA --save-features FILE, which keeps them"
)


def measure_layer(kept: KeptLayer) -> LayerMeasurement:
    """All measures of one layer from its kept features and squared Jacobian norms."""
    context, data = kept.context, LabelledFeatures.of(kept.features, kept.labels)
    labels = [int(label) for label in data.statistics.classes]
    names = tuple(
        str(label) if context.class_names is None else context.class_names[label]
        for label in labels
    )
    by_class, gc = _complexity(kept)
    classifier, notes = _fitting_head(kept.head, data)
    collapse = measure_collapse(data, **classifier)
    means, variances = data.statistics.means, data.statistics.variances()
    gcol = geometric_collapse(by_class, means)
    has_norms = len(context.probed) > 0
    bounds = bounds_of(data, _BOUND_SHOTS, by_class if has_norms else None)
    about_norms = (*gc.warnings, *gcol.warnings) if has_norms else (_NO_NORMS,)
    if len(names) > MAX_MOMENT_CLASSES:
        notes += (
            f"nearest_mean_bound: directional form and stable rank up to {MAX_MOMENT_CLASSES} "
            f"classes only",
        )
    variance = _total_variance(data)
    if variance == 0.0:
        notes += ("gc_per_variance: undefined, all features are equal",)
    baselines = label_free(kept.features)
    return LayerMeasurement(
        kept=kept,
        class_names=names,
        geometric_complexity=gc,
        gc_pixel=None if kept.norms.scaled is None else _in_pixels(gc, kept.norms),
        gc_per_variance=gc.value / variance if variance > 0.0 else math.nan,
        class_complexity=dict(zip(names, by_class, strict=True)),
        geometric_collapse=gcol,
        poincare_ratio=_poincare(poincare_ratios(variances, by_class, means), names),
        neural_collapse=collapse,
        bounds={
            "inf" if bound.k_shot == math.inf else str(bound.k_shot): bound for bound in bounds
        },
        label_free=baselines,
        samples_for_rtol=_samples_for_rtol(kept),
        warnings=_distinct(
            *context.warnings, *about_norms, *collapse.warnings, *notes, *baselines.warnings
        ),
    )


def _complexity(kept: KeptLayer) -> tuple[list[Estimate], Estimate]:
    """Geometric complexity of each class and of the data set."""
    context, norms = kept.context, kept.norms
    labels = context.labels[context.probed]
    settings = replace(context.settings, layer=kept.layer)
    classes = norms_by_class(norms, labels, context.class_counts, settings)
    strata = labels if context.is_stratified else None
    total = dataset_complexity(norms, context.n_population, strata, context.class_counts, settings)
    total = replace(total, indices=context.ids[context.probed])
    return list(classes.values()), context.rule.marked(total, context.n_population, context.ending)


def _samples_for_rtol(kept: KeptLayer) -> int | None:
    """What the default precision could have saved; None where not every example was probed anyway."""
    if len(kept.norms) < kept.context.n_population:
        return None
    return samples_needed(kept.norms, SUGGESTED_RTOL, kept.context.provenance["seed"])


def _poincare(ratios: PoincareRatios, names: tuple[str, ...]) -> PoincareDict:
    per_class = dict(zip(names, ratios["per_class"].tolist(), strict=True))
    return {"weighted_mean": ratios["weighted_mean"], "max": ratios["max"], "per_class": per_class}


def _in_pixels(gc: Estimate, norms: SquaredNorms) -> float | None:
    """Geometric complexity for each unit of the raw pixel; the ratio of two sums over the same
    probed examples.
    """
    if norms.scaled is None:
        return None
    plain = float(norms.values.sum())
    return gc.value * float(norms.scaled.sum()) / plain if plain > 0.0 else 0.0


def _total_variance(data: LabelledFeatures) -> float:
    """Trace of the covariance of all features, from the class statistics: within plus between."""
    statistics = data.statistics
    share = statistics.counts / statistics.counts.sum()
    centred = statistics.offsets - share @ statistics.offsets
    return float(
        statistics.sum_squares.sum() / statistics.counts.sum()
        + (share * centred.square().sum(dim=1)).sum()
    )


def _fitting_head(head: Head, data: LabelledFeatures) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The classifier as arguments of the collapse measures, if it fits the classes and the
    features.
    """
    if isinstance(head, str):
        return {}, (f"nc3, nc4 and nc2_weight: not defined here, {head}",)
    weight, bias = head
    n_classes, n_features = len(data.statistics.classes), data.features.shape[1]
    is_aligned = (
        bool((data.statistics.classes.cpu() == torch.arange(n_classes)).all())
        and len(weight) == n_classes
    )
    if not is_aligned or weight.shape[1] != n_features:
        note = (
            f"nc3, nc4 and nc2_weight: not defined here, the classifier has shape "
            f"{tuple(weight.shape)}, "
            f"the data {n_classes} classes and the layer {n_features} features"
        )
        return {}, (note,)
    device = data.features.device
    zeros = torch.zeros(n_classes)  # a classifier without a bias is one with bias 0
    return {"weight": weight.to(device), "bias": (zeros if bias is None else bias).to(device)}, ()


def _distinct(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
