"""Slow references for the nearest-mean bounds: definitions 4 in loops, plain numpy, float64."""

from __future__ import annotations

import math

import numpy as np


def by_class(features, labels):
    """The features of each class, ascending by label."""
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    return [features[labels == label] for label in sorted(set(labels.tolist()))]


def moments(rows):
    """Mean, covariance, E||z||^4 - (tr S)^2 - 2 tr S^2 and E[z ||z||^2] of one empirical law."""
    mean = rows.mean(axis=0)
    n, p = rows.shape
    s = np.zeros((p, p))
    third = np.zeros(p)
    fourth = 0.0
    for row in rows:
        z = row - mean
        s += np.outer(z, z) / n
        third += z * (z @ z) / n
        fourth += (z @ z) ** 2 / n
    return mean, s, fourth - np.trace(s) ** 2 - 2 * np.trace(s @ s), third


def decision_moments(rows_a, rows_b, m):
    """E T_ab and Var T_ab with m shots."""
    (mu_a, s_a, q_a, _) = moments(rows_a)
    (mu_b, s_b, q_b, t_b) = moments(rows_b)
    d = mu_a - mu_b
    tr = np.trace
    mean = d @ d / 2 + (tr(s_b) - tr(s_a)) / (2 * m)
    variance = (
        d @ s_a @ d
        + d @ s_b @ d / m
        + (tr(s_a @ s_a) + tr(s_a @ s_b)) / m
        + (tr(s_a @ s_a) + tr(s_b @ s_b)) / (2 * m**2)
        + (q_a + q_b) / (4 * m**3)
        - t_b @ d / m**2
    )
    return mean, variance


def average_cdnv(classes):
    values = []
    for a, rows_a in enumerate(classes):
        for b, rows_b in enumerate(classes):
            if a != b:
                d = rows_a.mean(axis=0) - rows_b.mean(axis=0)
                values.append((rows_a.var(axis=0).sum() + rows_b.var(axis=0).sum()) / (2 * d @ d))
    return float(np.mean(values))


def stable_rank(classes):
    covariances = [moments(rows)[1] for rows in classes]
    return min(np.trace(s) / np.linalg.eigvalsh(s)[-1] for s in covariances)


def bounds(features, labels, m):
    """The bounds general, published and directional."""
    classes = by_class(features, labels)
    k = len(classes)
    nc = average_cdnv(classes)
    s = stable_rank(classes)
    shot = 0.0 if math.isinf(m) else m ** (-1 / 3)
    rank = s ** (-1 / 3)
    published = min(16 * (k - 1) * (1 / m + 1 / s) * nc, 4 * (k - 1) * (rank + shot) ** 3 * nc)
    total = 0.0
    for a in range(k):
        for b in range(k):
            if a != b:
                mean, variance = decision_moments(classes[a], classes[b], m)
                total += variance / (variance + mean**2) if mean > 0 else 1.0
    return {
        "general": 4 * (k - 1) * (1 + 1 / m) * nc,
        "published": published,
        "directional": total / k,
    }


def drawn_statistics(features, labels, m, n_draws, seed):
    """T_ab of draws with replacement from the class laws (k, k, n_draws), NaN on the diagonal."""
    generator = np.random.default_rng(seed)
    classes = by_class(features, labels)
    t = np.full((len(classes), len(classes), n_draws), np.nan)
    for a, rows_a in enumerate(classes):
        x = rows_a[generator.integers(len(rows_a), size=n_draws)]
        distances = []
        for rows in classes:
            mean = np.zeros_like(x)
            for _ in range(m):
                mean += rows[generator.integers(len(rows), size=n_draws)] / m
            distances.append(((x - mean) ** 2).sum(axis=1))
        for b in range(len(classes)):
            if a != b:
                t[a, b] = (distances[b] - distances[a]) / 2
    return t


def error(statistics):
    """Error of the nearest-mean classifier from the drawn T_ab, a tie counted as an error."""
    k = len(statistics)
    wrong = [
        (statistics[a][[b for b in range(k) if b != a]] <= 0).any(axis=0).mean() for a in range(k)
    ]
    return float(np.mean(wrong))
