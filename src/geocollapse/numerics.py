"""The precision of sums, and the checks of numbers: NaN, infinity, counts."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard

import torch
from torch import Tensor

NO_FLOAT64 = {"mps"}  # kinds of devices without float64
ROUNDING_UNITS = 16  # of the features' precision: a smaller relative difference decides nothing


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on a device that has no float64 (Apple's MPS)."""
    return torch.float32 if device.type in NO_FLOAT64 else torch.float64


def keeps_float32_products() -> bool:
    """Return False where torch may multiply float32 matrices in TF32 or bfloat16."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch's older and newer settings were mixed: it cannot tell
        return False


def autocast_around(device: torch.device) -> torch.dtype | None:
    """The dtype of the ``torch.autocast`` block that this runs in, None outside of one."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


def coarse_rounding(device: torch.device) -> str | None:
    """Name the setting that rounds float32 inside a map, None if there is none."""
    if autocast_around(device) is not None:
        return "autocast"
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32:  # the default of convolutions
        return "torch.backends.cudnn.allow_tf32 = True"
    if device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return "torch.backends.cuda.matmul.allow_tf32 = True"
    return None


def sum_of_squares(rows: Tensor) -> Tensor:
    """Sum the squares of each row of (n, ...) in float64."""
    return rows.flatten(1).to(accumulation_dtype(rows.device)).square().sum(dim=1)


def largest_eigenvalue(matrix: Tensor, at_least: float = 0.0) -> float:
    """max(lambda_max, at_least) of a symmetric positive semi-definite ``matrix`` (p, p).

    Whether at_least I - matrix has a Cholesky factor tells if lambda_max is less: to find the
    largest of several matrices, most of them cost p^3/3 instead of an eigendecomposition.
    """
    if at_least > 0.0:
        difference = -matrix
        difference.diagonal().add_(at_least)
        if int(torch.linalg.cholesky_ex(difference).info) == 0:
            return at_least
    return max(at_least, float(torch.linalg.eigvalsh(matrix)[-1]))


def check_finite(name: str, tensor: Tensor, positions: Tensor | None = None) -> None:
    """Raise a ValueError that counts the rows of ``tensor`` (n, ...) with NaN or infinity.

    It names the first one: by its position in the data set where ``positions`` (n,) tell it.
    """
    if tensor.numel() == 0 or bool(torch.isfinite(tensor.sum())):
        return
    bad = (~torch.isfinite(tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None])).any(dim=1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        place = f"row {first}" if positions is None else f"example {int(positions[first])}"
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinity in {int(bad.sum())} of "
            f"{len(bad)} examples (first at {place}); do check the model's output or drop these "
            f"examples"
        )


def is_count(number: object) -> bool:
    """Return True for a whole number of at least 1."""
    return isinstance(number, Integral) and int(number) >= 1


def is_number(number: object) -> TypeGuard[float]:
    """Return True for a finite real number, also in a tensor of one entry, as rates may be."""
    if isinstance(number, Tensor):
        return number.numel() == 1 and math.isfinite(number)
    return isinstance(number, Real) and math.isfinite(number)
