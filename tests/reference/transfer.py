"""Slow references for few-shot accuracy, one episode after another."""

from __future__ import annotations

import numpy as np


def nearest_mean_accuracy(support, query):
    """Share of queries (n_way, q, p) strictly nearest to the mean of their class's support."""
    means = [examples.mean(axis=0) for examples in support]
    right = 0
    for own, examples in enumerate(query):
        for x in examples:
            distances = [((x - mean) ** 2).sum() for mean in means]
            right += all(distances[own] < d for c, d in enumerate(distances) if c != own)
    return right / (query.shape[0] * query.shape[1])


def linear_probe_accuracy(support, query, strength):
    """Accuracy of ridge regression on +-1 targets.

    alpha = strength times the mean squared length of the centred support.
    """
    from sklearn.linear_model import RidgeClassifier

    n_way, k_shot, p = support.shape
    x = support.reshape(-1, p)
    alpha = strength * ((x - x.mean(axis=0)) ** 2).sum(axis=1).mean()
    probe = RidgeClassifier(alpha=alpha, solver="svd").fit(x, np.repeat(np.arange(n_way), k_shot))
    return float(probe.score(query.reshape(-1, p), np.repeat(np.arange(n_way), query.shape[1])))


def accuracies(features, episodes, k_shot, classify):
    """``classify`` on every episode, rows (n, n_way, k_shot + n_query) of ``features``."""
    features = np.asarray(features, dtype=np.float64)
    return [
        classify(features[rows[:, :k_shot]], features[rows[:, k_shot:]])
        for rows in np.asarray(episodes)
    ]
