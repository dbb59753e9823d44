"""The types of what ``geocollapse ood --json`` prints."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from geocollapse.morse.scores import DetectionDict


class AgainstDict(DetectionDict):
    """One other data set.

    Attributes:
        data: its name.
        split: the part of it; null where it has none.
        notes: what a reader must know about it, such as another preprocessing.
    """

    data: str
    split: str | None
    notes: list[str]


class DetectorDict(TypedDict):
    """The Morse network that was fitted or read.

    Attributes:
        file: that it was read from; null if it was fitted now.
        labels: true for the joint density of features and classes, false for features alone.
        kernel: `gauss`, `laplace`, `cauchy` or `student`.
        scale: lambda of the kernel.
        hidden: widths of the hidden layers of the map.
        noise: that it was fitted against; null if a file does not say.
        weight: of the noise; likewise.
        n_steps: steps that the fit took; null for a detector from a file.
        best_step: the step whose parameters were kept; likewise.
        noise_density: mean density of uniform noise, near 1 after a collapse; likewise.
        seconds: that the fit took; likewise.
    """

    file: str | None
    labels: bool
    kernel: str
    scale: float
    hidden: list[int]
    noise: str | None
    weight: float | None
    n_steps: int | None
    best_step: int | None
    noise_density: float | None
    seconds: float | None


class CalibrationDict(TypedDict):
    """The calibration of the model's classifier on the examples of the data that were scored.

    Attributes:
        accuracy: share of right predictions, with or without the temperature.
        ece: expected calibration error of its probabilities.
        ece_with_temperature: of those at the temperature 1/mu(x) of the detector.
        median_temperature: over the examples; null where it is infinite.
    """

    accuracy: float
    ece: float
    ece_with_temperature: float
    median_temperature: float | None


class OodDict(TypedDict):
    """``ood --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        data: name of the data.
        split: the part of it; null where it has none.
        layer: whose features are scored; empty for the output.
        n_features: width of the layer.
        n_fitted: examples that the detector was fitted on; 0 for one from a file.
        n_held_out: examples of the data that were scored.
        held_out: name of the data set that they come from.
        detector: the Morse network.
        calibration: of the model's classifier; null where none has the classes of the data.
        against: each other data set, in the order given.
        seconds_per_example: of scoring features, without the model.
        warnings: what a reader must know.
        provenance: where the numbers come from.
    """

    schema_version: int
    data: str
    split: str | None
    layer: str
    n_features: int
    n_fitted: int
    n_held_out: int
    held_out: str
    detector: DetectorDict
    calibration: CalibrationDict | None
    against: list[AgainstDict]
    seconds_per_example: float
    warnings: list[str]
    provenance: dict[str, Any]
