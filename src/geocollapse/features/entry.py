"""Where a Jacobian begins: at the floating inputs of a model, or at the embedding of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from geocollapse.features.hooks import hooked
from geocollapse.features.padding import tokens_of
from geocollapse.inputs import MASK, Inputs, tensors_of, unshared
from geocollapse.modules.borrow import borrowed
from geocollapse.modules.wrapped import uncompiled_name


@dataclass(frozen=True)
class Entry:
    """Examples at the point of a model where their Jacobians begin.

    Attributes:
        x: (n, ...) floating, what Jacobians are taken with respect to.
        run: from ``x`` to the model's output, with everything else about the examples fixed.
        mask: (n, tokens) of padded sequences, else None.
    """

    x: Tensor
    run: Callable[[Tensor], object]
    mask: Tensor | None = None


def entry_of(model: nn.Module, inputs: Inputs, input_layer: str | None = None) -> Entry:
    """Find where the Jacobian of ``model`` begins for these examples.

    With an input layer it begins at the output of that layer: the model runs up to there, and again
    with another output in its place. Without one it begins at the floating tensor among the inputs.

    Raises:
        TypeError: integer inputs, and no layer named that embeds them (the candidates are listed).
        ValueError: several floating inputs.
        RuntimeError: the input layer does not run, or does not return one floating tensor.
    """
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if input_layer is not None:
        return Entry(
            _embedded(model, inputs, input_layer),
            lambda x: _run_from(model, inputs, input_layer, x),
            mask,
        )
    if isinstance(inputs, Tensor):
        _only_floating(model, {"inputs": inputs})
        return Entry(inputs, lambda x: run_model(model, x))
    name = _only_floating(model, inputs)
    return Entry(inputs[name], lambda x: run_model(model, {**inputs, name: x}), mask)


def find_input_layer(model: nn.Module, inputs: Inputs, input_layer: str | None) -> str | None:
    """The layer that embeds the inputs: the one named, or a transformers model's own.

    A transformers model with integer inputs names its embedding. That module may only hold the
    weights, with others doing the work; then the first embedding that runs on the tokens is taken,
    found by a forward pass. None for other models and inputs.

    Raises:
        ValueError: no module has that name.
    """
    if input_layer is not None:
        return _named(model, input_layer)
    find = getattr(model, "get_input_embeddings", None)
    tokens = tokens_of(inputs)
    embedded = tensors_of(inputs) if tokens is None else [tokens]
    if find is None or any(tensor.is_floating_point() for tensor in embedded):
        return None
    try:
        embedding = find()
    except NotImplementedError:  # raised by transformers models of several parts
        return None
    named = next((name for name, module in model.named_modules() if module is embedding), None)
    return None if named is None else _that_runs(model, inputs, named)


def _named(model: nn.Module, input_layer: str) -> str:
    """The name of a module in the model as it is, given with or without torch.compile's parts."""
    names = {uncompiled_name(name): name for name, _ in model.named_modules()}
    names.pop("", None)
    if uncompiled_name(input_layer) not in names:
        raise ValueError(
            f"input_layer: expected the name of a module, got {input_layer!r}; do one of "
            f"{_embeddings(model)}"
        )
    return names[uncompiled_name(input_layer)]


class _Reached(Exception):
    """The input layer has run, so the rest of the model need not."""


def _embedded(model: nn.Module, inputs: Inputs, input_layer: str) -> Tensor:
    """The output of the input layer, differentiable in its parameters."""
    taken = _taken(model, inputs, input_layer)
    embedded = taken[0] if taken else None
    if not isinstance(embedded, Tensor) or not embedded.is_floating_point():
        got = type(embedded).__name__ if taken else "a layer that did not run"
        ran = ", ".join(repr(uncompiled_name(name)) for name in _ran_on(model, inputs))
        raise RuntimeError(
            f"input_layer: expected {input_layer!r} to return one floating tensor, got {got}; do "
            f"name an embedding that ran: {ran or 'none here'}"
        )
    return embedded


