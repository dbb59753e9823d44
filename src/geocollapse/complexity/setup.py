"""The set-up that every measurement shares: model, layers, data and probes, checked once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from geocollapse.arrays import Labels
from geocollapse.batches import Examples, MapExamples, as_examples, as_map, check_shared
from geocollapse.complexity.means import EstimateSettings
from geocollapse.complexity.schedule import (
    ProbeSchedule,
    bounded_by_memory,
    fitted_plan,
    schedule_probes,
)
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.estimate import Population
from geocollapse.features import CallableMap, Embedding, FeatureMap, Pool, check_autocast
from geocollapse.features.located import check_map, locate
from geocollapse.inputs import Inputs, Map, device_of, move, rows_of
from geocollapse.jacobian import Estimator, ProbePlan, check_estimator, push_forward
from geocollapse.models import LoadedModel
from geocollapse.modules.borrow import borrowed
from geocollapse.modules.mixing import check_mixing_layers
from geocollapse.modules.wrapped import without_data_parallel
from geocollapse.numerics import autocast_around

Model = nn.Module | Map
Data = object  # a loader, a data set, a pair of tensors or a stream of batches: see as_examples


@dataclass(frozen=True, kw_only=True)
class Request:
    """The settings of a measurement, as the caller gave them; see ``geocollapse.measure``.

    Attributes:
        layer: one layer, several, or None for the input of the classifier.
        classifier: name of the linear classifier; None to look for it.
        pool: how positions are pooled.
        input_layer: the layer that embeds integer inputs.
        labels: of a map-style data set.
        ignore_index: the label of examples to leave out.
        class_names: name of class 0, 1, ...; None for those of the data set.
        batch_size: examples that go through the model together.
        memory_limit: bytes that the graph of a batch may take.
        autocast: the dtype of matrix products and convolutions.
        estimator: of the squared Jacobian norms; None for the default.
        n_probes: probes for each example.
        rule: when to stop probing.
        population: the population that the standard error speaks about.
        seed: of the probes and of the sample.
        input_std: the scale of each input channel; None for that of the data set.
        evaluation: run the model in evaluation mode; else in its own mode, where batch
            normalisation and dropout in training mode are refused.
    """

    layer: str | Sequence[str] | None = None
    classifier: str | None = None
    pool: Pool | None = None
    input_layer: str | None = None
    labels: Labels | None = None
    ignore_index: int | None = None
    class_names: Sequence[str] | None = None
    batch_size: int | None = None
    memory_limit: int | None = None
    autocast: torch.dtype | None = None
    estimator: Estimator | None = None
    n_probes: int | Literal["auto"] = "auto"
    rule: StoppingRule = field(default_factory=StoppingRule)
    population: Population = "dataset"
    seed: int = 0
    input_std: Sequence[float] | float | None = None
    evaluation: bool = True

    def __post_init__(self) -> None:
        check_estimator(self.estimator or "rademacher", self.n_probes)
        self.rule.check_shared()
        check_autocast(self.autocast)
        if self.population not in get_args(Population):
            raise ValueError(
                f"population: expected 'dataset' or 'distribution', got {self.population!r}; do "
                f"population='dataset'"
            )
        if not isinstance(self.seed, Integral):
            raise ValueError(f"seed: expected a whole number, got {self.seed!r}; do seed=0")


@dataclass(frozen=True, eq=False, kw_only=True)
class Setup:
    """A borrowed model and its data: located, checked, and agreed on by all processes.

    Attributes:
        request: what the caller asked for.
        name: of the model, by which it was loaded, or else its class.
        model: the module or callable, without DistributedDataParallel.
        module: ``model`` if it is a module, else None.
        feature_map: the map from inputs to the layers.
        embedding: where the model is split; None for a callable.
        examples: the data.
        plan: how Jacobians are probed.
        input_shape: of an example as the map takes it; None for one that starts at ``input_layer``.
        notes: what a reader must know about the data and how they enter the model.
    """

    request: Request
    name: str
    model: Model
    module: nn.Module | None
    feature_map: FeatureMap | CallableMap
    embedding: Embedding | None
    examples: Examples
    plan: ProbePlan
    input_shape: tuple[int, ...] | None
    notes: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers."""
        return tuple(str(layer) for layer in self.feature_map.layers)

    @property
    def class_names(self) -> Sequence[str] | None:
        """A name for class 0, 1, ..., as given or from the data set."""
        given = self.request.class_names
        return self.examples.about.classes if given is None else given

    def schedule(self) -> ProbeSchedule:
        """Which examples are probed, and how often."""
        request = self.request
        return schedule_probes(
            self.examples,
            request.rule,
            estimator=self.plan.estimator,
            n_probes=request.n_probes,
            seed=request.seed,
        )

    def settings(self, schedule: ProbeSchedule) -> list[EstimateSettings]:
        """The settings that the estimates record, one entry a layer."""
        return [
            EstimateSettings(
                estimator=self.plan.estimator,
                n_probes=schedule.n_counted,
                population=self.request.population,
                sequential=self.request.rule.is_sequential,
                layer=layer,
            )
            for layer in self.layers
        ]


