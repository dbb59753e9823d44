"""Kernels K(z, a) in (0, 1] with K(a, a) = 1, by their exponent -log K."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

KernelName = Literal["gauss", "laplace", "cauchy", "student"]


@dataclass(frozen=True)
class Kernel:
    """A radial kernel K(z, a) = exp(-exponent(z - a)).

    Attributes:
        formula: K with d = ||z - a|| and the scale lambda.
        exponent: maps the difference z - a (..., k) and lambda to -log K (...), without taking the
            logarithm of an exponential.
        curvature: maps lambda to c where -log K = c/2 d^2 + O(d^4) near d = 0; None for a kernel
            with a cusp there.
    """

    formula: str
    exponent: Callable[[Tensor, float], Tensor]
    curvature: Callable[[float], float] | None


def _squared(difference: Tensor) -> Tensor:
    return difference.square().sum(dim=-1)


def _gauss(difference: Tensor, scale: float) -> Tensor:
    return 0.5 * scale * _squared(difference)


def _laplace(difference: Tensor, scale: float) -> Tensor:
    return scale * torch.linalg.vector_norm(difference, dim=-1)


def _cauchy(difference: Tensor, scale: float) -> Tensor:
    return torch.log1p(scale * _squared(difference))


def _student(difference: Tensor, scale: float) -> Tensor:
    return 0.5 * (scale + 1.0) * torch.log1p(_squared(difference) / scale)


KERNELS: Mapping[KernelName, Kernel] = {
    "gauss": Kernel("exp(-lambda/2 d^2)", _gauss, lambda scale: scale),
    "laplace": Kernel("exp(-lambda d)", _laplace, None),
    "cauchy": Kernel("1/(1 + lambda d^2)", _cauchy, lambda scale: 2.0 * scale),
    "student": Kernel(
        "(1 + d^2/lambda)^(-(lambda + 1)/2)", _student, lambda scale: (scale + 1.0) / scale
    ),
}


def kernel_exponent(difference: Tensor, kernel: KernelName, scale: float = 1.0) -> Tensor:
    """Compute -log K(z, a) of a radial kernel from the differences z - a.

        gauss    lambda/2 d^2                        laplace    lambda d
        cauchy   log(1 + lambda d^2)                 student    (lambda + 1)/2 log(1 + d^2/lambda)

    with d = ||z - a||. At least 0, and 0 where z = a. lambda is the inverse squared bandwidth of
    ``gauss`` and ``cauchy``, the inverse bandwidth of ``laplace``, and the degrees of freedom of
    ``student``: at 1 it is ``cauchy`` with lambda 1, and towards infinity ``gauss`` with lambda 1.
    Other code has lambda^2/2 in place of lambda/2. Invariant to rotations and translations of both
    z and a. Cost: O(n k).

    Source: Dherin et al. (2023), "Morse Neural Networks for Uncertainty Quantification".

    Args:
        difference: z - a, (..., k).
        kernel: ``gauss``, ``laplace``, ``cauchy`` or ``student``.
        scale: lambda, positive.

    Returns:
        -log K, (...).

    Raises:
        ValueError: an unknown kernel, or a scale that is not a positive number.

    Examples:
        >>> difference = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> kernel_exponent(difference, "gauss", scale=2.0)
        tensor([ 0., 25.])
        >>> kernel_exponent(difference, "laplace", scale=2.0)
        tensor([ 0., 10.])
    """
    return find_kernel(kernel, scale).exponent(difference, scale)


def find_kernel(name: str, scale: float) -> Kernel:
    """Return the kernel called ``name``.

    Raises:
        ValueError: an unknown name, or a scale that is not a positive number.
    """
    kernels: Mapping[str, Kernel] = {str(known): kernel for known, kernel in KERNELS.items()}
    if name not in kernels:
        raise ValueError(
            f"kernel: expected one of {', '.join(KERNELS)}, got {name!r}; do kernel='gauss'"
        )
    if not (math.isfinite(scale) and scale > 0.0):
        raise ValueError(f"scale: expected a positive number, got {scale}; do scale=1.0")
    return kernels[name]
