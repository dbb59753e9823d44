"""Slow references for the scores of transferability in numpy and scipy, without the package."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal, pearsonr, spearmanr
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis


def arrays(features, labels):
    return np.asarray(features, dtype=np.float64), np.asarray(labels)


def log_evidence(y, x, alpha, beta):
    """log N(y; 0, I/beta + X X^T/alpha)."""
    covariance = np.eye(len(x)) / beta + x @ x.T / alpha
    return multivariate_normal(np.zeros(len(x)), covariance).logpdf(y)


def logme(features, labels):
    """The evidence of each class over alpha and beta: the best beta at each tau, best of a grid."""
    x, y = arrays(features, labels)
    n = len(x)
    best = []
    for c in np.unique(y):
        t = (y == c).astype(float)

        def loss(log_tau, t=t):
            tau = math.exp(log_tau)
            kernel = tau * np.eye(n) + x @ x.T
            quadratic = tau * (t @ np.linalg.solve(kernel, t))
            logdet = np.linalg.slogdet(kernel)[1] - n * log_tau
            return 0.5 * (n * math.log(quadratic / n) + logdet + n + n * math.log(2 * math.pi)) / n

        top = math.log(np.linalg.norm(x, 2) ** 2)
        grid = np.arange(top - 28, top + 20, 0.25)
        at = int(np.argmin([loss(value) for value in grid]))
        bounds = (grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)])
        best.append(-minimize_scalar(loss, bounds=bounds, method="bounded").fun)
    return float(np.mean(best))


def scatters(features, labels, weights):
    """Within and between scatter with these weights of the examples, which sum to 1."""
    x, y = arrays(features, labels)
    mean = sum(w * row for w, row in zip(weights, x))
    within = np.zeros((x.shape[1], x.shape[1]))
    between = np.zeros_like(within)
    for c in np.unique(y):
        rows = x[y == c]
        w = weights[y == c]
        centre = w @ rows / w.sum()
        within += (rows - centre).T @ (w[:, None] * (rows - centre))
        between += w.sum() * np.outer(centre - mean, centre - mean)
    return within, between


def h_score(features, labels):
    within, between = scatters(features, labels, np.full(len(labels), 1 / len(labels)))
    return float(np.trace(np.linalg.pinv(within + between, rcond=1e-12) @ between))


def shrunk_h_score(features, labels):
    x, y = arrays(features, labels)
    _, between = scatters(x, y, np.full(len(y), 1 / len(y)))
    estimate = LedoitWolf().fit(x)
    share = 1 - estimate.shrinkage_
    factor = share * len(x) / (len(x) - 1)
    return float(factor * np.trace(np.linalg.solve(estimate.covariance_, between)))


def vci(features, labels):
    _, y = arrays(features, labels)
    classes, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    within, between = scatters(features, y, 1 / (len(classes) * counts[index]))
    trace = np.trace(np.linalg.pinv(within + between, rcond=1e-12) @ between)
    return float(1 - trace / np.linalg.matrix_rank(between, tol=1e-9))


def coding_rate(z, epsilon):
    return 0.5 * np.linalg.slogdet(np.eye(z.shape[1]) + z.T @ z / (len(z) * epsilon))[1]


def transrate(features, labels, epsilon=1e-4):
    x, y = arrays(features, labels)
    z = x - x.mean(axis=0)
    z = z / math.sqrt(np.mean(np.sum(z**2, axis=1)))
    within = sum(np.mean(y == c) * coding_rate(z[y == c], epsilon) for c in np.unique(y))
    return float(coding_rate(z, epsilon) - within)


def parc(features, labels):
    x, y = arrays(features, labels)
    hot = (y[:, None] == np.unique(y)).astype(float)
    pairs = [(i, j) for i in range(len(x)) for j in range(i)]
    first = [round(1 - pearsonr(x[i], x[j])[0], 12) for i, j in pairs]
    second = [round(1 - pearsonr(hot[i], hot[j])[0], 12) for i, j in pairs]
    return float(spearmanr(first, second)[0])


def leep(theta, labels):
    theta, y = arrays(theta, labels)
    terms = []
    for i in range(len(y)):
        likelihood = 0.0
        for z in range(theta.shape[1]):
            if theta[:, z].sum() > 0:
                likelihood += theta[i, z] * theta[y == y[i], z].sum() / theta[:, z].sum()
        terms.append(math.log(likelihood))
    return math.fsum(terms) / len(terms)


def ncti_parts(features, labels, most):
    """As published, with scikit-learn's discriminants and no shrinkage."""
    x, y = arrays(features, labels)
    z = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    q = min(most, (len(x) - len(np.unique(y))) // 2, int((s > 1e-6 * s[0]).sum()))
    z = u[:, :q] * s[:q]
    model = LinearDiscriminantAnalysis(solver="eigen").fit(z, y)
    low = model.transform(z)
    posterior = model.predict_proba(z)
    right = posterior[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    norms = [np.linalg.norm(posterior[y == c], "nuc") for c in np.unique(y)]
    return np.linalg.norm(low - low.mean(axis=0), "nuc"), right.mean(), math.log(math.fsum(norms))


def loo_knn_accuracy(features, labels, k):
    x, y = arrays(features, labels)
    right = 0
    for i in range(len(x)):
        distances = np.round(((x - x[i]) ** 2).sum(axis=1), 9)
        distances[i] = np.inf
        votes = y[np.lexsort((np.arange(len(x)), distances))[:k]].tolist()
        most = max(votes.count(vote) for vote in votes)
        right += next(vote for vote in votes if votes.count(vote) == most) == y[i]
    return right / len(x)
