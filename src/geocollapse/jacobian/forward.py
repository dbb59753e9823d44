"""Jacobian-vector products J u of all layers in one sweep, by forward-mode differentiation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad

from geocollapse.inputs import Take
from geocollapse.modules.second_derivatives import plain_attention


def push_forward(take: Take, x: Tensor, u: Tensor) -> tuple[list[Tensor], object, list[Tensor]]:
    """Return features (n, p) and J u (n, p) of each layer with the output between, without a graph.

    Attention uses the math kernel, because the fused kernels have no forward mode.

    Raises:
        NotImplementedError: an operation of the map has no forward mode.
    """
    with torch.no_grad(), forward_mode("estimator", "estimator='rademacher'"):
        features, output = take(forward_ad.make_dual(x.clone(), u.to(x.dtype)))
        pairs = [forward_ad.unpack_dual(z) for z in features]
        primal = forward_ad.unpack_dual(output).primal if isinstance(output, Tensor) else output
        tangents = [torch.zeros_like(z.primal) if z.tangent is None else z.tangent for z in pairs]
    return [z.primal for z in pairs], primal, tangents


@contextmanager
def forward_mode(argument: str, remedy: str) -> Iterator[None]:
    """Enter a level of forward mode.

    An operation without a forward rule raises an error that names ``argument`` and its ``remedy``.
    """
    with forward_ad.dual_level(), plain_attention():
        try:
            yield
        except (NotImplementedError, RuntimeError) as error:
            if "forward" not in str(error).lower() and "jvp" not in str(error).lower():
                raise
            reason = str(error).splitlines()[0]
            raise NotImplementedError(
                f"{argument}: expected a map with forward-mode derivatives, got {reason!r}; do "
                f"{remedy}"
            ) from error
