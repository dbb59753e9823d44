"""Pooling over the positions of a feature map or the tokens of a sequence."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Pool = Literal["mean", "cls", "last"]


# Modules of torch.nn whose sequences are (n, channels, positions); elsewhere (n, tokens, channels).
_CHANNELS_FIRST = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.BatchNorm1d,
    nn.InstanceNorm1d,
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.LPPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)
_ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout", nn.Identity.__module__)


def is_channels_first(model: nn.Module, name: str) -> bool:
    """True if sequences at the module ``name`` of ``model`` are (n, channels, positions).

    Raises:
        ValueError: a module that works on single entries, in a model with 1-d convolutions, does
            not tell.
    """
    module = model.get_submodule(name)
    while isinstance(module, nn.Sequential) and len(module):
        module = module[-1]
    if isinstance(module, _CHANNELS_FIRST):
        return True
    is_elementwise = type(module).__module__ in _ELEMENTWISE and not list(module.parameters())
    if is_elementwise and any(isinstance(other, nn.Conv1d) for other in model.modules()):
        raise ValueError(
            f"pool: expected a layer that tells positions from channels, got {name!r}, a "
            f"{type(module).__name__} in a model with 1-d convolutions; do name the convolution "
            f"before it, or the input of the layer after it"
        )
    return False


def pooled(
    features: Tensor,
    pool: Pool | None,
    mask: Tensor | None = None,
    *,
    channels_first: bool = False,
) -> Tensor:
    """Reduce a layer's positions to their mean, or to the first or last token; None keeps them all.

    Args:
        features: (n, channels, ...) of a feature map, (n, tokens, channels) of a sequence; (n, p)
            has no positions, and is returned as it is.
        pool: ``mean``, ``cls`` (the first token) or ``last``, None for all positions.
        mask: (n, tokens), 0 at padding, which is no token.
        channels_first: sequences are (n, channels, positions).

    Raises:
        ValueError: all positions of sequences with a mask, whose lengths differ; a mask that does
            not belong to the positions; the first or last token of a feature map; a sequence
            without tokens.
    """
    if features.ndim <= 2:
        return features
    tokens = _tokens(features, mask)
    if pool is None:
        if tokens is not None:
            raise ValueError(
                f"pool: expected one of {', '.join(get_args(Pool))} for sequences with a mask, "
                f"whose lengths differ, got None; do pool='mean', or 'last' for a decoder"
            )
        return features
    if features.ndim > 3 or channels_first:
        if pool != "mean":
            raise ValueError(
                f"pool: expected 'mean' for a map {tuple(features.shape)}, got {pool!r}; do "
                f"pool='mean'"
            )
        return _widened(features).flatten(2).mean(dim=2)
    if tokens is not None:
        return _pooled_tokens(features, pool, tokens)
    if pool == "mean":
        return _widened(features).mean(dim=1)
    return features[:, 0 if pool == "cls" else -1]


def _tokens(features: Tensor, mask: Tensor | None) -> Tensor | None:
    """Which positions (n, tokens) are tokens, None if the mask does not concern these features.

    Raises:
        ValueError: the mask is of other positions, and some of these may be padding.
    """
    if mask is None:
        return None
    if features.ndim == 3 and mask.shape == features.shape[:2]:
        return mask != 0
    if features.ndim > 3 or features.shape[1] != 1:
        raise ValueError(
            f"attention_mask: expected (n, tokens) and a layer (n, tokens, channels), got "
            f"{tuple(mask.shape)} and a layer {tuple(features.shape)}, whose padding is unknown; "
            f"do name a layer of tokens, or a later one without them (n, channels)"
        )
    return None


def _pooled_tokens(features: Tensor, pool: Pool, is_token: Tensor) -> Tensor:
    """Pool sequences (n, tokens, p) to (n, p), over the positions that are tokens."""
    if not bool(is_token.any(dim=1).all()):
        raise ValueError(
            "attention_mask: expected at least one token in each sequence, got none; do drop empty "
            "texts"
        )
    if pool == "mean":
        features = _widened(features)
        weights = is_token.to(features.dtype)[:, :, None]
        return (features * weights).sum(dim=1) / weights.sum(dim=1)
    positions = torch.arange(is_token.shape[1], device=is_token.device)
    found = (
        torch.where(is_token, positions, -1).amax(dim=1)
        if pool == "last"
        else is_token.to(torch.int8).argmax(dim=1)
    )
    return features[torch.arange(len(features), device=features.device), found]


def _widened(features: Tensor) -> Tensor:
    """Half precision as float32, in which a mean over positions keeps its digits."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
