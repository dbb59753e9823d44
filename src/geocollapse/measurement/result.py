"""The measurements of one or several layers, as a table, a dictionary, a frame, a figure."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from geocollapse.collapse import ClassPair
from geocollapse.estimate import TopExample
from geocollapse.measurement.depth import depth_figure, depth_table
from geocollapse.measurement.figure import as_figure
from geocollapse.measurement.layer import (
    CollapseMeasures,
    LayerMeasurement,
    MeasurementDict,
    OfTheLayer,
    headline,
)
from geocollapse.measurement.table import as_text

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class LayersDict(TypedDict):
    """The JSON form of a measurement of several layers.

    Attributes:
        layers: the measurement of each layer, in the order asked for.
    """

    layers: list[MeasurementDict]


@dataclass(frozen=True, eq=False, repr=False)
class Measurement(CollapseMeasures):
    """The measurements of a model's layers from one pass over it.

    With one layer, all attributes of its ``LayerMeasurement`` are attributes of the measurement
    itself, such as ``m.geometric_complexity`` and ``m.cdnv``. With several, ``m["layer1"]`` is the
    measurement of one, and the attribute raises an AttributeError that says so.

    Attributes:
        layers: one entry a layer, in the order asked for.
    """

    layers: tuple[LayerMeasurement, ...]

    kept = OfTheLayer(lambda layer: layer.kept)
    layer = OfTheLayer(lambda layer: layer.layer)
    features = OfTheLayer(lambda layer: layer.features)
    labels = OfTheLayer(lambda layer: layer.labels)
    class_names = OfTheLayer(lambda layer: layer.class_names)
    accuracy = OfTheLayer(lambda layer: layer.accuracy)
    geometric_complexity = OfTheLayer(lambda layer: layer.geometric_complexity)
    gc_pixel = OfTheLayer(lambda layer: layer.gc_pixel)
    per_pixel = OfTheLayer(lambda layer: layer.per_pixel)
    gc_per_variance = OfTheLayer(lambda layer: layer.gc_per_variance)
    class_complexity = OfTheLayer(lambda layer: layer.class_complexity)
    geometric_collapse = OfTheLayer(lambda layer: layer.geometric_collapse)
    poincare_ratio = OfTheLayer(lambda layer: layer.poincare_ratio)
    input_covariance_lambda_max = OfTheLayer(lambda layer: layer.input_covariance_lambda_max)
    neural_collapse = OfTheLayer(lambda layer: layer.neural_collapse)
    bounds = OfTheLayer(lambda layer: layer.bounds)
    predicted_error = OfTheLayer(lambda layer: layer.predicted_error)
    predicted_error_intervals = OfTheLayer(lambda layer: layer.predicted_error_intervals)
    label_free = OfTheLayer(lambda layer: layer.label_free)
    estimates = OfTheLayer(lambda layer: layer.estimates)
    samples_for_rtol = OfTheLayer(lambda layer: layer.samples_for_rtol)
    warnings = OfTheLayer(lambda layer: layer.warnings)

    def __getitem__(self, layer: str) -> LayerMeasurement:
        """The measurement of the layer called ``layer``."""
        for entry in self.layers:
            if entry.layer == layer:
                return entry
        raise KeyError(
            f"layer: expected one of {[entry.layer for entry in self.layers]}, got {layer!r}"
        )

    def __str__(self) -> str:
        return as_text(self.layers[0]) if len(self.layers) == 1 else depth_table(self.layers)

    def __repr__(self) -> str:
        return f"Measurement of {'; '.join(map(headline, self.layers))}"

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def summary(self) -> dict[str, float]:
        """The headline measures that are defined, as plain numbers: for a logger.

        With several layers each name follows that of its layer: ``layer1/cdnv``.
        """
        if len(self.layers) == 1:
            return self.layers[0].summary()
        named = ((layer.layer or "output", layer.summary()) for layer in self.layers)
        return {f"{name}/{key}": value for name, found in named for key, value in found.items()}

    def to_dict(self) -> MeasurementDict | LayersDict:
        """Values that strict JSON can hold: of the layer, or of each under ``layers``."""
        if len(self.layers) == 1:
            return self.layers[0].to_dict()
        return {"layers": [layer.to_dict() for layer in self.layers]}

    def to_json(self, indent: int | None = None) -> str:
        """``to_dict`` as strict JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_frame(self) -> pandas.DataFrame:
        """A pandas frame with one row a layer: the model's name first, then dotted names."""
        import pandas

        rows = [layer.to_dict() for layer in self.layers]
        return pandas.json_normalize(
            [{"model": row["provenance"].get("model"), **row} for row in rows]
        )

    def plot(self) -> Figure:
        """A matplotlib figure.

        Of one layer: geometric complexity of each class, and CDNV of each pair of classes. Of
        several: geometric complexity, geometric collapse, CDNV and NC1 against the layers.
        """
        return as_figure(self.layers[0]) if len(self.layers) == 1 else depth_figure(self.layers)

    def save_features(
        self, path: str | Path, *, origin: Mapping[str, object] | None = None
    ) -> None:
        """Write the features of the layer; see ``LayerMeasurement.save_features``."""
        self._only("save_features").save_features(path, origin=origin)

    def pairs(self, k: int = 10) -> list[ClassPair]:
        """The k class pairs of largest CDNV, by name."""
        return self._only("pairs").pairs(k)

    def top_examples(self, k: int = 10) -> list[TopExample]:
        """The k inputs that carry most of geometric complexity, by position and class."""
        return self._only("top_examples").top_examples(k)

    def _only(self, name: str, /) -> LayerMeasurement:
        if len(self.layers) != 1:
            names = [layer.layer for layer in self.layers]
            raise AttributeError(
                f"{name}: expected a measurement of one layer, got {names}; do "
                f"m[{names[0]!r}].{name}"
            )
        return self.layers[0]
