"""The principal flow: the flow that gradient descent follows exactly on quadratics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geocollapse.dynamics.corridor import check_lr
from geocollapse.dynamics.eigenvalues import Eigenvalues, Solver, dense_hessian
from geocollapse.dynamics.losses import BatchNorm, Landscape, Loss, landscape
from geocollapse.dynamics.products import Method, Product
from geocollapse.dynamics.trees import Field, Tree, inner, n_entries, plus, scaled, unflat, zeros
from geocollapse.models import LoadedModel
from geocollapse.modules.second_derivatives import plain_attention

_MOST_ENTRIES = 2000  # up to which the whole Hessian is formed
_LEAST_FACTOR = 2.0**-52


@dataclass(frozen=True)
class PrincipalFlow:
    """The velocity of the principal flow at a point.

    Attributes:
        field: its real part, a tree.
        imaginary: its imaginary part, a tree; zero where no h lambda is over 1.
        eigenvalues: (k,) lambda_i of the directions that are corrected.
        coefficients: (k,) log(1 - h lambda_i)/(h lambda_i), complex128; -1 for gradient flow.
        projections: (k,) <g, u_i>.
    """

    field: Tree = dataclasses.field(repr=False)
    imaginary: Tree = dataclasses.field(repr=False)
    eigenvalues: Tensor
    coefficients: Tensor
    projections: Tensor


def principal_flow(
    model: nn.Module | LoadedModel,
    loss: Loss,
    lr: float = 0.1,
    k: int | None = None,
    *,
    third_order: bool = False,
    tolerance: float = 1e-6,
    method: Method = "double_backward",
    batch_norm: BatchNorm = "refuse",
) -> PrincipalFlow:
    """The velocity of the principal flow, which gradient descent follows exactly on quadratics.

        theta' = sum_i log(1 - h lambda_i)/(h lambda_i) <g, u_i> u_i             k = None
        theta' = -g + sum_{i <= k} (1 + log(1 - h lambda_i)/(h lambda_i)) <g, u_i> u_i

    with the complex logarithm: real where h lambda < 1, and oscillating above. One step of size h
    ends at its time h up to O(h^3); with ``third_order`` the term -h^2/12 g^T (grad^3 E) g makes
    that O(h^4). It is not always nearer to gradient descent than the flow of E + h/4 ||g||^2 where
    third derivatives matter. At h lambda = 1, where a step removes the direction, |1 - h lambda| is
    taken as 2^-52. Cost: one product a parameter for None (at most 2000 parameters); else the
    eigenvalues, see ``sharpness``.

    Source: Rosca, Wu, Qin, Dherin (2023), arXiv 2302.01952, the principal flow.

    Args:
        model: any module.
        loss: from the module to a 0-d tensor.
        lr: h.
        k: directions of largest |lambda| to correct; None for all, with the whole Hessian.
        third_order: add the third-order term, by two levels of forward mode.
        tolerance: relative accuracy of the eigenvalues.
        method: of the products; see ``hessian_vector_product``.
        batch_norm: see ``landscape``.

    Raises:
        ValueError: ``lr`` that is not positive, k out of range, k = None with more than 2000
            parameters; see ``gradient``.
        RuntimeError: eigenvalues that do not converge, a Hessian that is not symmetric, batch
            normalisation in training mode.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> found = principal_flow(model, lambda m: 2.0 * m.weight.square().sum(), lr=0.1)
        >>> x = model.weight.detach()
        >>> end = torch.exp(0.1 * found.field["weight"] / x) * x  # the flow's end at time h
        >>> bool((end - 0.6 * x).abs() < 1e-12)  # a step: x - 0.1 * 4 x
        True
    """
    check_lr(lr)
    with landscape(model, loss, batch_norm=batch_norm) as found:
        settings = _Settings(lr, k, third_order, tolerance, method)
        return _principal(found, found.point, settings)


def principal_field(
    found: Landscape, lr: float, k: int | None = None, *, third_order: bool = False
) -> Field:
    """The real part of the principal flow as a field for ``flow``; see ``principal_flow``.

    Examples:
        >>> from geocollapse.dynamics import flow
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> with landscape(model, lambda m: 2.0 * m.weight.square().sum()) as found:
        ...     end = flow(principal_field(found, lr=0.1), found.point, 0.1, n_steps=20)
        >>> bool((end["weight"] - 0.6 * model.weight).abs() < 1e-7)
        True
    """
    check_lr(lr)
    settings = _Settings(lr, k, third_order, 1e-6, "double_backward")
    return lambda at: _principal(found, at, settings).field


@dataclass(frozen=True)
class _Settings:
    """The settings of ``principal_flow``."""

    lr: float
    k: int | None
    third_order: bool
    tolerance: float
    method: Method


def _principal(found: Landscape, at: Tree, settings: _Settings) -> PrincipalFlow:
    here = found.expand(at, method=settings.method)
    if settings.k is None:
        spectrum = _whole(here.product, at)
    else:
        solver = Solver(tolerance=settings.tolerance)
        spectrum = solver.solve(here.product, at, settings.k, which="magnitude")
    coefficients = principal_coefficients(settings.lr * spectrum.values)
    projections = torch.stack([inner(here.gradient, u).cpu() for u in spectrum.vectors]).double()
    weights = projections * (coefficients + 1.0)
    real = plus(scaled(here.gradient, -1.0), _combined(weights.real, spectrum.vectors, at))
    if settings.third_order:
        third = _third_derivative(found, at, here.gradient)
        real = plus(real, third, -(settings.lr**2) / 12.0)
    imaginary = _combined(weights.imag, spectrum.vectors, at)
    return PrincipalFlow(real, imaginary, spectrum.values, coefficients, projections)


def principal_coefficients(products: Tensor) -> Tensor:
    """log(1 - z)/z of z = h lambda, complex128; -1 at 0, with |1 - z| of at least 2^-52.

    Examples:
        >>> principal_coefficients(torch.tensor([0.0, 0.5])).real.round(decimals=4)
        tensor([-1.0000, -1.3863], dtype=torch.float64)
    """
    z = products.double()
    size = torch.where(z < 0.5, torch.log1p(-z.clamp(max=0.5)), _log_of(z - 1.0))
    phase = math.pi * (z > 1.0).double()
    nonzero = torch.where(z == 0.0, 1.0, z)
    return torch.where(z == 0.0, -1.0 + 0j, torch.complex(size, phase) / nonzero)


def _log_of(difference: Tensor) -> Tensor:
    return difference.abs().clamp(min=_LEAST_FACTOR).log()


def _combined(weights: Tensor, vectors: Sequence[Tree], like: Tree) -> Tree:
    """sum_i weights_i u_i."""
    total = zeros(like)
    for weight, vector in zip(weights.tolist(), vectors, strict=True):
        total = plus(total, vector, weight)
    return total


def _whole(product: Product, at: Tree) -> Eigenvalues:
    """All eigenvalues, by the whole Hessian."""
    n = n_entries(at)
    if n > _MOST_ENTRIES:
        raise ValueError(
            f"k: expected a number of directions for a model of {n} parameters, got None, which "
            f"forms the whole Hessian of at most {_MOST_ENTRIES}; do k=10"
        )
    values, vectors = torch.linalg.eigh(dense_hessian(product, at))
    trees = [unflat(u, at) for u in vectors.T]
    return Eigenvalues(values, torch.zeros_like(values), trees, n)


def _third_derivative(found: Landscape, at: Tree, g: Tree) -> Tree:
    """g^T (grad^3 E) g: the second derivative of the gradient along g, which is held fixed."""

    def along(here: Tree) -> Tree:
        tangent: Tree = torch.func.jvp(found.pure_gradient, (here,), (g,))[1]
        return tangent

    with plain_attention():
        tangent: Tree = torch.func.jvp(along, (at,), (g,))[1]
    return {name: z.detach() for name, z in tangent.items()}
