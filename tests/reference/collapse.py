"""Slow references for the measures of collapse: loops over classes, 80-bit sums, plain numpy.

Every function takes features (n, p) and labels (n,) and imports nothing from the package.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

LD = np.longdouble


def by_class(features, labels):
    """The features of each class, ascending by label, in long double."""
    features, labels = np.asarray(features, dtype=LD), np.asarray(labels)
    return [features[labels == label] for label in sorted(set(labels.tolist()))]


def means(features, labels):
    return np.stack([rows.sum(axis=0) / LD(len(rows)) for rows in by_class(features, labels)])


def variances(features, labels):
    return [
        ((rows - rows.mean(axis=0)) ** 2).sum() / len(rows) for rows in by_class(features, labels)
    ]


def covariance(rows):
    centred = rows - rows.mean(axis=0)
    return np.asarray(centred.T @ centred / len(rows), dtype=np.float64)


def cdnv_matrix(features, labels, bias_corrected=False):
    mu = means(features, labels)
    var = variances(features, labels)
    n = [len(rows) for rows in by_class(features, labels)]
    v = np.full((len(n), len(n)), np.nan)
    for i, j in itertools.permutations(range(len(n)), 2):
        distance = ((mu[i] - mu[j]) ** 2).sum()
        var_i, var_j = var[i], var[j]
        if bias_corrected:
            if min(n[i], n[j]) < 2:
                continue
            var_i, var_j = var_i * n[i] / (n[i] - 1), var_j * n[j] / (n[j] - 1)
            distance = distance - var_i / n[i] - var_j / n[j]
        if distance > 0:
            v[i, j] = (var_i + var_j) / (2 * distance)
    return v


def cdnv(features, labels, bias_corrected=False):
    v = cdnv_matrix(features, labels, bias_corrected)
    return float(np.mean([v[i, j] for i, j in itertools.permutations(range(len(v)), 2)]))


def directional_cdnv_matrix(features, labels):
    mu = np.asarray(
        means(features, labels) - means(features, labels).mean(axis=0), dtype=np.float64
    )
    v = np.full((len(mu), len(mu)), np.nan)
    for i, rows in enumerate(by_class(features, labels)):
        sigma = covariance(rows)
        for j in range(len(mu)):
            if i != j:
                d = mu[i] - mu[j]
                v[i, j] = d @ sigma @ d / (d @ d) ** 2
    return v


def centred_means(features, labels):
    mu = means(features, labels)
    return np.asarray(mu - mu.mean(axis=0), dtype=np.float64)


def nc1(features, labels, pooled=False):
    """tr(Sigma_W Sigma_B^+) / C, from both matrices and leading eigenvectors of Sigma_B."""
    groups = by_class(features, labels)
    n_classes = len(groups)
    n = sum(len(rows) for rows in groups)
    weights = [len(rows) / n if pooled else 1 / n_classes for rows in groups]
    sigma_w = sum(weight * covariance(rows) for weight, rows in zip(weights, groups))
    m = centred_means(features, labels)
    eigenvalues, vectors = np.linalg.eigh(m.T @ m / n_classes)
    rank = min(n_classes - 1, m.shape[1])
    inverse = vectors[:, -rank:] @ np.diag(1 / eigenvalues[-rank:]) @ vectors[:, -rank:].T
    return float(np.trace(sigma_w @ inverse) / n_classes)


def trace_ratio(features, labels):
    m = centred_means(features, labels)
    return float(np.mean(variances(features, labels)) / np.mean((m**2).sum(axis=1)))


def nc2(vectors):
    norms = [math.sqrt(sum(float(x) ** 2 for x in row)) for row in vectors]
    pairs = list(itertools.combinations(range(len(vectors)), 2))
    cosines = [float(vectors[i] @ vectors[j]) / (norms[i] * norms[j]) for i, j in pairs]
    angle = [abs(c + 1 / (len(vectors) - 1)) for c in cosines]
    return float(np.std(norms) / np.mean(norms)), float(np.std(cosines)), float(np.mean(angle))


def hyperspherical_uniformity(vectors):
    units = [row / np.linalg.norm(row) for row in vectors]
    return float(
        np.mean([-math.log(np.linalg.norm(u - v)) for u, v in itertools.combinations(units, 2)])
    )


def nc3(weight, m):
    return float(np.linalg.norm(weight / np.linalg.norm(weight) - m / np.linalg.norm(m)))


def self_duality_gram(weight, m):
    n_classes = len(weight)
    simplex = (
        n_classes
        / (n_classes - 1)
        * (np.eye(n_classes) - np.ones((n_classes, n_classes)) / n_classes)
    )
    product = weight @ m.T
    return float(
        np.linalg.norm(product / np.linalg.norm(product) - simplex / np.linalg.norm(simplex))
    )


def nearest_mean(x, mu):
    return int(np.argmin([float(((x - m) ** 2).sum()) for m in mu]))


def nc4(features, labels, weight, bias):
    mu = means(features, labels)
    differ = [
        nearest_mean(x, mu) != int(np.argmax(weight @ x + bias)) for x in np.asarray(features)
    ]
    return float(np.mean(differ))


def nearest_mean_error(features, labels):
    mu = means(features, labels)
    order = sorted(set(np.asarray(labels).tolist()))
    return float(
        np.mean(
            [
                order[nearest_mean(x, mu)] != y
                for x, y in zip(np.asarray(features), np.asarray(labels))
            ]
        )
    )


def geometric_collapse(class_gc, class_means):
    pairs = list(itertools.permutations(range(len(class_gc)), 2))
    return float(
        np.mean(
            [
                (class_gc[i] + class_gc[j]) / (2 * ((class_means[i] - class_means[j]) ** 2).sum())
                for i, j in pairs
            ]
        )
    )


def delta_method(squared_norms, features, labels, rows):
    """Value and standard error of geometric collapse of the distribution, by definitions 3."""
    labels, order = np.asarray(labels), sorted(set(np.asarray(labels).tolist()))
    mu = means(features, labels).astype(float)
    n_classes = len(order)
    measured = {int(row): float(g) for row, g in zip(rows, squared_norms)}
    members = [np.flatnonzero(labels == label) for label in order]
    g = [np.array([measured[row] for row in group if row in measured]) for group in members]
    noise = [
        float(np.sum((features[m] - features[m].mean(axis=0)) ** 2)) / (len(m) - 1) / len(m)
        for m in members
    ]
    pairs = itertools.permutations(range(n_classes), 2)
    d2 = {(i, j): ((mu[i] - mu[j]) ** 2).sum() - noise[i] - noise[j] for i, j in pairs}
    scale = 1 / (n_classes * (n_classes - 1))
    value = 0.0
    total = 0.0
    for i in range(n_classes):
        others = [j for j in range(n_classes) if j != i]
        w = scale * sum(1 / d2[i, j] for j in others)
        shift = {}
        for row in members[i]:
            along = [
                float((features[row] - mu[i]) @ (mu[i] - mu[j])) / d2[i, j] ** 2 for j in others
            ]
            shift[row] = (
                -2 * scale * sum((g[i].mean() + g[j].mean()) * a for j, a in zip(others, along))
            )
        joint = np.cov(g[i], [shift[row] for row in members[i] if row in measured])
        total += w**2 * g[i].var(ddof=1) / len(g[i])
        total += np.var(list(shift.values()), ddof=1) / len(shift) + 2 * w * joint[0, 1] / len(
            shift
        )
        value += w * g[i].mean()
    return float(value), math.sqrt(total)
