"""A dense map for features and other vectors, which a saved detector can be rebuilt with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geocollapse.arrays import Array, as_tensor
from geocollapse.numerics import check_finite


class DenseMap(nn.Module):
    """Layers of ReLUs behind a fixed shift and scaling of each input.

    Attributes:
        n_inputs: p.
        n_outputs: k.
        hidden: widths of the hidden layers.
        mean: subtracted from the inputs, (p,); a part of the ``state_dict``.
        std: they are divided by it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, n_inputs: int, n_outputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = (n_inputs, *hidden, n_outputs)
        if min(widths) < 1:
            raise ValueError(
                f"hidden: expected widths of at least 1, got {widths}; do hidden=(64, 64)"
            )
        self.n_inputs = n_inputs
        self.n_outputs = n_outputs
        self.hidden = tuple(hidden)
        self.register_buffer("mean", torch.zeros(n_inputs))
        self.register_buffer("std", torch.ones(n_inputs))
        pairs = itertools.pairwise(widths)
        layers = [part for a, b in pairs for part in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, k) of inputs (n, p).

        Raises:
            ValueError: inputs of another width.
        """
        if x.ndim != 2 or x.shape[1] != self.n_inputs:
            raise ValueError(
                f"x: expected features (n, {self.n_inputs}), as the map was built for, got "
                f"{tuple(x.shape)}; do take those of the same layer"
            )
        return self.layers((x - self.mean) / self.std)


def dense_map(
    n_inputs: int,
    n_outputs: int = 16,
    *,
    hidden: Sequence[int] = (64, 64),
    like: Array | None = None,
    seed: int = 0,
) -> DenseMap:
    """Build a dense map phi for a Morse network, with seeded weights.

    Args:
        n_inputs: p.
        n_outputs: k.
        hidden: widths of the hidden layers.
        like: data (n, p) whose mean and standard deviation become those of the map, so that inputs
            of any unit have the same size; None for none.
        seed: of the weights. The global random state is left alone.

    Raises:
        ValueError: a width below 1, or data that are not (n, p) or have NaN.

    Examples:
        >>> dense_map(3, 2)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = DenseMap(n_inputs, n_outputs, hidden)
    if like is not None:
        data = as_tensor("like", like)
        if data.ndim != 2 or data.shape[1] != n_inputs:
            raise ValueError(
                f"like: expected data (n, {n_inputs}), got {tuple(data.shape)}; do x.flatten(1)"
            )
        check_finite("like", data)
        found.mean.copy_(data.double().mean(dim=0))
        std = data.double().std(dim=0, correction=0)
        found.std.copy_(torch.where(std > 0.0, std, 1.0))
    return found
