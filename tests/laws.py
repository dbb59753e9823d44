"""Laws that a measure of labelled features obeys, as assertions to apply to any measure.

A measure maps (features (n, p), labels (n,)) to a number; every law takes the measure and one
example of its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Measure = Callable[[Tensor, Tensor], object]


def assert_close(
    actual: object, expected: object, rtol: float = 1e-10, atol: float = 1e-12
) -> None:
    """Equal numbers or tensors in float64; NaN equals NaN."""
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (actual, expected))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)


def random_rotation(p: int, seed: int) -> Tensor:
    """A random orthogonal p x p matrix."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(p, p, dtype=torch.float64, generator=generator))[0]


def assert_permutation_invariant(
    measure: Measure, features: Tensor, labels: Tensor, seed: int = 0, **tol: float
) -> None:
    """The order of the examples does not matter."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    assert_close(measure(features[order], labels[order]), measure(features, labels), **tol)


def assert_relabelling_invariant(
    measure: Measure, features: Tensor, labels: Tensor, **tol: float
) -> None:
    """The names of the classes do not matter, nor their order."""
    assert_close(measure(features, 100 - 3 * labels), measure(features, labels), **tol)


def assert_translation_invariant(
    measure: Measure, features: Tensor, labels: Tensor, **tol: float
) -> None:
    """A vector added to every feature does not matter."""
    shift = torch.linspace(-3.0, 5.0, features.shape[1], dtype=features.dtype)
    assert_close(measure(features + shift, labels), measure(features, labels), **tol)


def assert_rotation_invariant(
    measure: Measure, features: Tensor, labels: Tensor, seed: int = 0, **tol: float
) -> None:
    """A rotation of the feature space does not matter."""
    rotated = features @ random_rotation(features.shape[1], seed).to(features.dtype)
    assert_close(measure(rotated, labels), measure(features, labels), **tol)


def assert_homogeneous(
    measure: Measure, features: Tensor, labels: Tensor, degree: float, **tol: float
) -> None:
    """measure(a f) = a^degree measure(f)."""
    for factor in (0.01, 3.0):
        expected = torch.as_tensor(measure(features, labels), dtype=torch.float64) * factor**degree
        assert_close(measure(factor * features, labels), expected, **tol)


class Shapes(TorchDispatchMode):
    """Remembers the shape of every tensor that is made while it is active."""

    def __init__(self):
        super().__init__()
        self.made = set()

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.made |= {
            tuple(leaf.shape) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)
        }
        return result


def assert_order(
    error_of: Callable[[float], float],
    expected: float,
    steps: Sequence[float] = (0.08, 0.04, 0.02),
) -> None:
    """The error falls as h to the expected power, within 0.15, at each halving of h."""
    errors = [error_of(h) for h in steps]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(order - expected) <= 0.15 for order in orders), orders
