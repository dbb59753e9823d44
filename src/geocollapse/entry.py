"""Where a Jacobian begins: the floating inputs of a model, or the output of the layer that embeds its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from geocollapse.batches import Inputs, tensors_of
from geocollapse.borrow import uncompiled_name
from geocollapse.jacobian import unshared

MASK = "attention_mask"  # (n, tokens), 0 where a sequence is padded
NO_MASK = (
    "attention_mask: padding was found among the tokens and no mask that says so, so that it counts as text; "
    "do give attention_mask with input_ids"
)


@dataclass(frozen=True)
class Entry:
    """Examples at the door of a model.

    Attributes:
        x: (n, ...) floating, what Jacobians are taken with respect to.
        run: the model's output from ``x``; all else that belongs to the examples stays as it is.
        mask: (n, tokens) of sequences with padding, else None.
    """

    x: Tensor
    run: Callable[[Tensor], Any]
    mask: Tensor | None = None


def enter(model: nn.Module, inputs: Inputs, input_layer: str | None = None) -> Entry:
    """Where the Jacobian of ``model`` begins for these examples.

    With an input layer, its output: the forward pass is run up to there, and from there with another output in its
    place. Without one, the floating tensor among the inputs.

    Raises:
        TypeError: integer inputs and no layer that embeds them (the candidates are listed).
        ValueError: several floating inputs.
        RuntimeError: a layer that gives something else than one floating tensor, or does not run.
    """
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if input_layer is not None:
        return Entry(_embedded(model, inputs, input_layer), lambda x: _run_from(model, inputs, input_layer, x), mask)
    if isinstance(inputs, Tensor):
        _check_one(model, {"inputs": inputs})
        return Entry(inputs, lambda x: model(unshared(x)))
    name = _check_one(model, inputs)
    return Entry(inputs[name], lambda x: model(**{**inputs, name: unshared(x)}), mask)


def find_input_layer(model: nn.Module, inputs: Inputs, input_layer: str | None) -> str | None:
    """The layer that embeds the inputs: as named, else that of a transformers model with integer inputs.

    Raises:
        ValueError: no module of that name.
    """
    if input_layer is not None:
        names = {uncompiled_name(name): name for name, _ in model.named_modules() if uncompiled_name(name)}
        if input_layer not in names:
            raise ValueError(
                f"input_layer: expected the name of a module, got {input_layer!r}; do one of {_embeddings(model)}"
            )
        return names[input_layer]
    find = getattr(model, "get_input_embeddings", None)
    if any(tensor.is_floating_point() for tensor in tensors_of(inputs)) or find is None:
        return None
    found = find()
    return next((name for name, module in model.named_modules() if module is found), None)


def padding_without_mask(model: nn.Module, inputs: Inputs, input_layer: str | None) -> bool:
    """Whether tokens that the model knows as padding come without a mask that says so."""
    tokens = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    if input_layer is None or tokens is None or (isinstance(inputs, Mapping) and MASK in inputs):
        return False
    padding = getattr(model.get_submodule(input_layer), "padding_idx", None)
    if padding is None:
        padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    return padding is not None and bool((tokens == padding).any())


class _Reached(Exception):
    """The input layer has run."""


def _embedded(model: nn.Module, inputs: Inputs, input_layer: str) -> Tensor:
    """The output of the input layer, differentiable in its parameters, from a forward pass that ends there."""
    taken: list[Any] = []

    def stop(_module: nn.Module, _args: Any, output: Any) -> None:
        taken.append(output)
        raise _Reached

    handle = model.get_submodule(input_layer).register_forward_hook(stop)
    try:
        run_model(model, inputs)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not taken or not isinstance(taken[0], Tensor) or not taken[0].is_floating_point():
        got = f"{type(taken[0]).__name__}" if taken else "a layer that did not run"
        raise RuntimeError(
            f"input_layer: expected {input_layer!r} to give one floating tensor, got {got}; do name the embedding"
        )
    return taken[0]


def _run_from(model: nn.Module, inputs: Inputs, input_layer: str, x: Tensor) -> Any:
    """The model's output with ``x`` in place of what its input layer gives."""
    n_runs = 0

    def replace(_module: nn.Module, _args: Any, _output: Any) -> Tensor:
        nonlocal n_runs
        n_runs += 1
        return unshared(x)

    handle = model.get_submodule(input_layer).register_forward_hook(replace)
    try:
        output = run_model(model, inputs)
    finally:
        handle.remove()
    if n_runs != 1:
        raise RuntimeError(
            f"input_layer: expected {input_layer!r} to run once in a forward pass, it ran {n_runs} times; "
            f"do name a layer that is used once"
        )
    return output


def run_model(model: nn.Module, inputs: Inputs) -> Any:
    """The model's output; inputs by name are its keyword arguments."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def _check_one(model: nn.Module, inputs: Mapping[str, Tensor]) -> str:
    """The name of the only floating input."""
    floating = [name for name, tensor in inputs.items() if tensor.is_floating_point()]
    if not floating:
        got = ", ".join(f"{name} of {tensor.dtype}" for name, tensor in inputs.items())
        raise TypeError(
            f"inputs: expected a floating tensor (a Jacobian needs a continuous input), got {got}; do inputs.float(), "
            f"scaled as the model expects, or for tokens input_layer=NAME of their embedding: {_embeddings(model)}"
        )
    if len(floating) > 1:
        raise ValueError(f"inputs: expected one floating tensor, got {', '.join(floating)}; do input_layer=NAME")
    return floating[0]


def _embeddings(model: nn.Module) -> str:
    named = [(uncompiled_name(name), module) for name, module in model.named_modules()]
    names = [repr(name) for name, module in named if isinstance(module, nn.Embedding)]
    return ", ".join(names[:5]) or "none here"
