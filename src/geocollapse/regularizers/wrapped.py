"""Models behind DistributedDataParallel or torch.compile: the plain module inside, and the way back out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


@dataclass(frozen=True)
class Wrapped:
    """A caller's model, unwrapped.

    Attributes:
        plain: the module inside, with its layers' own names; penalised examples go through it.
        main: what the other examples go through: the compiled module where there is one, else ``plain``.
        parallel: the wrapper that averages gradients over processes, or None.
    """

    plain: nn.Module
    main: nn.Module
    parallel: DistributedDataParallel | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Wrapped:
        """Unwrap ``model``.

        Raises:
            TypeError: DataParallel, whose replicas no graph can be kept through.
        """
        plain, main, parallel = model, model, None
        while True:
            if isinstance(plain, DataParallel):
                raise TypeError(
                    "model: expected one replica a process, got DataParallel; do DistributedDataParallel(model.module)"
                )
            if isinstance(plain, DistributedDataParallel):
                parallel, plain = plain, plain.module
                main = plain
            elif isinstance(original := getattr(plain, "_orig_mod", None), nn.Module):
                plain = original
            else:
                return cls(plain, main, parallel)

    def run(self, work: Callable[[Tensor], Any], x: Tensor) -> Any:
        """``work(x)``, as the one forward pass that DistributedDataParallel sees: its averaging needs exactly one."""
        if self.parallel is None:
            return work(x)
        inside = self.parallel.module
        self.parallel.module = _Forward(work)
        try:
            return self.parallel(x)
        finally:
            self.parallel.module = inside

    def check_differentiable(self, layer: str, method: str) -> None:
        """Refuse compiled modules inside: their graphs have no second derivative, and hooks cannot look into them.

        Raises:
            RuntimeError: names the module and the remedy.
        """
        for name, module in self.plain.named_modules():
            if not is_compiled(module):
                continue
            if method != "finite_difference":
                raise RuntimeError(
                    f"model: expected no compiled module inside (a compiled graph has no second derivative), got "
                    f"{name or 'model.compile()'!r}; do torch.compile(model) around the whole, or "
                    f"method='finite_difference'"
                )
            if not name or layer == name or layer.startswith(f"{name}."):
                raise RuntimeError(
                    f"model: expected a layer outside compiled modules, got {layer!r} inside "
                    f"{name or 'model.compile()'!r}; do torch.compile(model) around the whole"
                )


class _Forward(nn.Module):
    """A function with a module's face."""

    def __init__(self, work: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.work = work

    def forward(self, x: Tensor) -> Any:
        return self.work(x)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is run by torch.compile, wrapped or in place."""
    return isinstance(getattr(module, "_orig_mod", None), nn.Module) or module._compiled_call_impl is not None
