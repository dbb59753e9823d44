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


def unit(x):
    """Rows of length 1; 0 stays 0."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def normalised_accuracy(support, query, centre=None):
    """Nearest mean of unit vectors, after subtracting ``centre`` (a point, "support" or None)."""
    if centre is None:
        centre = np.zeros(support.shape[2])
    elif isinstance(centre, str):
        centre = support.reshape(-1, support.shape[2]).mean(axis=0)
    return nearest_mean_accuracy(unit(support - centre), unit(query - centre))


def logistic(support, penalty):
    """scikit-learn's regression on the scaled support, with the scaling: (model, centre, scale)."""
    from sklearn.linear_model import LogisticRegression

    n_way, k_shot, p = support.shape
    x = support.reshape(-1, p)
    centre = x.mean(axis=0)
    scale = np.sqrt(((x - centre) ** 2).sum(axis=1).mean())
    model = LogisticRegression(C=1 / penalty, tol=1e-12, max_iter=100_000, solver="newton-cg")
    return (
        model.fit((x - centre) / scale, np.repeat(np.arange(n_way), k_shot)),
        centre,
        scale,
    )


def logistic_accuracy(support, query, penalty):
    """Accuracy of scikit-learn's multinomial logistic regression (three classes or more)."""
    model, centre, scale = logistic(support, penalty)
    right = np.repeat(np.arange(query.shape[0]), query.shape[1])
    return float(model.score((query.reshape(-1, query.shape[2]) - centre) / scale, right))


def vote(x, examples, classes, k):
    """The class of ``x`` by its k nearest examples and all at the distance of the last; or None.

    Of classes with equal votes, the one with the nearest example.
    """
    distances = [round(float(((x - example) ** 2).sum()), 10) for example in examples]
    last = sorted(distances)[min(k, len(distances)) - 1]
    votes = {}
    for distance, c in zip(distances, classes, strict=True):
        if distance <= last:
            votes.setdefault(c, []).append(distance)
    most = max(len(found) for found in votes.values())
    nearest = {c: min(found) for c, found in votes.items() if len(found) == most}
    first = min(nearest.values())
    winners = [c for c, distance in nearest.items() if distance == first]
    return winners[0] if len(winners) == 1 else None


def knn_accuracy(support, query, k):
    """Share of queries whose class wins the vote."""
    n_way, k_shot, p = support.shape
    examples = support.reshape(-1, p)
    classes = np.repeat(np.arange(n_way), k_shot).tolist()
    right = [vote(x, examples, classes, k) == own for own in range(n_way) for x in query[own]]
    return sum(right) / len(right)


def jackknife_over_classes(values, ways, n_classes):
    """Squared error over classes, by leaving out one after the other, and its noise, by loops."""
    n, n_way = ways.shape
    share = n_way / n_classes
    total = 0.0
    noise = 0.0
    for c in np.unique(ways):
        inside = (ways == c).any(axis=1)
        terms = (inside - share) * (values - values.mean())
        total += (terms.mean() / (1 - share)) ** 2
        noise += terms.var() / (n - 1) / (1 - share) ** 2
    for _ in range(n_classes - len(np.unique(ways))):  # classes that no episode has
        terms = -share * (values - values.mean())
        noise += terms.var() / (n - 1) / (1 - share) ** 2
    factor = (n_classes - 1) / n_classes
    return max(factor * (total - noise / 2), values.var(ddof=1) / n)
