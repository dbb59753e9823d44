"""Refusal of values that are no squared norms: overflows, and zeros of detached features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from geocollapse.inputs import Take, track


def check_terms(
    terms: Sequence[Tensor], take: Take, x: Tensor, features: Sequence[Tensor], indices: Tensor
) -> None:
    """Refuse estimates of single probes (probes, 1 or 2, n) that measure no Jacobian.

    Raises:
        ValueError: NaN or infinity, although the features are finite; float16 that underflows.
        RuntimeError: zeros, because features that change with ``x`` have no gradients.
    """
    for layer, (found, z) in enumerate(zip(terms, features, strict=True)):
        total = float(found.sum())  # of squares: one wait for the accelerator tells both
        if not math.isfinite(total) and not bool((finite := torch.isfinite(found)).all()):
            raise _overflow(finite.flatten(0, -2).all(dim=0), indices)
        if z.dtype is torch.float16:
            _check_underflow(found[:, 0], x[0].numel())
        if total == 0.0 and found.numel() and _is_cut(take, x, layer, z):
            place = "" if len(terms) == 1 else f" to layer {layer + 1} of {len(terms)}"
            raise RuntimeError(
                f"layer: expected a path of gradients from the inputs{place}, got features that "
                "change with the inputs and torch.no_grad or .detach() inside the forward pass; "
                "do remove it, or name an earlier layer"
            )


def _overflow(is_finite: Tensor, indices: Tensor) -> ValueError:
    rows = (~is_finite).nonzero().flatten()
    first = int(indices[rows[0].to(indices.device)])
    return ValueError(
        f"features: expected finite Jacobians, got NaN or infinity in {len(rows)} of "
        f"{len(is_finite)} examples (first in example {first}); do float32, or bfloat16 autocast, "
        "where float16 overflows, or drop these examples"
    )


def _check_underflow(squares: Tensor, n_inputs: int) -> None:
    """Refuse squared norms (probes, n) whose gradients mostly lie below float16's normal range.

    Such numbers lose digits, down to 0.
    """
    entry = float(squares.double().mean() / n_inputs) ** 0.5
    least = torch.finfo(torch.float16).tiny
    if 0.0 < entry < least:
        raise ValueError(
            f"features: expected Jacobians in the range of float16, got entries of about "
            f"{entry:.1e}, below {least:.1e}; do float32, or bfloat16 autocast"
        )


def _is_cut(take: Take, x: Tensor, layer: int, features: Tensor) -> bool:
    """Return True if features without gradients change with ``x``: they are not constant."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    with torch.enable_grad():
        leaf = track(x + torch.finfo(x.dtype).eps ** 0.5 * x.abs().max().clamp(min=1e-3) * noise)
        moved = take(leaf)[0][layer]
        if torch.equal(moved.detach(), features.detach()):
            return False
        if not moved.requires_grad:
            return True
        return torch.autograd.grad(moved.sum(), leaf, allow_unused=True)[0] is None
