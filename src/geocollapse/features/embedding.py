"""The embedding of a model: what feeds the classifier whose output is the model's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geocollapse.batches import Inputs
from geocollapse.borrow import borrowed
from geocollapse.entry import run_model
from geocollapse.features.layer import Layer
from geocollapse.outputs import main_output, part_names

_HIDDEN = "last_hidden_state"  # what an encoder of transformers gives, by that name


@dataclass(frozen=True)
class Embedding:
    """Where a model is split: the layer taken as its embedding, and the linear classifier behind it, if any."""

    layer: Layer
    classifier: str | None

    def head_of(self, model: nn.Module) -> tuple[Tensor, Tensor | None] | None:
        """Weight (C, p) and bias (C,) of the classifier."""
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
    """The embedding of a model: what feeds the classifier whose output is the model's output.

    By default the input of the Linear or 1x1 convolution whose output IS the model's output (its ``logits``, or the
    first of a tuple); where there is none and the output is one (n, p) tensor, that output, or what an encoder calls
    its ``last_hidden_state``, with no classifier. Found by one forward pass of ``inputs``.

    Args:
        model: the module, run in evaluation mode and handed back as it was.
        inputs: a few examples.
        layer: the layer asked for, or None for the default.
        classifier: the name of the linear classifier, or None to look for it.

    Raises:
        ValueError: an unknown name, a classifier without a weight matrix, or no embedding to be found (the candidates
            are listed).
    """
    if classifier is not None:
        classifier = _find_classifier(model, classifier)
    found, candidates, output = (classifier, [], None) if classifier and layer else _trace(model, inputs)
    name = classifier or found
    if layer is not None:
        return Embedding(Layer.find(model, layer), name)
    if name is not None:
        return Embedding(Layer(name, "in"), name)
    if isinstance(output, Tensor) and output.ndim == 2:
        return Embedding(Layer(""), None)
    if _HIDDEN in part_names(output):
        return Embedding(Layer("", part=_HIDDEN), None)
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    named = [f"[{name}]" for name in part_names(output)] + [str(Layer(name, "in")) for name in candidates[-5:]]
    listed = ", ".join(map(repr, named)) or "none"
    raise ValueError(
        f"layer: expected a linear classifier whose output is the model's, or an output of shape (n, p), got {got}; "
        f"do name the embedding with layer=, candidates: {listed}"
    )


@dataclass(frozen=True)
class _Ran:
    """The output of a linear layer that ran, and how often it had been written to then."""

    name: str
    output: Tensor
    version: int

    def gave(self, output: Tensor) -> bool:
        """Whether this is the model's output, up to its shape, with nothing done to it in place."""
        is_there = self.output.numel() == output.numel() and self.output.data_ptr() == output.data_ptr()
        return is_there and self.output._version == self.version

    def equals(self, output: Tensor) -> bool:
        """Whether the model's output is a copy of this one, as logits in another precision are."""
        is_alike = self.output.numel() == output.numel() and self.output._version == self.version
        return is_alike and torch.equal(self.output.reshape(output.shape).to(output.dtype), output)


def _trace(model: nn.Module, inputs: Inputs) -> tuple[str | None, list[str], Any]:
    """Run the model once: the linear layer whose output is the model's, all linear layers that ran, the output."""
    ran: list[_Ran] = []

    def remember(name: str) -> Any:
        return lambda _module, _args, output: ran.append(_Ran(name, output, output._version))

    handles = [
        module.register_forward_hook(remember(name)) for name, module in model.named_modules() if is_linear(module)
    ]
    try:
        with borrowed(model), torch.no_grad():
            output = run_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    main = main_output(output)
    found = [layer.name for layer in ran if isinstance(main, Tensor) and layer.gave(main)]
    found = found or [layer.name for layer in ran if isinstance(main, Tensor) and layer.equals(main)]
    return (found[-1] if found else None), [layer.name for layer in ran], output


def is_linear(module: nn.Module) -> bool:
    """A Linear layer or a 1x1 convolution: what can be a classifier on an embedding."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))


def _find_classifier(model: nn.Module, classifier: str) -> str:
    """The name of the module, which must be linear."""
    name = Layer.find(model, classifier).name
    module = model.get_submodule(name)
    if not is_linear(module):
        got = type(module).__name__
        raise ValueError(
            f"classifier: expected a Linear or a 1x1 convolution, got {got} at {classifier!r}; do name such a module"
        )
    return name
