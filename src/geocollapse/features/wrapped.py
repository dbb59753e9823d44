"""Models behind DistributedDataParallel or torch.compile: the plain module inside, and the way back
out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from geocollapse.inputs import Inputs

COMPILED = "_orig_mod"  # the module inside torch.compile's wrapper

_T = TypeVar("_T")


@dataclass(frozen=True)
class Wrapping:
    """A caller's model, without_data_parallel.

    Attributes:
        plain: the module inside, with its layers' own names; penalised examples go through it.
        main: what the other examples go through: the compiled module where there is one, else
            ``plain``.
        parallel: the wrapper that averages gradients over processes, or None.
    """

    plain: nn.Module
    main: nn.Module
    parallel: DistributedDataParallel | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Wrapping:
        """Unwrap ``model``.

        Raises:
            TypeError: no module; DataParallel or sharded parameters, which no graph can be kept
            through.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model: expected a torch.nn.Module, got {type(model).__name__}; do wrap it in a "
                f"module"
            )
        if _is_sharded(model):
            raise TypeError(
                "model: expected whole parameters, got those that FSDP has spread over processes; "
                "do "
                "DistributedDataParallel(model)"
            )
        plain, main, parallel = model, model, None
        while True:
            if isinstance(plain, DataParallel):
                raise TypeError(
                    "model: expected one replica a process, got DataParallel; do "
                    "DistributedDataParallel(model.module)"
                )
            if isinstance(plain, DistributedDataParallel):
                parallel, plain = plain, plain.module
                main = plain
            elif isinstance(original := getattr(plain, COMPILED, None), nn.Module):
                plain = original
            else:
                return cls(plain, main, parallel)

    def run(self, work: Callable[[Inputs], Any], x: Inputs) -> Any:
        """``work(x)``, as the one forward pass that DistributedDataParallel sees: its averaging
        needs exactly one.
        """
        if self.parallel is None:
            return work(x)
        inside = self.parallel.module
        self.parallel.module = _Forward(work, inside)
        try:
            return self.parallel(x)
        finally:
            self.parallel.module = inside

    def check_differentiable(self, layer: str, method: str) -> None:
        """Refuse compiled modules inside: their graphs have no second derivative, and hooks cannot
        look into them.

        Raises:
            RuntimeError: names the module and the remedy.
        """
        for name in compiled_parts(self.plain):
            if method != "finite_difference":
                raise RuntimeError(
                    f"model: expected no compiled module inside (a compiled graph has no second "
                    f"derivative), got "
                    f"{name or 'model.compile()'!r}; do torch.compile(model) around the whole, or "
                    f"method='finite_difference'"
                )
            if not name or layer == name or layer.startswith(f"{name}."):
                raise RuntimeError(
                    f"model: expected a layer outside compiled modules, got {layer!r} inside "
                    f"{name or 'model.compile()'!r}; do torch.compile(model) around the whole"
                )


class _Forward(nn.Module):
    """A function with the face of the module inside, whose buffers the wrapper sends at each
    forward pass.
    """

    def __init__(self, work: Callable[[Inputs], Any], inside: nn.Module) -> None:
        super().__init__()
        self.work = work
        self.inside = inside

    def forward(self, x: Inputs) -> Any:
        return self.work(x)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        return self.inside.named_buffers(*args, **kwargs)


def _is_sharded(model: nn.Module) -> bool:
    """Whether a parameter is spread over processes (``fully_shard``, ``FullyShardedDataParallel``)."""
    is_wrapped = any(
        type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()
    )
    return is_wrapped or any(
        type(parameter).__name__ == "DTensor" for parameter in model.parameters()
    )


def compiled_parts(model: nn.Module) -> list[str]:
    """The names of the modules that torch.compile has wrapped, or whose ``compile()`` was called."""
    return [
        name
        for name, module in model.named_modules()
        if COMPILED in module._modules or module._compiled_call_impl is not None
    ]


def uncompiled_name(name: str) -> str:
    """The name of a module as it was before torch.compile put a wrapper around some of those above
    it.

    Examples:
        >>> uncompiled_name("_orig_mod.layer1.0"), uncompiled_name("body._orig_mod")
        ('layer1.0', 'body')
    """
    return ".".join(part for part in name.split(".") if part != COMPILED)


def without_graphs(model: nn.Module | None) -> AbstractContextManager[None]:
    """Inside, a compiled model runs its own code: hooks do not reach the graphs of torch.compile."""
    if model is None or not compiled_parts(model):
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def without_data_parallel(model: _T) -> _T:
    """The module inside DistributedDataParallel, whose own forward pass waits for the other
    processes at each batch.

    A wrapper of torch.compile around it goes with it.

    Raises:
        ValueError: DistributedDataParallel around a part of the model, which cannot be taken off.
    """
    inner: Any = model
    while isinstance(inner, nn.Module):
        if isinstance(inner, nn.parallel.DistributedDataParallel):
            model = inner = inner.module
        elif COMPILED in inner._modules:
            inner = inner._modules[COMPILED]
        else:
            break
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise ValueError(
                f"model: expected DistributedDataParallel around the whole model or nowhere, got "
                f"it at {name!r}, where "
                f"it waits for the other processes at each batch; do put its .module there to "
                f"measure"
            )
    return model
