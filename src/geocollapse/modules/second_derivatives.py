"""Operations that can be differentiated twice, also where a checkpoint recomputes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_ONCE = "torch::autograd::Error"  # the node of an operation that is differentiable only once
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


@contextmanager
def plain_attention() -> Iterator[None]:
    """Use the math kernel for attention: fused ones lack forward mode and second derivatives."""
    with sdpa_kernel(SDPBackend.MATH), _without_fast_path():
        yield


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Make transformer layers take their plain path: the fast one has no forward mode.

    torch reads its table of forward-mode rules at the first sweep, and warns of a deprecation in
    it. The caller cannot act on that, so it is silenced.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def is_cut(*tensors: Tensor) -> bool:
    """True if the graph behind tensors has an operation that is differentiable only once."""
    left = [tensor.grad_fn for tensor in tensors]
    seen = set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if node.name() == _ONCE:
            return True
        seen.add(node)
        left += [following for following, _ in node.next_functions]
    return False


class TwiceDifferentiable(TorchFunctionMode):
    """Replaces operations that can be differentiated only once by equal ones without this limit."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        _types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is not F.hardsigmoid:
            return func(*args, **(kwargs or {}))
        named = kwargs or {}
        x = cast(Tensor, args[0])
        y = F.relu6(x + 3) / 6
        is_in_place = bool(named.get("inplace", False) or (len(args) > 1 and args[1]))
        return x.copy_(y) if is_in_place else y
