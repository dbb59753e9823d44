"""A features file: one layer's features, labels and squared Jacobian norms, written once and
measured at any time.

A ``.safetensors`` or ``.npz`` file with the arrays of ``ARRAYS`` and a JSON text: the layer, the
class names, how the norms were estimated, preprocessing and provenance. ``features`` and ``labels``
alone, from any other program, are a features file too; so is a ``.pt`` file of a dictionary of
tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geocollapse.arrays import as_features, as_labels
from geocollapse.complexity.means import EstimateSettings
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.estimate import strict_json
from geocollapse.jacobian import SquaredNorms
from geocollapse.runtime.files import written_whole
from geocollapse.runtime.provenance import provenance
from geocollapse.store.formats import check_ending, read_arrays, write_arrays
from geocollapse.store.kept import Context, KeptLayer, LinearHead, accuracy_of
from geocollapse.store.rows import MEMORY_LIMIT

# n examples with p features, m of them probed; a model with o outputs, a classifier with c outputs
# on q features.
ARRAYS = {
    "features": "n p",
    "labels": "n",
    "ids": "n",  # positions in the data set
    "logits": "n o",
    "classifier_weight": "c q",
    "classifier_bias": "c",
    "probed": "m",  # rows whose Jacobians were probed
    "squared_jacobian_norms": "m",
    "squared_jacobian_norms_per_pixel": "m",  # where the input scale is known
    "probe_variances": "m",  # of the norms, from second probes; NaN where there was one
    "probe_counts": "m",  # probes behind each norm
}
_NORMS = ("probed", "squared_jacobian_norms", "probe_variances", "probe_counts")
_SHARED = (  # the fields of Context that are not arrays
    "n_population",
    "class_counts",
    "is_stratified",
    "settings",
    "rule",
    "ending",
    "class_names",
    "accuracy",
    "split",
    "lambda_max",
    "preprocessing",
    "provenance",
    "warnings",
)


def write_features(
    path: str | Path, kept: KeptLayer, *, origin: Mapping[str, Any] | None = None
) -> None:
    """Write a layer with all that its measures are computed from; the file appears when it is
    complete.

    Features are written from where they lie, also from a mapped file, in their own precision
    (bfloat16 as float32 in ``.npz``, which has no such numbers).

    Args:
        path: a file ending in ``.safetensors`` or ``.npz``.
        kept: the layer.
        origin: what to record beside the provenance, such as the names of model and data.

    Raises:
        ValueError: another ending.
    """
    path = Path(path)
    check_ending(path)
    with written_whole(path) as partial:
        write_arrays(
            partial,
            path.suffix,
            _arrays(kept),
            json.dumps(_about(kept, origin or {}), allow_nan=False),
        )


def read_features(path: str | Path, *, device: torch.device | str = "cpu") -> KeptLayer:
    """The layer of a features file, its shapes checked; a safetensors file stays mapped.

    Args:
        path: ``.safetensors``, ``.npz`` or ``.pt``.
        device: where the features go, if they are not too many to be kept in memory.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: another ending, a damaged file, pickled code, missing keys, shapes
        that do not fit.
    """
    path = Path(path)
    content = read_arrays(path, ARRAYS)
    arrays = _checked(content.arrays)
    about = {} if content.text is None else _parsed(content.text, path)
    features = arrays["features"]
    if features.numel() * features.element_size() <= MEMORY_LIMIT:
        features = features.to(device)
    shared = _shared(about) if about else _of_foreign(arrays)
    shared["warnings"] += _unread(content.others, path)
    shared["provenance"] = _provenance(shared["provenance"], path, features.device)
    head, no_head = _head(arrays, about)
    return KeptLayer(
        layer=about.get("layer", path.name),
        features=features,
        norms=_norms(arrays, about),
        head=head,
        no_head=no_head,
        context=Context(
            labels=arrays["labels"],
            ids=arrays.get("ids", torch.arange(len(features))),
            logits=arrays.get("logits"),
            probed=arrays.get("probed", torch.zeros(0, dtype=torch.int64)),
            **shared,
        ),
    )


def _arrays(kept: KeptLayer) -> dict[str, Tensor]:
    """The arrays of ``ARRAYS`` that there are."""
    context, norms = kept.context, kept.norms
    weight, bias = kept.head or (None, None)
    found: dict[str, Tensor | None] = {
        "features": kept.features,
        "labels": context.labels,
        "ids": context.ids,
        "logits": context.logits,
        "classifier_weight": weight,
        "classifier_bias": bias,
    }
    if len(context.probed):
        found |= {
            "probed": context.probed,
            "squared_jacobian_norms": norms.values,
            "squared_jacobian_norms_per_pixel": norms.scaled,
            "probe_variances": norms.variances,
            "probe_counts": norms.n_probes,
        }
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in found.items()
        if tensor is not None
    }


def _about(kept: KeptLayer, origin: Mapping[str, Any]) -> dict[str, Any]:
    context = kept.context
    shared = {name: getattr(context, name) for name in _SHARED} | {
        "rule": vars(context.rule),
        "settings": vars(context.settings),
        "provenance": {**context.provenance, **origin},
    }
    about: dict[str, Any] = strict_json(
        {"version": 1, "layer": kept.layer, "no_classifier": kept.no_head or None, **shared}
    )
    return about


def _shared(about: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a Context that the JSON text holds."""
    counts = {
        int(label): math.inf if n is None else n for label, n in about["class_counts"].items()
    }
    return {name: about[name] for name in _SHARED} | {
        "class_counts": counts,
        "rule": StoppingRule(**about["rule"]),
        "settings": EstimateSettings(**about["settings"]),
        "warnings": tuple(about["warnings"]),
    }


