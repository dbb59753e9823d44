"""Models inside torch.compile or DistributedDataParallel: how to unwrap them and run them again."""

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
    """A caller's model and the modules inside its wrappers.

    Attributes:
        plain: the innermost module, whose layers have their own names; penalised examples go
            through it.
        main: the module for all other examples: the compiled one if there is one, else ``plain``.
        parallel: the wrapper that averages gradients over processes, or None.
    """

    plain: nn.Module
    main: nn.Module
    parallel: DistributedDataParallel | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Wrapping:
        """Unwrap ``model``.

        Raises:
            TypeError: not a module; DataParallel or sharded parameters, through which no graph can
                be kept.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model: expected a torch.nn.Module, got {type(model).__name__}; do wrap it in a "
                f"module"
            )
        if _is_sharded(model):
            raise TypeError(
                "model: expected whole parameters, got those that FSDP has sharded over processes; "
                "do DistributedDataParallel(model)"
            )
        plain = model
        main = model
        parallel: DistributedDataParallel | None = None
        while True:
            if isinstance(plain, DataParallel):
                raise TypeError(
                    "model: expected one replica for each process, got DataParallel; do "
                    "DistributedDataParallel(model.module)"
                )
            if isinstance(plain, DistributedDataParallel):
                parallel = plain
                main = plain.module
                plain = plain.module
            elif isinstance(original := getattr(plain, COMPILED, None), nn.Module):
                plain = original
            else:
                return cls(plain, main, parallel)

    def run(self, work: Callable[[Inputs], _T], x: Inputs) -> _T:
        """Run ``work(x)`` as one forward pass of DistributedDataParallel, if there is one.

        Its averaging of gradients needs exactly one forward pass.
        """
        if self.parallel is None:
            return work(x)
        inside = self.parallel.module
        self.parallel.module = _Forward(work, inside)
        try:
            output: _T = self.parallel(x)
            return output
        finally:
            self.parallel.module = inside

    def check_differentiable(self, layer: str, method: str) -> None:
        """Refuse compiled parts: graphs without a second derivative, which hooks do not reach.

        Raises:
            RuntimeError: names the module and the remedy.
        """
        for name in compiled_parts(self.plain):
            if method != "finite_difference":
                raise RuntimeError(
                    f"model: expected no compiled module inside (a compiled graph has no second "
                    f"derivative), got {name or 'model.compile()'!r}; do torch.compile(model) "
                    f"around the whole, or method='finite_difference'"
                )
            if not name or layer == name or layer.startswith(f"{name}."):
                raise RuntimeError(
                    f"model: expected a layer outside compiled modules, got {layer!r} inside "
                    f"{name or 'model.compile()'!r}; do torch.compile(model) around the whole"
                )


class _Forward(nn.Module):
    """A function in place of the module inside DistributedDataParallel.

    It has that module's buffers, which the wrapper sends to all processes at each forward pass.
    """

    def __init__(self, work: Callable[[Inputs], object], inside: nn.Module) -> None:
        super().__init__()
        self.work = work
        self.inside = inside

    def forward(self, x: Inputs) -> object:
        return self.work(x)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        return self.inside.named_buffers(prefix, recurse, remove_duplicate)


def _is_sharded(model: nn.Module) -> bool:
    """True if FSDP has sharded the parameters over processes, by wrapper or ``fully_shard``."""
    is_wrapped = any(
        type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()
    )
    return is_wrapped or any(
        type(parameter).__name__ == "DTensor" for parameter in model.parameters()
    )


def compiled_parts(model: nn.Module) -> list[str]:
    """The names of the modules that torch.compile wraps, or whose ``compile()`` was called."""
    return [
        name
        for name, module in model.named_modules()
        if COMPILED in module._modules or module._compiled_call_impl is not None
    ]


def uncompiled_name(name: str) -> str:
    """The name of a module before torch.compile wrapped it, or a module that holds it.

    Examples:
        >>> uncompiled_name("_orig_mod.layer1.0"), uncompiled_name("body._orig_mod")
        ('layer1.0', 'body')
    """
    return ".".join(part for part in name.split(".") if part != COMPILED)


def without_graphs(model: nn.Module | None) -> AbstractContextManager[None]:
    """Run a compiled model uncompiled while the block runs: hooks do not reach its graphs."""
    if model is None or not compiled_parts(model):
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def without_data_parallel(model: _T) -> _T:
    """The module inside DistributedDataParallel, or ``model`` itself if it is not wrapped.

    The wrapper's forward pass would wait for the other processes at each batch. A wrapper of
    torch.compile around it is removed as well.

    Raises:
        ValueError: DistributedDataParallel around a part of the model, which cannot be removed.
    """
    inner: Any = model
    while isinstance(inner, nn.Module):
        if isinstance(inner, DistributedDataParallel):
            inner = inner.module
            model = inner
        elif COMPILED in inner._modules:
            inner = inner._modules[COMPILED]
        else:
            break
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, DistributedDataParallel):
            raise ValueError(
                f"model: expected DistributedDataParallel around the whole model or nowhere, got "
                f"it at {name!r}, where it waits for the other processes at each batch; do "
                f"replace it by its .module to measure"
            )
    return model
