"""The caller's model is borrowed: measured in evaluation mode, handed back as it was, also after an
exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from geocollapse.features.wrapped import without_graphs


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


def _cuda_devices(model: nn.Module | None) -> list[int]:
    tensors = [] if model is None else [*model.parameters(), *model.buffers()]
    return sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})


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
