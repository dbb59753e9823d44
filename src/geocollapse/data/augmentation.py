"""Augmentation of a whole batch on its device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def crop_and_flip(x: Tensor, generator: torch.Generator, *, padding: int = 4) -> Tensor:
    """Random crops of the zero-padded images, each mirrored with probability 1/2.

    Every image has a shift of its own; the batch is one gather, on the device of ``x``.

    Source: He, Zhang, Ren, Sun (2016), section 4.2.

    Args:
        x: (n, channels, h, w), normalised, so that the padding is the mean colour.
        generator: of the shifts and mirrors, on the CPU.
        padding: pixels on each side.

    Examples:
        >>> crop_and_flip(torch.zeros(5, 3, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3, 32, 32])
    """
    n, _, height, width = x.shape
    shifts = torch.randint(0, 2 * padding + 1, (2, n), generator=generator).to(x.device)
    mirrored = (torch.rand(n, generator=generator) < 0.5).to(x.device)
    rows = torch.arange(height, device=x.device) + shifts[0][:, None]
    columns = torch.arange(width, device=x.device)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + shifts[1][:, None]
    padded = F.pad(x, (padding,) * 4)
    examples = torch.arange(n, device=x.device)[:, None, None]
    return (
        padded.permute(0, 2, 3, 1)[examples, rows[:, :, None], columns[:, None, :]]
        .permute(0, 3, 1, 2)
        .contiguous()
    )
