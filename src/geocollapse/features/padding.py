"""Padded texts: where their padding is, and a check that features do not depend on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from geocollapse.features.rounding import equal, half_of, rounding_of
from geocollapse.inputs import MASK, TOKENS, Enter, Inputs, dtype_of, n_rows
from geocollapse.modules.borrow import borrowed

NO_MASK = (
    "attention_mask: padding was found among the tokens but no mask that marks it, so it "
    "counts as text; do pass attention_mask with input_ids"
)
MOVED_PADDING = (
    "attention_mask: left padding was moved to the right, so that positions count from the first "
    "token"
)


def check_padding(
    enter: Enter,
    inputs: Inputs,
    module: nn.Module | None = None,
    *,
    padding: int | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse a model in which the features of a text depend on how much padding follows it.

    Each batch pads its texts to the length of the longest, so a model that ignores
    ``attention_mask`` mixes the lengths of its examples. Two texts without their first token go
    through the model, and again with one padding token behind them. Neither pass is wider than the
    texts given, so a table of positions is large enough. Nothing is checked for a single text,
    without a mask, if the model accepts one width only, or if neither the texts nor ``padding``
    tell what token pads them.

    Cost: two forward passes of two texts.

    Args:
        enter: as for ``check_independence``.
        inputs: the first two texts are used.
        module: the module behind the map.
        padding: the token that pads texts, None if the model does not say.
        dtype: the coarsest precision inside the map (autocast); by default that of the module, or
            of x.

    Raises:
        RuntimeError: features that change with padding.
    """
    widths = _two_widths(inputs, padding)
    if widths is None:
        return
    with borrowed(module), torch.no_grad():  # dropout would draw other numbers for other widths
        try:
            entered = [enter(texts) for texts in widths]
            narrow, padded = ([z.detach().clone() for z in take(x)[0]] for take, x in entered)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, IndexError, RuntimeError, ValueError):
            return  # the model does not accept this width
        tolerance = rounding_of(dtype or dtype_of(module) or entered[0][1].dtype)
    # features of all positions have two widths, and cannot be compared
    alike = [(a, b) for a, b in zip(narrow, padded, strict=True) if a.shape == b.shape]
    if all(equal(half_of(a, row), half_of(b, row), tolerance) for a, b in alike for row in (0, 1)):
        return
    raise RuntimeError(
        f"model: expected features that padding does not change, got features of a text that "
        f"change with one more padding token, whose {MASK} is 0; do batch_size=1, which pads "
        f"nothing"
    )


def _two_widths(inputs: Inputs, padding: int | None) -> tuple[Inputs, Inputs] | None:
    """The first two texts without their first token, and the same with one padding token behind.

    None if they cannot be made.
    """
    if not isinstance(inputs, Mapping) or MASK not in inputs or n_rows(inputs) < 2:
        return None
    pair = {name: tensor[:2] for name, tensor in inputs.items()}
    mask = pair[MASK]
    if mask.ndim != 2 or not bool(mask[:, 1:].any(dim=1).all()):
        return None
    if padding is None and not bool((mask == 0).any()):
        # with a guess, a model that knows padding by its token rather than the mask would be
        # refused
        return None
    narrow = dict(pair)
    padded = dict(pair)
    for name, tensor in pair.items():
        if tensor.shape[:2] == mask.shape:
            fill = _padding_of(tensor, mask, padding or 0 if name == TOKENS else 0)
            narrow[name] = tensor[:, 1:]
            padded[name] = torch.cat([narrow[name], fill], dim=1)
    return narrow, padded


def _padding_of(tensor: Tensor, mask: Tensor, default: int) -> Tensor:
    """One padded position (n, 1, ...) of a tensor (n, tokens, ...), as in it or ``default``."""
    known = tensor[mask == 0][:1]
    if not len(known):
        known = torch.full_like(tensor[:1, 0], default)
    return known.expand_as(tensor[:, 0])[:, None]


def without_left_padding(inputs: Inputs) -> Inputs:
    """Move the padding in front of each text behind it.

    Positions then count from the first token, so that a model with learned positions, or one that
    reads the first position, gives a text the same values as without padding. Inputs in which every
    text begins with a token are returned as they are.

    Examples:
        >>> ids, mask = torch.tensor([[0, 0, 5], [7, 8, 9]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
        >>> without_left_padding({"input_ids": ids, "attention_mask": mask})["input_ids"].tolist()
        [[5, 0, 0], [7, 8, 9]]
    """
    if not isinstance(inputs, Mapping) or MASK not in inputs:
        return inputs
    mask = inputs[MASK]
    if mask.ndim != 2 or not bool((mask[:, :1] == 0).any()):
        return inputs
    n_before = (mask != 0).to(torch.int8).argmax(dim=1)  # 0 in a row without any token, too
    rows, positions = (torch.arange(length, device=mask.device) for length in mask.shape)
    places = (positions + n_before[:, None]) % mask.shape[1]
    return {
        name: tensor[rows[:, None], places] if tensor.shape[:2] == mask.shape else tensor
        for name, tensor in inputs.items()
    }


def padding_without_mask(model: nn.Module, inputs: Inputs, input_layer: str | None) -> bool:
    """True if the inputs hold the model's padding token, and no mask that marks it as padding."""
    tokens = tokens_of(inputs)
    if input_layer is None or tokens is None or (isinstance(inputs, Mapping) and MASK in inputs):
        return False
    padding = padding_token(model, input_layer)
    return padding is not None and bool((tokens == padding).any())


def padding_token(model: nn.Module | None, input_layer: str | None) -> int | None:
    """The token that pads texts, by the embedding or the configuration of a model."""
    padding = None
    if model is not None and input_layer is not None:
        padding = getattr(model.get_submodule(input_layer), "padding_idx", None)
    if padding is None:
        padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    return padding if isinstance(padding, int) else None


def tokens_of(inputs: Inputs) -> Tensor | None:
    """The token numbers among the inputs: those of that name, or the only tensor."""
    return inputs.get(TOKENS) if isinstance(inputs, Mapping) else inputs
