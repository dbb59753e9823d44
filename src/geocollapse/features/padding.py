"""Padded texts: where padding is, and whether features move with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geocollapse.features.borrow import borrowed
from geocollapse.features.rounding import equal, half_of, rounding_of
from geocollapse.inputs import MASK, TOKENS, Enter, Inputs, dtype_of, n_rows

NO_MASK = (
    "attention_mask: padding was found among the tokens and no mask that says so, so that it "
    "counts as text; "
    "do give attention_mask with input_ids"
)
MOVED_PADDING = "attention_mask: left padding was moved to the right, so that positions count from the first token"


def check_padding(
    enter: Enter,
    inputs: Inputs,
    module: nn.Module | None = None,
    *,
    padding: int | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse a model in which the features of a text move with the padding that its batch happens
    to need.

    A text is padded to the longest of its batch: a model that ignores ``attention_mask`` mixes
    their lengths. Two texts without their first column go through it, and again with a column of
    padding behind them. So they are no wider than given, and a table of positions has room. Nothing
    is checked with one text, without a mask, where a model takes one width alone, or where neither
    the texts nor ``padding`` say what fills them up.

    Cost: two forward passes of two texts.

    Args:
        enter: as for ``check_independence``.
        inputs: the first two texts are used.
        module: the model behind the map.
        padding: the token that fills texts up, None where the model does not say.
        dtype: the coarsest precision inside the map (autocast); by default that of the model, or of
            x.

    Raises:
        RuntimeError: features that move.
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
            return  # a width that the model does not take
        tolerance = rounding_of(dtype or dtype_of(module) or entered[0][1].dtype)
    alike = [
        (a, b) for a, b in zip(narrow, padded, strict=True) if a.shape == b.shape
    ]  # not flattened over positions
    if all(equal(half_of(a, row), half_of(b, row), tolerance) for a, b in alike for row in (0, 1)):
        return
    raise RuntimeError(
        "model: expected features that padding does not change, got features of a text that move "
        "with one more padded "
        f"token, whose {MASK} is 0; do batch_size=1, which pads nothing"
    )


def _two_widths(inputs: Inputs, padding: int | None) -> tuple[Inputs, Inputs] | None:
    """The first two texts without their first column, and these with a padded one; None where that
    cannot be made.
    """
    if not isinstance(inputs, Mapping) or MASK not in inputs or n_rows(inputs) < 2:
        return None
    pair = {name: tensor[:2] for name, tensor in inputs.items()}
    mask = pair[MASK]
    if mask.ndim != 2 or not bool(mask[:, 1:].any(dim=1).all()):
        return None
    if padding is None and not bool((mask == 0).any()):
        # with a token that is none of the model's padding, a model that knows padding by it would
        # move
        return None
    narrow, padded = dict(pair), dict(pair)
    for name, tensor in pair.items():
        if tensor.shape[:2] == mask.shape:
            known = tensor[mask == 0][:1]  # what fills it up, if any of it is padded
            if not len(known):
                known = torch.full_like(tensor[:1, 0], padding or 0 if name == TOKENS else 0)
            fill = known.expand_as(tensor[:, 0])[:, None]
            narrow[name] = tensor[:, 1:]
            padded[name] = torch.cat([narrow[name], fill], dim=1)
    return narrow, padded


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
    tokens = tokens_of(inputs)
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


def tokens_of(inputs: Inputs) -> Tensor | None:
    """What may be the numbers of tokens: the inputs themselves, or those of that name."""
    return inputs.get(TOKENS) if isinstance(inputs, Mapping) else inputs
