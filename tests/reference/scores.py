"""Slow references for the label-free baselines in plain numpy, without the package."""

from __future__ import annotations

import math

import numpy as np


def entropy_exponential(shares):
    return math.exp(-math.fsum(share * math.log(share) for share in shares if share > 0))


def rankme(features, epsilon):
    values = np.linalg.svd(np.asarray(features, dtype=np.float64), compute_uv=False)
    return entropy_exponential([value / math.fsum(values) + epsilon for value in values])


def covariance_eigenvalues(features):
    """Eigenvalues of the covariance by SVD of the centred features, the mean in long double."""
    rows = np.asarray(features, dtype=np.longdouble)
    centred = np.asarray(rows - rows.mean(axis=0), dtype=np.float64)
    return np.linalg.svd(centred, compute_uv=False) ** 2 / len(centred)


def effective_rank(features):
    eigenvalues = covariance_eigenvalues(features)
    return entropy_exponential(eigenvalues / math.fsum(eigenvalues))


def alpha_req(features, first, last):
    """Slope of numpy's polynomial fit, whose weights multiply residuals before squaring."""
    index = np.arange(first, last + 1)
    logarithms = np.log(covariance_eigenvalues(features)[first - 1 : last])
    return -float(np.polyfit(np.log(index), logarithms, 1, w=index**-0.5)[0])


def feature_norm(features):
    return math.fsum(math.sqrt(math.fsum(float(v) ** 2 for v in row)) for row in features) / len(
        features
    )
