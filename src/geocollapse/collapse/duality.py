"""NC3, self-duality: the classifier rows against the centred class means."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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

    Range [0, 2]. Some code calls this NC3, but it is another quantity.

    Source: Zhu et al. (2021), arXiv 2105.02375, where it is the measure of NC3.
    """
    n_classes = len(weight)
    product = weight @ centred_means.T
    simplex = torch.eye(n_classes, dtype=product.dtype, device=product.device) - 1.0 / n_classes
    return float((product / product.norm() - simplex / math.sqrt(n_classes - 1)).norm())
