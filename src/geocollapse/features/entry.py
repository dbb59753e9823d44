"""Where a Jacobian begins: the floating inputs of a model, or the output of the layer that embeds
its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geocollapse.features.borrow import borrowed
from geocollapse.features.padding import tokens_of
from geocollapse.features.wrapped import uncompiled_name
from geocollapse.inputs import MASK, Inputs, tensors_of, unshared


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


def entry_of(model: nn.Module, inputs: Inputs, input_layer: str | None = None) -> Entry:
    """Where the Jacobian of ``model`` begins for these examples.

    With an input layer, its output: the forward pass is run up to there, and from there with
    another output in its place. Without one, the floating tensor among the inputs.

    Raises:
        TypeError: integer inputs and no layer that embeds them (the candidates are listed).
        ValueError: several floating inputs.
        RuntimeError: a layer that gives something else than one floating tensor, or does not run.
    """
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if input_layer is not None:
        return Entry(
            _embedded(model, inputs, input_layer),
            lambda x: _run_from(model, inputs, input_layer, x),
            mask,
        )
    if isinstance(inputs, Tensor):
        _check_one(model, {"inputs": inputs})
        return Entry(inputs, lambda x: model(unshared(x)))
    name = _check_one(model, inputs)
    return Entry(inputs[name], lambda x: model(**{**inputs, name: unshared(x)}), mask)


def find_input_layer(model: nn.Module, inputs: Inputs, input_layer: str | None) -> str | None:
    """The layer that embeds the inputs: as named, else that of a transformers model with integer
    inputs.

    What a transformers model names may hold the weights alone, and others embed the tokens with
    them: then it is the first embedding that runs on the tokens, found by a forward pass.

    Raises:
        ValueError: no module of that name.
    """
    if input_layer is not None:
        names = {
            uncompiled_name(name): name
            for name, _ in model.named_modules()
            if uncompiled_name(name)
        }
        if uncompiled_name(input_layer) not in names:
            raise ValueError(
                f"input_layer: expected the name of a module, got {input_layer!r}; do one of "
                f"{_embeddings(model)}"
            )
        return names[uncompiled_name(input_layer)]
    find = getattr(model, "get_input_embeddings", None)
    tokens = tokens_of(inputs)
    embedded = tensors_of(inputs) if tokens is None else [tokens]
    if find is None or any(tensor.is_floating_point() for tensor in embedded):
        return None
    try:
        embedding = find()
    except NotImplementedError:  # what transformers says of a model of several parts
        return None
    named = next((name for name, module in model.named_modules() if module is embedding), None)
    return None if named is None else _that_runs(model, inputs, named)


class _Reached(Exception):
    """The input layer has run."""


def _embedded(model: nn.Module, inputs: Inputs, input_layer: str) -> Tensor:
    """The output of the input layer, differentiable in its parameters."""
    taken = _taken(model, inputs, input_layer)
    if not taken or not isinstance(taken[0], Tensor) or not taken[0].is_floating_point():
        got = f"{type(taken[0]).__name__}" if taken else "a layer that did not run"
        ran = (
            ", ".join(repr(uncompiled_name(name)) for name in _ran_on(model, inputs)) or "none here"
        )
        raise RuntimeError(
            f"input_layer: expected {input_layer!r} to give one floating tensor, got {got}; do "
            f"name the embedding, of "
            f"those that ran: {ran}"
        )
    return taken[0]


def _taken(model: nn.Module, inputs: Inputs, input_layer: str) -> list[Any]:
    """The output of the input layer, from a forward pass that ends there; empty where it does not
    run.
    """
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
    return taken


def _that_runs(model: nn.Module, inputs: Inputs, named: str) -> str:
    """``named``, or where it does not run, the first embedding that has its weights or runs on the
    same tokens.
    """
    with borrowed(model), torch.no_grad():
        if _taken(model, inputs, named):
            return named
    ran = _ran_on(model, inputs)
    weight = getattr(model.get_submodule(named), "weight", None)
    tokens = tokens_of(inputs)
    for name, numbers in ran.items():
        if model.get_submodule(name).weight is weight or (
            tokens is not None and torch.equal(numbers, tokens)
        ):
            return name
    return named


def _ran_on(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """The embeddings that run in a forward pass, in that order, and the numbers that each embeds
    first.
    """
    ran: dict[str, Tensor] = {}

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            ran.setdefault(name, next(iter([*args, *kwargs.values()])))

        return hook

    handles = [
        module.register_forward_pre_hook(remember(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    ]
    try:
        with borrowed(model), torch.no_grad():
            run_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return ran


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
            f"input_layer: expected {input_layer!r} to run once in a forward pass, it ran {n_runs} "
            f"times; "
            f"do name a layer that is used once"
        )
    return output


def run_model(model: nn.Module, inputs: Inputs) -> Any:
    """The model's output; inputs by name are its keyword arguments."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def _check_one(model: nn.Module, inputs: Mapping[str, Tensor]) -> str:
    """The name of the only floating input, the mask aside."""
    dtypes = {name: tensor.dtype for name, tensor in inputs.items() if name != MASK}
    floating = [name for name, dtype in dtypes.items() if dtype.is_floating_point]
    if not floating:
        got = ", ".join(f"{name} of {dtype}" for name, dtype in dtypes.items())
        raise TypeError(
            f"inputs: expected a floating tensor (a Jacobian needs a continuous input), got {got}; "
            f"do inputs.float(), "
            f"scaled as the model expects, or for tokens input_layer=NAME (--input-layer NAME) of "
            f"their embedding: "
            f"{_embeddings(model)}"
        )
    if len(floating) > 1:
        raise ValueError(
            f"inputs: expected one floating tensor, got {', '.join(floating)}; do input_layer=NAME "
            f"(--input-layer NAME)"
        )
    return floating[0]


def _embeddings(model: nn.Module) -> str:
    named = [(uncompiled_name(name), module) for name, module in model.named_modules()]
    names = [repr(name) for name, module in named if isinstance(module, nn.Embedding)]
    return ", ".join(names[:5]) or "none here"