@contextmanager
def set_up(model: Model, data: Data, request: Request) -> Iterator[Setup]:
    """Borrow the model, find its layers, and check it on two examples of the data.

    Inside, the model is in the requested mode and its parameters take no gradients; afterwards it
    is as it was. Several processes refuse data, weights or settings that differ between them.

    Raises:
        TypeError, ValueError, RuntimeError: see ``geocollapse.measure``.
    """
    name = _name_of(model)
    model = without_data_parallel(model.model if isinstance(model, LoadedModel) else model)
    module = model if isinstance(model, nn.Module) else None
    check_mixing_layers(module, evaluation=request.evaluation)
    around = autocast_around(device_of(model) or torch.device("cpu"))
    request = replace(request, autocast=request.autocast or around)
    with borrowed(module, evaluation=request.evaluation):
        examples = as_examples(
            data,
            labels=request.labels,
            batch_size=request.batch_size,
            ignore_index=request.ignore_index,
        )
        _check_names(request, examples)
        about_data = (*examples.check(), *examples.about.notes)
        for argument in request.rule.given:
            as_map(examples, argument)  # each needs examples in a random order
        pair = move(examples.peek(2), model)
        first = rows_of(pair, slice(1))
        feature_map, embedding = _feature_map(model, first, request)
        enter = feature_map.enter
        dtype = request.autocast
        check_map(enter, pair, module, feature_map.input_layer, dtype=dtype)
        if request.memory_limit is not None:
            examples = bounded_by_memory(examples, enter, first, request.memory_limit)
        estimator = request.estimator or _default_estimator(feature_map, first)
        plan = ProbePlan(estimator, request.seed, _input_std(request, examples, first, feature_map))
        setup = Setup(
            request=request,
            name=name,
            model=model,
            module=module,
            feature_map=feature_map,
            embedding=embedding,
            examples=examples,
            plan=fitted_plan(plan, enter, examples, model),
            input_shape=_input_shape(first, feature_map),
            notes=(*about_data, *feature_map.notes),
        )
        check_shared(examples, module, enter, pair, _in_common(setup), dtype=dtype)
        yield setup


