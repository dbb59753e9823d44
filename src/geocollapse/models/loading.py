"""Models by name, or by the factory that makes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from geocollapse.models.factories import make_model, normalisation_of
from geocollapse.models.hugging_face import load_hugging_face
from geocollapse.models.loaded import RANDOM, LoadedModel, ModelArgs
from geocollapse.models.vision import load_timm, load_torchvision
from geocollapse.models.weights import load_weights

LIBRARIES: Mapping[str, Callable[..., LoadedModel]] = {
    "timm": load_timm,
    "torchvision": load_torchvision,
    "hf": load_hugging_face,
}
_FORM = re.compile(r"(timm|torchvision|hf):[^@]+|.+:[A-Za-z_]\w*")  # what may precede an @


def load(
    spec: str,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    weights_prefix: str | None = None,
    model_args: ModelArgs | None = None,
) -> LoadedModel:
    """The model that ``spec`` names, with its weights, in evaluation mode.

    Args:
        spec: ``timm:NAME``, ``torchvision:NAME``, ``hf:ID`` or ``hf:DIR``, pretrained unless
            ``weights`` or ``NAME@random`` are given; ``file.py:factory`` or
            ``package.module:factory``, which returns a Module, whose attribute ``normalisation``
            (a ``geocollapse.data.Normalisation``) may say how its images are normalised and
            resized. ``MODEL@FILE`` is MODEL with the weights of FILE.
        weights: safetensors, or a ``.pt``, ``.pth`` or ``.th`` state dict; None keeps those of the
            name or the factory.
        weights_key: entry of the file that holds the state dict; by default the only one that fits.
        weights_prefix: of the names in the file, such as ``backbone.``; by default none, else the
            only one under which all weights fit.
        model_args: keyword arguments of the factory or the architecture, keys of a transformers
            configuration.

    Raises:
        ValueError: an unknown form or name, a factory that is missing or returns no Module,
            weights that do not fit.
        FileNotFoundError: no such file, or pretrained weights that cannot be had.
        ImportError: a library is missing (the pip command is named).
    """
    name, at = parse_model(spec)
    if at is not None and weights is not None:
        raise ValueError(
            f"weights: expected none with {spec!r}, which names its own, got {weights}; do leave "
            f"one out"
        )
    is_random = at == RANDOM
    file = weights if at in (None, RANDOM) else at
    library, _, rest = name.partition(":")
    if library in LIBRARIES:
        is_pretrained = file is None and not is_random
        loaded = LIBRARIES[library](rest, is_pretrained=is_pretrained, model_args=model_args or {})
    elif is_random:
        raise ValueError(
            f"model: expected {RANDOM} weights of a timm:, torchvision: or hf: model only, got "
            f"{spec!r}; "
            f"do {name}, whose factory makes its own"
        )
    else:
        model = make_model(name, model_args or {})
        loaded = LoadedModel(model, spec, normalisation=normalisation_of(model))
    loaded.model.eval()
    if file is None:
        return replace(loaded, name=spec)
    found = load_weights(loaded.model, file, key=weights_key, prefix=weights_prefix)
    return replace(
        loaded,
        name=name,
        weights=str(file),
        weights_key=found.key,
        weights_prefix=found.prefix or None,
    )


def parse_model(spec: str) -> tuple[str, str | None]:
    """MODEL, and what follows its ``@``: a file of weights, or ``random``.

    Examples:
        >>> parse_model("timm:resnet18@random"), parse_model("a@b/net.py:make")
        (('timm:resnet18', 'random'), ('a@b/net.py:make', None))
        >>> parse_model("a@b/net.py:make@w.pt")
        ('a@b/net.py:make', 'w.pt')
    """
    folder = spec.removeprefix("hf:")
    if Path(folder).is_dir():
        return spec, None
    for place, letter in enumerate(spec):
        name = spec[:place]
        if letter == "@" and (_FORM.fullmatch(name) or Path(name.removeprefix("hf:")).is_dir()):
            return name, spec[place + 1 :]
    return spec, None
