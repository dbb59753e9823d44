"""Whether two passes agree, up to what rounding may move."""

from __future__ import annotations

import torch
from torch import Tensor


def rounding_of(dtype: torch.dtype) -> float:
    """What rounding may move, relative to the features.

    It is for sums that an accelerator adds in no fixed order, and for other rows or widths, whose
    sums are in another order, through all layers: a thousand roundings of float64 and float32,
    eight of half precision, whose sums are float32 inside. Statistics of a batch of two move
    features by their own size.
    """
    return torch.finfo(dtype).eps * (1024 if torch.finfo(dtype).bits >= 32 else 8)


def equal(a: Tensor, b: Tensor, tolerance: float, *, by_coordinate: bool = False) -> bool:
    """Whether a is b, to ``tolerance`` of the largest entry; or by coordinate: of its own size or
    four median sizes.

    Four medians are the size of the largest of some hundred normal entries.
    """
    if a.numel() == 0 or not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    a, b = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (a, b))
    size = torch.maximum(a.abs(), b.abs())
    if by_coordinate:
        not_zero = size[size > 0]
        size = size.clamp(min=4 * not_zero.median()) if len(not_zero) else size
    else:
        size = size.max()
    return bool(((a == b) | ((a - b).abs() <= tolerance * size)).all())


def half_of(tensor: Tensor, row: int) -> Tensor:
    """One example's half: of the batch, or of windows or tokens that lie behind each other; else
    all of it.

    Halves of a module that takes time first are halves of the time: it may be named too late or too
    early.
    """
    is_split = tensor.ndim > 0 and len(tensor) > 0 and len(tensor) % 2 == 0
    return tensor.reshape(2, -1)[row] if is_split else tensor
