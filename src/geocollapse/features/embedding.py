"""The embedding of a model: the input of the classifier whose output is the model's output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from geocollapse.features.entry import run_model
from geocollapse.features.failing import forward_pass
from geocollapse.features.hooks import hooked
from geocollapse.features.layer import Layer
from geocollapse.features.outputs import main_output, part_names
from geocollapse.inputs import Inputs
from geocollapse.modules.borrow import borrowed

# transformers' names for the output of an encoder, and for what its projection makes of it
_EMBEDDINGS = ("image_embeds", "text_embeds", "last_hidden_state")


@dataclass(frozen=True)
class Embedding:
    """Where a model is split into a feature map and a classifier.

    Attributes:
        layer: the embedding.
        classifier: name of the linear classifier behind it, or None.
        alike: if the embedding is the model's own output, the linear layers whose output has the
            same shape, the last first.
    """

    layer: Layer
    classifier: str | None
    alike: tuple[str, ...] = ()

    def head_of(self, model: nn.Module) -> tuple[Tensor, Tensor | None] | None:
        """Weight (C, p) and bias (C,) of the classifier; None if it has no weight matrix."""
        if self.classifier is None:
            return None
        module = model.get_submodule(self.classifier)
        weight, bias = module.weight, module.bias
        if not isinstance(weight, Tensor):
            return None
        return weight.detach().flatten(1), bias.detach() if isinstance(bias, Tensor) else None


def find_embedding(
    model: nn.Module, inputs: Inputs, *, layer: str | None = None, classifier: str | None = None
) -> Embedding:
    """Find the embedding of a model by one forward pass of ``inputs``.

    By default it is the input of the Linear or 1x1 convolution whose output IS the model's output
    (its ``logits``, or the first entry of a tuple). If there is none, it is the output itself, when
    that is one (n, p) tensor, or an encoder's ``image_embeds``, ``text_embeds`` or
    ``last_hidden_state``, with no classifier behind it. A layer called a projection (CLIP's
    ``visual_projection``) gives an embedding, not classes.

    Args:
        model: the module, run in evaluation mode and handed back as it was.
        inputs: a few examples.
        layer: the layer to take as the embedding, or None for the default.
        classifier: the name of the linear classifier, or None to look for it.

    Raises:
        ValueError: an unknown name, a classifier without a weight matrix, no embedding to be found
            (the candidates are listed), layers that hooks do not reach, or a forward pass that
            fails.
    """
    if isinstance(model, torch.jit.ScriptModule) and layer != "":
        raise ValueError(
            f"layer: expected '' for a {type(model).__name__}, whose layers hooks do not reach, "
            f"got {layer!r}; do layer='' to measure its own output, or pass the module that it was "
            f"made from"
        )
    named = None if classifier is None else _find_classifier(model, classifier)
    trace = _trace(model, inputs)
    name = named or trace.classifier
    if layer is not None:
        return Embedding(Layer.find(model, layer), name)
    if name is not None:
        return Embedding(Layer(name, "in"), name)
    if isinstance(trace.output, Tensor) and trace.output.ndim == 2:
        return Embedding(Layer(""), None, trace.alike)
    for part in _EMBEDDINGS:
        if part in part_names(trace.output):
            return Embedding(Layer("", part=part), None)
    raise _not_found(trace)


@dataclass(frozen=True)
class _Ran:
    """The output of a linear layer that ran, and its version, which counts the writes to it."""

    name: str
    output: Tensor
    version: int

    def gave(self, output: Tensor) -> bool:
        """True if the model's output is this very tensor, up to its shape, and not written to."""
        is_there = (
            self.output.numel() == output.numel() and self.output.data_ptr() == output.data_ptr()
        )
        return is_there and self.output._version == self.version

    def equals(self, output: Tensor) -> bool:
        """True if the model's output is a copy of this one, such as logits in another precision."""
        is_alike = self.output.numel() == output.numel() and self.output._version == self.version
        return is_alike and torch.equal(self.output.reshape(output.shape).to(output.dtype), output)


@dataclass(frozen=True)
class _Trace:
    """One forward pass: the linear layers that ran, in their order, and the model's output."""

    ran: tuple[_Ran, ...]
    output: object

    @property
    def classifier(self) -> str | None:
        """The linear layer whose output is the model's."""
        main = main_output(self.output)
        if not isinstance(main, Tensor):
            return None
        found = [layer.name for layer in self.ran if layer.gave(main)]
        found = found or [layer.name for layer in self.ran if layer.equals(main)]
        return found[-1] if found and not _is_projection(found[-1]) else None

    @property
    def alike(self) -> tuple[str, ...]:
        """The linear layers whose output has the shape (n, C) of the model's, the last first."""
        return self._of_shape(lambda z, main: z.flatten(1).shape == main.shape)

    @property
    def at_positions(self) -> tuple[str, ...]:
        """The linear layers with output (n, tokens, C) in a model with (n, C), the last first."""
        return self._of_shape(lambda z, main: z.ndim == 3 and z.shape[::2] == main.shape)

    def _of_shape(self, fits: Callable[[Tensor, Tensor], bool]) -> tuple[str, ...]:
        main = main_output(self.output)
        if not isinstance(main, Tensor) or main.ndim != 2:
            return ()
        return tuple(
            dict.fromkeys(layer.name for layer in reversed(self.ran) if fits(layer.output, main))
        )


def _is_projection(name: str) -> bool:
    """True if a layer is called a projection, such as ``visual_projection`` or ``proj``."""
    return "proj" in name.rpartition(".")[2]


def _trace(model: nn.Module, inputs: Inputs) -> _Trace:
    """Run the model once."""
    ran: list[_Ran] = []

    def remember(name: str, _module: nn.Module, _args: tuple[object, ...], output: Tensor) -> None:
        ran.append(_Ran(name, output, output._version))

    after = [
        (module, partial(remember, name))
        for name, module in model.named_modules()
        if is_linear(module)
    ]
    with hooked(after=after), borrowed(model), torch.no_grad(), forward_pass(inputs):
        output = run_model(model, inputs)
    return _Trace(tuple(ran), output)


def _not_found(trace: _Trace) -> ValueError:
    """The error for a model without a default embedding, with the candidates."""
    output = trace.output
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    parts = [f"[{name}]" for name in part_names(output)]
    inputs = [str(Layer(ran.name, "in")) for ran in trace.ran[-5:]]
    listed = ", ".join(map(repr, parts + inputs)) or "none"
    remedy = f"do name the embedding with layer=, candidates: {listed}"
    if trace.at_positions:  # a classifier of sequences that keeps one position of its output
        head = Layer(trace.at_positions[0])
        remedy = (
            f"do layer='{head}:in' with pool='last' and classifier='{head}', or one of {listed}"
        )
    return ValueError(
        f"layer: expected a linear classifier whose output is the model's, or an output of shape "
        f"(n, p), got {got}; {remedy}"
    )


def is_linear(module: nn.Module) -> bool:
    """True for a Linear layer or a 1x1 convolution, either of which can classify an embedding."""
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    )


def _find_classifier(model: nn.Module, classifier: str) -> str:
    """The name of the classifier in the model as it is.

    Raises:
        ValueError: no module has that name, or it is not linear.
    """
    name = Layer.find(model, classifier).name
    module = model.get_submodule(name)
    if not is_linear(module):
        got = type(module).__name__
        raise ValueError(
            f"classifier: expected a Linear or a 1x1 convolution, got {got} at {classifier!r}; do "
            f"name such a module"
        )
    return name
