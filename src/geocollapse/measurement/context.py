"""What all layers of one measurement share, from its one pass over the model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.utils.data import TensorDataset

from geocollapse.batches import Examples, MapExamples
from geocollapse.complexity.setup import Prepared
from geocollapse.features.wrapped import uncompiled_name
from geocollapse.inputs import device_of, dtype_of
from geocollapse.measurement.classifier import accuracy
from geocollapse.measurement.reading import Reading
from geocollapse.runtime.provenance import provenance
from geocollapse.store import Context

# Input coordinates up to which the input covariance of each class is computed.
_MAX_COVARIANCE_INPUTS = 1024
_Notes = tuple[str, ...]


def context_of(ready: Prepared, reading: Reading, about_outputs: _Notes) -> Context:
    """Everything that the layers of a measurement share.

    Args:
        ready: the model and the data.
        reading: what one pass over them read.
        about_outputs: notes on which of the model's outputs are classes.
    """
    examples = ready.examples
    n_population = len(reading.labels) if examples.size is None else examples.size
    logits = reading.output if _has_classifier(ready) else None
    right, about_accuracy = accuracy(
        ready.embedding, logits, reading.labels, ready.class_names, about_outputs
    )
    lambda_max, about_covariance = _input_covariance_lambda_max(examples, reading)
    about_ending = _about_ending(len(reading.labels), n_population)
    return Context(
        labels=reading.labels,
        ids=reading.indices,
        logits=logits,
        probed=torch.searchsorted(reading.indices, reading.probed),
        n_population=n_population,
        class_counts=_class_counts(examples, reading, n_population),
        is_stratified=examples.labels_at(reading.indices) is not None,
        settings=reading.settings,
        rule=ready.asked.rule,
        ending=reading.ending,
        class_names=ready.class_names,
        accuracy=right,
        split=examples.about.split,
        lambda_max=lambda_max,
        preprocessing=_preprocessing(ready),
        provenance=provenance(seed=ready.asked.seed, device=device_of(ready.model) or "cpu"),
        warnings=(*about_accuracy, *_about_inputs(ready), *about_ending, *about_covariance),
    )


def _has_classifier(ready: Prepared) -> bool:
    return ready.embedding is not None and ready.embedding.classifier is not None


def _about_inputs(ready: Prepared) -> _Notes:
    """Notes on the data, on the way into the model, and on the scale of the inputs."""
    notes = (*ready.examples.about.notes, *ready.feature_map.notes)
    layer = ready.feature_map.input_layer
    if layer is not None:
        return (*notes, f"gc_pixel: not defined for the output of {layer!r}, which has no pixels")
    if ready.plan.input_std is None:
        unknown = (
            "gc_pixel: the scale of the inputs is not known; do input_std= with the channels' "
            "deviations"
        )
        return (*notes, unknown)
    return notes


def _about_ending(n_read: int, n_population: int) -> _Notes:
    if n_read == n_population:
        return ()
    return (f"interrupted: all measures are of {n_read} of {n_population} examples",)


def _class_counts(examples: Examples, reading: Reading, n_population: int) -> Mapping[int, float]:
    """Examples of each class in the data set; infinity where an interrupted pass could not tell."""
    classes, counts = reading.labels.unique(return_counts=True)
    known = dict(zip(classes.tolist(), map(float, counts.tolist()), strict=True))
    if len(reading.labels) == n_population:
        return known
    whole = examples.class_counts()
    return {label: whole.get(label, math.inf) for label in known}


def _preprocessing(ready: Prepared) -> Mapping[str, object]:
    """What was done to the inputs, and how the model ran."""
    about, feature_map, std = ready.examples.about, ready.feature_map, ready.plan.input_std
    mean = about.mean
    return {
        **(about.preprocessing or {}),
        "mean": None
        if mean is None
        else torch.as_tensor(mean, dtype=torch.float64).flatten().tolist(),
        "std": None if std is None else std.tolist(),
        "mode": "evaluation",
        "input_layer": feature_map.input_layer and uncompiled_name(feature_map.input_layer),
        "pool": feature_map.pool,
        "dtype": _name_of(dtype_of(ready.module)),
        "autocast": _name_of(feature_map.autocast),
    }


def _name_of(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _input_covariance_lambda_max(
    examples: Examples, reading: Reading
) -> tuple[float | None, tuple[str, ...]]:
    """max_i lambda_max(Cov_input(Q_i)), a lower bound on the Poincare constant without f.

    Source: definitions 3.
    """
    dataset = examples.dataset if isinstance(examples, MapExamples) else None
    if not isinstance(dataset, TensorDataset) or not dataset.tensors[0].is_floating_point():
        return None, ("input_covariance_lambda_max: looked at only for inputs in memory",)
    inputs = dataset.tensors[0]
    if inputs[0].numel() > _MAX_COVARIANCE_INPUTS:
        why = (
            f"input_covariance_lambda_max: looked at only up to {_MAX_COVARIANCE_INPUTS} input "
            f"coordinates"
        )
        return None, (why,)
    rows = inputs[reading.indices.to(inputs.device)].flatten(1).cpu().double()
    largest = []
    for label in reading.labels.unique():
        x = rows[reading.labels == label]
        x = x - x.mean(dim=0)
        gram = x.T @ x if len(x) > x.shape[1] else x @ x.T  # both have the largest eigenvalue
        largest.append(float(torch.linalg.eigvalsh(gram)[-1]) / len(x))
    return max(largest), ()
