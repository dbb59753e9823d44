"""One model on the target: its features at each layer, from one pass or from the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from geocollapse.complexity.setup import Data, Model, Request, Setup, set_up
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.features import Pool, forward_pass
from geocollapse.inputs import device_of, move
from geocollapse.measurement.run import keep_layers
from geocollapse.models import LoadedModel, TrainingRecord
from geocollapse.models.fingerprint import fingerprint
from geocollapse.runtime.provenance import provenance
from geocollapse.store import KeptLayer
from geocollapse.store.cache import FeatureCache, key_of

TRAINED_ON = "trained on target classes"
FAILURES = (
    ValueError,
    TypeError,
    ImportError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    OSError,
)
_SHOWN = 5
_TIMED = 16  # examples of a forward pass that is timed
_LEAST_PROBED = 50
_PROBED_SHARE = 20  # one example in so many: a probe costs two forward passes, so 10 % more time


@dataclass(frozen=True, eq=False)
class Opened:
    """A model that is ready to run, with the data as it takes them.

    Attributes:
        model: a module, a loaded model or a callable from inputs to features.
        data: as ``geocollapse.measure`` takes them.
        origin: the names of model, weights, data and split, for the provenance.
        trained_on: names of the classes that the model was trained on, where they are known.
        record: of its training, where there is one.
    """

    model: Model
    data: Data
    origin: Mapping[str, object] = field(default_factory=dict)
    trained_on: Sequence[str] = ()
    record: TrainingRecord | None = None


@dataclass(frozen=True, eq=False)
class Taken:
    """One layer of a model on the target.

    Attributes:
        kept: its features, labels and squared Jacobian norms.
        record: of the training of the model, where there is one.
    """

    kept: KeptLayer
    record: TrainingRecord | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model to rank, at one layer or at several.

    Attributes:
        label: its name in the ranking; that of a layer follows if there are several.
        open: loads the model and its data, or reads a features file.
        layers: in place of the one of the settings.
    """

    label: str
    open: Callable[[], Opened | KeptLayer]
    layers: Sequence[str] = ()

    @property
    def labels(self) -> list[str]:
        """The name in the ranking of each layer."""
        if len(self.layers) < 2:
            return [self.label]
        return [f"{self.label} {layer}" for layer in self.layers]


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """How features are taken, the same for all models.

    Attributes:
        layer: the layer; None for the input of the classifier.
        pool: how positions are pooled.
        gc_samples: examples whose Jacobians are probed; None for one in 20, at least 50.
        batch_size: examples that go through a model together.
        autocast: the dtype of matrix products and convolutions.
        seed: of the probes and of the sample.
        progress: show a progress bar on stderr.
    """

    layer: str | None = None
    pool: Pool | None = None
    gc_samples: int | None = None
    batch_size: int | None = None
    autocast: torch.dtype | None = None
    seed: int = 0
    progress: bool = False


def features_of(
    candidate: Candidate, settings: FeatureSettings, cache: FeatureCache | None
) -> dict[str, Taken | Exception]:
    """Features, labels and squared Jacobian norms of one model on the target, for each layer.

    From the cache, if it holds those of the same weights, code, data, preprocessing and settings.
    The other layers come from one pass over the data. The provenance has the number of parameters
    and the time of a forward pass.

    Returns:
        By the label of each layer, its features or the error that kept them from being taken.
    """
    labels = candidate.labels
    try:
        opened = candidate.open()
        if isinstance(opened, KeptLayer):
            return dict.fromkeys(labels, Taken(opened))
        layers: Sequence[str | None] = candidate.layers or (settings.layer,)
        found = _at_layers(opened, layers, settings, cache)
        return {
            label: one if isinstance(one, Exception) else Taken(one, opened.record)
            for label, one in zip(labels, found, strict=True)
        }
    except FAILURES as error:
        return dict.fromkeys(labels, error)


def _at_layers(
    opened: Opened,
    layers: Sequence[str | None],
    settings: FeatureSettings,
    cache: FeatureCache | None,
) -> Sequence[KeptLayer | Exception]:
    """The features of each layer, read from the cache or taken in one pass and written there."""
    keys = [None] * len(layers) if cache is None else _keys(opened, layers, settings)
    found: dict[str | None, KeptLayer | Exception] = {}
    for layer, key in zip(layers, keys, strict=True):
        kept = None if cache is None or key is None else cache.read(key)
        if kept is not None:
            found[layer] = _completed(kept, opened, is_cached=True)
    missing = {layer: key for layer, key in zip(layers, keys, strict=True) if layer not in found}
    for layer, taken in _from_passes(opened, list(missing), settings).items():
        if isinstance(taken, KeptLayer):
            noted = _noted(taken, opened.origin)
            key = missing[layer]
            if cache is not None and key is not None:
                cache.write(key, noted)
            found[layer] = _completed(noted, opened, is_cached=False)
        else:
            found[layer] = taken
    return [found[layer] for layer in layers]


