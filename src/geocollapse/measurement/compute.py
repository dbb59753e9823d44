"""All measures of one layer, from its kept features and squared Jacobian norms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from geocollapse.bounds import MAX_MOMENT_CLASSES, NearestMeanBound, bounds_of
from geocollapse.collapse import (
    ClassStatistics,
    LabelledFeatures,
    NeuralCollapse,
    PoincareRatios,
    geometric_collapse,
    mean_cdnv,
    measure_collapse,
    poincare_ratios,
)
from geocollapse.collapse.example_terms import ExampleTerms
from geocollapse.collapse.sampled import has_too_many_pairs
from geocollapse.complexity.means import dataset_complexity, norms_by_class
from geocollapse.estimate import Estimate
from geocollapse.jacobian import SquaredNorms
from geocollapse.measurement.intervals import about_estimates, estimates_of
from geocollapse.measurement.json_form import PoincareDict
from geocollapse.measurement.layer import LayerMeasurement, PerPixel
from geocollapse.store import KeptLayer
from geocollapse.transfer.label_free import label_free

_BOUND_SHOTS = (math.inf, 1, 5)
_NO_NORMS = (
    "geometric_complexity, geometric_collapse and what follows from them: undefined without "
    "squared Jacobian norms; do geocollapse measure MODEL DATA --save-features FILE, which keeps "
    "them"
)


class _Classifier(NamedTuple):
    """Weight (C, p) and bias (C,) if they fit the classes and the layer, else notes on why not."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    notes: tuple[str, ...] = ()


