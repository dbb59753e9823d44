"""The context that all layers of one measurement share."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.utils.data import TensorDataset

from geocollapse.batches import Examples, MapExamples
from geocollapse.complexity.setup import Setup
from geocollapse.inputs import device_of, dtype_of
from geocollapse.measurement.classifier import accuracy
from geocollapse.measurement.reading import Reading
from geocollapse.modules.wrapped import uncompiled_name
from geocollapse.numerics import largest_eigenvalue
from geocollapse.runtime.provenance import provenance
from geocollapse.store import Context

_MAX_COVARIANCE_INPUTS = 1024  # input coordinates: a larger covariance costs too much
_Notes = tuple[str, ...]


def context_of(setup: Setup, reading: Reading, about_outputs: _Notes) -> Context:
    """The context that all layers of a measurement share.

    Args:
        setup: the model and the data.
        reading: the result of one pass over them.
        about_outputs: notes on how the model's outputs were matched to the classes.
    """
    examples = setup.examples
    n_population = len(reading.labels) if examples.size is None else examples.size
    logits = reading.output if _has_classifier(setup) else None
    right, about_accuracy = accuracy(
        setup.embedding, logits, reading.labels, setup.class_names, about_outputs
    )
    lambda_max, about_covariance = _input_covariance_lambda_max(examples, reading)
    about_ending = _about_ending(len(reading.labels), n_population)
    return Context(
        labels=reading.labels,
        ids=reading.indices,
        logits=logits,
        probed=torch.searchsorted(reading.indices, reading.probed),
        n_population=n_population,
        class_counts=class_counts(examples, reading, n_population),
        is_stratified=examples.labels_at(reading.indices) is not None,
        settings=reading.settings,
        rule=setup.request.rule,
        ending=reading.ending,
        class_names=setup.class_names,
        accuracy=right,
        split=examples.about.split,
        lambda_max=lambda_max,
        preprocessing=_preprocessing(setup),
        provenance={
            "model": setup.name,
            **provenance(seed=setup.request.seed, device=device_of(setup.model) or "cpu"),
        },
        warnings=(*about_accuracy, *_about_inputs(setup), *about_ending, *about_covariance),
    )


def _has_classifier(setup: Setup) -> bool:
    return setup.embedding is not None and setup.embedding.classifier is not None


def _about_inputs(setup: Setup) -> _Notes:
    """Notes on the data, on how it enters the model, and on the scale of the inputs."""
    notes = setup.notes
    layer = setup.feature_map.input_layer
    if layer is not None:
        return (*notes, f"gc_pixel: not defined for the output of {layer!r}, which has no pixels")
    if setup.plan.input_std is None:
        unknown = (
            "gc_pixel: the scale of the inputs is not known; do input_std= with each channel's "
            "deviation"
        )
        return (*notes, unknown)
    return notes


def _about_ending(n_read: int, n_population: int) -> _Notes:
    """A note if the pass was interrupted."""
    if n_read == n_population:
        return ()
    return (f"interrupted: all measures are of {n_read} of {n_population} examples",)


def class_counts(examples: Examples, reading: Reading, n_population: int) -> Mapping[int, float]:
    """Examples of each class in the data set; infinity if an interrupted pass cannot tell."""
    classes, counts = reading.labels.unique(return_counts=True)
    known = dict(zip(classes.tolist(), map(float, counts.tolist()), strict=True))
    if len(reading.labels) == n_population:
        return known
    whole = examples.class_counts()
    return {label: whole.get(label, math.inf) for label in known}


def _preprocessing(setup: Setup) -> Mapping[str, object]:
    """How the inputs were prepared, and how the model ran."""
    about = setup.examples.about
    feature_map = setup.feature_map
    mean = about.mean
    if mean is not None:
        mean = torch.as_tensor(mean, dtype=torch.float64).flatten().tolist()
    std = setup.plan.input_std
    return {
        **(about.preprocessing or {}),
        "mean": mean,
        "std": None if std is None else std.tolist(),
        "input_shape": None if setup.input_shape is None else list(setup.input_shape),
        "mode": "evaluation",
        "input_layer": feature_map.input_layer and uncompiled_name(feature_map.input_layer),
        "pool": feature_map.pool,
        "dtype": _name_of(dtype_of(setup.module)),
        "autocast": _name_of(feature_map.autocast),
    }


def _name_of(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _input_covariance_lambda_max(
    examples: Examples, reading: Reading
) -> tuple[float | None, tuple[str, ...]]:
    """max_i lambda_max(Cov_input(Q_i)): a lower bound on the Poincare constant without f.

    Source: definitions 3.
    """
    dataset = examples.dataset if isinstance(examples, MapExamples) else None
    if not isinstance(dataset, TensorDataset) or not dataset.tensors[0].is_floating_point():
        return None, ("input_covariance_lambda_max: computed only for inputs in memory",)
    inputs = dataset.tensors[0]
    if inputs[0].numel() > _MAX_COVARIANCE_INPUTS:
        why = (
            f"input_covariance_lambda_max: computed only up to {_MAX_COVARIANCE_INPUTS} input "
            f"coordinates"
        )
        return None, (why,)
    order = reading.labels.argsort(stable=True)
    chosen = reading.indices.index_select(0, order).to(inputs.device)
    rows = inputs.index_select(0, chosen).flatten(1).cpu().double()
    sizes = reading.labels.unique(return_counts=True)[1].tolist()
    largest = 0.0
    for x in rows.split(sizes):
        x = x - x.mean(dim=0)
        gram = x.T @ x if len(x) > x.shape[1] else x @ x.T  # both have the largest eigenvalue
        if not math.isfinite(float(gram.trace())):
            why = "input_covariance_lambda_max: undefined, squared inputs are not all finite"
            return None, (why,)
        largest = largest_eigenvalue(gram, largest * len(x)) / len(x)
    return largest, ()
