"""The JSON form of one layer's measurement."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from geocollapse.bounds import BoundDict
from geocollapse.estimate import EstimateDict, IntervalDict
from geocollapse.transfer import LabelFreeDict


class PoincareDict(TypedDict):
    """Empirical Poincare ratios Var_i / GC_i.

    Attributes:
        infinite: names of the classes with an infinite ratio, a GC of 0 and some variance; in JSON
            their ratio is null.
        per_class: the ratio of each class, by its name.
    """

    weighted_mean: float | None
    max: float | None
    infinite: list[str]
    per_class: dict[str, float | None]


class PerPixelDict(TypedDict):
    """The JSON form of ``PerPixel``.

    Attributes:
        geometric_complexity: scales with the features.
        gc_per_variance: free of the feature scale too.
        geometric_collapse: free of the feature scale too.
    """

    geometric_complexity: IntervalDict
    gc_per_variance: IntervalDict
    geometric_collapse: IntervalDict


class MeasurementDict(TypedDict):
    """The JSON form of one layer's measurement.

    An undefined number is null, and ``warnings`` say why.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        n_samples: number of examples.
        n_features: width of the layer.
        n_classes: number of classes.
        classes: name of class 0, 1, ...
        layer: name of the layer; `:in` follows where it is its input; empty for the output.
        split: the part of the data set; null where it has none.
        per_pixel: readings in raw pixels; null where the scale of the inputs is not known.
        geometric_complexity_per_class: of the examples of each class, by its name.
        poincare_ratio: variance over geometric complexity of a class.
        nearest_mean_bound: bounds on the nearest-mean error by number of shots, `inf` for the class
            means themselves.
        predicted_error: error of the nearest mean among 5 classes predicted from the geometry, by
            number of shots; null where it is undefined.
        predicted_error_intervals: the predicted errors with intervals, for other examples and
            classes like these; empty where there are none.
        label_free: measures that use no labels.
        estimates: value, standard error and 95 % interval of the measures that are ranked, for the
            population behind the data, corrected for few examples of a class.
        preprocessing: what was done to the inputs and to the features.
        warnings: what a reader must know.
        provenance: where the numbers come from.
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
    per_pixel: PerPixelDict | None
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
    hyperspherical_uniformity: float | None
    nearest_mean_error: float | None
    nc2_weight_equinorm: float | None
    nc2_weight_equiangular: float | None
    nc2_weight_max_angle: float | None
    nc3: float | None
    nc3_squared: float | None
    self_duality_gram: float | None
    nc4: float | None
    nearest_mean_bound: dict[str, BoundDict]
    predicted_error: dict[str, float | None]
    predicted_error_intervals: dict[str, IntervalDict]
    label_free: LabelFreeDict
    estimates: dict[str, IntervalDict]
    preprocessing: dict[str, Any]
    warnings: list[str]
    provenance: dict[str, Any]
