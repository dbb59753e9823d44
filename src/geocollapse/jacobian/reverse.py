"""Vector-Jacobian products J^T v on an existing graph, one backward pass each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, pairwise
from typing import cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def pull_back(
    features: Tensor, leaf: Tensor, vectors: Iterable[Tensor], *, keep_graph: bool
) -> Iterator[Tensor]:
    """Yield J^T v (n, ...) for each v (n, p) or (p,).

    The last one frees the graph, unless ``keep_graph``.
    """
    for v, following in pairwise(chain(vectors, [None])):
        vector = v.to(features.dtype).expand_as(features)  # type: ignore[union-attr]
        keep = keep_graph or following is not None
        with in_right_order(leaf):
            (gradient,) = torch.autograd.grad(
                features, leaf, vector, retain_graph=keep, materialize_grads=True
            )
        yield gradient


def in_right_order(leaf: Tensor) -> AbstractContextManager[object]:
    """Work around a torch bug that permutes gradients of a single example in batch normalisation.

    torch (2.14, on the CPU) mistakes a gradient of one example whose channels come last, as behind
    the tokens of LeViT or XCiT, for one whose channels come first.
    """
    return _Contiguous() if len(leaf) == 1 else nullcontext()


class _Contiguous(TorchDispatchMode):
    """Makes gradients contiguous before batch normalisation's backward pass."""

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        _types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is torch.ops.aten.native_batch_norm_backward.default:
            args = (cast(Tensor, args[0]).contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


def unit_vectors(
    n_features: int, like: Tensor, rows: Iterable[int] | None = None
) -> Iterator[Tensor]:
    """Yield e_j (p,) for each row j, all of them by default."""
    for row in range(n_features) if rows is None else rows:
        vector = like.new_zeros(n_features)
        vector[row] = 1.0
        yield vector
