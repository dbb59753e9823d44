"""Slow references for how training moves: siblings A, B, D in numpy, float64, derived by hand."""

from __future__ import annotations

import numpy as np


class Bumpy:
    """E = x^T A x/2 + sin(b x) + c/4 sum x_i^4 with all its derivatives to third order."""

    def __init__(self, a, b, c):
        self.a, self.b, self.c = np.array(a), np.array(b), c

    def loss(self, x):
        return x @ self.a @ x / 2 + np.sin(self.b @ x) + self.c / 4 * (x**4).sum()

    def gradient(self, x):
        return self.a @ x + np.cos(self.b @ x) * self.b + self.c * x**3

    def hessian(self, x):
        curved = np.sin(self.b @ x) * np.outer(self.b, self.b)
        return self.a - curved + 3 * self.c * np.diag(x**2)

    def third(self, x, v):
        """sum_jk d_ijk E v_j v_k."""
        return -np.cos(self.b @ x) * (self.b @ v) ** 2 * self.b + 6 * self.c * x * v**2


ONE = Bumpy([[2.0, 0.3, 0.1], [0.3, 1.0, -0.2], [0.1, -0.2, 0.7]], [1.0, -0.7, 0.4], 0.3)
TWO = Bumpy([[0.6, -0.4, 0.0], [-0.4, 1.5, 0.5], [0.0, 0.5, 1.1]], [0.2, 0.9, -1.1], 0.5)
START = np.array([0.8, -0.5, 0.6])


def follow(field, x, time, n_steps=400):
    """The flow of x' = field(x), by Runge-Kutta."""
    h = time / n_steps
    for _ in range(n_steps):
        k1 = field(x)
        k2 = field(x + h / 2 * k1)
        k3 = field(x + h / 2 * k2)
        k4 = field(x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def descend(gradient, x, h, n_steps=1):
    """Steps of gradient descent."""
    for _ in range(n_steps):
        x = x - h * gradient(x)
    return x


def modified_descent(e, x, h, coefficient=0.25):
    """-grad (E + coefficient h ||grad E||^2)."""
    return -e.gradient(x) - 2 * coefficient * h * e.hessian(x) @ e.gradient(x)


def principal(e, x, h):
    """sum_i log(1 - h l_i)/(h l_i) <g, u_i> u_i; its real part."""
    values, vectors = np.linalg.eigh(e.hessian(x))
    coefficients = np.log((1 - h * values).astype(complex)) / (h * values)
    return ((vectors * coefficients) @ (vectors.T @ e.gradient(x))).real


def bracket(first, second, x):
    """[g_1, g_2] = H_2 g_1 - H_1 g_2."""
    return second.hessian(x) @ first.gradient(x) - first.hessian(x) @ second.gradient(x)


def forgetting(first, second, x, h, m, *, mixed=0.5, curved=0.5):
    """The rise of the first loss while the second is descended, to second order in m h.

    ``mixed`` and ``curved`` are coefficients to put in wrong.
    """
    time = m * h
    g1, g2 = first.gradient(x), second.gradient(x)
    h1, h2 = first.hessian(x), second.hessian(x)
    turned = g1 @ h2 @ g1 + g1 @ h1 @ g2 + mixed * g2 @ h1 @ g2
    return -time * g1 @ g2 + time**2 * turned + curved * m * (m - 1) * h**2 * g1 @ h2 @ g2
