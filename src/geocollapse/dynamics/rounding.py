"""The rounding of parameters, which hides small differences between two runs."""

from __future__ import annotations

import math
import warnings

import torch

from geocollapse.dynamics.trees import Tree, norm
from geocollapse.estimate import GeocollapseWarning


def check_full_precision(point: Tree) -> None:
    """Refuse parameters in half precision, which rounds the difference of two runs away.

    Raises:
        TypeError: names the parameter.
    """
    for name, tensor in point.items():
        if torch.finfo(tensor.dtype).bits < 32:
            raise TypeError(
                f"model: expected parameters in float32 or float64, as coarser rounding hides the "
                f"difference of two runs, got {tensor.dtype} at {name!r}; do model.float()"
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
