"""``measure``: one pass over a model for all its geometry; ``measure_features``: the same from a features file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from geocollapse.batches import Inputs, MapExamples, StreamExamples, as_examples, check_shared, move, rows_of
from geocollapse.borrow import borrowed, check_independent, device_of, dtype_of, uncompiled_name
from geocollapse.complexity import estimate_settings
from geocollapse.entry import enter, find_input_layer
from geocollapse.features import CallableMap, Embedding, FeatureMap, Layer, Pool, check_autocast, find_embedding
from geocollapse.independence import check_rows_independent
from geocollapse.jacobian import Estimator, Map, ProbePlan, check_estimator, push_forward
from geocollapse.measurement.kept import Context, KeptLayer, accuracy_of
from geocollapse.measurement.layer import measure_layer
from geocollapse.measurement.reading import Reading, read_once
from geocollapse.measurement.result import Measurement
from geocollapse.measurement.saved import read_features
from geocollapse.processes import failing_together, unwrapped
from geocollapse.provenance import provenance
from geocollapse.sampling import ProbeSchedule, bounded_by_memory, fitted_plan, known_classes, schedule_probes
from geocollapse.stopping import StoppingRule

_MAX_COVARIANCE_INPUTS = 1024  # input coordinates up to which the input covariance of each class is looked at
_NO_HEAD = "the model has no linear classifier behind its output"


@failing_together()
def measure(
    model: nn.Module | Map,
    data: Any,
    *,
    layer: str | Sequence[str] | None = None,
    classifier: str | None = None,
    labels: Tensor | Sequence[int] | None = None,
    estimator: Estimator | None = None,
    n_probes: int | Literal["auto"] = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_samples: int | None = None,
    max_seconds: float | None = None,
    pool: Pool | None = None,
    input_layer: str | None = None,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    autocast: torch.dtype | None = None,
    input_std: Sequence[float] | float | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Measurement:
    """Measure geometric complexity, neural collapse, geometric collapse and nearest-mean bounds in one pass.

    The model is run in evaluation mode and handed back as it was. Every example goes forward once; each is probed
    once, and max(200, 20 C) of them twice to learn the error of the probes. A first Ctrl-C ends with what was read so
    far, a random sample of the data (of a stream: its beginning), marked ``interrupted``. With a process group each
    process reads its share of the batches, and all return the same, with the features of all. Cost: one forward pass,
    one vector-Jacobian product with respect to the input, and O(n p (C + p)) for the measures of the features.

    Source: Munn, Dherin, Gonzalvo (2024); definitions 1 to 4.

    Args:
        model: a module, or a callable from inputs to features (n, p).
        data: a DataLoader, a map-style data set, a pair (inputs, labels), or a stream of batches. A batch may be a
            mapping: ``labels`` and the model's inputs by name (``input_ids``, ``attention_mask``).
        layer: ``NAME``, ``NAME:in``, ``""`` for the model's output, or None for the input of its classifier; several
            of them are measured from the same pass: one forward-mode sweep for all, or a backward pass each.
        classifier: name of the linear classifier, for accuracy, NC3 and NC4; None to look for it.
        labels: (n,) labels of a map-style data set, where reading its examples to learn them would be slow.
        estimator: of ||J||_F^2, see ``geocollapse.squared_jacobian_norms``. None: ``rademacher`` for one layer;
            ``input`` for several, if all operations of the model have a forward mode, and ``rademacher`` otherwise.
        n_probes: probes for each example.
        rtol: probe, in a random order, until the relative half-width of the interval of geometric complexity is at most
            this; collapse uses all examples.
        atol: the same, until the standard error is at most this.
        max_samples: probe at most this many examples; collapse uses all.
        max_seconds: probe no further batch after this time; collapse uses all.
        pool: ``mean`` averages maps and token sequences over positions, ``cls`` takes the first token, ``last`` the
            last one (padding, by ``attention_mask``, is no token), None flattens them.
        input_layer: the layer that embeds integer inputs: Jacobians are with respect to its output. None for the
            inputs themselves, and for a transformers model its own embedding of tokens.
        batch_size: examples that go through the model together; a loader's own by default.
        memory_limit: bytes that the graph of a batch may take; the batches are made small enough.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to run the model under ``torch.autocast``; squares, means and
            variances are summed in float64 either way. For float64 throughout: ``model.double()``.
        input_std: standard deviation of each input channel, by which the inputs were divided: gives ``gc_pixel``.
            A data set's ``std`` by default.
        class_names: name of class 0, 1, ...; a data set's ``classes`` by default.
        seed: of the probes and of the sample.
        progress: show a progress bar with the projected time on stderr.

    Returns:
        A Measurement.

    Raises:
        TypeError, ValueError: integer inputs and no layer that embeds them, labels that are not integers, an unknown
            layer (the nearest names are listed), an ambiguous embedding (the candidates are listed), NaN features, one
            class only, an empty loader, contradictory stopping arguments, a memory limit too small for one example;
            with several processes a stream, ``max_seconds``, or other data, settings or weights in one of them.
        RuntimeError: a model that mixes the examples of a batch even in evaluation mode, or draws at random; names the
            module. Seen from two examples, which go forward three times.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> m = measure(model, (torch.randn(300, 4), torch.arange(300) % 3))
        >>> m.layers[0].layer, m.features.shape, m.nc1_rank
        ('2:in', torch.Size([300, 8]), 2)
    """
    check_estimator(estimator or "rademacher", n_probes)
    rule = StoppingRule(rtol, atol, max_samples, max_seconds)
    rule.check_shared()
    check_autocast(autocast)
    model = unwrapped(model)
    module = model if isinstance(model, nn.Module) else None
    check_independent(module, evaluation=True)
    with borrowed(module):
        examples = as_examples(data, labels=labels, batch_size=batch_size)
        pair = move(examples.peek(2), model)
        first = rows_of(pair, slice(1))
        feature_map, embedding = _feature_map(model, first, layer, classifier, pool, input_layer)
        feature_map.class_outputs, feature_map.autocast = _of_dataset(examples, "class_outputs"), autocast
        check_rows_independent(feature_map.enter, pair, module, dtype=autocast)
        if memory_limit is not None:
            examples = bounded_by_memory(examples, feature_map.enter, first, memory_limit)
        chosen = estimator or _default_estimator(feature_map, first)
        schedule = schedule_probes(examples, rule, estimator=chosen, n_probes=n_probes, seed=seed)
        plan = ProbePlan(chosen, seed, _input_std(input_std, examples, first, feature_map))
        plan = fitted_plan(plan, feature_map.enter, examples, model)
        names = class_names if class_names is not None else _of_dataset(examples, "classes")
        asked = {**vars(rule), "estimator": chosen, "n_probes": n_probes, "seed": seed, "classifier": classifier}
        asked |= {"layer": [*map(str, feature_map.layers)], "pool": feature_map.pool, "autocast": autocast}
        asked |= {"input_layer": feature_map.input_layer, "class_names": None if names is None else [*names]}
        asked |= {"input_std": None if plan.input_std is None else plan.input_std.tolist()}
        check_shared(examples, module, feature_map.enter, pair, asked, dtype=autocast)
        reading = read_once(model, feature_map, examples, schedule, plan, rule, progress=progress)
    context = _context(model, feature_map, reading, examples, names, embedding, plan, schedule, rule)
    heads = [_head_at(layer, feature_map, embedding, is_named=classifier is not None) for layer in feature_map.layers]
    kept = [
        KeptLayer(str(layer), taken.features, taken.norms, head, context)
        for layer, taken, head in zip(feature_map.layers, reading.layers, heads, strict=True)
    ]
    return Measurement(tuple(measure_layer(layer) for layer in kept))


def measure_features(path: str | Path, *, device: torch.device | str = "cpu") -> Measurement:
    """Measure the features of a file, without the model that they came from.

    A file of ``Measurement.save_features`` gives the numbers of that measurement again. One with ``features`` and
    ``labels`` alone gives all but geometric complexity and geometric collapse, which are NaN with a warning. Cost: one
    reading of the file (safetensors is mapped, not read into memory), O(n p (C + p)).

    Args:
        path: ``.safetensors``, ``.npz``, or ``.pt`` (read with ``weights_only=True``).
        device: where to compute; features above 4 GiB stay where they are.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: a damaged file, missing keys, shapes that do not fit each other, one class only.

    Examples:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/features.npz"
        >>> m = measure(nn.Linear(4, 3), (torch.randn(300, 4), torch.arange(300) % 3))
        >>> m.save_features(path)
        >>> measure_features(path).geometric_collapse.value == m.geometric_collapse.value
        True
    """
    return Measurement((measure_layer(read_features(path, device=device)),))


def _feature_map(
    model: nn.Module | Map,
    first: Inputs,
    layer: str | Sequence[str] | None,
    classifier: str | None,
    pool: Pool | None,
    input_layer: str | None,
) -> tuple[FeatureMap | CallableMap, Embedding | None]:
    if isinstance(model, nn.Module):
        names = [layer] if isinstance(layer, str) or layer is None else list(layer)
        if not names:
            raise ValueError("layer: expected at least one name, got none; do layer=None for the default")
        if len(set(names)) < len(names):
            raise ValueError(f"layer: expected different layers, got {names}; do name each once")
        found = find_input_layer(model, first, input_layer)
        enter(model, first, found)  # refuses inputs without a Jacobian before anything is looked for
        embedding = find_embedding(model, first, layer=names[0], classifier=classifier)
        others = [Layer.find(model, name) for name in names[1:] if name is not None]
        return FeatureMap(model, [embedding.layer, *others], pool, found), embedding
    given = {"layer": layer, "classifier": classifier, "pool": pool, "input_layer": input_layer}
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected None for a callable, which returns the features itself, got {value!r}; "
                f"do pass the module"
            )
    return CallableMap(model), None


def _default_estimator(feature_map: FeatureMap | CallableMap, first: Inputs) -> Estimator:
    """Output probes for one layer; for several an input probe, whose one sweep reaches all, where there is one."""
    if len(feature_map.layers) == 1:
        return "rademacher"
    try:
        take, x = feature_map.enter(first)
        push_forward(take, x, torch.zeros_like(x))
    except NotImplementedError:
        return "rademacher"
    return "input"


def _head_at(
    layer: Layer, feature_map: FeatureMap | CallableMap, embedding: Embedding | None, *, is_named: bool
) -> tuple[Tensor, Tensor | None] | str:
    """Weight and bias of the classifier that ``layer`` feeds, or the reason why there is none.

    A layer of the classifier's width need not be what feeds it: the caller says so by naming the classifier.
    """
    if embedding is None or embedding.classifier is None or isinstance(feature_map, CallableMap):
        return _NO_HEAD
    feeds = Layer(embedding.classifier, "in")
    if layer != feeds and not is_named:
        return f"the classifier is fed by {str(feeds)!r}, not by this layer"
    head, rows = embedding.head_of(feature_map.model), feature_map.class_outputs
    if head is None:
        return f"{embedding.classifier!r} has no weight matrix"
    weight, bias = head
    return head if rows is None else (weight[rows], None if bias is None else bias[rows])


def _context(
    model: Any,
    feature_map: FeatureMap | CallableMap,
    reading: Reading,
    examples: MapExamples | StreamExamples,
    class_names: Sequence[str] | None,
    embedding: Embedding | None,
    plan: ProbePlan,
    schedule: ProbeSchedule,
    rule: StoppingRule,
) -> Context:
    has_head = embedding is not None and embedding.classifier is not None
    logits = reading.output if has_head else None
    accuracy: float | None
    notes: tuple[str, ...]
    if logits is None:
        missing = "the model's output is not one matrix (n, C)" if has_head else _NO_HEAD
        accuracy, notes = None, (f"accuracy: {missing}",)
    else:
        accuracy, notes = accuracy_of(logits, reading.labels, class_names)
        if feature_map.class_outputs is not None:
            notes += (f"accuracy: among the {logits.shape[1]} outputs that are classes",)
    notes += (*(_of_dataset(examples, "notes") or ()), *feature_map.notes)
    if feature_map.input_layer is not None:
        notes += (f"gc_pixel: not defined for the output of {feature_map.input_layer!r}, which has no pixels",)
    elif plan.input_std is None:
        notes += ("gc_pixel: the scale of the inputs is not known; do input_std= with the channels' deviations",)
    lambda_max, why = _input_covariance_lambda_max(examples, reading)
    n_population = len(examples) if isinstance(examples, MapExamples) else len(reading.labels)
    if len(reading.labels) < n_population:
        notes += (f"interrupted: all measures are of {len(reading.labels)} of {n_population} examples",)
    return Context(
        labels=reading.labels,
        ids=reading.indices,
        logits=logits,
        probed=torch.searchsorted(reading.indices, reading.probed),
        n_population=n_population,
        class_counts=_class_counts(examples, reading, n_population),
        is_stratified=isinstance(examples, MapExamples) and examples.labels is not None,
        settings=estimate_settings(plan, schedule, rule),
        rule=rule,
        ending=reading.ending,
        class_names=class_names,
        accuracy=accuracy,
        split=_of_dataset(examples, "split"),
        lambda_max=lambda_max,
        preprocessing=_preprocessing(examples, plan.input_std, feature_map),
        provenance=provenance(seed=plan.seed, device=device_of(model) or "cpu"),
        warnings=(*notes, *why),
    )


def _class_counts(examples: MapExamples | StreamExamples, reading: Reading, n_population: int) -> Mapping[int, float]:
    """Examples of each class in the data set; infinity where a pass that was cut short could not tell."""
    classes, counts = reading.labels.unique(return_counts=True)
    known = dict(zip(classes.tolist(), map(float, counts.tolist()), strict=True))
    if len(reading.labels) == n_population:
        return known
    whole = known_classes(examples, reading.indices)[1]
    return {label: whole.get(label, math.inf) for label in known}


def _input_std(
    given: Sequence[float] | float | None,
    examples: MapExamples | StreamExamples,
    first: Inputs,
    feature_map: FeatureMap | CallableMap,
) -> Tensor | None:
    """Channel standard deviations that the inputs were divided by: as given, else the data set's own."""
    if given is not None and feature_map.input_layer is not None:
        raise ValueError(
            f"input_std: expected None for Jacobians with respect to {feature_map.input_layer!r}, got {given}; "
            f"do leave it out"
        )
    values = given if given is not None else _of_dataset(examples, "std")
    if values is None or feature_map.input_layer is not None:
        return None
    x = feature_map.enter(first)[1]
    std = torch.as_tensor(values, dtype=torch.float64).flatten()
    n_channels = x.shape[1] if x.ndim > 1 else 1
    if len(std) not in (1, n_channels) or not bool((std > 0).all()):
        raise ValueError(
            f"input_std: expected 1 or {n_channels} positive numbers (one for each channel), got {std.tolist()}; "
            f"do input_std=[...] with the deviations the inputs were divided by"
        )
    return std


def _of_dataset(examples: MapExamples | StreamExamples, name: str) -> Any:
    """An attribute that the data set carries (``classes``, ``std``, ``split``), or None."""
    if isinstance(examples, StreamExamples):
        return None
    value = getattr(examples.dataset, name, None)
    return None if callable(value) else value


def _preprocessing(
    examples: MapExamples | StreamExamples, std: Tensor | None, feature_map: FeatureMap | CallableMap
) -> Mapping[str, Any]:
    mean = _of_dataset(examples, "mean")
    return {
        **(_of_dataset(examples, "preprocessing") or {}),
        "mean": None if mean is None else torch.as_tensor(mean, dtype=torch.float64).flatten().tolist(),
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
    """max_i lambda_max(Cov_input(Q_i)), a lower bound on the Poincare constant that does not use f (definitions 3)."""
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
