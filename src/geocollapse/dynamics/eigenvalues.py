"""The top eigenvalues of a loss's Hessian, with a check that they have converged."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from geocollapse.dynamics.losses import BatchNorm, Loss, landscape
from geocollapse.dynamics.products import Method, Product
from geocollapse.dynamics.trees import Tree, flat, n_entries, unflat
from geocollapse.estimate import GeocollapseWarning
from geocollapse.models import LoadedModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

Which = Literal["largest", "magnitude"]

_SMALL = 50  # entries up to which the whole Hessian is formed
# relative asymmetry that is rounding, through all layers and under autocast
_ASYMMETRY = {torch.float64: 1e-6}
_COARSE_ASYMMETRY = 2e-2
# vectors that Lanczos builds before it restarts, from a random vector and from a good one
_KRYLOV = 20
_KRYLOV_AGAIN = 8
_SLACK = 10.0  # a residual above this many tolerances is worth a warning


@dataclass(frozen=True)
class Eigenvalues:
    """Top eigenvalues of a Hessian, in float64.

    Attributes:
        values: (k,) eigenvalues, the largest first; by absolute value for ``magnitude``.
        residuals: (k,) ||H u_i - lambda_i u_i||, an upper bound on the distance of lambda_i from
            an eigenvalue.
        vectors: (k,) eigenvectors u_i of norm 1, as trees.
        n_products: Hessian-vector products that it took.
    """

    values: Tensor
    residuals: Tensor
    vectors: Sequence[Tree] = field(repr=False)
    n_products: int = 0

    @property
    def largest(self) -> float:
        """The first eigenvalue: the sharpness."""
        return float(self.values[0])


def sharpness(
    model: nn.Module | LoadedModel,
    loss: Loss,
    k: int = 1,
    *,
    which: Which = "largest",
    method: Method = "double_backward",
    tolerance: float = 1e-4,
    max_products: int = 1000,
    start: Tree | None = None,
    batch_norm: BatchNorm = "refuse",
) -> Eigenvalues:
    """The top eigenvalues of the Hessian of a loss, with eigenvectors and residuals.

        H u_i = lambda_i u_i,  lambda_1 >= ... >= lambda_k;  lambda_1 is the sharpness

    By ARPACK's restarted Lanczos method (``scipy.sparse.linalg.eigsh``) on Hessian-vector products;
    up to 50 parameters by the whole matrix. Scales as E, invariant to rotations of parameter space.
    Cost: 20 to 100 products of two gradients each for k = 1, more for clustered eigenvalues, and
    k + 3 for the checks; ``start`` from a previous call saves half. Memory: about max(2 k + 1, 20)
    vectors of float64 in main memory.

    Source: Lehoucq, Sorensen, Yang (1998), ARPACK; Cohen et al. (2021), arXiv 2103.00065, section
    2, for the name.

    Args:
        model: any module.
        loss: from the module to a 0-d tensor.
        k: how many eigenvalues.
        which: the ``largest``, or those of largest ``magnitude``.
        method: of the products; see ``hessian_vector_product``.
        tolerance: relative accuracy of the eigenvalues.
        max_products: products after which it gives up.
        start: a vector to start from, such as the eigenvector of the step before.
        batch_norm: see ``landscape``.

    Raises:
        ValueError: k below 1 or above the number of parameters, NaN in the Hessian; see
            ``gradient``.
        RuntimeError: eigenvalues that do not converge, products that are not symmetric, batch
            normalisation in training mode.
        NotImplementedError: an operation without the derivatives that the method takes.

    Warns:
        GeocollapseWarning: residuals above ten times the tolerance, as in half precision.

    Examples:
        >>> model = nn.Linear(3, 1, bias=False).double()
        >>> weights = torch.tensor([1.0, 4.0, 2.0]).double()
        >>> found = sharpness(model, lambda m: 0.5 * (weights * m.weight**2).sum(), k=2)
        >>> found.values.round(decimals=6)
        tensor([4., 2.], dtype=torch.float64)
    """
    with landscape(model, loss, batch_norm=batch_norm) as found:
        solver = Solver(tolerance=tolerance, max_products=max_products, start=start)
        return solver.solve(found.hessian(method=method), found.point, k, which=which)


@dataclass(frozen=True)
class Solver:
    """How eigenvalues are sought; see ``sharpness``."""

    tolerance: float = 1e-4
    max_products: int = 1000
    start: Tree | None = None

    def solve(self, product: Product, at: Tree, k: int, *, which: Which = "largest") -> Eigenvalues:
        """The top k eigenvalues of a Hessian by its products, for trees like ``at``."""
        n = n_entries(at)
        _check_request(k, n, which)
        operator = _Operator(product, at)
        operator.check_symmetry()
        values, vectors = (
            _dense(operator, which, k)
            if n <= _SMALL or k >= n - 1
            else self._sparse(operator, which, k)
        )
        return self._checked(operator, values, vectors)

    def _sparse(
        self, operator: _Operator, which: Which, k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

        n = operator.n
        start = operator.first() if self.start is None else flat(self.start).numpy()
        n_vectors = min(n, max(2 * k + 1, _KRYLOV if self.start is None else _KRYLOV_AGAIN))
        try:
            values, vectors = eigsh(
                LinearOperator((n, n), matvec=operator, dtype=np.float64),
                k,
                which="LA" if which == "largest" else "LM",
                v0=start,
                ncv=n_vectors,
                tol=self.tolerance,
                maxiter=max(1, self.max_products // (n_vectors - k)),
            )
        except ArpackNoConvergence as error:
            raise RuntimeError(
                f"max_products: expected {k} eigenvalues to converge, got "
                f"{len(error.eigenvalues)} after {operator.n_products} products; do "
                f"max_products={2 * self.max_products}, or tolerance={10 * self.tolerance:g}"
            ) from error
        order = np.argsort(-(values if which == "largest" else np.abs(values)))
        return values[order], vectors[:, order]

    def _checked(
        self, operator: _Operator, values: NDArray[np.float64], vectors: NDArray[np.float64]
    ) -> Eigenvalues:
        columns = list(vectors.T)
        pairs = zip(values, columns, strict=True)
        residuals = [float(np.linalg.norm(operator(u) - value * u)) for value, u in pairs]
        limit = _SLACK * self.tolerance * float(np.abs(values).max())
        if max(residuals) > limit:
            note = (
                f"sharpness: a residual of {max(residuals):.2g} is over {limit:.2g}, so that the "
                f"eigenvalues are no better than that; do model.double(), or a larger tolerance"
            )
            warnings.warn(note, GeocollapseWarning, stacklevel=4)
        trees = [unflat(torch.from_numpy(u.copy()), operator.like) for u in columns]
        return Eigenvalues(
            torch.from_numpy(values.copy()),
            torch.tensor(residuals, dtype=torch.float64),
            trees,
            operator.n_products,
        )


class _Operator:
    """A Hessian as a function of numpy vectors that counts its products."""

    def __init__(self, product: Product, like: Tree) -> None:
        self.like = like
        self.n = n_entries(like)
        self.n_products = 0
        self._product = product

    def __call__(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """H v."""
        self.n_products += 1
        v = unflat(torch.from_numpy(np.asarray(vector, dtype=np.float64).reshape(-1)), self.like)
        result: NDArray[np.float64] = flat(self._product(v)).numpy()
        if not np.isfinite(result).all():
            raise ValueError(
                "loss: expected finite second derivatives, got NaN or infinity; do look for "
                "square roots and norms at 0"
            )
        return result

    def first(self) -> NDArray[np.float64]:
        """The vector to start from, the same for every model of this size."""
        return np.random.default_rng(0).standard_normal(self.n)

    def check_symmetry(self) -> None:
        """Refuse products that are not symmetric: a loss that changes, or a wrong derivative."""
        u, w = np.random.default_rng(1).standard_normal((2, self.n))
        hu = self(u)
        hw = self(w)
        scale = np.linalg.norm(u) * np.linalg.norm(hw) + np.linalg.norm(w) * np.linalg.norm(hu)
        dtype = next(iter(self.like.values())).dtype
        difference = abs(float(u @ hw - w @ hu))
        if difference > _ASYMMETRY.get(dtype, _COARSE_ASYMMETRY) * scale:
            raise RuntimeError(
                f"loss: expected a symmetric Hessian, got <u, H w> and <w, H u> that differ by "
                f"{difference / scale:.2g} of their size; do make the loss a function of the "
                f"parameters alone, without draws of its own, and check custom backward passes"
            )


def dense_hessian(product: Product, like: Tree) -> Tensor:
    """The whole Hessian (n, n) in float64, symmetrised; n + 2 products.

    Raises:
        RuntimeError: products that are not symmetric.
    """
    operator = _Operator(product, like)
    operator.check_symmetry()
    return torch.from_numpy(_matrix(operator))


def _matrix(operator: _Operator) -> NDArray[np.float64]:
    matrix = np.stack([operator(axis) for axis in np.eye(operator.n)])
    return (matrix + matrix.T) / 2.0


def _dense(
    operator: _Operator, which: Which, k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, vectors = np.linalg.eigh(_matrix(operator))
    order = np.argsort(-(values if which == "largest" else np.abs(values)))[:k]
    return values[order], vectors[:, order]


def _check_request(k: int, n: int, which: str) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k: expected 1 to {n}, the number of parameters, got {k}; do k=1")
    if which not in ("largest", "magnitude"):
        raise ValueError(
            f"which: expected 'largest' or 'magnitude', got {which!r}; do which='largest'"
        )
