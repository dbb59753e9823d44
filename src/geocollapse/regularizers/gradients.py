"""Gradients of a training loss with their graph, to be a part of that loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from geocollapse.dynamics import BatchNorm
from geocollapse.dynamics.losses import _check_value as check_loss
from geocollapse.modules.mixing import quoted, running_statistics
from geocollapse.modules.wrapped import compiled_parts


@contextmanager
def apart(model: nn.Module, batch_norm: BatchNorm) -> Iterator[None]:
    """Run a model beside its training: it works on copies of its buffers.

    So running statistics, and the vectors of spectral normalisation, are updated by the forward
    passes of training alone.

    Args:
        model: any module.
        batch_norm: ``running`` makes batch normalisation use its running statistics.
    """
    modules = list(model.modules())
    buffers = [dict(module._buffers) for module in modules]
    copies = {id(b): b.clone() for of_one in buffers for b in of_one.values() if b is not None}
    running = running_statistics(model) if batch_norm == "running" else nullcontext()
    try:
        for module, own in zip(modules, buffers, strict=True):
            module._buffers.update({name: copies.get(id(b)) for name, b in own.items()})
        with running:
            yield
    finally:
        for module, own in zip(modules, buffers, strict=True):
            module._buffers.clear()
            module._buffers.update(own)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradients_of(
    loss: Tensor, parameters: Sequence[Tensor], *, keeps_graph: bool
) -> list[Tensor | None]:
    """The gradient of a loss in each parameter, None where it does not depend on it.

    Raises:
        TypeError, ValueError: a loss that is no finite, floating 0-d tensor.
    """
    checked = check_loss(loss)
    return list(
        torch.autograd.grad(checked, parameters, create_graph=keeps_graph, allow_unused=True)
    )


def inner_product(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> Tensor | None:
    """<a, b> (0-d), in float32 or better; None if there is no pair without None."""
    products = [
        (_wide(x) * _wide(y)).sum()
        for x, y in zip(a, b, strict=True)
        if x is not None and y is not None
    ]
    device = products[0].device if products else None
    return torch.stack([z.to(device) for z in products]).sum() if products else None


def _wide(gradient: Tensor) -> Tensor:
    is_half = gradient.dtype in (torch.float16, torch.bfloat16)
    return gradient.float() if is_half else gradient


def check_modules(model: nn.Module) -> None:
    """Refuse modules whose gradients cannot be differentiated again.

    Raises:
        RuntimeError: a compiled module inside, an embedding with sparse gradients.
    """
    compiled = compiled_parts(model)
    if compiled:
        raise RuntimeError(
            f"model: expected no compiled module inside (a compiled graph has no second "
            f"derivative), got {compiled[0] or 'model.compile()'!r}; do torch.compile(model) "
            f"around the whole"
        )
    sparse = [name for name, module in model.named_modules() if getattr(module, "sparse", False)]
    if sparse:
        raise RuntimeError(
            f"model: expected dense gradients, got sparse ones in {quoted(sparse)}; do build the "
            f"embedding with sparse=False"
        )


@contextmanager
def naming_the_loss() -> Iterator[None]:
    """Name the loss, which has no other method, in an error about a missing second derivative.

    Raises:
        NotImplementedError: an operation without a second derivative.
    """
    try:
        yield
    except NotImplementedError as error:
        if not str(error).startswith("method: "):
            raise
        reason = str(error).removeprefix("method: ").split("; do ")[0]
        raise NotImplementedError(
            f"loss: {reason}; do replace it by operations that are differentiable twice"
        ) from error
