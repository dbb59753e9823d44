"""Vectors in parameter space as trees: one tensor for each name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from geocollapse.numerics import accumulation_dtype

Tree = dict[str, Tensor]
Field = Callable[[Tree], Tree]


def inner(a: Tree, b: Tree) -> Tensor:
    """The inner product <a, b> (0-d), summed in float64 where the device has it."""
    wide = accumulation_dtype(next(iter(a.values())).device)
    products = [(a[name].to(wide) * b[name].to(wide)).sum() for name in a]
    return torch.stack([product.to(products[0].device) for product in products]).sum()


def squared_norm(a: Tree) -> float:
    """||a||^2."""
    return float(inner(a, a))


def norm(a: Tree) -> float:
    """||a||."""
    return math.sqrt(squared_norm(a))


def cosine(a: Tree, b: Tree) -> float:
    """<a, b>/(||a|| ||b||) in [-1, 1]; NaN where one of both is zero."""
    sizes = norm(a) * norm(b)
    return min(1.0, max(-1.0, float(inner(a, b)) / sizes)) if sizes > 0.0 else math.nan


def scaled(a: Tree, factor: float) -> Tree:
    """factor a."""
    return {name: factor * tensor for name, tensor in a.items()}


def plus(a: Tree, b: Tree, factor: float = 1.0) -> Tree:
    """a + factor b."""
    return {name: tensor + factor * b[name] for name, tensor in a.items()}


def minus(a: Tree, b: Tree) -> Tree:
    """a - b."""
    return plus(a, b, -1.0)


def zeros(like: Tree) -> Tree:
    """The zero vector."""
    return {name: torch.zeros_like(tensor) for name, tensor in like.items()}


def flat(a: Tree) -> Tensor:
    """One float64 vector (n,) on the CPU of all entries, in the order of the names."""
    return torch.cat([tensor.detach().reshape(-1).cpu().double() for tensor in a.values()])


def unflat(vector: Tensor, like: Tree) -> Tree:
    """The tree of a vector (n,), in the shapes, dtypes and on the devices of ``like``."""
    parts = vector.split([tensor.numel() for tensor in like.values()])
    return {
        name: part.view_as(tensor).to(tensor)
        for part, (name, tensor) in zip(parts, like.items(), strict=True)
    }


def n_entries(a: Tree) -> int:
    """The dimension of the space."""
    return sum(tensor.numel() for tensor in a.values())


def check_tree(name: str, tree: Mapping[str, Tensor], like: Tree) -> Tree:
    """Return ``tree`` in the order, the dtypes and on the devices of ``like``.

    Raises:
        ValueError: other names or shapes.
    """
    different = sorted(tree.keys() ^ like.keys())
    if different:
        raise ValueError(
            f"{name}: expected a tensor for each trained parameter, got a difference at "
            f"{different[0]!r}; do {{name: ... for name, p in model.named_parameters() if "
            f"p.requires_grad}}"
        )
    for key, tensor in like.items():
        if tree[key].shape != tensor.shape:
            raise ValueError(
                f"{name}: expected shape {tuple(tensor.shape)} at {key!r}, got "
                f"{tuple(tree[key].shape)}; do use the parameter's shape"
            )
    return {key: tree[key].detach().to(tensor) for key, tensor in like.items()}
