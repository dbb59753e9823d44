"""Maps from the inputs of a model, or of a callable, to features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import get_args

import torch
from torch import Tensor, nn

from geocollapse.features.entry import Entry, entry_of
from geocollapse.features.layer import Layer, only_tensor, taps
from geocollapse.features.outputs import main_output, part_of
from geocollapse.features.padding import (
    MOVED_PADDING,
    NO_MASK,
    padding_without_mask,
    without_left_padding,
)
from geocollapse.features.pooling import Pool, is_channels_first, pooled
from geocollapse.inputs import Inputs, Map, Take, check_floating, flatten_features, unshared
from geocollapse.modules.wrapped import compiled_parts, without_graphs

_EAGER = "model: measured without torch.compile, whose graphs hooks do not reach"


def check_autocast(dtype: torch.dtype | None) -> None:
    """Refuse a dtype that ``torch.autocast`` does not support.

    Raises:
        ValueError: neither None nor a half-precision dtype.
    """
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(
            f"autocast: expected torch.bfloat16 or torch.float16, got {dtype}; do "
            f"autocast=torch.bfloat16, or model.double() for float64"
        )


def autocasting(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[object]:
    """Run matrix products and convolutions of the block in ``dtype``; None for no change."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


class FeatureMap:
    """The maps from a model's inputs to some of its layers, all from one forward pass.

    Features are flattened to (n, p). With ``pool="mean"`` they are averaged over positions: over
    the dimensions after the channels of a feature map (n, channels, ...), or over the tokens of a
    sequence (n, tokens, channels). ``cls`` takes the first token of a sequence and ``last`` the
    last one. Padding, where ``attention_mask`` is 0, is no token.

    Args:
        model: the module; it is not changed.
        layers: where to take features.
        pool: ``mean``, ``cls`` or ``last``, None to flatten.
        input_layer: the layer whose output Jacobians are taken with respect to; None for the inputs
            themselves.
        class_outputs: (C,) the model output that stands for each class, pooled as the features are;
            None for all outputs.
        autocast: the dtype in which ``torch.autocast`` runs matrix products and convolutions; None
            for the model's own.
        keeps_graphs: run the graphs of compiled parts, which hooks do not reach; for layers outside
            of them.

    Attributes:
        notes: what a reader of the features must know, in order of appearance.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        pool: Pool | None = None,
        input_layer: str | None = None,
        *,
        class_outputs: Tensor | None = None,
        autocast: torch.dtype | None = None,
        keeps_graphs: bool = False,
    ) -> None:
        if pool not in (None, *get_args(Pool)):
            raise ValueError(
                f"pool: expected None, 'mean', 'cls' or 'last', got {pool!r}; do pool='mean'"
            )
        self.model = model
        self.layers = tuple(layers)
        self.pool = pool
        self.input_layer = input_layer
        self.class_outputs = class_outputs
        self.autocast = autocast
        self.notes: dict[str, None] = {}
        if compiled_parts(model) and not keeps_graphs:
            self.notes[_EAGER] = None

    def __call__(self, inputs: Inputs) -> Tensor:
        """Features (n, p) of the first layer."""
        take, x = self.enter(inputs)
        return take(x)[0][0]

    def enter(self, inputs: Inputs) -> tuple[Take, Tensor]:
        """The map of these examples to features and class outputs, and the x at which it starts.

        Left padding is moved to the right. The output is the model's main tensor, its logits; with
        ``class_outputs`` it is pooled, and reduced to those columns.
        """
        on_the_right = without_left_padding(inputs)
        if on_the_right is not inputs:
            self.notes[MOVED_PADDING] = None
        entry = entry_of(self.model, on_the_right, self.input_layer)
        if padding_without_mask(self.model, on_the_right, self.input_layer):
            self.notes[NO_MASK] = None

        def take(x: Tensor) -> tuple[list[Tensor], object]:
            features, whole = self._features(entry, x)
            output = main_output(whole)
            if self.class_outputs is not None and isinstance(output, Tensor):
                output = pooled(output, self.pool, entry.mask)[:, self.class_outputs]
            return features, output

        return take, entry.x

    def enter_whole(self, inputs: Inputs) -> tuple[Take, Tensor]:
        """The map of these examples to features and the model's whole output, and its start x.

        Unlike ``enter``, it changes neither the inputs (left padding stays) nor the output.
        """
        entry = entry_of(self.model, inputs, self.input_layer)
        return lambda x: self._features(entry, x), entry.x

    def take(self, x: Tensor) -> tuple[list[Tensor], object]:
        """What passes through every layer, in its own shape, and the model's own output."""
        return self._run(entry_of(self.model, x, self.input_layer).run, x)

    def _features(self, entry: Entry, x: Tensor) -> tuple[list[Tensor], object]:
        taken, output = self._run(entry.run, x)
        features = [
            pooled(z, self.pool, entry.mask, channels_first=self._is_channels_first(layer, z))
            for layer, z in zip(self.layers, taken, strict=True)
        ]
        return [flatten_features(z, len(x)) for z in features], output

    def _is_channels_first(self, layer: Layer, z: Tensor) -> bool:
        return self.pool is not None and z.ndim == 3 and is_channels_first(self.model, layer.name)

    def _run(self, run: Callable[[Tensor], object], x: Tensor) -> tuple[list[Tensor], object]:
        """Run the model from ``x``, and take what passes through every layer.

        Raises:
            RuntimeError: a layer ran more than once, or never.
            TypeError: a layer returned something other than one tensor.
        """
        taken: dict[Layer, list[object]] = {layer: [] for layer in self.layers}
        eager = without_graphs(self.model if _EAGER in self.notes else None)
        with taps(self.model, taken), eager, autocasting(self.autocast, x.device):
            output = run(x)
        for layer in taken:
            if layer.is_output:
                taken[layer] = [output if layer.part is None else part_of(output, layer.part, "")]
        return [only_tensor(layer, taken[layer]) for layer in self.layers], output


class CallableMap:
    """A callable that returns features, in the form of a ``FeatureMap`` with one unnamed layer.

    Args:
        f: from a batch (n, ...) to features (n, ...).
        autocast: the dtype in which ``torch.autocast`` runs matrix products and convolutions; None
            for no autocast.
    """

    pool: Pool | None = None
    input_layer: str | None = None
    class_outputs: Tensor | None = None

    def __init__(self, f: Map, autocast: torch.dtype | None = None) -> None:
        self.f = f
        self.autocast = autocast
        self.layers = (Layer(""),)
        self.notes: dict[str, None] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, p)."""
        with autocasting(self.autocast, x.device):
            return flatten_features(self.f(unshared(x)), len(x))

    def enter(self, inputs: Inputs) -> tuple[Take, Tensor]:
        """The map of these examples to features, with None as its output, and its start x.

        Raises:
            TypeError: the inputs are not one floating tensor.
        """
        return lambda x: ([self(x)], None), check_floating(inputs)