def _taken(model: nn.Module, inputs: Inputs, input_layer: str) -> list[object]:
    """The output of the input layer, from a pass that ends there; empty if it never runs."""
    taken: list[object] = []

    def stop(_module: nn.Module, _args: tuple[object, ...], output: object) -> None:
        taken.append(output)
        raise _Reached

    with hooked(after=[(model.get_submodule(input_layer), stop)]), suppress(_Reached):
        run_model(model, inputs)
    return taken


def _that_runs(model: nn.Module, inputs: Inputs, named: str) -> str:
    """``named`` if it runs, else the first embedding with its weights or the tokens as input."""
    with borrowed(model), torch.no_grad():
        if _taken(model, inputs, named):
            return named
    weight = getattr(model.get_submodule(named), "weight", None)
    tokens = tokens_of(inputs)
    for name, numbers in _ran_on(model, inputs).items():
        is_of_tokens = (
            tokens is not None and isinstance(numbers, Tensor) and torch.equal(numbers, tokens)
        )
        if is_of_tokens or model.get_submodule(name).weight is weight:
            return name
    return named


def _ran_on(model: nn.Module, inputs: Inputs) -> dict[str, object]:
    """The embeddings that run in a forward pass, in that order, and what each embeds first."""
    ran: dict[str, object] = {}

    def remember(
        name: str, _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        ran.setdefault(name, next(iter([*args, *kwargs.values()])))

    before = [
        (module, partial(remember, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    ]
    with hooked(before=before), borrowed(model), torch.no_grad():
        run_model(model, inputs)
    return ran


def _run_from(model: nn.Module, inputs: Inputs, input_layer: str, x: Tensor) -> object:
    """The model's output with ``x`` in place of the output of its input layer."""
    n_runs = 0

    def replace(_module: nn.Module, _args: tuple[object, ...], _output: object) -> Tensor:
        nonlocal n_runs
        n_runs += 1
        return unshared(x)

    with hooked(after=[(model.get_submodule(input_layer), replace)]):
        output = run_model(model, inputs)
    if n_runs != 1:
        raise RuntimeError(
            f"input_layer: expected {input_layer!r} to run once in a forward pass, got {n_runs} "
            f"runs; do name a layer that is used once"
        )
    return output


def run_model(model: nn.Module, inputs: Inputs) -> object:
    """The model's output; inputs by name become keyword arguments.

    The model gets copies, as it may work in place on the caller's tensors.
    """
    if not isinstance(inputs, Mapping):
        return model(unshared(inputs))
    return model(**{name: unshared(tensor) for name, tensor in inputs.items()})


def _only_floating(model: nn.Module, inputs: Mapping[str, Tensor]) -> str:
    """The name of the only floating input, apart from the mask."""
    dtypes = {name: tensor.dtype for name, tensor in inputs.items() if name != MASK}
    floating = [name for name, dtype in dtypes.items() if dtype.is_floating_point]
    if not floating:
        got = ", ".join(f"{name} of {dtype}" for name, dtype in dtypes.items())
        raise TypeError(
            f"inputs: expected a floating tensor (a Jacobian needs a continuous input), got {got}; "
            f"do inputs.float(), scaled as the model expects, or for tokens input_layer=NAME "
            f"of their embedding: {_embeddings(model)}"
        )
    if len(floating) > 1:
        raise ValueError(
            f"inputs: expected one floating tensor, got {', '.join(floating)}; do input_layer=NAME"
        )
    return floating[0]


def _embeddings(model: nn.Module) -> str:
    """The first embeddings of a model, as a list for a message."""
    named = [(uncompiled_name(name), module) for name, module in model.named_modules()]
    names = [repr(name) for name, module in named if isinstance(module, nn.Embedding)]
    return ", ".join(names[:5]) or "none here"
