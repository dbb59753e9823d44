"""A batch in pieces: the share that is penalised, and the outputs of all pieces joined again."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from geocollapse.features.entry import run_model
from geocollapse.inputs import Inputs, n_rows, rows_of, tensors_of
from geocollapse.jacobian.probes import random_order
from geocollapse.modules.borrow import cuda_devices
from geocollapse.modules.wrapped import Wrapping
from geocollapse.runtime.processes import share

_T = TypeVar("_T")

_STRIDE = 1 << 24  # examples of different steps and processes have different numbers
# On a CPU, inputs that go through together: few enough that the allocator reuses their memory.
_PIECE_BYTES = 1 << 20
_MIN_PIECE = 32  # examples


def example_numbers(step: int, x: Inputs) -> Tensor:
    """A number (n,) for each example, unique to its step, process and row: what probes hash."""
    rank, n_processes = share()
    rows = torch.arange(n_rows(x), device=tensors_of(x)[0].device)
    return (step * n_processes + rank) * _STRIDE + rows


@dataclass(frozen=True)
class BatchShare:
    """The rows of a batch in the order they go through the model, the penalised ones first.

    Attributes:
        order: (n,) rows of the batch.
        n_penalised: how many of them are penalised.
    """

    order: Tensor
    n_penalised: int

    @classmethod
    def drawn(cls, fraction: float, numbers: Tensor, seed: int) -> BatchShare:
        """Draw a share of at least one example by the hash of the seed and ``numbers`` (n,)."""
        n_examples = len(numbers)
        n_penalised = max(1, round(fraction * n_examples))
        if n_penalised == n_examples:
            return cls(torch.arange(n_examples, device=numbers.device), n_penalised)
        return cls(random_order(seed, numbers) - numbers[0], n_penalised)

    @property
    def rows(self) -> Tensor:
        """The penalised rows."""
        return self.order[: self.n_penalised]

    @property
    def others(self) -> Tensor:
        """The other rows."""
        return self.order[self.n_penalised :]

    def joined(self, outputs: list[object]) -> object:
        """The outputs of consecutive parts of ``order`` as one, in the order of the batch."""
        if len(outputs) == 1:
            return outputs[0]  # all rows, in their own order
        places = self.order.argsort()
        return tree_map(
            lambda *parts: None if parts[0] is None else torch.cat(parts)[places], *outputs
        )


def pieces(x: Inputs) -> list[slice]:
    """Rows that go through together: all on an accelerator, about 1 MB of inputs on a CPU.

    The graph of a batch takes the same memory in pieces, but its tensors are small enough for the
    allocator to reuse. The system maps and clears large ones at each step, a tenth of its time.
    """
    tensors = tensors_of(x)
    if tensors[0].device.type != "cpu":
        return [slice(None)]
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    n_pieces = math.ceil(n_bytes / _PIECE_BYTES)
    size = max(_MIN_PIECE, math.ceil(n_rows(x) / max(1, n_pieces)))
    return [slice(start, start + size) for start in range(0, n_rows(x), size)]


def plain_outputs(wrapped: Wrapping, x: Inputs) -> list[object]:
    """The model's outputs for examples that are not penalised, one entry a piece.

    A compiled model takes them in one piece, to see as few shapes as possible.
    """
    if n_rows(x) == 0:
        return []
    parts = pieces(x) if wrapped.main is wrapped.plain else [slice(None)]
    return [run_model(wrapped.main, rows_of(x, part)) for part in parts]


def beside(
    wrapped: Wrapping,
    x: Inputs,
    penalise: Callable[[], _T],
    *,
    within: AbstractContextManager[None],
    draws_apart: bool,
) -> tuple[object, _T]:
    """The output of a forward pass of the whole batch, and the penalised passes after it.

    Args:
        wrapped: the model.
        x: the batch.
        penalise: runs the penalised passes.
        within: entered around them, such as ``running_statistics``.
        draws_apart: leave the random state as the forward pass alone leaves it.
    """
    output = run_model(wrapped.main, x)
    devices = cuda_devices(wrapped.plain)
    with torch.random.fork_rng(devices=devices) if draws_apart else nullcontext(), within:
        return output, penalise()


def no_penalty(x: Inputs) -> Tensor:
    """The penalty of a step that is not due: 0, in the dtype and on the device of ``x``."""
    first = tensors_of(x)[0]
    dtype = first.dtype if first.is_floating_point() else None
    return torch.zeros((), dtype=dtype, device=first.device)
