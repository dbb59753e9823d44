"""Rounding that is too coarse for differences: of gradients, and of two runs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from geocollapse.dynamics.trees import Tree, norm
from geocollapse.estimate import GeocollapseWarning
from geocollapse.numerics import coarse_rounding

if TYPE_CHECKING:
    from geocollapse.dynamics.losses import Landscape


class SeesHalves(TorchDispatchMode):
    """Sees a tensor of half precision, as autocast inside a loss makes them.

    Attributes:
        dtype: of the first one, None if there is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dtype: torch.dtype | None = None

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        _types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype in (torch.float16, torch.bfloat16):
            self.dtype = self.dtype or result.dtype
        return result


def coarse_setting(point: Tree) -> str | None:
    """What rounds more coarsely than float32 does: half-precision parameters, autocast or TF32."""
    for name, tensor in point.items():
        if tensor.dtype in (torch.float16, torch.bfloat16):
            return f"{tensor.dtype} at {name!r}"
    return coarse_rounding(next(iter(point.values())).device)


def check_full_precision(task: Landscape) -> None:
    """Refuse half precision and TF32, which round the difference of two runs away.

    Cost: one forward pass, which shows the autocast of a loss.

    Raises:
        TypeError: names the dtype or the setting.
    """
    got = coarse_setting(task.point)
    if got is None:
        with SeesHalves() as seen, torch.no_grad():
            task.evaluate(task.point)
        got = None if seen.dtype is None else str(seen.dtype)
    if got is not None:
        raise TypeError(
            f"loss: expected float32 or float64, as coarser rounding hides the difference of two "
            f"runs, got {got}; do model.float(), and no autocast"
        )


def warn_of_rounding(difference: Tree, end: Tree, n_steps: int) -> None:
    """Warn where a difference of two runs of some steps is as small as their rounding errors.

        ||difference|| <= sqrt(n_steps) ||eps theta||

    with the errors of the steps taken as independent.

    Args:
        difference: of the ends of both runs.
        end: theta of one run.
        n_steps: of each task.
    """
    rounding = math.sqrt(n_steps) * norm(
        {name: torch.finfo(z.dtype).eps * z for name, z in end.items()}
    )
    size = norm(difference)
    if size > rounding:
        return
    coarse = any(z.dtype == torch.float32 for z in end.values())
    remedy = "model.double()" if coarse else "a larger lr or n_steps"
    warnings.warn(
        f"order_effect: the difference {size:.2g} is below the rounding of the parameters, "
        f"{rounding:.2g}, which hides it; do {remedy}",
        GeocollapseWarning,
        stacklevel=3,
    )
