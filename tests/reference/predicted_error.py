"""Slow references for the predicted few-shot error: definitions 4 in loops, numpy and scipy."""

from __future__ import annotations

import itertools

import numpy as np
from reference.bounds import by_class
from scipy import integrate, stats


def unbiased_trace_squared(rows):
    """tr Sigma^2 as a U-statistic: the mean of <x_i - x_j, x_k - x_l>^2 / 4 over distinct rows."""
    values = [
        ((rows[i] - rows[j]) @ (rows[k] - rows[m])) ** 2 / 4
        for i, j, k, m in itertools.permutations(range(len(rows)), 4)
    ]
    return np.mean(values)


def cumulants(rows):
    """Mean, covariance (n - 1), unbiased tr Sigma^2, q and t of one class."""
    n = len(rows)
    z = rows - rows.mean(axis=0)
    s = z.T @ z / (n - 1)
    squares = (z**2).sum(axis=1)
    total = (n - 1) * (n - 2) * np.trace(s @ s) + np.trace(s) ** 2
    total -= n * (squares**2).sum() / (n - 1)
    square = (n - 1) / (n * (n - 2) * (n - 3)) * total
    fourth = (squares**2).mean() * (n / (n - 1)) ** 2
    q = fourth - (np.trace(s) ** 2 - (fourth - np.trace(s) ** 2) / n) - 2 * square
    t = (squares[:, None] * z).sum(axis=0) * n / ((n - 1) * (n - 2))
    return rows.mean(axis=0), s, square, q, t


def joint_law(classes, a, m):
    """Mean and covariance of (T_ab) over b != a, from bias-corrected moments."""
    n = [len(rows) for rows in classes]
    mu, s, square, q, t = zip(*(cumulants(rows) for rows in classes), strict=True)
    others = [b for b in range(len(classes)) if b != a]
    mean = []
    covariance = np.empty((len(others), len(others)))
    for i, b in enumerate(others):
        d = mu[a] - mu[b]
        traces = np.trace(s[a]), np.trace(s[b])
        cross = np.trace(s[a] @ s[b])
        distance = d @ d - traces[0] / n[a] - traces[1] / n[b]
        mean.append(distance / 2 + (traces[1] - traces[0]) / (2 * m))
        covariance[i, i] = (
            d @ s[a] @ d
            - square[a] / n[a]
            - cross / n[b]
            + (d @ s[b] @ d - square[b] / n[b] - cross / n[a]) / m
            + (square[a] + cross) / m
            + (square[a] + square[b]) / (2 * m**2)
            + (q[a] + q[b]) / (4 * m**3)
            - (t[b] @ d + q[b] / n[b]) / m**2
        )
        for j, c in enumerate(others):
            if c != b:
                along = d @ s[a] @ (mu[a] - mu[c]) - square[a] / n[a]
                shared = (1 / m + 1 / (2 * m**2)) * square[a] + q[a] / (4 * m**3)
                covariance[i, j] = along + shared
    return np.array(mean), covariance


def joint_normal(features, labels, m):
    """Predicted error over all classes by the joint normal law."""
    classes = by_class(features, labels)
    right = []
    for a in range(len(classes)):
        mean, covariance = joint_law(classes, a, m)
        law = stats.multivariate_normal(cov=covariance, maxpts=10**6, abseps=1e-7)
        right.append(law.cdf(mean))
    return 1 - np.mean(right)


def query_conditional(features, labels, m):
    """Predicted error over all classes given each query, which is left out of its own class."""
    classes = by_class(features, labels)
    of_class = [cumulants(rows) for rows in classes]
    right = []
    for a, rows in enumerate(classes):
        values = []
        for j, x in enumerate(rows):
            laws = []
            for c, examples in enumerate(classes):
                rest = np.delete(examples, j, axis=0) if c == a else examples
                square, q = of_class[c][2:4]
                laws.append(_distance_law(x, rest, square, q, m))
            values.append(_right(laws, a))
        right.append(np.mean(values))
    return 1 - np.mean(right)


def _distance_law(x, rows, square, q, m):
    mu, s, _, _, t = cumulants(rows)
    n = len(rows)
    y = x - mu
    k = 1 / m - 1 / n
    variance = 4 * k * (y @ s @ y) + 2 * k**2 * square
    variance += k**3 * q - 4 * k * (1 / m - 2 / n) * (t @ y)
    return y @ y + k * np.trace(s), np.sqrt(variance)


def _right(laws, a):
    nu, s = laws[a]
    others = [law for c, law in enumerate(laws) if c != a]

    def density(u):
        return stats.norm.pdf(u) * np.prod(
            [stats.norm.cdf((mean - nu - s * u) / sd) for mean, sd in others]
        )

    return integrate.quad(density, -8, 8, epsabs=1e-10, limit=200)[0]
