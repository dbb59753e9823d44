"""Where a Jacobian begins: the floating inputs of a model, or the output of the layer that embeds
its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geocollapse.batches import MASK, TOKENS, Inputs, tensors_of
from geocollapse.borrow import borrowed, uncompiled_name
from geocollapse.jacobian import unshared

NO_MASK = (
    "attention_mask: padding was found among the tokens and no mask that says so, so that it "
    "counts as text; "
    "do give attention_mask with input_ids"
)
MOVED_PADDING = "attention_mask: left padding was moved to the right, so that positions count from the first token"


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
    tokens = _tokens_of(inputs)
    embedded = tensors_of(inputs) if tokens is None else [tokens]
    if find is None or any(tensor.is_floating_point() for tensor in embedded):
        return None
    try:
        embedding = find()
    except NotImplementedError:  # what transformers says of a model of several parts
        return None
    named = next((name for name, module in model.named_modules() if module is embedding), None)
    return None if named is None else _that_runs(model, inputs, named)


def without_left_padding(inputs: Inputs) -> Inputs:
    """The inputs with each sequence from its first token on, what was padded before it behind it.

    Positions are counted from the left, so that a model with learned positions, or one that reads
    the first place, gives a text the values it has alone. Inputs that begin with tokens are handed
    back as they are.

    Examples:
        >>> ids, mask = torch.tensor([[0, 0, 5], [7, 8, 9]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
        >>> without_left_padding({"input_ids": ids, "attention_mask": mask})["input_ids"].tolist()
        [[5, 0, 0], [7, 8, 9]]
    """
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if mask is None or mask.ndim != 2 or not bool((mask[:, :1] == 0).any()):
        return inputs
    n_before = (mask != 0).to(torch.int8).argmax(dim=1)  # 0 in a row without a token, too
    rows, positions = (torch.arange(length, device=mask.device) for length in mask.shape)
    places = (positions + n_before[:, None]) % mask.shape[1]
    return {
        name: tensor[rows[:, None], places] if tensor.shape[:2] == mask.shape else tensor
        for name, tensor in inputs.items()  # type: ignore[union-attr]
    }


def padding_without_mask(model: nn.Module, inputs: Inputs, input_layer: str | None) -> bool:
    """Whether tokens that the model knows as padding come without a mask that says so."""
    tokens = _tokens_of(inputs)
    if input_layer is None or tokens is None or (isinstance(inputs, Mapping) and MASK in inputs):
        return False
    padding = padding_token(model, input_layer)
    return padding is not None and bool((tokens == padding).any())


def padding_token(model: Any, input_layer: str | None) -> int | None:
    """The token that fills up texts, as the embedding or the configuration of a model says."""
    padding = (
        None
        if input_layer is None
        else getattr(model.get_submodule(input_layer), "padding_idx", None)
    )
    if padding is None:
        padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    return padding if isinstance(padding, int) else None


def _tokens_of(inputs: Inputs) -> Tensor | None:
    """What may be the numbers of tokens: the inputs themselves, or those of that name."""
    return inputs.get(TOKENS) if isinstance(inputs, Mapping) else inputs


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
    tokens = _tokens_of(inputs)
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
