"""Activation checkpointing under double backward: recomputation with the same operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar

from geocollapse.jacobian import TwiceDifferentiable, plain_attention

_is_inside: ContextVar[bool] = ContextVar("twice_differentiable", default=False)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Use operations that have second derivatives, also where a checkpoint recomputes them."""
    token = _is_inside.set(True)
    try:
        with plain_attention(), TwiceDifferentiable():
            yield
    finally:
        _is_inside.reset(token)


def checkpoint_context() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Recompute checkpointed activations as the penalty's forward pass computed them.

    Pass it as ``context_fn`` to ``torch.utils.checkpoint.checkpoint`` around modules with
    attention. With ``method="double_backward"`` the forward pass uses attention that can be
    differentiated twice, which the recomputation would replace by the fused kernel. Outside the
    penalty it changes nothing.

    Examples:
        >>> import torch
        >>> from torch.utils.checkpoint import checkpoint
        >>> block, x = torch.nn.Linear(2, 2), torch.ones(3, 2)
        >>> y = checkpoint(block, x, use_reentrant=False, context_fn=checkpoint_context)
        >>> y.shape
        torch.Size([3, 2])
    """
    return nullcontext(), _Recomputation() if _is_inside.get() else nullcontext()


class _Recomputation(AbstractContextManager[None]):
    """``twice_differentiable``, to be entered at each backward pass of one checkpoint."""

    def __init__(self) -> None:
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        stack = ExitStack()
        stack.enter_context(twice_differentiable())
        self._entered.append(stack)

    def __exit__(self, *raised: object) -> None:
        self._entered.pop().close()
