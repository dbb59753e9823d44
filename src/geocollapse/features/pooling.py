"""What is kept of the positions of a map or a sequence."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Pool = Literal["mean", "cls", "last"]


def pooled(features: Tensor, pool: Pool | None, mask: Tensor | None = None) -> Tensor:
    """What is kept of a layer's positions: all of them, their mean, the first or the last token.

    Args:
        features: (n, channels, ...) of a map, (n, tokens, channels) of a sequence; (n, p) has no
            positions.
        pool: ``mean``, ``cls`` or ``last``, or None for all.
        mask: (n, tokens), 0 where a sequence is padded.

    Raises:
        ValueError: all positions of sequences that have a mask, so each its own length; positions
            that a mask does not belong to; the first or last token of a map; a sequence without
            tokens.
    """
    if features.ndim <= 2:
        return features
    is_masked = _is_of_tokens(features, mask)
    if pool is None:
        if is_masked:
            raise ValueError(
                f"pool: expected one of {', '.join(get_args(Pool))} for sequences with a mask, "
                f"whose lengths differ, "
                f"got None; do pool='mean', or 'last' for a decoder (--pool)"
            )
        return features
    if features.ndim > 3:
        if pool != "mean":
            raise ValueError(
                f"pool: expected 'mean' for a map {tuple(features.shape)}, got {pool!r}; do "
                f"pool='mean'"
            )
        return _widened(features).flatten(2).mean(dim=2)
    if not is_masked:
        return (
            _widened(features).mean(dim=1)
            if pool == "mean"
            else features[:, 0 if pool == "cls" else -1]
        )
    return _pooled_tokens(features, pool, mask)  # type: ignore[arg-type]


def _is_of_tokens(features: Tensor, mask: Tensor | None) -> bool:
    """Whether the mask says which positions are tokens; of a single position it says nothing."""
    if mask is None or (features.ndim == 3 and mask.shape == features.shape[:2]):
        return mask is not None
    if features.ndim > 3 or features.shape[1] != 1:
        raise ValueError(
            f"attention_mask: expected (n, tokens) and a layer (n, tokens, channels), got "
            f"{tuple(mask.shape)} and a "
            f"layer {tuple(features.shape)}, whose padding is not known; do name a layer of "
            f"tokens, or one behind "
            f"them (n, channels)"
        )
    return False


def _pooled_tokens(features: Tensor, pool: Pool, mask: Tensor) -> Tensor:
    """(n, p) of sequences (n, tokens, p) that are padded where the mask is 0."""
    is_token = mask != 0
    if not bool(is_token.any(dim=1).all()):
        raise ValueError(
            "attention_mask: expected at least one token in each sequence, got none; do drop empty "
            "texts"
        )
    if pool == "mean":
        features = _widened(features)
        weights = is_token.to(features.dtype)[:, :, None]
        return (features * weights).sum(dim=1) / weights.sum(dim=1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    found = (
        torch.where(is_token, positions, -1).amax(dim=1)
        if pool == "last"
        else is_token.to(torch.int8).argmax(dim=1)
    )
    return features[torch.arange(len(features), device=features.device), found]


def _widened(features: Tensor) -> Tensor:
    """Half precision as float32, in which a mean over positions keeps its digits."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
