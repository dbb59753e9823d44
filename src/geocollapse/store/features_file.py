"""Features files: one layer's features, labels and squared Jacobian norms.

Written once, measured at any time. A ``.safetensors`` or ``.npz`` file holds the arrays of
``ARRAYS`` and a JSON text: the layer, the class names, how the norms were estimated,
preprocessing and provenance. ``features`` and ``labels`` alone, from any other program, are a
features file too, as is a ``.pt`` file of a dictionary of tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from geocollapse.arrays import as_features, as_labels
from geocollapse.complexity.means import EstimateSettings
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.jacobian import SquaredNorms
from geocollapse.runtime.files import written_whole
from geocollapse.runtime.provenance import provenance
from geocollapse.store.features_text import FeaturesText, described, parsed, text_of
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
    "squared_jacobian_norms_per_pixel": "m",  # if the input scale is known
    "probe_variances": "m",  # of the norms, from second probes; NaN where there was one
    "probe_variances_per_pixel": "m",  # of the norms per pixel, the same way
    "probe_counts": "m",  # probes behind each norm
    "second_probe_chosen": "m",  # true where a second probe was given for the norm's size
}
_NORMS = ("probed", "squared_jacobian_norms", "probe_variances", "probe_counts")


def write_features(
    path: str | Path, kept: KeptLayer, *, origin: Mapping[str, object] | None = None
) -> None:
    """Write a layer with all that its measures are computed from.

    The file appears when it is complete. Features are written from where they lie, also from a
    mapped file, in their own precision (bfloat16 as float32 in ``.npz``, which has no such
    numbers).

    Args:
        path: a file ending in ``.safetensors`` or ``.npz``.
        kept: the layer.
        origin: entries to record beside the provenance, such as the names of model and data.

    Raises:
        ValueError: another ending.
    """
    path = Path(path)
    check_ending(path)
    with written_whole(path) as partial:
        write_arrays(partial, path.suffix, arrays_of(kept), text_of(kept, origin or {}))


def read_features(
    path: str | Path, *, device: torch.device | str = "cpu", require_labels: bool = True
) -> KeptLayer:
    """The layer of a features file, with its shapes checked.

    The features of a safetensors file stay mapped. Labels of another program may be names, as text
    in ``.npz`` or ``.pt``: they are numbered in alphabetical order, and name the classes.

    Args:
        path: ``.safetensors``, ``.npz`` or ``.pt``.
        device: where the features go, unless there are too many to be kept in memory.
        require_labels: refuse a file without labels, whose examples are else of one class.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: another ending, a damaged file, pickled code, missing keys, shapes
            that do not fit, a file of a newer version.
    """
    path = Path(path)
    content = read_arrays(path, ARRAYS)
    found = content.arrays
    if not require_labels and "features" in found and "labels" not in found:
        found = found | {"labels": torch.zeros(len(found["features"]), dtype=torch.int64)}
    arrays = _checked(found)
    about, notes = (None, ()) if content.text is None else parsed(content.text, path.name)
    features = arrays["features"]
    if features.numel() * features.element_size() <= MEMORY_LIMIT:
        features = features.to(device)
    context = _context(arrays)
    context = _with_accuracy(context) if about is None else described(context, about)
    if content.class_names is not None:
        context = replace(context, class_names=content.class_names)
    head, no_head = _head(arrays, about)
    return KeptLayer(
        layer=path.name if about is None else about["layer"],
        features=features,
        norms=_norms(arrays, has_text=about is not None),
        head=head,
        no_head=no_head,
        context=replace(
            context,
            warnings=(*context.warnings, *notes, *_unread(content.others, path)),
            provenance=_provenance(context.provenance, path, features.device),
        ),
    )


def origin_of(path: str | Path) -> dict[str, str | None]:
    """The layer of a features file and the names of its model, data and split, without its arrays.

    Names that the file does not tell are None. ``holds`` is ``results`` for a record of what was
    computed from features, else ``features``.

    Raises:
        FileNotFoundError, ValueError: see ``read_features``.
    """
    text = read_arrays(Path(path), ()).text
    about = {} if text is None else json.loads(text)
    found = {**about.get("provenance", {}), "layer": about.get("layer")}
    names = ("layer", "model", "data", "split")
    names_of: dict[str, str | None] = {
        name: found[name] if isinstance(found.get(name), str) else None for name in names
    }
    return {**names_of, "holds": "results" if "record" in about else "features"}


def plain_layer(
    features: Tensor,
    labels: Tensor,
    *,
    layer: str,
    class_names: Sequence[str] | None = None,
    split: str | None = None,
    provenance: Mapping[str, object] | None = None,
) -> KeptLayer:
    """A layer of features (n, p) and labels (n,) alone, without Jacobian norms or classifier."""
    context = replace(
        _context({"labels": labels}),
        class_names=class_names,
        split=split,
        provenance=provenance or {},
    )
    return KeptLayer(
        layer=layer,
        features=features,
        norms=SquaredNorms.exact(torch.zeros(0, dtype=torch.float64)),
        head=None,
        context=context,
        no_head="only features were collected",
    )


def arrays_of(kept: KeptLayer) -> dict[str, Tensor]:
    """The arrays of ``ARRAYS`` that the layer has."""
    context = kept.context
    norms = kept.norms
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
            "probe_variances_per_pixel": norms.scaled_variances,
            "probe_counts": norms.n_probes,
            "second_probe_chosen": norms.chosen,
        }
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in found.items()
        if tensor is not None
    }


def _context(arrays: Mapping[str, Tensor]) -> Context:
    """What the arrays alone tell of a layer's context."""
    labels = arrays["labels"]
    classes, counts = labels.unique(return_counts=True)
    return Context(
        labels=labels,
        ids=arrays.get("ids", torch.arange(len(labels))),
        logits=arrays.get("logits"),
        probed=arrays.get("probed", torch.zeros(0, dtype=torch.int64)),
        n_population=len(labels),
        class_counts=dict(zip(classes.tolist(), counts.tolist(), strict=True)),
        is_stratified=False,
        settings=EstimateSettings(estimator="none", n_probes=0),
        rule=StoppingRule(),
        ending="complete",
        class_names=None,
        accuracy=None,
        split=None,
        lambda_max=None,
        preprocessing={},
        provenance={},
    )


