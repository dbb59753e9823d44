"""Slow references for two-player games: siblings F in numpy, float64, derived by hand."""

from __future__ import annotations

import numpy as np
from reference.dynamics import Bumpy

_A = [[1.0, 0.3, 0.7, -0.2], [0.3, 0.8, 0.4, 0.6], [0.7, 0.4, -0.3, 0.1], [-0.2, 0.6, 0.1, 0.5]]
_B = [[0.4, -0.1, -0.6, 0.3], [-0.1, 0.2, 0.5, -0.8], [-0.6, 0.5, 0.9, 0.2], [0.3, -0.8, 0.2, 1.1]]
FIRST = Bumpy(_A, [0.6, -0.4, 0.9, 0.3], 0.2)
SECOND = Bumpy(_B, [-0.3, 0.8, 0.5, 0.7], 0.3)
START = np.array([0.7, -0.4, 0.5, 0.6])
N = 2  # entries of player 1; the rest are player 2's


def f(z):
    return -FIRST.gradient(z)[:N]


def g(z):
    return -SECOND.gradient(z)[N:]


def drift_terms(z):
    """f_phi f, f_theta g, g_theta g and g_phi f."""
    of_1, of_2 = -FIRST.hessian(z), -SECOND.hessian(z)
    return (
        of_1[:N, :N] @ f(z),
        of_1[:N, N:] @ g(z),
        of_2[N:, N:] @ g(z),
        of_2[N:, :N] @ f(z),
    )


def modified(z, rates, coefficients):
    """(A f~, B g~) of the coefficients of the four drift terms; all zero for the plain field."""
    self_1, interaction_1, self_2, interaction_2 = coefficients
    ff, fg, gg, gf = drift_terms(z)
    first = f(z) - self_1 * ff - interaction_1 * fg
    second = g(z) - self_2 * gg - interaction_2 * gf
    return np.concatenate([rates[0] * first, rates[1] * second])


def play(z, rates, alternating=False, updates=(1, 1), n_turns=1):
    """Turns of both players, ``rates`` those of one update."""
    for _ in range(n_turns):
        first = z.copy()
        for _ in range(updates[0]):
            first[:N] += rates[0] * f(first)
        second = first.copy() if alternating else z.copy()
        for _ in range(updates[1]):
            second[N:] += rates[1] * g(second)
        z = np.concatenate([first[:N], second[N:]])
    return z


def linear_turn(matrix, h, alternating):
    """The matrix of one turn of the game z' = M z of two numbers."""
    first = np.eye(2)
    first[0] += h * matrix[0]
    second = np.eye(2)
    second[1] += h * matrix[1]
    return second @ first if alternating else np.eye(2) + h * matrix
