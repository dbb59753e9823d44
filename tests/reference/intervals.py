"""The jackknife within classes: standard errors from leaving out one example after the other."""

from __future__ import annotations

import itertools
import math

import numpy as np


def moments(features, labels):
    order = sorted(set(labels.tolist()))
    rows = [features[labels == label] for label in order]
    means = np.stack([row.mean(axis=0) for row in rows])
    covariances = [np.atleast_2d(np.cov(row, rowvar=False)) for row in rows]
    return means, covariances, [len(row) for row in rows]


def squared_distance(means, covariances, counts, i, j):
    noise = np.trace(covariances[i]) / counts[i] + np.trace(covariances[j]) / counts[j]
    return ((means[i] - means[j]) ** 2).sum() - noise


def cdnv(features, labels, _norms, _shares):
    means, covariances, counts = moments(features, labels)
    pairs = itertools.permutations(range(len(means)), 2)
    return np.mean(
        [
            (np.trace(covariances[i]) + np.trace(covariances[j]))
            / (2 * squared_distance(means, covariances, counts, i, j))
            for i, j in pairs
        ]
    )


def directional_cdnv(features, labels, _norms, _shares):
    means, covariances, _ = moments(features, labels)
    terms = []
    for i, j in itertools.permutations(range(len(means)), 2):
        d = means[i] - means[j]
        terms.append(d @ covariances[i] @ d / (d @ d) ** 2)
    return np.mean(terms)


def nc1(features, labels, _norms, _shares):
    means, covariances, _ = moments(features, labels)
    m = means - means.mean(axis=0)
    rank = min(len(m) - 1, m.shape[1])
    _, s, v = np.linalg.svd(m, full_matrices=False)
    within = np.mean(covariances, axis=0)
    return sum(v[k] @ within @ v[k] / s[k] ** 2 for k in range(rank))


def geometric_complexity(_features, labels, norms, shares):
    return sum(p * norms[labels == c].mean() for c, p in enumerate(shares))


def gc_per_variance(features, labels, norms, shares):
    """The shares of the classes stay as they were when an example is left out."""
    means, covariances, _ = moments(features, labels)
    overall = shares @ means
    total = sum(
        p * (np.trace(s) + ((m - overall) ** 2).sum())
        for p, s, m in zip(shares, covariances, means)
    )
    return geometric_complexity(features, labels, norms, shares) / total


def geometric_collapse(features, labels, norms, _shares):
    means, covariances, counts = moments(features, labels)
    gc = [norms[labels == c].mean() for c in range(len(means))]
    pairs = itertools.permutations(range(len(means)), 2)
    return np.mean(
        [
            (gc[i] + gc[j]) / (2 * squared_distance(means, covariances, counts, i, j))
            for i, j in pairs
        ]
    )


MEASURES = {
    "cdnv": cdnv,
    "directional_cdnv": directional_cdnv,
    "nc1": nc1,
    "geometric_complexity": geometric_complexity,
    "gc_per_variance": gc_per_variance,
    "geometric_collapse": geometric_collapse,
}


def jackknife(name, features, labels, norms):
    """Value, standard error, and the influence of each example on the value (n,)."""
    shares = np.bincount(labels) / len(labels)
    measure = MEASURES[name]
    without = []
    for row in range(len(labels)):
        kept = np.arange(len(labels)) != row
        without.append(measure(features[kept], labels[kept], norms[kept], shares))
    without = np.array(without)
    variance = 0.0
    influence = np.zeros(len(labels))
    for label in set(labels.tolist()):
        members = labels == label
        n = members.sum()
        influence[members] = without[members].mean() - without[members]
        variance += (n - 1) / n * (influence[members] ** 2).sum()
    return float(measure(features, labels, norms, shares)), math.sqrt(variance), influence
