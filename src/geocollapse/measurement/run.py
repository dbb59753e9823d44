"""``measure``: one pass over a model for all its geometry; ``measure_features``: the same from a
features file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocollapse.batches import MapExamples, StreamExamples, as_examples, check_shared
from geocollapse.complexity.schedule import bounded_by_memory, fitted_plan, schedule_probes
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.features import (
    CallableMap,
    Embedding,
    FeatureMap,
    Layer,
    Pool,
    check_autocast,
    find_embedding,
    forward_pass,
)
from geocollapse.features.borrow import borrowed
from geocollapse.features.entry import entry_of, find_input_layer
from geocollapse.features.independence import check_independence
from geocollapse.features.mixing import check_mixing_layers
from geocollapse.features.padding import check_padding, padding_token
from geocollapse.features.wrapped import without_data_parallel
from geocollapse.inputs import Inputs, Map, move, rows_of
from geocollapse.jacobian import Estimator, ProbePlan, check_estimator, push_forward
from geocollapse.measurement.classifier import head_at, outputs_of_classes
from geocollapse.measurement.compute import measure_layer
from geocollapse.measurement.context import Pass, of_dataset
from geocollapse.measurement.one_pass import read_once
from geocollapse.measurement.result import Measurement
from geocollapse.runtime.processes import failing_together
from geocollapse.store import KeptLayer, read_features


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
    """Measure geometric complexity, neural collapse, geometric collapse and nearest-mean bounds in
    one pass.

    The model is run in evaluation mode and handed back as it was. Every example goes forward once;
    each is probed once, and max(200, 20 C) of them twice to learn the error of the probes. A first
    Ctrl-C ends with what was read so far, a random sample of the data (of a stream: its beginning),
    marked ``interrupted``. With a process group each process reads its share of the batches, and
    all return the same, with the features of all. Cost: one forward pass, one vector-Jacobian
    product with respect to the input, and O(n p (C + p)) for the measures of the features.

    Source: Munn, Dherin, Gonzalvo (2024); definitions 1 to 4.

    Args:
        model: a module, or a callable from inputs to features (n, p).
        data: a DataLoader, a map-style data set, a pair (inputs, labels), or a stream of batches. A
            batch may be a mapping: ``labels`` and the model's inputs by name (``input_ids``,
            ``attention_mask``).
        layer: ``NAME``, ``NAME:in``, ``""`` for the model's output, or None for the input of its
            classifier; several of them are measured from the same pass: one forward-mode sweep for
            all, or a backward pass each.
        classifier: name of the linear classifier, for accuracy, NC3 and NC4; None to look for it.
        labels: (n,) labels of a map-style data set, where reading its examples to learn them would
            be slow.
        estimator: of ||J||_F^2, see ``geocollapse.squared_jacobian_norms``. None: ``rademacher``
            for one layer; ``input`` for several, if all operations of the model have a forward
            mode, and ``rademacher`` otherwise.
        n_probes: probes for each example.
        rtol: probe, in a random order, until the relative half-width of the interval of geometric
            complexity is at most this; collapse uses all examples.
        atol: the same, until the standard error is at most this.
        max_samples: probe at most this many examples; collapse uses all.
        max_seconds: probe no further batch after this time; collapse uses all.
        pool: ``mean`` averages maps and token sequences over positions, ``cls`` takes the first
            token, ``last`` the last one (padding, by ``attention_mask``, is no token), None
            flattens them.
        input_layer: the layer that embeds integer inputs: Jacobians are with respect to its output.
            None for the inputs themselves, and for a transformers model its own embedding of
            tokens.
        batch_size: examples that go through the model together; a loader's own by default.
        memory_limit: bytes that the graph of a batch may take; the batches are made small enough.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to run the model under ``torch.autocast``;
            squares, means and variances are summed in float64 either way. For float64 throughout:
            ``model.double()``.
        input_std: standard deviation of each input channel, by which the inputs were divided: gives
            ``gc_pixel``. A data set's ``std`` by default.
        class_names: name of class 0, 1, ...; a data set's ``classes`` by default.
        seed: of the probes and of the sample.
        progress: show a progress bar with the projected time on stderr.

    Returns:
        A Measurement.

    Raises:
        TypeError, ValueError: integer inputs and no layer that embeds them, labels that are not
            integers, an unknown layer (the nearest names are listed), an ambiguous embedding (the
            candidates are listed), NaN features, gradients that overflow, one class only, an empty
            loader, contradictory stopping arguments, a memory limit too small for one example, a
            forward pass in which the model raises; with several processes a stream,
            ``max_seconds``, or other data, settings or weights in one of them.
        RuntimeError: a model that mixes the examples of a batch even in evaluation mode, or draws
            at random; names the module. Seen from two examples, which go forward three times, and
            two times more if they are texts with a mask, whose features must not move with padding.
            Features that move with the inputs but have no gradients (``torch.no_grad``,
            ``.detach()`` in the model).

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
    model = without_data_parallel(model)
    module = model if isinstance(model, nn.Module) else None
    check_mixing_layers(module, evaluation=True)
    with borrowed(module):
        examples = as_examples(data, labels=labels, batch_size=batch_size)
        pair = move(examples.peek(2), model)
        first = rows_of(pair, slice(1))
        feature_map, embedding = _feature_map(model, first, layer, classifier, pool, input_layer)
        names = class_names if class_names is not None else of_dataset(examples, "classes")
        given, feature_map.autocast = of_dataset(examples, "class_outputs"), autocast
        feature_map.class_outputs, about_outputs = outputs_of_classes(
            model, embedding, names, given
        )
        with forward_pass(pair):
            check_independence(feature_map.enter, pair, module, dtype=autocast)
            padding = padding_token(model, feature_map.input_layer)
            check_padding(feature_map.enter, pair, module, padding=padding, dtype=autocast)
        if memory_limit is not None:
            examples = bounded_by_memory(examples, feature_map.enter, first, memory_limit)
        chosen = estimator or _default_estimator(feature_map, first)
        schedule = schedule_probes(examples, rule, estimator=chosen, n_probes=n_probes, seed=seed)
        plan = ProbePlan(chosen, seed, _input_std(input_std, examples, first, feature_map))
        plan = fitted_plan(plan, feature_map.enter, examples, model)
        asked = {
            **vars(rule),
            "estimator": chosen,
            "n_probes": n_probes,
            "seed": seed,
            "classifier": classifier,
        }
        asked |= {
            "layer": [*map(str, feature_map.layers)],
            "pool": feature_map.pool,
            "autocast": autocast,
        }
        asked |= {
            "input_layer": feature_map.input_layer,
            "class_names": None if names is None else [*names],
        }
        asked |= {"input_std": None if plan.input_std is None else plan.input_std.tolist()}
        check_shared(examples, module, feature_map.enter, pair, asked, dtype=autocast)
        reading = read_once(model, feature_map, examples, schedule, plan, rule, progress=progress)
    done = Pass(
        model=model,
        feature_map=feature_map,
        embedding=embedding,
        examples=examples,
        class_names=names,
        about_outputs=about_outputs,
        plan=plan,
        schedule=schedule,
        rule=rule,
        reading=reading,
    )
    return Measurement(
        tuple(map(measure_layer, _kept_layers(done, is_named=classifier is not None)))
    )