def _completed(kept: KeptLayer, opened: Opened, *, is_cached: bool) -> KeptLayer:
    """The layer with its origin and the warning on classes that the model was trained on."""
    found = _noted(kept, {**opened.origin, "from_cache": is_cached})
    return _warned(found, _known_classes(opened.trained_on, kept.context.class_names))


def _known_classes(trained_on: Sequence[str], target: Sequence[str] | None) -> str | None:
    """A warning where target classes are among those of the training, by name."""
    known = {part.strip().casefold() for name in trained_on for part in name.split(",")}
    both = [name for name in target or () if name.strip().casefold().replace("_", " ") in known]
    if not both:
        return None
    more = f" and {len(both) - _SHOWN} more" if len(both) > _SHOWN else ""
    return f"{TRAINED_ON}: {', '.join(both[:_SHOWN])}{more}; new classes may do worse"


def _warned(kept: KeptLayer, warning: str | None) -> KeptLayer:
    if warning is None:
        return kept
    context = kept.context
    return replace(kept, context=replace(context, warnings=(*context.warnings, warning)))


def _from_passes(
    opened: Opened, layers: Sequence[str | None], settings: FeatureSettings
) -> dict[str | None, KeptLayer | Exception]:
    """The features of all layers from one pass; where that fails, from a pass of each layer.

    A layer that does not exist, or whose features are not finite, must not take the others with it.
    """
    if not layers:
        return {}
    try:
        return dict(zip(layers, _from_pass(opened, layers, settings), strict=True))
    except FAILURES as error:
        if len(layers) == 1:
            return {layers[0]: error}
    found: dict[str | None, KeptLayer | Exception] = {}
    for layer in layers:
        found |= _from_passes(opened, [layer], settings)
    return found


def _from_pass(
    opened: Opened, layers: Sequence[str | None], settings: FeatureSettings
) -> list[KeptLayer]:
    named = [layer for layer in layers if layer is not None]
    request = Request(
        layer=named[0] if len(named) == 1 else named or None,
        pool=settings.pool,
        batch_size=settings.batch_size,
        autocast=settings.autocast,
        estimator="rademacher",  # a layer has the same numbers alone and beside others
        n_probes=1,
        seed=settings.seed,
    )
    with set_up(opened.model, opened.data, request) as setup:
        n_probed = settings.gc_samples or _n_probed(setup)
        request = replace(request, rule=StoppingRule(max_samples=n_probed))
        setup = replace(setup, request=request)
        kept = keep_layers(setup, progress=settings.progress)
        seconds = _seconds_per_example(setup)  # once memory is there
    module = setup.module
    about = {
        "n_parameters": None if module is None else sum(p.numel() for p in module.parameters()),
        "seconds_per_example": seconds,
    }
    return [_noted(layer, about) for layer in kept]


def _noted(kept: KeptLayer, about: Mapping[str, object]) -> KeptLayer:
    """The layer with ``about`` in its provenance."""
    context = kept.context
    return replace(kept, context=replace(context, provenance={**context.provenance, **about}))


def _n_probed(setup: Setup) -> int:
    """Examples to probe, at least two of each class."""
    n_examples = setup.examples.size or 0
    n_classes = len(setup.examples.class_counts())
    return max(_LEAST_PROBED, n_examples // _PROBED_SHARE, 2 * n_classes)


def _seconds_per_example(setup: Setup) -> float:
    """The shorter time of two forward passes of one batch, without gradients."""
    inputs = move(setup.examples.peek(_TIMED), setup.model)
    device = device_of(setup.model) or torch.device("cpu")
    times = []
    with forward_pass(inputs), torch.no_grad():
        take, x = setup.feature_map.enter(inputs)
        for _ in range(2):
            _wait_for(device)
            start = time.perf_counter()
            n_examples = len(take(x)[0][0])
            _wait_for(device)
            times.append((time.perf_counter() - start) / n_examples)
    return min(times)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _keys(
    opened: Opened, layers: Sequence[str | None], settings: FeatureSettings
) -> list[str | None]:
    """The keys of the layers in the cache; None where model or data have no fingerprint."""
    model = opened.model.model if isinstance(opened.model, LoadedModel) else opened.model
    of_data = getattr(opened.data, "fingerprint", None)
    if not isinstance(model, nn.Module) or of_data is None:
        return [None] * len(layers)
    versions = provenance(seed=settings.seed, device=device_of(model) or "cpu")
    of_model, of_examples = fingerprint(model), of_data()
    return [
        key_of(
            {
                "model": of_model,
                "data": of_examples,
                "settings": [layer, settings.pool, settings.gc_samples],
                "precision": settings.autocast,
                "seed": settings.seed,
                "versions": [versions["geocollapse"], versions["revision"], versions["torch"]],
                "device": versions["device"],
            }
        )
        for layer in layers
    ]
