"""The number of examples whose graphs fit into a memory limit, extrapolated from one and two."""

from __future__ import annotations

import torch
from torch import Tensor

from geocollapse.inputs import Take, track


def examples_that_fit(take: Take, x: Tensor, memory_limit: int) -> int:
    """Return how many examples like ``x[0]`` can be probed within ``memory_limit`` bytes.

    Counted are the tensors that autograd saves for the backward pass, and twice the largest of them
    for gradients in flight, but not the model's parameters. The Jacobian itself is never formed.

    Raises:
        ValueError: not even one example fits; the message says how much it takes.
    """
    pair = x[:1].expand(2, *x.shape[1:])
    alone = _saved(take, pair[:1])
    both = _saved(take, pair)
    lasting = alone.keys() & both.keys()  # parameters, which both graphs share
    one = [tensor.untyped_storage().nbytes() for key, tensor in alone.items() if key not in lasting]
    two = [tensor.untyped_storage().nbytes() for key, tensor in both.items() if key not in lasting]
    each = sum(two) - sum(one) + 2 * (max(two) - max(one))
    fixed = max(sum(one) + 2 * max(one) - each, 0)
    n_fitting = int((memory_limit - fixed) // max(each, 1))
    if n_fitting < 1:
        least = fixed + each
        raise ValueError(
            f"memory_limit: expected at least {least} bytes ({least / 1e6:.1f} MB), which the "
            f"graph of one example takes, got {memory_limit}; do memory_limit={least}, or a layer "
            "nearer to the input"
        )
    return n_fitting


def _saved(take: Take, x: Tensor) -> dict[int, Tensor]:
    """Return the distinct tensors that the graph of ``x`` keeps, by the address of their memory."""
    saved: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        leaf = track(x)
        features, _ = take(leaf)
    for tensor in (leaf, *features):
        note(tensor)
    return saved
