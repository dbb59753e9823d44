"""The layers of a model that a caller names, and the checks that every map must pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from geocollapse.features.embedding import Embedding, find_embedding
from geocollapse.features.entry import entry_of, find_input_layer
from geocollapse.features.failing import forward_pass
from geocollapse.features.independence import check_independence
from geocollapse.features.layer import Layer
from geocollapse.features.padding import check_padding, padding_token
from geocollapse.inputs import Enter, Inputs


@dataclass(frozen=True)
class Located:
    """Where a model's Jacobians begin and end.

    Attributes:
        input_layer: the layer whose output they are taken with respect to; None for the inputs.
        embedding: the first layer, and the classifier behind it.
        layers: all layers that the caller named.
    """

    input_layer: str | None
    embedding: Embedding
    layers: tuple[Layer, ...]


def locate(
    model: nn.Module,
    first: Inputs,
    layer: str | Sequence[str] | None = None,
    *,
    classifier: str | None = None,
    input_layer: str | None = None,
) -> Located:
    """Find the layers named, or the default one, with the inputs of the first example.

    Args:
        model: the module, run in evaluation mode and handed back as it was.
        first: one example.
        layer: ``NAME``, ``NAME:in``, ``""`` for the output, None for the input of the classifier;
            a sequence for several layers.
        classifier: the name of the linear classifier, None to look for it.
        input_layer: the layer that embeds integer inputs, None for a transformers model's own.

    Raises:
        TypeError: inputs without a Jacobian.
        ValueError: no layer, the same layer twice, an unknown name, no embedding to be found.
    """
    names = [layer] if isinstance(layer, str) or layer is None else list(layer)
    if not names:
        raise ValueError(
            "layer: expected at least one name, got none; do layer=None for the default"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"layer: expected different layers, got {names}; do name each once")
    with forward_pass(first):
        found = find_input_layer(model, first, input_layer)
        entry_of(model, first, found)  # refuses inputs without a Jacobian before any search
    embedding = find_embedding(model, first, layer=names[0], classifier=classifier)
    others = [Layer.find(model, name) for name in names[1:] if name is not None]
    return Located(found, embedding, (embedding.layer, *others))


def check_map(
    enter: Enter,
    inputs: Inputs,
    module: nn.Module | None,
    input_layer: str | None,
    *,
    dtype: torch.dtype | None = None,
    is_random: bool = False,
    remedy: str | None = None,
) -> None:
    """Refuse a map in which an example's features depend on others, on chance or on padding.

    Args:
        enter: from inputs to the map of these examples, and the x at which it starts.
        inputs: the first two examples are used.
        module: the module behind the map; None for a callable.
        input_layer: the layer that embeds the inputs, which may know the padding token.
        dtype: the coarsest precision inside the map (autocast).
        is_random: the map may draw at random, as in training.
        remedy: what the error tells the user to do; by default advice for a measurement.

    Raises:
        RuntimeError: names the first module that moves the features of an example, and the remedy.
        ValueError: a forward pass that fails.
    """
    with forward_pass(inputs):
        check_independence(enter, inputs, module, dtype=dtype, is_random=is_random, remedy=remedy)
        padding = padding_token(module, input_layer)
        check_padding(enter, inputs, module, padding=padding, dtype=dtype)