def measure_features(path: str | Path, *, device: torch.device | str = "cpu") -> Measurement:
    """Measure the features of a file, without the model that they came from.

    A file of ``Measurement.save_features`` gives the numbers of that measurement again. One with
    ``features`` and ``labels`` alone gives all but geometric complexity and geometric collapse,
    which are NaN with a warning. Cost: one reading of the file (safetensors is mapped, not read
    into memory), O(n p (C + p)).

    Args:
        path: ``.safetensors``, ``.npz``, or ``.pt`` (read with ``weights_only=True``).
        device: where to compute; features above 4 GiB stay where they are.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: a damaged file, missing keys, shapes that do not fit each other, one
        class only.

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
            raise ValueError(
                "layer: expected at least one name, got none; do layer=None for the default"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"layer: expected different layers, got {names}; do name each once")
        with forward_pass(first):
            found = find_input_layer(model, first, input_layer)
            entry_of(
                model, first, found
            )  # refuses inputs without a Jacobian before anything is looked for
        embedding = find_embedding(model, first, layer=names[0], classifier=classifier)
        others = [Layer.find(model, name) for name in names[1:] if name is not None]
        return FeatureMap(model, [embedding.layer, *others], pool, found), embedding
    given = {"layer": layer, "classifier": classifier, "pool": pool, "input_layer": input_layer}
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected None for a callable, which returns the features itself, got "
                f"{value!r}; "
                f"do pass the module"
            )
    return CallableMap(model), None


def _kept_layers(done: Pass, *, is_named: bool) -> list[KeptLayer]:
    """What is kept of each layer; the caller may have named the classifier that they feed."""
    context, layers = done.context(), done.feature_map.layers
    heads = [
        head_at(layer, done.feature_map, done.embedding, is_named=is_named) for layer in layers
    ]
    return [
        KeptLayer(str(layer), taken.features, taken.norms, head, context)
        for layer, taken, head in zip(layers, done.reading.layers, heads, strict=True)
    ]


def _default_estimator(feature_map: FeatureMap | CallableMap, first: Inputs) -> Estimator:
    """Output probes for one layer; for several an input probe, whose one sweep reaches all, where
    there is one.
    """
    if len(feature_map.layers) == 1:
        return "rademacher"
    try:
        take, x = feature_map.enter(first)
        push_forward(take, x, torch.zeros_like(x))
    except NotImplementedError:
        return "rademacher"
    return "input"


def _input_std(
    given: Sequence[float] | float | None,
    examples: MapExamples | StreamExamples,
    first: Inputs,
    feature_map: FeatureMap | CallableMap,
) -> Tensor | None:
    """Channel standard deviations that the inputs were divided by: as given, else the data set's
    own.
    """
    if given is not None and feature_map.input_layer is not None:
        raise ValueError(
            f"input_std: expected None for Jacobians with respect to {feature_map.input_layer!r}, "
            f"got {given}; "
            f"do leave it out"
        )
    values = given if given is not None else of_dataset(examples, "std")
    if values is None or feature_map.input_layer is not None:
        return None
    x = feature_map.enter(first)[1]
    std = torch.as_tensor(values, dtype=torch.float64).flatten()
    n_channels = x.shape[1] if x.ndim > 1 else 1
    if len(std) not in (1, n_channels) or not bool((std > 0).all()):
        raise ValueError(
            f"input_std: expected 1 or {n_channels} positive numbers (one for each channel), got "
            f"{std.tolist()}; "
            f"do input_std=[...] with the deviations the inputs were divided by"
        )
    return std