def _check_names(request: Request, examples: Examples) -> None:
    """Refuse names of classes that are not those of the labels, or too few for them."""
    given = request.class_names
    if given is not None and (isinstance(given, str) or not all(isinstance(n, str) for n in given)):
        raise TypeError(
            f"class_names: expected a sequence of names, got {given!r}; do class_names=['a', 'b']"
        )
    names = examples.about.classes if given is None else given
    known = examples.labels if isinstance(examples, MapExamples) else None
    if names is not None and known is not None and len(known) and int(known.max()) >= len(names):
        raise ValueError(
            f"class_names: expected a name for each of the labels 0 to {int(known.max())}, got "
            f"{len(names)}; do name all, or number the labels from 0"
        )
    own = examples.class_names if isinstance(examples, MapExamples) else None
    if own is not None and given is not None and tuple(given) != own:
        raise ValueError(
            f"class_names: expected None for labels that are names, or {list(own)}, got "
            f"{list(given)}; do leave it out, or number the labels"
        )


def _name_of(model: Model | LoadedModel) -> str:
    """The name by which a model was loaded, or of its class or function."""
    if isinstance(model, LoadedModel):
        return model.name
    plain = without_data_parallel(model)
    return getattr(plain, "__name__", type(plain).__name__)


def _feature_map(
    model: Model, first: Inputs, request: Request
) -> tuple[FeatureMap | CallableMap, Embedding | None]:
    """The map to the requested layers, and where the model is split."""
    if isinstance(model, nn.Module):
        found = locate(
            model,
            first,
            request.layer,
            classifier=request.classifier,
            input_layer=request.input_layer,
        )
        to_layers = FeatureMap(
            model, found.layers, request.pool, found.input_layer, autocast=request.autocast
        )
        return to_layers, found.embedding
    for name in ("layer", "classifier", "pool", "input_layer"):
        value = getattr(request, name)
        is_output = name == "layer" and value == ""
        if value is not None and not is_output:
            raise ValueError(
                f"{name}: expected None for a callable, which returns the features itself, got "
                f"{value!r}; do pass the module"
            )
    return CallableMap(model, request.autocast), None


def _default_estimator(feature_map: FeatureMap | CallableMap, first: Inputs) -> Estimator:
    """Output probes for one layer; input probes for several if the map has a forward mode.

    One sweep of an input probe reaches all layers.
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
    request: Request, examples: Examples, first: Inputs, feature_map: FeatureMap | CallableMap
) -> Tensor | None:
    """The standard deviations that divided the input channels, as given or from the data set."""
    given = request.input_std
    input_layer = feature_map.input_layer
    if given is not None and input_layer is not None:
        raise ValueError(
            f"input_std: expected None for Jacobians with respect to {input_layer!r}, got {given}; "
            f"do leave it out"
        )
    values = given if given is not None else examples.about.std
    if values is None or input_layer is not None:
        return None
    x = feature_map.enter(first)[1]
    std = torch.as_tensor(values, dtype=torch.float64).flatten()
    n_channels = x.shape[1] if x.ndim > 1 else 1
    if len(std) not in (1, n_channels) or not bool((std > 0).all()):
        raise ValueError(
            f"input_std: expected 1 or {n_channels} positive numbers (one for each channel), got "
            f"{std.tolist()}; do input_std=[...] with the deviations the inputs were divided by"
        )
    return std


def _input_shape(first: Inputs, feature_map: FeatureMap | CallableMap) -> tuple[int, ...] | None:
    """The shape of an example as it enters the map; None for embedded tokens, as texts differ."""
    if feature_map.input_layer is not None:
        return None
    return tuple(feature_map.enter(first)[1].shape[1:])


def _in_common(setup: Setup) -> Mapping[str, object]:
    """The settings that several processes must share, by the names of their arguments."""
    request = setup.request
    names = setup.class_names
    std = setup.plan.input_std
    return {
        **vars(request.rule),
        "estimator": setup.plan.estimator,
        "n_probes": request.n_probes,
        "seed": request.seed,
        "population": request.population,
        "classifier": request.classifier,
        "layer": list(setup.layers),
        "pool": setup.feature_map.pool,
        "input_layer": setup.feature_map.input_layer,
        "autocast": request.autocast,
        "class_names": None if names is None else list(names),
        "input_std": None if std is None else std.tolist(),
    }