def _with_accuracy(context: Context) -> Context:
    """The context of a file from another program, with the accuracy of its logits, if any."""
    if context.logits is None:
        return context
    accuracy, notes = accuracy_of(context.logits, context.labels, None)
    return replace(context, accuracy=accuracy, warnings=notes)


def _unread(others: list[str], path: Path) -> tuple[str, ...]:
    """A note on arrays of other names."""
    if not others:
        return ()
    return (
        f"features: {', '.join(others)} of {path.name} not read; the names that are: "
        f"{', '.join(ARRAYS)}",
    )


def _provenance(first: Mapping[str, object], path: Path, device: torch.device) -> dict[str, object]:
    """The provenance of numbers computed now, with that of the file, which made the norms."""
    seed = first.get("seed", 0)
    now = provenance(seed=seed if isinstance(seed, int) else 0, device=device)
    return {**first, **now, "features": str(path), "features_from": dict(first) or None}


def _norms(arrays: Mapping[str, Tensor], *, has_text: bool) -> SquaredNorms:
    """The squared Jacobian norms of a file, empty if it has none."""
    present = [name for name, shape in ARRAYS.items() if shape == "m" and name in arrays]
    if not present:
        empty = torch.zeros(0, dtype=torch.float64)
        return SquaredNorms.exact(empty)
    if not set(_NORMS) <= set(present) or not has_text:
        wanted = ", ".join(_NORMS)
        raise ValueError(
            f"features: expected {wanted} and how they were estimated, or none of it, got "
            f"{', '.join(present)} alone; "
            f"do leave them out, or write the file with geocollapse measure --save-features"
        )
    values = arrays["squared_jacobian_norms"].double()
    variances = arrays["probe_variances"].double()
    counts = arrays["probe_counts"].long()
    chosen = arrays.get("second_probe_chosen")
    norms = SquaredNorms(values, variances, counts)
    norms = _chosen_by_size(norms) if chosen is None else replace(norms, chosen=chosen.bool())
    scaled = arrays.get("squared_jacobian_norms_per_pixel")
    if scaled is None:
        return norms
    about_scaled = arrays.get("probe_variances_per_pixel")
    if about_scaled is None:  # a file of an older version: the relative error of the norms
        factors = torch.where(values > 0.0, scaled.double() / values, 0.0)
        about_scaled = variances * factors.square()
    return replace(norms, scaled=scaled.double(), scaled_variances=about_scaled.double())


def _chosen_by_size(norms: SquaredNorms) -> SquaredNorms:
    """The norms of a file that does not tell which second probes were not drawn at random.

    They are those of norms larger than all with a single probe.
    """
    unknown = norms.variances.isnan()
    if not bool(unknown.any()):
        return norms
    return replace(norms, chosen=~unknown & (norms.values > norms.values[unknown].max()))


def _head(
    arrays: Mapping[str, Tensor], about: FeaturesText | None
) -> tuple[LinearHead | None, str]:
    """The classifier of a file, or None and the reason why there is none."""
    if "classifier_bias" in arrays and "classifier_weight" not in arrays:
        raise ValueError(
            "classifier_bias: expected classifier_weight beside it, got none; do save both or "
            "neither"
        )
    if "classifier_weight" in arrays:
        return LinearHead(arrays["classifier_weight"], arrays.get("classifier_bias")), ""
    reason = None if about is None else about.get("no_classifier")
    return None, reason or "the file holds no classifier_weight"


def _checked(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arrays as floats and int64, their shapes checked."""
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
    """Compare a shape with its letters in ``ARRAYS``; ``sizes`` holds the sizes known so far."""
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
