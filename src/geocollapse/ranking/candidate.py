"""One model on the target: its features, from a pass over the data or from the cache."""

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
from geocollapse.models import LoadedModel
from geocollapse.models.fingerprint import fingerprint
from geocollapse.runtime.provenance import provenance
from geocollapse.store import KeptLayer
from geocollapse.store.cache import FeatureCache, key_of

TRAINED_ON = "trained on target classes"
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
    """

    model: Model
    data: Data
    origin: Mapping[str, object] = field(default_factory=dict)
    trained_on: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model to rank.

    Attributes:
        label: its name in the ranking.
        open: loads the model and its data, or reads a features file.
        layer: of its features, in place of the one of the settings.
    """

    label: str
    open: Callable[[], Opened | KeptLayer]
    layer: str | None = None


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
) -> KeptLayer:
    """Features, labels and squared Jacobian norms of one model on the target.

    From the cache, if it holds those of the same weights, code, data, preprocessing and settings.
    The provenance has the number of parameters and the time of a forward pass.
    """
    if candidate.layer is not None:
        settings = replace(settings, layer=candidate.layer)
    opened = candidate.open()
    if isinstance(opened, KeptLayer):
        return opened
    key = None if cache is None else _key(opened, settings)
    kept = None if cache is None or key is None else cache.read(key)
    is_cached = kept is not None
    if kept is None:
        kept = _noted(_from_pass(opened, settings), opened.origin)
        if cache is not None and key is not None:
            cache.write(key, kept)
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


def _from_pass(opened: Opened, settings: FeatureSettings) -> KeptLayer:
    request = Request(
        layer=settings.layer,
        pool=settings.pool,
        batch_size=settings.batch_size,
        autocast=settings.autocast,
        n_probes=1,
        seed=settings.seed,
    )
    with set_up(opened.model, opened.data, request) as setup:
        n_probed = settings.gc_samples or _n_probed(setup)
        request = replace(request, rule=StoppingRule(max_samples=n_probed))
        setup = replace(setup, request=request)
        kept = keep_layers(setup, progress=settings.progress)[0]
        seconds = _seconds_per_example(setup)  # once memory is there
    module = setup.module
    about = {
        "n_parameters": None if module is None else sum(p.numel() for p in module.parameters()),
        "seconds_per_example": seconds,
    }
    return _noted(kept, about)


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


def _key(opened: Opened, settings: FeatureSettings) -> str | None:
    """The key of the features in the cache; None where model or data have no fingerprint."""
    model = opened.model.model if isinstance(opened.model, LoadedModel) else opened.model
    of_data = getattr(opened.data, "fingerprint", None)
    if not isinstance(model, nn.Module) or of_data is None:
        return None
    versions = provenance(seed=settings.seed, device=device_of(model) or "cpu")
    return key_of(
        {
            "model": fingerprint(model),
            "data": of_data(),
            "settings": [settings.layer, settings.pool, settings.gc_samples],
            "precision": settings.autocast,
            "seed": settings.seed,
            "versions": [versions["geocollapse"], versions["revision"], versions["torch"]],
            "device": versions["device"],
        }
    )
