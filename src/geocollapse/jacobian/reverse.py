"""Vector-Jacobian products J^T v on an existing graph: one backward pass each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

import torch
from torch import Tensor


def pull_back(features: Tensor, leaf: Tensor, vectors: Iterable[Tensor], *, keep_graph: bool) -> Iterator[Tensor]:
    """J^T v (n, ...) of each example for one v (n, p) or (p,) after the other; the last frees the graph."""
    for v, following in pairwise(chain(vectors, [None])):
        vector = v.to(features.dtype).expand_as(features)  # type: ignore[union-attr]
        keep = keep_graph or following is not None
        (gradient,) = torch.autograd.grad(features, leaf, vector, retain_graph=keep, materialize_grads=True)
        yield gradient


def unit_vectors(n_features: int, like: Tensor, rows: Iterable[int] | None = None) -> Iterator[Tensor]:
    """e_j (p,) for each row j, all of them by default."""
    for row in range(n_features) if rows is None else rows:
        vector = like.new_zeros(n_features)
        vector[row] = 1.0
        yield vector