def measure_layer(kept: KeptLayer) -> LayerMeasurement:
    """All measures of one layer from its kept features and squared Jacobian norms."""
    data = LabelledFeatures.of(kept.features, kept.labels)
    names = kept.context.names_of(data.statistics.classes.tolist())
    by_class, gc = _complexity(kept, kept.norms)
    classifier = _fitting_classifier(kept, data)
    collapse, estimates = _collapse(kept, data, classifier)
    means = data.statistics.means
    rounding = data.statistics.rounding_squared()
    gcol = geometric_collapse(by_class, means, rounding=rounding)
    ratios = poincare_ratios(data.statistics.variances(), by_class, means, rounding=rounding)
    variance = _total_variance(data)
    has_norms = len(kept.context.probed) > 0
    baselines = label_free(kept.features)
    warnings = (
        *kept.context.warnings,
        *((*gc.warnings, *gcol.warnings) if has_norms else (_NO_NORMS,)),
        *collapse.warnings,
        *classifier.notes,
        *_about_limits(len(names), variance),
        *baselines.warnings,
        *about_estimates(estimates),
    )
    return LayerMeasurement(
        kept=kept,
        class_names=names,
        geometric_complexity=gc,
        per_pixel=_per_pixel(kept, data.statistics, variance),
        gc_per_variance=_divided(gc, variance).value,
        class_complexity=dict(zip(names, by_class, strict=True)),
        geometric_collapse=gcol,
        poincare_ratio=_by_name(ratios, names),
        neural_collapse=collapse,
        bounds=_bounds(data, collapse.cdnv, ratios["max"] * gcol.value if has_norms else None),
        label_free=baselines,
        estimates=estimates,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _collapse(
    kept: KeptLayer, data: LabelledFeatures, classifier: _Classifier
) -> tuple[NeuralCollapse, dict[str, Estimate]]:
    """Neural collapse, and the estimates of the ranked measures from the same pass."""
    terms = ExampleTerms.of(data)
    beside = () if terms is None else (terms,)
    found = measure_collapse(data, weight=classifier.weight, bias=classifier.bias, beside=beside)
    return found, estimates_of(kept, data, terms)


def _bounds(
    data: LabelledFeatures, cdnv: float, surrogate: float | None
) -> dict[str, NearestMeanBound]:
    """Nearest-mean bounds by the number of shots, ``inf`` for the class means themselves.

    Of so many classes that their CDNV is an estimate, the bounds take that of all pairs.
    """
    if has_too_many_pairs(len(data.statistics.classes)):
        cdnv = float(mean_cdnv(data.statistics)[0])
    found = bounds_of(data, _BOUND_SHOTS, cdnv, surrogate)
    return {"inf" if bound.k_shot == math.inf else str(bound.k_shot): bound for bound in found}


def _complexity(kept: KeptLayer, norms: SquaredNorms) -> tuple[list[Estimate], Estimate]:
    """Geometric complexity of each class and of the data set, from the squared norms."""
    context = kept.context
    labels = context.labels[context.probed]
    settings = replace(context.settings, layer=kept.layer)
    classes = norms_by_class(norms, labels, context.class_counts, settings)
    strata = labels if context.is_stratified else None
    total = dataset_complexity(
        norms, context.n_population, strata, context.class_counts, settings, classes
    )
    total = replace(total, indices=context.ids[context.probed])
    return list(classes.values()), context.rule.marked(total, context.n_population, context.ending)


def _by_name(ratios: PoincareRatios, names: tuple[str, ...]) -> PoincareDict:
    """The ratios with class names as keys."""
    per_class = dict(zip(names, ratios["per_class"].tolist(), strict=True))
    return {
        "weighted_mean": ratios["weighted_mean"],
        "max": ratios["max"],
        "infinite": [name for name, ratio in per_class.items() if ratio == math.inf],
        "per_class": per_class,
    }


def _per_pixel(kept: KeptLayer, classes: ClassStatistics, variance: float) -> PerPixel | None:
    """Complexity and collapse in raw pixels; None if the scale of pixels is unknown."""
    norms = kept.norms.per_pixel()
    if norms is None:
        return None
    by_class, gc = _complexity(kept, norms)
    gcol = geometric_collapse(by_class, classes.means, rounding=classes.rounding_squared())
    return PerPixel(gc, _divided(gc, variance), gcol)


def _divided(estimate: Estimate, divisor: float) -> Estimate:
    """The estimate over a known number; NaN over 0."""
    if divisor <= 0.0:
        return replace(estimate, value=math.nan, stderr=math.nan)
    return replace(estimate, value=estimate.value / divisor, stderr=estimate.stderr / divisor)


def _total_variance(data: LabelledFeatures) -> float:
    """Trace of the covariance of all features: within plus between classes."""
    statistics = data.statistics
    share = statistics.counts / statistics.counts.sum()
    centred = statistics.offsets - share @ statistics.offsets
    return float(
        statistics.sum_squares.sum() / statistics.counts.sum()
        + (share * centred.square().sum(dim=1)).sum()
    )


def _about_limits(n_classes: int, variance: float) -> tuple[str, ...]:
    """Notes on measures left undefined by many classes or equal features."""
    notes = []
    if n_classes > MAX_MOMENT_CLASSES:
        notes.append(
            f"nearest_mean_bound: directional form and stable rank up to {MAX_MOMENT_CLASSES} "
            f"classes only"
        )
    if variance == 0.0:
        notes.append("gc_per_variance: undefined, all features are equal")
    return tuple(notes)


def _fitting_classifier(kept: KeptLayer, data: LabelledFeatures) -> _Classifier:
    """The classifier that the layer feeds, if it fits the classes and the features."""
    if kept.head is None:
        return _Classifier(notes=(f"nc3, nc4 and nc2_weight: not defined here, {kept.no_head}",))
    weight, bias = kept.head
    classes = data.statistics.classes
    n_classes = len(classes)
    n_features = data.features.shape[1]
    is_one_row_a_class = bool((classes.cpu() == torch.arange(n_classes)).all())
    if not is_one_row_a_class or weight.shape != (n_classes, n_features):
        note = (
            f"nc3, nc4 and nc2_weight: not defined here, the classifier has shape "
            f"{tuple(weight.shape)}, the data {n_classes} classes and the layer {n_features} "
            f"features"
        )
        return _Classifier(notes=(note,))
    device = data.features.device
    zeros = torch.zeros(n_classes)  # without a bias, the bias is 0
    return _Classifier(weight.to(device), (zeros if bias is None else bias).to(device))
