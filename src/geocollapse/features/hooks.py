"""Forward hooks that last as long as a block of code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

# Looks at a module and its arguments by position and by name.
PreHook = Callable[[nn.Module, tuple[object, ...], dict[str, object]], None]
# From a module, its arguments by position and its output to a new output, or None to keep it.
ForwardHook = Callable[[nn.Module, tuple[object, ...], object], object | None]


@contextmanager
def hooked(
    *,
    before: Iterable[tuple[nn.Module, PreHook]] = (),
    after: Iterable[tuple[nn.Module, ForwardHook]] = (),
) -> Iterator[None]:
    """Attach hooks that run ``before`` and ``after`` forward passes while the block runs."""
    with ExitStack() as stack:
        for module, pre_hook in before:
            stack.callback(module.register_forward_pre_hook(pre_hook, with_kwargs=True).remove)
        for module, hook in after:
            stack.callback(module.register_forward_hook(hook).remove)
        yield
