"""All measures of one layer, from what the pass over the model kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import TypedDict

from geocollapse.bounds import BoundDict, NearestMeanBound
from geocollapse.collapse import ClassPair, LabelledFeatures, NeuralCollapse, largest_pairs
from geocollapse.estimate import Estimate, EstimateDict, IntervalDict, TopExample, strict_json
from geocollapse.store import KeptLayer, write_features
from geocollapse.transfer import LabelFree, LabelFreeDict

SUGGESTED_RTOL = 0.05


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
