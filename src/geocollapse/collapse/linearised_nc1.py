"""NC1 to first order in every example, without the bias of a few examples of a class."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from geocollapse.collapse.cdnv import class_variances
from geocollapse.collapse.example_terms import ExampleTerms
from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.collapse.linearised import Linearised, in_proportion


class _Moments(NamedTuple):
    """Moments in the R singular directions V of the centred means M = U S V^T.

    Sigma_W has the blocks 11 inside the span of V and 22 outside it.
    """

    left: Tensor  # U (C, R)
    s: Tensor  # S (R,)
    within: Tensor  # Sigma_11 (R, R)
    crossed: Tensor  # Sigma_12 Sigma_21 (R, R)
    outside: Tensor  # tr Sigma_c,22 / n_c (C,)
    products: Tensor  # tr Sigma_c,22 Sigma_22 / n_c (C,)


def nc1_linearised(data: LabelledFeatures, terms: ExampleTerms) -> Linearised:
    """NC1 = tr(Sigma_W G^+), G = M^T M, without the noise of the means in G.

        dNC1 = tr(dSigma_W G^+) + 2 <M G^+2 Sigma_W (I - V V^T) - M G^+ Sigma_W G^+, dM>

    for changes dM that leave the rank as it is. Source: the derivative of a pseudo-inverse of
    constant rank, Golub and Pereyra (1973), eq. 4.12.
    """
    counts = data.statistics.counts
    rank = terms.spectrum.rank
    basis = terms.spectrum.basis[:, :rank]
    within = terms.within.double()[:, :rank]
    found = _moments(data, terms, within)
    s = found.s
    outside = within.T - found.within.T @ basis.T
    inside = (found.within / s[:, None] / s**2) @ basis.T
    slopes = 2.0 * found.left @ (outside / s[:, None].pow(3) - inside)
    by_plug_in = float((found.within.diagonal() / s**2).sum())
    share = counts / (counts - 1.0) / len(counts)
    own = terms.whitened * share.index_select(0, data.index)
    value = _without_noise(found)
    excess = _bias_inside(data, terms, found) / by_plug_in if by_plug_in > 0.0 else 0.0
    value = value / (1.0 + excess) if excess > 0.0 else value * (1.0 - excess)
    # the squared noise outside the span moves s_k^2 by this variance
    spread = 2.0 * float(found.products.mean()) * float((1.0 / counts).mean())
    extra = 4.0 * spread * float((found.within.diagonal() / s**4).square().sum())
    return replace(in_proportion(value, by_plug_in, own, slopes), extra_variance=extra)


def _moments(data: LabelledFeatures, terms: ExampleTerms, within: Tensor) -> _Moments:
    """The moments, from ``within`` = Sigma_W V (p, R)."""
    statistics = data.statistics
    counts = statistics.counts
    rank = terms.spectrum.rank
    inside = terms.spectrum.basis[:, :rank].T @ within
    outside_within = within - terms.spectrum.basis[:, :rank] @ inside
    crossed = outside_within.T @ outside_within
    variances = class_variances(statistics, bias_corrected=True)
    outside = (variances - terms.spanned / (counts - 1.0)).clamp(min=0.0)
    return _Moments(
        left=data.centred_means @ terms.spectrum.whitening,
        s=terms.spectrum.values[:rank],
        within=inside,
        crossed=crossed,
        outside=outside / counts,
        products=terms.subset.traces_outside.mean(dim=1) / counts,
    )


def _without_noise(found: _Moments) -> float:
    """NC1 without the noise of the means outside their span; NaN where it is larger than they are.

    With noise E = [E_1, E_2] inside and outside the span and F = S + E_1, M M^T and M Sigma_W M^T
    are F F^T + E_2 E_2^T and F Sigma_11 F^T + E_2 Sigma_22 E_2^T. Without the terms of E_2

        NC1 = tr(Sigma_11 (F^T F)^-1),  F = S (I - X)^1/2,  X_kl = sum_c u_ck u_cl e_c / (s_k s_l)

    for the noise e_c = tr Sigma_c,22/n_c, and likewise for Sigma_11.
    """
    scaled = found.left / found.s
    share = scaled.T @ (scaled * found.outside[:, None])
    rest, vectors = torch.linalg.eigh(torch.eye(len(share)).to(share) - share)
    if not float(rest[0]) > 0.0:
        return math.nan
    inverse = (vectors / rest) @ vectors.T
    within = found.within - scaled.T @ (scaled * found.products[:, None])
    return float((((inverse @ within) @ inverse).diagonal() / found.s**2).sum())


def _bias_inside(data: LabelledFeatures, terms: ExampleTerms, found: _Moments) -> float:
    """Bias of order 1/n that is left: of the noise inside the span, and of skewed classes.

    With a = V^T z, b the rest of z, D = diag(1/s_k), p_c = u_c/s and J = Sigma_12 Sigma_21, the
    second derivative of NC1 along an example, averaged over each class, is

        sum_c 1/n_c [ 2 p^T Sigma_11 D^2 Sigma_c p + tr(D^2 Sigma_c) p^T Sigma_11 p
                      - 4 p^T D^2 J p - 2 ||p||^2 tr D^2 J
                      + 2/C E_c( ||b||^2 a^T D^2 p - ||D a||^2 a^T p ) ]

    Source: the bias of the infinitesimal jackknife, Efron (1982), chapter 6.
    """
    counts = data.statistics.counts
    d2 = found.s.pow(-2)
    p = terms.moves
    by_w = p @ found.within
    whitened = terms.whitened.new_zeros(len(counts)).index_add_(0, data.index, terms.whitened)
    spread = 2.0 * (by_w * d2 * terms.moved.double()).sum(dim=1)
    spread += whitened * (by_w * p).sum(dim=1)
    crossed = 4.0 * ((p * d2) @ found.crossed * p).sum(dim=1)
    crossed += 2.0 * p.square().sum(dim=1) * (d2 @ found.crossed.diagonal())
    skewed = (p * (terms.skewed_outside.double() * d2 - terms.skewed.double())).sum(dim=1)
    by_class = (spread + 2.0 * skewed / len(counts)) / counts - crossed
    return float((by_class / counts).sum())