def _of_foreign(arrays: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same for a file that another program wrote: nothing is known but what follows from its
    arrays.
    """
    logits = arrays.get("logits")
    accuracy, notes = (None, ()) if logits is None else accuracy_of(logits, arrays["labels"], None)
    classes, counts = arrays["labels"].unique(return_counts=True)
    return dict.fromkeys(_SHARED) | {
        "n_population": len(arrays["labels"]),
        "class_counts": dict(zip(classes.tolist(), counts.tolist(), strict=True)),
        "rule": StoppingRule(),
        "ending": "complete",
        "is_stratified": False,
        "settings": EstimateSettings(estimator="none", n_probes=0),
        "accuracy": accuracy,
        "preprocessing": {},
        "provenance": {},
        "warnings": notes,
    }


def _unread(others: list[str], path: Path) -> tuple[str, ...]:
    if not others:
        return ()
    return (
        f"features: {', '.join(others)} of {path.name} not read; the names that are: "
        f"{', '.join(ARRAYS)}",
    )


def _provenance(first: Mapping[str, Any], path: Path, device: torch.device) -> dict[str, Any]:
    """Where the numbers come from now; what made the file stays in it, for the norms are from then."""
    now = provenance(seed=first.get("seed", 0), device=device)
    return {**first, **now, "features": str(path), "features_from": dict(first) or None}


def _norms(arrays: Mapping[str, Tensor], about: Mapping[str, Any]) -> SquaredNorms:
    """The squared Jacobian norms of a file, none where it has none."""
    present = [name for name, shape in ARRAYS.items() if shape == "m" and name in arrays]
    if not present:
        empty = torch.zeros(0, dtype=torch.float64)
        return SquaredNorms.exact(empty)
    if not set(_NORMS) <= set(present) or not about:
        wanted = ", ".join(_NORMS)
        raise ValueError(
            f"features: expected {wanted} and how they were estimated, or none of it, got "
            f"{', '.join(present)} alone; "
            f"do leave them out, or write the file with geocollapse measure --save-features"
        )
    values, variances = (
        arrays["squared_jacobian_norms"].double(),
        arrays["probe_variances"].double(),
    )
    scaled = arrays.get("squared_jacobian_norms_per_pixel")
    counts = arrays["probe_counts"].long()
    return SquaredNorms(values, variances, counts, None if scaled is None else scaled.double())


def _head(arrays: Mapping[str, Tensor], about: Mapping[str, Any]) -> tuple[LinearHead | None, str]:
    if "classifier_bias" in arrays and "classifier_weight" not in arrays:
        raise ValueError(
            "classifier_bias: expected classifier_weight beside it, got none; do save both or "
            "neither"
        )
    if "classifier_weight" in arrays:
        return LinearHead(arrays["classifier_weight"], arrays.get("classifier_bias")), ""
    return None, about.get("no_classifier") or "the file holds no classifier_weight"


def _checked(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arrays as floats and int64, after a look at their shapes."""
    missing = [name for name in ("features", "labels") if name not in arrays]
    if missing:
        raise ValueError(
            f"features: expected a file with features (n, p) and labels (n,), got one without "
            f"{' and '.join(missing)} "
            f"(with {', '.join(arrays) or 'none of the known names'}); do save them under these "
            f"names"
        )
    features = as_features(arrays["features"])
    labels = as_labels(arrays["labels"], len(features))
    sizes: dict[str, int] = {}
    for name in ARRAYS:
        if name in arrays:
            _check_shape(name, tuple(arrays[name].shape), sizes)
    probed = arrays.get("probed", labels.new_zeros(0)).long()
    if len(probed) and not 0 <= int(probed.min()) <= int(probed.max()) < len(features):
        raise ValueError(
            f"probed: expected rows from 0 to {len(features) - 1}, got others; do write the file "
            f"again"
        )
    whole = {name: arrays[name].long() for name in ("ids", "probed") if name in arrays}
    return arrays | {"features": features, "labels": labels} | whole


def _check_shape(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Compare a shape with its letters in ``ARRAYS``; ``sizes`` holds what the letters stand for so
    far.
    """
    letters = ARRAYS[name].split()
    if len(letters) == len(shape) and all(
        sizes.setdefault(a, size) == size for a, size in zip(letters, shape)
    ):
        return
    wanted = ", ".join(str(sizes.get(letter, letter)) for letter in letters)
    raise ValueError(
        f"{name}: expected shape ({wanted}), got {shape}; do write the file again with matching "
        f"arrays"
    )


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except ValueError:
        about = None
    known = (
        isinstance(about, dict) and about.get("version") == 1 and {"layer", *_SHARED} <= set(about)
    )
    if not known:
        raise ValueError(
            f"features: expected the text in {path.name} as version 1 of geocollapse writes it, "
            f"got another; "
            f"do write the file again, or leave the text out"
        )
    parsed: dict[str, Any] = about
    return parsed
