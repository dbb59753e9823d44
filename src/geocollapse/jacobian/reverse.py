"""Vector-Jacobian products J^T v on an existing graph: one backward pass each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def pull_back(
    features: Tensor, leaf: Tensor, vectors: Iterable[Tensor], *, keep_graph: bool
) -> Iterator[Tensor]:
    """J^T v (n, ...) of each example for one v (n, p) or (p,) after the other; the last frees the
    graph.
    """
    for v, following in pairwise(chain(vectors, [None])):
        vector = v.to(features.dtype).expand_as(features)  # type: ignore[union-attr]
        keep = keep_graph or following is not None
        with in_right_order(leaf):
            (gradient,) = torch.autograd.grad(
                features, leaf, vector, retain_graph=keep, materialize_grads=True
            )
        yield gradient


def in_right_order(leaf: Tensor) -> AbstractContextManager[Any]:
    """Inside, batch normalisation passes the gradient of a single example back in the right order.

    torch (2.14, on the CPU) takes a gradient of one example whose channels come last for one whose
    channels come first, as behind the tokens of LeViT or XCiT, and permutes its entries.
    """
    return _Contiguous() if len(leaf) == 1 else nullcontext()


class _Contiguous(TorchDispatchMode):
    """Hands batch normalisation's backward pass contiguous gradients."""

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.native_batch_norm_backward.default:
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


def unit_vectors(
    n_features: int, like: Tensor, rows: Iterable[int] | None = None
) -> Iterator[Tensor]:
    """e_j (p,) for each row j, all of them by default."""
    for row in range(n_features) if rows is None else rows:
        vector = like.new_zeros(n_features)
        vector[row] = 1.0
        yield vector
