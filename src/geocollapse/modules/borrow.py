"""A caller's model on loan: handed back as it was, also after an exception."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from geocollapse.modules.wrapped import without_graphs


@contextmanager
def borrowed(model: nn.Module | None, *, evaluation: bool = True) -> Iterator[None]:
    """Freeze the parameters of ``model`` and put it in evaluation mode while the block runs.

    Afterwards training modes, gradient flags, buffers and torch's random state are as before. A
    compiled model runs without its graphs, which hooks do not reach. Inside
    ``torch.inference_mode``, which has no gradients at all, the block leaves that mode.

    Args:
        model: the module; None, for a callable whose modules cannot be seen, protects the random
            state alone.
        evaluation: put every module in evaluation mode; else each keeps its own.

    Raises:
        RuntimeError: parameters made in ``torch.inference_mode``, which can have no gradients.
    """
    modules = [] if model is None else list(model.modules())
    named = {} if model is None else dict(model.named_parameters())
    parameters = list(named.values())
    modes = [module.training for module in modules]
    flags = [parameter.requires_grad for parameter in parameters]
    buffers = [_Buffers(module) for module in modules]
    _check_parameters(named)
    with (
        torch.random.fork_rng(devices=cuda_devices(model)),
        without_graphs(model),
        torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext(),
    ):
        try:
            for parameter in parameters:
                parameter.requires_grad_(False)
            if evaluation and model is not None:
                model.eval()
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for parameter, flag in zip(parameters, flags, strict=True):
                parameter.requires_grad_(flag)
            for saved in buffers:
                saved.restore()


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put ``model`` in training or evaluation mode while the block runs, then in its own."""
    was_training = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(was_training)


def _check_parameters(named: Mapping[str, nn.Parameter]) -> None:
    """Refuse a model whose parameters have no shape yet, or can have no gradients."""
    lazy = [name for name, parameter in named.items() if is_lazy(parameter)]
    if lazy:
        raise RuntimeError(
            f"model: expected parameters with a shape, got {lazy[0]} of a lazy module that has "
            f"seen no input; do model(x) once"
        )
    made_inside = [name for name, parameter in named.items() if parameter.is_inference()]
    if made_inside:
        raise RuntimeError(
            f"model: expected parameters made outside torch.inference_mode(), got {made_inside[0]} "
            f"and {len(made_inside) - 1} more made inside, which allow no gradients; do build or "
            f"load the model outside"
        )


def cuda_devices(model: nn.Module | None) -> list[int]:
    """The CUDA devices that hold parameters or buffers of ``model``."""
    tensors = [] if model is None else [*model.parameters(), *model.buffers()]
    return sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})


def random_state(model: nn.Module | None) -> Tensor:
    """The state of torch's random numbers, on the CPU and the devices of ``model``."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states += map(torch.cuda.get_rng_state, cuda_devices(model))
    return torch.cat(states)


class _Buffers:
    """A module's own buffers, their names and values, to be restored later."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._tensors = dict(module._buffers.items())
        self._non_persistent = set(module._non_persistent_buffers_set)
        tensors = [tensor for tensor in self._tensors.values() if tensor is not None]
        self._saved = [(tensor, tensor.detach(), tensor.detach().clone()) for tensor in tensors]

    def restore(self) -> None:
        """Drop the buffers that were registered since, and put the others back."""
        buffers = self._module._buffers
        for name in buffers.keys() - self._tensors.keys():
            del buffers[name]
        for name, tensor in self._tensors.items():
            buffers[name] = tensor
        self._module._non_persistent_buffers_set.clear()
        self._module._non_persistent_buffers_set.update(self._non_persistent)
        with torch.no_grad():
            for tensor, storage, value in self._saved:
                if not torch.equal(tensor, value):
                    tensor.data = storage  # it may have been swapped for one of another size
                    tensor.copy_(value)
