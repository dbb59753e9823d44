"""Jacobian-vector products J u by forward-mode differentiation: one sweep gives those of every
layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from geocollapse.inputs import Take


def push_forward(take: Take, x: Tensor, u: Tensor) -> tuple[list[Tensor], Any, list[Tensor]]:
    """Features (n, p) of each layer, the output, and J u (n, p) of each layer, without a graph.

    Attention runs by the math kernel: the fused ones have no forward mode.

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
    """One level of forward mode; an operation without a forward rule is an error of ``argument``
    with its remedy.
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


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by the math kernel: the fused ones have neither forward mode nor a second
    derivative.
    """
    with sdpa_kernel(SDPBackend.MATH), _without_fast_path():
        yield


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Transformer layers take their plain path: the fast one of evaluation mode has no forward
    mode.

    A deprecation in torch's own table of forward-mode rules, which it reads at the first sweep, is
    not the caller's.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
