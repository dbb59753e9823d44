"""Slow references for the implicit regularisation of GD and SGD: siblings G in numpy, float64."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
from reference.dynamics import ONE, TWO, Bumpy

THREE = Bumpy([[1.2, 0.2, -0.3], [0.2, 0.5, 0.1], [-0.3, 0.1, 1.6]], [-0.6, 0.5, 0.8], 0.2)
BATCHES = (ONE, TWO, THREE)


def mean_gradient(batches, x):
    """g, the gradient of C = 1/m sum_k C_k."""
    return sum(e.gradient(x) for e in batches) / len(batches)


def modified_flow(batches, x, h, coefficient=0.25, of_mean=False):
    """-grad (C + coefficient h 1/m sum_k ||g_k||^2), or with ||g||^2 in place of the mean."""
    g = mean_gradient(batches, x)
    m = len(batches)
    if of_mean:
        hessian = sum(e.hessian(x) for e in batches) / m
        return -g - 2 * coefficient * h * hessian @ g
    return -g - 2 * coefficient * h * sum(e.hessian(x) @ e.gradient(x) for e in batches) / m


def epoch(batches, x, h):
    """One pass of SGD over mini-batches in this order."""
    for e in batches:
        x = x - h * e.gradient(x)
    return x


def mean_of_orders(batches, x, h):
    """The mean end of an epoch over all orders: random shuffling in expectation."""
    return np.mean([epoch(order, x, h) for order in permutations(batches)], axis=0)


def mean_norm(gradients, size):
    """The mean of ||g_S||^2 over all subsets S of this size, g_S the mean of their gradients."""
    chosen = combinations(gradients, size)
    return np.mean([np.square(np.mean(subset, axis=0)).sum() for subset in chosen])


def product_gradient(ab, x, y):
    """The gradient of E = (y - a b x)^2/2 in (a, b)."""
    a, b = ab
    return -(y - a * b * x) * x * np.array([b, a])


def product_flow(ab, x, y, h):
    """-grad (E + h/4 ||grad E||^2) of E = (y - a b x)^2/2; h = 0 for the flow of E."""
    a, b = ab
    rest = y - a * b * x
    hessian = x**2 * np.array([[b * b, a * b], [a * b, a * a]])
    hessian -= rest * x * np.array([[0.0, 1.0], [1.0, 0.0]])
    g = product_gradient(ab, x, y)
    return -g - h / 2 * hessian @ g
