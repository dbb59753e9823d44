"""How far two passes over the same examples may differ by rounding."""

from __future__ import annotations

import torch
from torch import Tensor


def rounding_of(dtype: torch.dtype) -> float:
    """The largest difference, relative to the features, that counts as rounding in ``dtype``.

    It allows for sums that an accelerator adds in no fixed order, and for other rows or widths,
    whose sums are in another order, through all layers: a thousand roundings of float64 and
    float32, and eight of half precision, whose sums are float32 inside. By comparison, the
    statistics of a batch of two move features by as much as the features themselves.
    """
    return torch.finfo(dtype).eps * (1024 if torch.finfo(dtype).bits >= 32 else 8)


def equal(a: Tensor, b: Tensor, tolerance: float, *, by_coordinate: bool = False) -> bool:
    """Compare ``a`` and ``b`` up to ``tolerance``, relative to the largest entry of both.

    With ``by_coordinate``, the tolerance of a coordinate is relative to its own size, or to four
    median sizes if they are larger: the size of the largest of some hundred normal entries.
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
    """The half of a tensor that belongs to example ``row`` of two; all of it if it has no halves.

    The first dimension is the batch, or the windows or tokens of one example after the other. In a
    module that takes time first it is time: such a module may be named too late or too early.
    """
    is_split = tensor.ndim > 0 and len(tensor) > 0 and len(tensor) % 2 == 0
    return tensor.reshape(2, -1)[row] if is_split else tensor
