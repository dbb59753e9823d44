"""Influence of each example on RankMe and alpha-ReQ, for their standard errors."""

from __future__ import annotations

import torch
from torch import Tensor

from geocollapse.transfer.label_free import FIT_RANGE
from geocollapse.transfer.sample import Sample


def rankme_influences(sample: Sample) -> Tensor:
    """Derivatives of RankMe in the weights of the examples (n,), without its epsilon.

    d s_k/d w_i = (v_k f_i)^2/(2 s_k),    d RankMe/d s_k = -RankMe (log p_k + H)/sum_j s_j
    """
    eigenvalues, vectors = sample.raw_spectrum
    squares = (sample.reduced @ vectors).square()
    lengths = eigenvalues.sqrt()
    shares = lengths / lengths.sum()
    entropy = torch.special.entr(shares).sum()
    slopes = -entropy.exp() * (shares.log() + entropy) / lengths.sum()
    return squares @ (slopes / (2.0 * lengths))


def alpha_req_influences(sample: Sample, fit_range: tuple[int, int] = FIT_RANGE) -> Tensor:
    """Derivatives of alpha-ReQ in the weights of the examples (n,).

    d log lambda_k/d w_i = (v_k (f_i - mu))^2/lambda_k
    """
    first, last = fit_range
    eigenvalues, vectors = sample.spectrum
    fitted = slice(first - 1, last)
    squares = (sample.centred @ vectors[:, fitted]).square()
    index = torch.arange(first, last + 1, dtype=squares.dtype, device=squares.device)
    weights = (1.0 / index) / (1.0 / index).sum()
    u = index.log() - weights @ index.log()
    slopes = -weights * u / (weights @ u.square())
    return squares / eigenvalues[fitted] @ slopes
