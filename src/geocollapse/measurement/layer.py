"""All measures of one layer: the record, its JSON form, and how each measure is read from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Generic, NamedTuple, Protocol, TypeVar, cast, overload

from torch import Tensor

from geocollapse.bounds import NearestMeanBound
from geocollapse.collapse import ClassPair, LabelledFeatures, NeuralCollapse, largest_pairs
from geocollapse.complexity.means import samples_needed
from geocollapse.estimate import Estimate, IntervalDict, TopExample, strict_json
from geocollapse.measurement.json_form import MeasurementDict, PoincareDict
from geocollapse.measurement.near_names import NearNames
from geocollapse.measures import MEASURES
from geocollapse.store import KeptLayer, write_features
from geocollapse.transfer import LabelFree, quick_prediction
from geocollapse.transfer.prediction import Prediction

PREDICTED_SHOTS = (1, 5)
SUGGESTED_RTOL = 0.05  # the precision that the table suggests
_HEADLINES = (
    "accuracy",
    "geometric_complexity",
    "gc_pixel",
    "gc_per_variance",
    "geometric_collapse",
    "per_pixel.geometric_collapse",
    "cdnv",
    "directional_cdnv",
    "nc1",
    "nc2_equinorm",
    "nc2_equiangular",
    "nc3",
    "nc4",
    "nearest_mean_error",
    "label_free.rankme",
)


class PerPixel(NamedTuple):
    """What changes with the input normalisation, in units of the raw [0, 1] pixel.

    Attributes:
        geometric_complexity: scales with the features.
        gc_per_variance: geometric complexity over the trace of the total feature covariance.
        geometric_collapse: see ``geocollapse.geometric_collapse``. Like ``gc_per_variance`` free of
            the feature scale and of the normalisation: what is ranked across models.
    """

    geometric_complexity: Estimate
    gc_per_variance: Estimate
    geometric_collapse: Estimate


Value = TypeVar("Value", covariant=True)


class HasLayer(Protocol):
    """An object that stands for one layer, at least where it has no more than one."""

    def _only(self, name: str, /) -> LayerMeasurement:
        """The layer, or an AttributeError about the attribute ``name``."""


class OfTheLayer(Generic[Value]):
    """A read-only attribute that is read from the layer.

    Args:
        read: the value of a layer.
    """

    def __init__(self, read: Callable[[LayerMeasurement], Value]) -> None:
        self.read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> OfTheLayer[Value]: ...

    @overload
    def __get__(self, instance: HasLayer, owner: type) -> Value: ...

    def __get__(self, instance: HasLayer | None, owner: type) -> OfTheLayer[Value] | Value:
        return self if instance is None else self.read(instance._only(self.name))


class CollapseMeasures(NearNames):
    """The fields of ``NeuralCollapse`` as attributes."""

    cdnv = OfTheLayer(lambda layer: layer.neural_collapse.cdnv)
    cdnv_bias_corrected = OfTheLayer(lambda layer: layer.neural_collapse.cdnv_bias_corrected)
    directional_cdnv = OfTheLayer(lambda layer: layer.neural_collapse.directional_cdnv)
    nc1 = OfTheLayer(lambda layer: layer.neural_collapse.nc1)
    nc1_rank = OfTheLayer(lambda layer: layer.neural_collapse.nc1_rank)
    nc1_pooled = OfTheLayer(lambda layer: layer.neural_collapse.nc1_pooled)
    nc1_trace_ratio = OfTheLayer(lambda layer: layer.neural_collapse.nc1_trace_ratio)
    nc2_equinorm = OfTheLayer(lambda layer: layer.neural_collapse.nc2_equinorm)
    nc2_equiangular = OfTheLayer(lambda layer: layer.neural_collapse.nc2_equiangular)
    nc2_max_angle = OfTheLayer(lambda layer: layer.neural_collapse.nc2_max_angle)
    hyperspherical_uniformity = OfTheLayer(
        lambda layer: layer.neural_collapse.hyperspherical_uniformity
    )
    nearest_mean_error = OfTheLayer(lambda layer: layer.neural_collapse.nearest_mean_error)
    nc2_weight_equinorm = OfTheLayer(lambda layer: layer.neural_collapse.nc2_weight_equinorm)
    nc2_weight_equiangular = OfTheLayer(lambda layer: layer.neural_collapse.nc2_weight_equiangular)
    nc2_weight_max_angle = OfTheLayer(lambda layer: layer.neural_collapse.nc2_weight_max_angle)
    nc3 = OfTheLayer(lambda layer: layer.neural_collapse.nc3)
    nc3_squared = OfTheLayer(lambda layer: layer.neural_collapse.nc3_squared)
    self_duality_gram = OfTheLayer(lambda layer: layer.neural_collapse.self_duality_gram)
    nc4 = OfTheLayer(lambda layer: layer.neural_collapse.nc4)


@dataclass(frozen=True, eq=False, repr=False)
class LayerMeasurement(CollapseMeasures):
    """Complexity, collapse, bounds and label-free baselines of one layer.

    The fields of ``neural_collapse`` are attributes too: ``layer.cdnv``. From a features file
    without squared Jacobian norms, geometric complexity and all that follows from it are NaN, with
    a warning.

    Attributes:
        kept: the features, squared Jacobian norms and labels behind the numbers.
        class_names: names of the classes, in ascending order of their labels.
        geometric_complexity: of the map from the input to this layer.
        per_pixel: readings per unit of the raw [0, 1] pixel; None where the input scale is not
            known.
        gc_per_variance: geometric complexity over the trace of the total feature covariance.
        class_complexity: geometric complexity of each class.
        geometric_collapse: see ``geocollapse.geometric_collapse``.
        poincare_ratio: empirical Poincare ratios.
        neural_collapse: CDNV and NC1 to NC4.
        bounds: nearest-mean bounds by the number of shots: ``"inf"``, ``"1"``, ``"5"``.
        label_free: RankMe, effective rank, alpha-ReQ and feature norm.
        estimates: the measures that are ranked, by their names in ``geocollapse.measures``, for the
            population behind the data. Values are corrected for few examples of a class, so they
            can differ from the attributes; ``geocollapse.paired`` compares those of two models.
        warnings: why a value is undefined or must be read with care.
    """

    kept: KeptLayer
    class_names: tuple[str, ...]
    geometric_complexity: Estimate
    per_pixel: PerPixel | None
    gc_per_variance: float
    class_complexity: dict[str, Estimate]
    geometric_collapse: Estimate
    poincare_ratio: PoincareDict
    neural_collapse: NeuralCollapse
    bounds: dict[str, NearestMeanBound]
    label_free: LabelFree
    estimates: dict[str, Estimate]
    warnings: tuple[str, ...] = ()

    @property
    def layer(self) -> str:
        """Name of the layer that the features come from."""
        return self.kept.layer

    @property
    def gc_pixel(self) -> Estimate | None:
        """Geometric complexity per unit of the raw [0, 1] pixel; None where that is not known."""
        return None if self.per_pixel is None else self.per_pixel.geometric_complexity

    @cached_property
    def prediction(self) -> Prediction:
        """1-shot and 5-shot error predicted from the geometry, computed when it is asked for.

        Among 5 classes, or all if there are fewer. 500 queries and 100 sets of classes stand for
        all, which the standard error covers; see ``geocollapse.predicted_error``.
        """
        data = LabelledFeatures.of(self.features, self.labels)  # where there is float64
        seed = self.kept.context.seed
        return quick_prediction(data.features, data.labels, PREDICTED_SHOTS, seed, with_errors=True)

    @cached_property
    def predicted_error(self) -> dict[str, float | None]:
        """The predicted errors by number of shots; None where one is undefined."""
        return self.prediction.values

    @cached_property
    def predicted_error_intervals(self) -> dict[str, IntervalDict]:
        """The predicted errors with standard error and interval; empty where there are none."""
        return self.prediction.intervals

    @cached_property
    def samples_for_rtol(self) -> int | None:
        """Number of examples that ``rtol=0.05`` would have probed; None unless all were probed."""
        if len(self.kept.norms) < self.kept.context.n_population:
            return None
        return samples_needed(self.kept.norms, SUGGESTED_RTOL, self.kept.context.seed)

    @property
    def features(self) -> Tensor:
        """Features (n, p), in the order of the data."""
        return self.kept.features

    @property
    def labels(self) -> Tensor:
        """Labels (n,), in the order of the data."""
        return self.kept.labels

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the model's own classifier; None without one for these classes."""
        return self.kept.context.accuracy

    @property
    def input_covariance_lambda_max(self) -> float | None:
        """Largest eigenvalue of any class's input covariance; None where it is not computed."""
        return self.kept.context.lambda_max

    def save_features(
        self, path: str | Path, *, origin: Mapping[str, object] | None = None
    ) -> None:
        """Write a features file, which ``geocollapse.measure_features`` reads to the same numbers.

        Args:
            path: a file ending in ``.safetensors`` or ``.npz``; written whole or not at all.
            origin: entries to record beside the provenance, such as the model's name.

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
        """The k inputs that carry most of geometric complexity, by position and class."""
        names = dict(zip(self.labels.unique().tolist(), self.class_names, strict=True))
        rows = dict(zip(self.kept.context.ids.tolist(), self.labels.tolist(), strict=True))
        found = self.geometric_complexity.top_examples(k)
        return [replace(example, class_name=names[rows[example.index]]) for example in found]

    def to_dict(self) -> MeasurementDict:
        """The measurement as values that strict JSON can hold."""
        values = json_values(self)
        kept = {key: values[key] for key in MeasurementDict.__annotations__}
        return cast("MeasurementDict", strict_json(kept))

    def summary(self) -> dict[str, float]:
        """The headline measures that are defined, as plain numbers: for a logger.

        Examples:
            >>> from geocollapse import measure
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
            >>> m = measure(model, (torch.randn(60, 4), torch.arange(60) % 3))
            >>> list(m.summary())[:3]
            ['accuracy', 'geometric_complexity', 'gc_per_variance']
        """
        values = {name: READERS[name](self) for name in _HEADLINES}
        found = {name: float(value) for name, value in values.items() if value is not None}
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def __repr__(self) -> str:
        return f"LayerMeasurement of {headline(self)}"

    def _only(self, _name: str, /) -> LayerMeasurement:
        return self


def headline(layer: LayerMeasurement) -> str:
    """The layer with its first measures, in one line."""
    gc = layer.geometric_complexity
    low, high = gc.interval()
    values = f"GC {gc.value:.4g} [{low:.4g}, {high:.4g}], CDNV {layer.cdnv:.4g}"
    return f"{layer.layer or 'the output'!r}: {values}, NC1 {layer.nc1:.4g}"


Reader = Callable[[LayerMeasurement], float | Estimate | None]

# How each measure is read from a layer, by the names of ``geocollapse.measures``.
READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "accuracy": lambda layer: layer.accuracy,
        "geometric_complexity": lambda layer: layer.geometric_complexity,
        "gc_pixel": lambda layer: layer.gc_pixel,
        "gc_per_variance": lambda layer: layer.gc_per_variance,
        "per_pixel.gc_per_variance": lambda layer: (
            None if layer.per_pixel is None else layer.per_pixel.gc_per_variance
        ),
        "per_pixel.geometric_collapse": lambda layer: (
            None if layer.per_pixel is None else layer.per_pixel.geometric_collapse
        ),
        "geometric_collapse": lambda layer: layer.geometric_collapse,
        "poincare_ratio.weighted_mean": lambda layer: layer.poincare_ratio["weighted_mean"],
        "poincare_ratio.max": lambda layer: layer.poincare_ratio["max"],
        "input_covariance_lambda_max": lambda layer: layer.input_covariance_lambda_max,
        "nearest_mean_bound.5.best": lambda layer: layer.bounds["5"].best,
        "label_free.rankme": lambda layer: layer.label_free.rankme,
        "label_free.effective_rank": lambda layer: layer.label_free.effective_rank,
        "label_free.alpha_req": lambda layer: layer.label_free.alpha_req,
        "label_free.feature_norm": lambda layer: layer.label_free.feature_norm,
        **{
            name: attribute.read
            for name, attribute in vars(CollapseMeasures).items()
            if isinstance(attribute, OfTheLayer)
        },
    }
)


def json_values(layer: LayerMeasurement) -> dict[str, object]:
    """All values of the JSON form by key: measures with a key of their own, and the rest."""
    own = {name: READERS[name](layer) for name in MEASURES if "." not in name}
    return {**own, **_grouped_values(layer), **_circumstances(layer)}


def _grouped_values(layer: LayerMeasurement) -> dict[str, object]:
    """Values that are objects in the JSON form."""
    by_class = layer.class_complexity.items()
    pixel = None if layer.per_pixel is None else layer.per_pixel._asdict()
    return {
        "gc_pixel": None if layer.gc_pixel is None else layer.gc_pixel.value,
        "per_pixel": pixel and {name: e.to_interval_dict() for name, e in pixel.items()},
        "geometric_complexity_per_class": {name: gc.to_interval_dict() for name, gc in by_class},
        "geometric_collapse": layer.geometric_collapse.to_interval_dict(),
        "poincare_ratio": layer.poincare_ratio,
        "nearest_mean_bound": {shots: bound.to_dict() for shots, bound in layer.bounds.items()},
        "predicted_error": layer.predicted_error,
        "predicted_error_intervals": layer.predicted_error_intervals,
        "label_free": layer.label_free.to_dict(),
        "estimates": {name: e.to_interval_dict() for name, e in layer.estimates.items()},
    }


def _circumstances(layer: LayerMeasurement) -> dict[str, object]:
    """What was measured, and how."""
    context = layer.kept.context
    return {
        "schema_version": 1,
        "n_samples": len(layer.features),
        "n_features": layer.features.shape[1],
        "n_classes": len(layer.class_names),
        "classes": layer.class_names,
        "layer": layer.layer,
        "split": context.split,
        "preprocessing": context.preprocessing,
        "warnings": tuple(dict.fromkeys((*layer.warnings, *layer.prediction.warnings))),
        "provenance": context.provenance,
    }
