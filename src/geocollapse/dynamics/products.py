"""Products of a Hessian with vectors, by three methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from geocollapse.dynamics.rounding import SeesHalves, coarse_setting
from geocollapse.dynamics.trees import Tree, minus, n_entries, norm, plus, scaled, zeros
from geocollapse.modules.second_derivatives import is_cut, plain_attention, twice_differentiable

if TYPE_CHECKING:
    from geocollapse.dynamics.losses import Landscape

Method = Literal["double_backward", "forward_over_reverse", "finite_difference"]
Product = Callable[[Tree], Tree]


@dataclass(frozen=True)
class Expansion:
    """A loss near a point, to second order.

    Attributes:
        value: E, 0-d.
        gradient: g; zero in parameters that the loss does not depend on.
        product: v -> H v, to be applied to many vectors.
        touched: the names of the parameters that the loss depends on.
    """

    value: Tensor
    gradient: Tree
    product: Product
    touched: frozenset[str]


_FORWARD = "forward_over_reverse"
# Words in torch's errors about operations without the derivative that is asked for.
_REFUSALS = (
    *("derivative", "differentiate", "forward ad", "forward mode", "jvp"),
    *("functorch", "torch.func"),
)


def double_backward(landscape: Landscape, at: Tree, partial: bool) -> Expansion:
    """grad <g, v>: one graph of the gradient, kept, and one backward pass through it a product."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in at.items()}
    with _refused(_FORWARD), twice_differentiable():
        value, found = landscape.differentiate(leaves, create_graph=True)
    if not partial:
        landscape.check_paths(found)
    curved = {name: g for name, g in found.items() if g is not None and g.requires_grad}
    if is_cut(*curved.values()):
        raise _no_second_derivative("an operation that is once_differentiable", _FORWARD)

    def pull_back(vectors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            list(curved.values()),
            list(leaves.values()),
            vectors,
            retain_graph=True,
            allow_unused=True,
        )
        return gradients

    def product(v: Tree) -> Tree:
        if not curved:
            return zeros(at)
        vectors = [v[name].to(g) for name, g in curved.items()]
        with _refused(_FORWARD), twice_differentiable():
            rows = landscape.within(leaves, lambda: pull_back(vectors))
        return filled(dict(zip(leaves, rows, strict=True)), at)

    return Expansion(value.detach(), filled(found, at), product, touched(found))


def forward_over_reverse(landscape: Landscape, at: Tree, partial: bool) -> Expansion:
    """d/dt g(theta + t v): the gradient itself in forward mode, without a graph of it."""
    value, found = landscape.value_and_paths(at)  # with the checks, which torch.func hides
    if not partial:
        landscape.check_paths(found)

    def product(v: Tree) -> Tree:
        with _refused("double_backward"), plain_attention():
            tangent = torch.func.jvp(landscape.pure_gradient, (at,), (v,))[1]
        return {name: z.detach() for name, z in tangent.items()}

    return Expansion(value.detach(), filled(found, at), product, touched(found))


def finite_difference(landscape: Landscape, at: Tree, partial: bool) -> Expansion:
    """(g(theta + t u) - g(theta - t u))/(2 t) ||v|| with u = v/||v||, of error O(t^2)."""
    if (got := coarse_setting(at)) is not None:
        raise _too_coarse(got)
    with SeesHalves() as seen:
        value, found = landscape.value_and_paths(at)
    if not partial:
        landscape.check_paths(found)
    if seen.dtype is not None:
        raise _too_coarse(str(seen.dtype))
    step = _step(at)

    def product(v: Tree) -> Tree:
        size = norm(v)
        if size == 0.0:
            return zeros(at)
        ahead = landscape.gradient(plus(at, v, step / size), partial=partial)
        behind = landscape.gradient(plus(at, v, -step / size), partial=partial)
        return scaled(minus(ahead, behind), size / (2.0 * step))

    return Expansion(value.detach(), filled(found, at), product, touched(found))


METHODS: dict[str, Callable[[Landscape, Tree, bool], Expansion]] = {
    "double_backward": double_backward,
    "forward_over_reverse": forward_over_reverse,
    "finite_difference": finite_difference,
}


def _step(at: Tree) -> float:
    """t: the cube root of the rounding unit times the typical size of a parameter, at least 1."""
    dtype = next(iter(at.values())).dtype
    size = norm(at) / math.sqrt(n_entries(at))
    return float(torch.finfo(dtype).eps ** (1 / 3)) * max(1.0, size)


def _too_coarse(got: str) -> TypeError:
    return TypeError(
        f"method: expected float32 or float64, as coarser rounding drowns a finite difference, got "
        f"{got}; do method='double_backward'"
    )


def touched(found: Mapping[str, Tensor | None]) -> frozenset[str]:
    """The names with a gradient path."""
    return frozenset(name for name, gradient in found.items() if gradient is not None)


def filled(found: Mapping[str, Tensor | None], like: Tree) -> Tree:
    """Zeros in place of None, without graphs."""
    rows = {}
    for name, tensor in like.items():
        row = found[name]
        rows[name] = torch.zeros_like(tensor) if row is None else row.detach()
    return rows


@contextmanager
def _refused(other: str) -> Iterator[None]:
    """Name the method to use where torch lacks a derivative.

    Raises:
        NotImplementedError: an operation without the derivative.
    """
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        if not any(word in str(error).lower() for word in _REFUSALS):
            raise
        raise _no_second_derivative(repr(str(error).splitlines()[0]), other) from error


def _no_second_derivative(got: str, other: str) -> NotImplementedError:
    return NotImplementedError(
        f"method: expected a loss with second derivatives, got {got}; do method={other!r}, or for "
        f"a smooth loss method='finite_difference'"
    )
