"""NC3, self-duality: the classifier rows against the centred class means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geocollapse.collapse.sampled import has_too_many_pairs

_COLUMNS = 512  # of W^T W that are held at a time


def nc3(weight: Tensor, centred_means: Tensor) -> float:
    """NC3 = || W/||W||_F - M/||M||_F ||_F, unsquared.

    Range [0, 2], 0 where W is a positive multiple of M; invariant under scaling of either and under
    a rotation of both. A constant row added to W changes NC3 and not the softmax.

    Source: Papyan, Han, Donoho (2020), NC3.

    Args:
        weight: classifier W (C, p).
        centred_means: M (C, p), rows mu_c - mu_G.
    """
    return float((weight / weight.norm() - centred_means / centred_means.norm()).norm())


def self_duality_gram(weight: Tensor, centred_means: Tensor) -> float:
    """Distance of the normalised W M^T from the normalised Gram matrix of a simplex.

        || W M^T / ||W M^T||_F - (I - 11^T/C) / sqrt(C - 1) ||_F

    Range [0, 2]. Some code calls this NC3, but it is another quantity. O(C^2 p); above 8,192
    classes O(C p^2) without a (C, C) matrix, to about 1e-8.

    Source: Zhu et al. (2021), arXiv 2105.02375, where it is the measure of NC3.
    """
    n_classes = len(weight)
    if has_too_many_pairs(n_classes):
        return _gram_by_features(weight, centred_means)
    product = weight @ centred_means.T
    simplex = torch.eye(n_classes, dtype=product.dtype, device=product.device) - 1.0 / n_classes
    return float((product / product.norm() - simplex / math.sqrt(n_classes - 1)).norm())


def _gram_by_features(weight: Tensor, means: Tensor) -> float:
    """``self_duality_gram`` from p x p products only.

    With A = W M^T and S the simplex, both of norm 1 once normalised, it is sqrt(2 - 2 <A, S>):

        ||A||_F^2 = <W^T W, M^T M>,    <A, I - 11^T/C> = <W, M> - <sum_c w_c, sum_c m_c>/C
    """
    n_classes, n_features = weight.shape
    squares = weight.new_zeros(())
    for start in range(0, n_features, _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        squares += ((weight[:, columns].T @ weight) * (means[:, columns].T @ means)).sum()
    along = (weight * means).sum() - weight.sum(dim=0) @ means.sum(dim=0) / n_classes
    cosine = along / (squares.sqrt() * math.sqrt(n_classes - 1))
    return math.sqrt(max(0.0, 2.0 - 2.0 * float(cosine)))
