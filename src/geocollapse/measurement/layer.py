"""All measures of one layer, from what the pass over the model kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import TypedDict

from geocollapse.bounds import MAX_MOMENT_CLASSES, BoundDict, NearestMeanBound, bounds_of
from geocollapse.collapse import (
    ClassPair,
    LabelledFeatures,
    NeuralCollapse,
    PoincareRatios,
    geometric_collapse,
    largest_pairs,
    measure_collapse,
    poincare_ratios,
)
from geocollapse.complexity import dataset_complexity, norms_by_class, samples_needed
from geocollapse.estimate import Estimate, EstimateDict, IntervalDict, TopExample, strict_json
from geocollapse.jacobian import SquaredNorms
from geocollapse.measurement.kept import Head, KeptLayer
from geocollapse.measurement.saved import write_features
from geocollapse.scores import LabelFree, LabelFreeDict, label_free

SUGGESTED_RTOL = 0.05
_BOUND_SHOTS = (math.inf, 1, 5)
_NO_NORMS = (
    "geometric_complexity, geometric_collapse and what follows from them: undefined without "
    "squared Jacobian norms; "
    "do geocollapse measure MODEL DATA --save-features FILE, which keeps them"
)


class PoincareDict(TypedDict):
    """Empirical Poincare ratios Var_i / GC_i."""

    weighted_mean: float | None
    max: float | None
    per_class: dict[str, float | None]


class MeasurementDict(TypedDict):
    """The JSON form of one layer's measurement; an undefined number is null, with the reason in
    ``warnings``.
    """

    schema_version: int
    accuracy: float | None
    n_samples: int
    n_features: int
    n_classes: int
    classes: list[str]
    layer: str
    split: str | None
    geometric_complexity: EstimateDict
    gc_pixel: float | None
    gc_per_variance: float | None
    geometric_complexity_per_class: dict[str, IntervalDict]
    geometric_collapse: IntervalDict
    poincare_ratio: PoincareDict
    input_covariance_lambda_max: float | None
    cdnv: float | None
    cdnv_bias_corrected: float | None
    directional_cdnv: float | None
    nc1: float | None
    nc1_rank: int
    nc1_pooled: float | None
    nc1_trace_ratio: float | None
    nc2_equinorm: float | None
    nc2_equiangular: float | None
    nc2_max_angle: float | None
    nc2_weight_equinorm: float | None
    nc2_weight_equiangular: float | None
    nc2_weight_max_angle: float | None
    nc3: float | None
    nc3_squared: float | None
    self_duality_gram: float | None
    nc4: float | None
    hyperspherical_uniformity: float | None
    nearest_mean_error: float | None
    nearest_mean_bound: dict[str, BoundDict]
    predicted_error: dict[str, float | None]
    label_free: LabelFreeDict
    preprocessing: dict[str, Any]
    warnings: list[str]
    provenance: dict[str, Any]


@dataclass(frozen=True, eq=False)
class LayerMeasurement:
    """Every measure of one layer: geometric complexity, neural and geometric collapse, bounds,
    label-free baselines.

    Of a features file without squared Jacobian norms, complexity and what follows from it are NaN,
    with a warning.

    Attributes:
        kept: what they were computed from; ``save_features`` writes it.
        class_names: names of the classes, in ascending order of their labels.
        geometric_complexity: of the map from the input to this layer.
        gc_pixel: the same for each unit of the raw [0, 1] pixel; None where the input scale is not
            known.
        gc_per_variance: geometric complexity over the trace of the total feature covariance.
        class_complexity: geometric complexity of each class.
        geometric_collapse: see ``geocollapse.geometric_collapse``.
        poincare_ratio: empirical Poincare ratios.
        neural_collapse: CDNV and NC1 to NC4.
        bounds: nearest-mean bounds by the number of shots.
        label_free: RankMe, effective rank, alpha-ReQ and feature norm.
        samples_for_rtol: examples that ``rtol=0.05`` would have probed, where all of them were.
    """

    kept: KeptLayer
    class_names: tuple[str, ...]
    geometric_complexity: Estimate
    gc_pixel: float | None
    gc_per_variance: float
    class_complexity: dict[str, Estimate]
    geometric_collapse: Estimate
    poincare_ratio: PoincareDict
    neural_collapse: NeuralCollapse
    bounds: dict[str, NearestMeanBound]
    label_free: LabelFree
    samples_for_rtol: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def layer(self) -> str:
        """Where the features were taken."""
        return self.kept.layer

    @property
    def features(self) -> Tensor:
        """(n, p)."""
        return self.kept.features

    @property
    def labels(self) -> Tensor:
        """(n,)."""
        return self.kept.labels

    @property
    def accuracy(self) -> float | None:
        """Share of the examples that the model's own classifier gets right; None without one for
        these classes.
        """
        return self.kept.context.accuracy

    def save_features(self, path: str | Path, *, origin: Mapping[str, Any] | None = None) -> None:
        """Write a features file, from which ``geocollapse.measure_features`` makes the same
        numbers.

        Args:
            path: a file ending in ``.safetensors`` or ``.npz``; written whole or not at all.
            origin: what to record beside the provenance, such as the model's name.

        Raises:
            ValueError: another ending.
        """
        write_features(path, self.kept, origin=origin)

    def pairs(self, k: int = 10) -> list[ClassPair]:
        """The k class pairs of largest CDNV: the classes that the features separate least."""
        statistics = LabelledFeatures.of(self.features, self.labels).statistics
        n_pairs = len(self.class_names) * (len(self.class_names) - 1) // 2
        return largest_pairs(statistics, min(k, n_pairs), class_names=self.class_names)

    def top_examples(self, k: int = 10) -> list[TopExample]:
        """The k inputs that carry most of geometric complexity, by position in the data set and
        class.
        """
        names = dict(zip(self.labels.unique().tolist(), self.class_names, strict=True))
        rows = dict(zip(self.kept.context.ids.tolist(), self.labels.tolist(), strict=True))
        found = self.geometric_complexity.top_examples(k)
        return [replace(example, class_name=names[rows[example.index]]) for example in found]

    def to_dict(self) -> MeasurementDict:
        """The strict JSON form."""
        collapse = {
            key: value for key, value in self.neural_collapse.to_dict().items() if key != "warnings"
        }
        context = self.kept.context
        result: MeasurementDict = strict_json(
            {
                "schema_version": 1,
                "accuracy": context.accuracy,
                "n_samples": len(self.features),
                "n_features": self.features.shape[1],
                "n_classes": len(self.class_names),
                "classes": self.class_names,
                "layer": self.layer,
                "split": context.split,
                "geometric_complexity": self.geometric_complexity,
                "gc_pixel": self.gc_pixel,
                "gc_per_variance": self.gc_per_variance,
                "geometric_complexity_per_class": {
                    k: e.to_interval_dict() for k, e in self.class_complexity.items()
                },
                "geometric_collapse": self.geometric_collapse.to_interval_dict(),
                "poincare_ratio": self.poincare_ratio,
                "input_covariance_lambda_max": context.lambda_max,
                **collapse,
                "nearest_mean_bound": {
                    shots: bound.to_dict() for shots, bound in self.bounds.items()
                },
                "predicted_error": {"1": None, "5": None},
                "label_free": self.label_free.to_dict(),
                "preprocessing": context.preprocessing,
                "warnings": self.warnings,
                "provenance": context.provenance,
            }
        )
        return result


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
    classes = norms_by_class(norms, labels, context.class_counts, **context.settings)
    strata = labels if context.is_stratified else None
    total = dataset_complexity(
        norms, context.n_population, strata, context.class_counts, **context.settings
    )
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
