"""What all layers of one measurement share, from its one pass over the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from geocollapse.batches import MapExamples, StreamExamples
from geocollapse.complexity.means import estimate_settings
from geocollapse.complexity.schedule import ProbeSchedule, known_classes
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.features import CallableMap, Embedding, FeatureMap
from geocollapse.features.wrapped import uncompiled_name
from geocollapse.inputs import device_of, dtype_of
from geocollapse.jacobian import ProbePlan
from geocollapse.measurement.classifier import accuracy
from geocollapse.measurement.reading import Reading
from geocollapse.runtime.provenance import provenance
from geocollapse.store import Context

_MAX_COVARIANCE_INPUTS = (
    1024  # input coordinates up to which the input covariance of each class is looked at
)
_Notes = tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pass:
    """One pass over the model: what went in, and what was read.

    Attributes:
        model: the module or the callable.
        feature_map: its map to the layers.
        embedding: where it is split; None for a callable.
        examples: the data.
        class_names: a name for each class, or None.
        about_outputs: notes on which of the model's outputs are classes.
        plan: how Jacobians were probed.
        schedule: which examples were to be probed.
        rule: until when.
        reading: what came out.
    """

    model: Any
    feature_map: FeatureMap | CallableMap
    embedding: Embedding | None
    examples: MapExamples | StreamExamples
    class_names: Sequence[str] | None
    about_outputs: _Notes
    plan: ProbePlan
    schedule: ProbeSchedule
    rule: StoppingRule
    reading: Reading

    @property
    def n_population(self) -> int:
        """Examples in the data set; of a stream those that were read."""
        return (
            len(self.examples)
            if isinstance(self.examples, MapExamples)
            else len(self.reading.labels)
        )

    @property
    def logits(self) -> Tensor | None:
        """(n, C) the model's own output, where a classifier gives one."""
        has_classifier = self.embedding is not None and self.embedding.classifier is not None
        return self.reading.output if has_classifier else None

    def context(self) -> Context:
        """What all layers share."""
        examples, reading = self.examples, self.reading
        share, about_accuracy = accuracy(
            self.embedding, self.logits, reading.labels, self.class_names, self.about_outputs
        )
        lambda_max, about_covariance = _input_covariance_lambda_max(examples, reading)
        return Context(
            labels=reading.labels,
            ids=reading.indices,
            logits=self.logits,
            probed=torch.searchsorted(reading.indices, reading.probed),
            n_population=self.n_population,
            class_counts=_class_counts(examples, reading, self.n_population),
            is_stratified=isinstance(examples, MapExamples) and examples.labels is not None,
            settings=estimate_settings(self.plan, self.schedule, self.rule),
            rule=self.rule,
            ending=reading.ending,
            class_names=self.class_names,
            accuracy=share,
            split=of_dataset(examples, "split"),
            lambda_max=lambda_max,
            preprocessing=_preprocessing(examples, self.plan.input_std, self.feature_map),
            provenance=provenance(seed=self.plan.seed, device=device_of(self.model) or "cpu"),
            warnings=(
                *about_accuracy,
                *self._about_inputs(),
                *self._about_ending(),
                *about_covariance,
            ),
        )

    def _about_inputs(self) -> _Notes:
        """Notes on the data, on the way into the model, and on the scale of the inputs."""
        notes = (*(of_dataset(self.examples, "notes") or ()), *self.feature_map.notes)
        layer = self.feature_map.input_layer
        if layer is not None:
            return (
                *notes,
                f"gc_pixel: not defined for the output of {layer!r}, which has no pixels",
            )
        if self.plan.input_std is None:
            unknown = "gc_pixel: the scale of the inputs is not known; do input_std= with the channels' deviations"
            return (*notes, unknown)
        return notes

    def _about_ending(self) -> _Notes:
        n_read = len(self.reading.labels)
        if n_read == self.n_population:
            return ()
        return (f"interrupted: all measures are of {n_read} of {self.n_population} examples",)


def of_dataset(examples: MapExamples | StreamExamples, name: str) -> Any:
    """An attribute that the data set carries (``classes``, ``std``, ``split``), or None."""
    if isinstance(examples, StreamExamples):
        return None
    value = getattr(examples.dataset, name, None)
    return None if callable(value) else value


def _class_counts(
    examples: MapExamples | StreamExamples, reading: Reading, n_population: int
) -> Mapping[int, float]:
    """Examples of each class in the data set; infinity where a pass that was cut short could not
    tell.
    """
    classes, counts = reading.labels.unique(return_counts=True)
    known = dict(zip(classes.tolist(), map(float, counts.tolist()), strict=True))
    if len(reading.labels) == n_population:
        return known
    whole = known_classes(examples, reading.indices)[1]
    return {label: whole.get(label, math.inf) for label in known}


def _preprocessing(
    examples: MapExamples | StreamExamples,
    std: Tensor | None,
    feature_map: FeatureMap | CallableMap,
) -> Mapping[str, Any]:
    mean = of_dataset(examples, "mean")
    return {
        **(of_dataset(examples, "preprocessing") or {}),
        "mean": None
        if mean is None
        else torch.as_tensor(mean, dtype=torch.float64).flatten().tolist(),
        "std": None if std is None else std.tolist(),
        "mode": "evaluation",
        "input_layer": feature_map.input_layer and uncompiled_name(feature_map.input_layer),
        "pool": feature_map.pool,
        "dtype": _name_of(dtype_of(getattr(feature_map, "model", None))),
        "autocast": _name_of(feature_map.autocast),
    }


def _name_of(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _input_covariance_lambda_max(
    examples: MapExamples | StreamExamples, reading: Reading
) -> tuple[float | None, tuple[str, ...]]:
    """max_i lambda_max(Cov_input(Q_i)), a lower bound on the Poincare constant that does not use f
    (definitions 3).
    """
    dataset = examples.dataset if isinstance(examples, MapExamples) else None
    if not isinstance(dataset, TensorDataset) or not dataset.tensors[0].is_floating_point():
        return None, ("input_covariance_lambda_max: looked at only for inputs in memory",)
    inputs = dataset.tensors[0]
    if inputs[0].numel() > _MAX_COVARIANCE_INPUTS:
        why = f"input_covariance_lambda_max: looked at only up to {_MAX_COVARIANCE_INPUTS} input coordinates"
        return None, (why,)
    rows = inputs[reading.indices.to(inputs.device)].flatten(1).cpu().double()
    largest = []
    for label in reading.labels.unique():
        x = rows[reading.labels == label]
        x = x - x.mean(dim=0)
        gram = x.T @ x if len(x) > x.shape[1] else x @ x.T  # both have the largest eigenvalue
        largest.append(float(torch.linalg.eigvalsh(gram)[-1]) / len(x))
    return max(largest), ()
