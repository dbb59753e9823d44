"""Maps from the input of a model, or of a callable, to features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args

import torch
from torch import Tensor, nn

from geocollapse.features.entry import Entry, entry_of
from geocollapse.features.layer import Layer, taps, the_tensor
from geocollapse.features.outputs import main_output, part_of
from geocollapse.features.padding import (
    MOVED_PADDING,
    NO_MASK,
    padding_without_mask,
    without_left_padding,
)
from geocollapse.features.pooling import Pool, pooled
from geocollapse.features.wrapped import compiled_parts, without_graphs
from geocollapse.inputs import Inputs, Take, check_floating, flatten_features, unshared

_EAGER = "model: torch.compile was left aside, the same weights ran without its graphs"


def check_autocast(dtype: torch.dtype | None) -> None:
    """Raise a ValueError for a dtype that ``torch.autocast`` does not run in."""
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(
            f"autocast: expected torch.bfloat16 or torch.float16, got {dtype}; do "
            f"autocast=torch.bfloat16, or "
            f"model.double() for float64"
        )


def autocasting(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """Inside, matrix products and convolutions run in ``dtype``; None leaves everything as it is."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


class FeatureMap:
    """The maps from a model's input to some of its layers, all from one forward pass.

    Features are flattened to (n, p). With ``pool="mean"`` they are averaged over positions: over
    the dimensions after the channels of a map (n, channels, ...), over the tokens of a sequence (n,
    tokens, channels). ``cls`` takes the first token of a sequence and ``last`` the last one. What
    is padded, by ``attention_mask``, is no token.

    Args:
        model: the module; it is not changed.
        layers: where to take features.
        pool: ``mean``, ``cls`` or ``last``, None to flatten.
        input_layer: the layer whose output Jacobians are taken with respect to; None for the inputs
            themselves.
        class_outputs: (C,) which of the model's outputs each class is, pooled as the features are;
            None for all.
        autocast: the dtype that ``torch.autocast`` runs matrix products and convolutions in; None
            for the model's own.
        keeps_graphs: compiled parts run their graphs, which hooks do not reach: for layers outside
            of them.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        pool: Pool | None = None,
        input_layer: str | None = None,
        class_outputs: Tensor | None = None,
        autocast: torch.dtype | None = None,
        *,
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
        # what a reader of the features must know, in the order it was met
        self.notes: dict[str, None] = (
            {_EAGER: None} if compiled_parts(model) and not keeps_graphs else {}
        )

    def __call__(self, inputs: Inputs) -> Tensor:
        """Features (n, p) of the first layer."""
        take, x = self.enter(inputs)
        return take(x)[0][0]

    def enter(self, inputs: Inputs) -> tuple[Take, Tensor]:
        """The map of these examples, from the floating tensor that it starts from, and that tensor.

        Of the model's output it gives the main tensor, its logits. Sequences that are padded on the
        left are moved.
        """
        given, inputs = inputs, without_left_padding(inputs)
        if inputs is not given:
            self.notes[MOVED_PADDING] = None
        entry = entry_of(self.model, inputs, self.input_layer)
        if padding_without_mask(self.model, inputs, self.input_layer):
            self.notes[NO_MASK] = None

        def take(x: Tensor) -> tuple[list[Tensor], Any]:
            features, whole = self._features(entry, x)
            output = main_output(whole)
            if self.class_outputs is not None and isinstance(output, Tensor):
                output = pooled(output, self.pool, entry.mask)[:, self.class_outputs]
            return features, output

        return take, entry.x

    def enter_whole(self, inputs: Inputs) -> tuple[Take, Tensor]:
        """The same of the inputs as they are, left padding and all, with the model's own output,
        whatever it is.
        """
        entry = entry_of(self.model, inputs, self.input_layer)
        return lambda x: self._features(entry, x), entry.x

    def take(self, x: Tensor) -> tuple[list[Tensor], Any]:
        """What passes through every layer, in its own shape, and the model's own output."""
        return self._run(entry_of(self.model, x, self.input_layer).run, x)

    def _features(self, entry: Entry, x: Tensor) -> tuple[list[Tensor], Any]:
        taken, output = self._run(entry.run, x)
        return [flatten_features(pooled(z, self.pool, entry.mask), len(x)) for z in taken], output

    def _run(self, run: Callable[[Tensor], Any], x: Tensor) -> tuple[list[Tensor], Any]:
        """The same, with the way to run the model.

        Raises:
            RuntimeError: a layer ran more than once, or never.
            TypeError: a layer gives something else than one tensor.
        """
        taken: dict[Layer, list[Any]] = {layer: [] for layer in self.layers}
        eager = without_graphs(self.model if _EAGER in self.notes else None)
        with taps(self.model, taken), eager, autocasting(self.autocast, x.device):
            output = run(x)
        for layer in taken:
            if layer.is_output:
                taken[layer] = [output if layer.part is None else part_of(output, layer.part, "")]
        return [the_tensor(layer, taken[layer]) for layer in self.layers], output


class CallableMap:
    """A callable that returns features, with the face of a ``FeatureMap``: one unnamed layer, no
    model behind.
    """

    def __init__(self, f: Any, autocast: torch.dtype | None = None) -> None:
        self.f = f
        self.autocast = autocast
        self.layers = (Layer(""),)
        self.pool = self.input_layer = self.class_outputs = None
        self.notes: dict[str, None] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, p)."""
        with autocasting(self.autocast, x.device):
            return flatten_features(self.f(unshared(x)), len(x))

    def enter(self, inputs: Inputs) -> tuple[Take, Tensor]:
        """The map, with None in place of a model's output, and its input.

        Raises:
            TypeError: not one floating tensor.
        """
        check_floating(inputs)
        return lambda x: ([self(x)], None), inputs  # type: ignore[return-value]
