"""The caller's model is borrowed: measured in evaluation mode, handed back as it was, also after an
exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain

import torch
from torch import Tensor, nn

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
COMPILED = "_orig_mod"  # the module inside torch.compile's wrapper
_DROPOUT = nn.modules.dropout._DropoutNd


@contextmanager
def borrowed(model: nn.Module | None, *, evaluation: bool = True) -> Iterator[None]:
    """Inside, no parameter of ``model`` takes a gradient and, if ``evaluation``, every module is in
    evaluation mode.

    Afterwards training modes, gradient flags, buffers and torch's random state are as before.
    ``model=None`` guards the random state alone (a callable whose modules cannot be seen). A
    compiled model runs without its graphs, which hooks do not reach.
    """
    modules = [] if model is None else list(model.modules())
    modes = [module.training for module in modules]
    flags = [
        (parameter, parameter.requires_grad)
        for parameter in ([] if model is None else model.parameters())
    ]
    buffers = [_Buffers(module) for module in modules]
    with torch.random.fork_rng(devices=_cuda_devices(model)), without_graphs(model):
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            if evaluation and model is not None:
                model.eval()
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            for saved in buffers:
                saved.restore()


def check_independent(model: nn.Module | None, *, evaluation: bool = False) -> None:
    """Refuse a model in which one example's output depends on the others of its batch, or on
    chance.

    The Jacobian of one example exists only without batch statistics, dropout and random depth
    (definitions 1).

    Args:
        model: the module, or None for a callable that cannot be looked into.
        evaluation: the model will be measured in evaluation mode, so that only layers which use
            batch statistics even there are refused.

    Raises:
        RuntimeError: names the modules and the remedy.
    """
    if model is None:
        return
    named = list(model.named_modules())
    stateless = [
        name for name, module in named if is_batch_norm(module) and module.running_mean is None
    ]
    if stateless:
        raise RuntimeError(
            f"model: expected examples that do not influence each other, got batch normalisation "
            f"without running "
            f"statistics in {_names(stateless)}; do build these layers with "
            f"track_running_stats=True"
        )
    active = [
        name for name, module in named if not evaluation and module.training and _mixes(module)
    ]
    if active:
        raise RuntimeError(
            f"model: expected evaluation mode, got batch normalisation or dropout in training mode "
            f"in "
            f"{_names(active)}; do model.eval() first"
        )


def check_batch_norm(model: nn.Module) -> None:
    """Refuse batch normalisation in training mode: a penalty on one example's Jacobian would mix
    the batch.

    Raises:
        RuntimeError: names the layers and the remedies.
    """
    active = [
        name for name, module in model.named_modules() if is_batch_norm(module) and module.training
    ]
    if active:
        raise RuntimeError(
            f"model: expected no batch normalisation in training mode, got {_names(active)}; "
            f"do batch_norm='running', which takes a second forward pass, or build the model "
            f"without it"
        )


def is_batch_norm(module: nn.Module) -> bool:
    """Whether the module normalises by the statistics of its batch when it is in training mode."""
    return isinstance(module, _BATCH_NORM)


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


def device_of(model: object) -> torch.device | None:
    """The device of the model's first parameter or buffer, None if it has none or is a plain
    callable.
    """
    first = _first_tensor(model)
    return None if first is None else first.device


def dtype_of(model: object) -> torch.dtype | None:
    """The floating dtype of the model's parameters, None if it has none or is a plain callable."""
    first = _first_tensor(model)
    return first.dtype if first is not None and first.is_floating_point() else None


def without_graphs(model: nn.Module | None) -> AbstractContextManager[None]:
    """Inside, a compiled model runs its own code: hooks do not reach the graphs of torch.compile."""
    if model is None or not compiled_parts(model):
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _first_tensor(model: object) -> Tensor | None:
    if not isinstance(model, nn.Module):
        return None
    return next(chain(model.parameters(), model.buffers()), None)


def _cuda_devices(model: nn.Module | None) -> list[int]:
    tensors = [] if model is None else [*model.parameters(), *model.buffers()]
    return sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})


def _mixes(module: nn.Module) -> bool:
    if isinstance(module, _DROPOUT):
        return module.p > 0
    return is_batch_norm(module) or type(module).__name__ in ("DropPath", "StochasticDepth")


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


class _Buffers:
    """A module's own buffers as they are: which there are, and what is in them."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._tensors = dict(module._buffers.items())
        self._passing = set(module._non_persistent_buffers_set)
        tensors = [tensor for tensor in self._tensors.values() if tensor is not None]
        self._saved = [(tensor, tensor.detach(), tensor.detach().clone()) for tensor in tensors]

    def restore(self) -> None:
        """Drop the buffers that have come since, and put the others back."""
        buffers = self._module._buffers
        for name in buffers.keys() - self._tensors.keys():
            del buffers[name]
        for name, tensor in self._tensors.items():
            buffers[name] = tensor
        self._module._non_persistent_buffers_set.clear()
        self._module._non_persistent_buffers_set.update(self._passing)
        with torch.no_grad():
            for tensor, place, value in self._saved:
                if not torch.equal(tensor, value):
                    tensor.data = place  # it may have been given another one, of another size
                    tensor.copy_(value)
