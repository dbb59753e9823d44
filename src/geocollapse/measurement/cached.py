"""Features of a data set without Jacobians, kept on disk between runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from geocollapse.complexity.setup import Data, Model
from geocollapse.features import Pool
from geocollapse.inputs import device_of
from geocollapse.measurement.collect import collect_features
from geocollapse.models.fingerprint import fingerprint
from geocollapse.models.loaded import LoadedModel
from geocollapse.runtime.provenance import provenance
from geocollapse.store import KeptLayer, plain_layer
from geocollapse.store.cache import FeatureCache, key_of
from geocollapse.store.kept import LinearHead


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """How features are collected; see ``collect_features``."""

    layer: str | None = None
    classifier: str | None = None
    pool: Pool | None = None
    input_layer: str | None = None
    autocast: torch.dtype | None = None
    batch_size: int | None = None


def cached_features(
    model: Model,
    data: Data,
    settings: CollectSettings,
    *,
    cache: FeatureCache | None,
    origin: Mapping[str, object] | None = None,
) -> KeptLayer:
    """Collect features, or read those of the same weights, code, data and settings from disk.

    Args:
        model: as ``collect_features`` takes it.
        data: likewise; those without a ``fingerprint`` are not kept.
        settings: the layer, and how it is read.
        cache: where to look and to keep; None for neither.
        origin: names of model and data, for the provenance.

    Returns:
        A layer without Jacobian norms, whose provenance says whether it is ``from_cache``.
    """
    key = None if cache is None else _key(model, data, settings)
    kept = None if cache is None or key is None else cache.read(key)
    is_cached = kept is not None
    if kept is None:
        kept = _collected(model, data, settings, origin or {})
        if cache is not None and key is not None:
            cache.write(key, kept)
    about = {**kept.context.provenance, **(origin or {}), "from_cache": is_cached}
    return replace(kept, context=replace(kept.context, provenance=about))


def _collected(
    model: Model, data: Data, settings: CollectSettings, origin: Mapping[str, object]
) -> KeptLayer:
    found = collect_features(model, data, **vars(settings))
    layer = plain_layer(
        found.features.cpu(),
        found.labels,
        layer=found.layer,
        class_names=found.class_names,
        split=found.split,
        provenance=origin,
    )
    if found.head is None:
        return layer
    weight, bias = found.head
    head = LinearHead(weight.cpu(), None if bias is None else bias.cpu())
    return replace(layer, head=head, no_head="")


def _key(model: Model, data: Data, settings: CollectSettings) -> str | None:
    """The key of the features; None where model or data have no fingerprint."""
    module = model.model if isinstance(model, LoadedModel) else model
    of_data = getattr(data, "fingerprint", None)
    if not isinstance(module, nn.Module) or of_data is None:
        return None
    versions = provenance(seed=0, device=device_of(module) or "cpu")
    return key_of(
        {
            "kind": "features and classifier",
            "model": fingerprint(module),
            "data": of_data(),
            "settings": [settings.layer, settings.classifier, settings.pool, settings.input_layer],
            "precision": settings.autocast,
            "versions": [versions["geocollapse"], versions["revision"], versions["torch"]],
            "device": versions["device"],
        }
    )
