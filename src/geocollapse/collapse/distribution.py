"""Geometric collapse and CDNV of the distribution behind the examples, by the delta method."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels, as_tensor
from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.collapse.linearised import CorrectedDistances
from geocollapse.estimate import Estimate, total_variance
from geocollapse.numerics import check_finite


def geometric_collapse_of_distribution(
    squared_norms: Array,
    features: Array,
    labels: Labels,
    *,
    rows: Array | None = None,
    num_classes: int | None = None,
) -> Estimate:
    """Geometric collapse of the distribution behind the examples, by the delta method.

        w_i with bias-corrected d~^2_ij,    z = f(x) - mu_i,
        l(x) = -2/(C(C-1)) sum_{j != i} (G_i + G_j)/d~_ij^4 <z, mu_i - mu_j>
        SE^2 = sum_i [ w_i^2 Var_i(g)/n_i + Var_i(l)/N_i + 2 w_i Cov_i(g, l)/N_i ]

    g = ||J_f(x)||_F^2 on n_i of the N_i examples that gave the mean of class i. One probe per
    example is enough: its noise is part of Var(g). Invariances as ``geometric_collapse``. One pass
    over the features.

    Source: definitions 3 (delta method).

    Args:
        squared_norms: g (m,), one for each of ``rows``.
        features: (n, p), all examples that give the class means.
        labels: (n,) integers, or names of classes.
        rows: distinct positions in ``features`` of the examples of ``squared_norms`` (m,); None
            means all, m = n.
        num_classes: declares the labels 0..num_classes - 1; None discovers the classes.

    Returns:
        An Estimate with ``population="distribution"``; NaN with a warning where a corrected
        distance is not positive, or a class has fewer than 2 examples or values.

    Raises:
        TypeError: labels or rows that are not integers, features that are not floating point.
        ValueError: wrong shapes, NaN features or squared norms, fewer than two classes.
    """
    data = LabelledFeatures.of(features, labels, num_classes)
    g = as_tensor("squared_norms", squared_norms).double().to(data.features.device)
    measured = _measured_rows(data, rows, g)
    return _delta_method(data, g, measured, name="geometric collapse")


def cdnv_estimate(features: Array, labels: Labels, *, num_classes: int | None = None) -> Estimate:
    """Bias-corrected NC of the distribution behind the examples, with its standard error.

    The delta method of ``geometric_collapse_of_distribution`` with g = ||z||^2 n_i/(n_i - 1), G_i =
    Var~_i.

    Source: definitions 3, last line of the delta method.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.
        num_classes: declares the labels 0..num_classes - 1; None discovers the classes.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, a label out of the declared range, fewer than two
            classes.
    """
    data = LabelledFeatures.of(features, labels, num_classes)
    scale = data.statistics.counts / (data.statistics.counts - 1.0)
    g = torch.cat([z.square().sum(dim=1) * scale[index] for z, index in data.residuals()])
    return _delta_method(data, g, torch.arange(len(g), device=g.device), name="cdnv")


class _ClassMoments(NamedTuple):
    """Count, mean and variance of g in each class, and its covariance with another variable.

    Each of shape (C,).
    """

    n: Tensor
    mean_g: Tensor
    var_g: Tensor
    covariance: Tensor


def _delta_method(data: LabelledFeatures, g: Tensor, measured: Tensor, *, name: str) -> Estimate:
    """Estimate sum_i w_i G_i with bias-corrected w_i; its error includes that of the means."""
    counts = data.statistics.counts
    n_classes = len(data.statistics.classes)
    index = data.index[measured]
    distances = CorrectedDistances(data)
    weights = distances.weights
    gc = _moments(g, g, index, n_classes).mean_g
    direction = distances.slopes(gc)
    shift = torch.cat([(z * direction[rows]).sum(dim=1) for z, rows in data.residuals()])  # l(x)
    moments = _moments(g, shift[measured], index, n_classes)
    var_l = _moments(shift, shift, data.index, n_classes).var_g
    terms = (
        weights.square() * moments.var_g / moments.n
        + (var_l + 2.0 * weights * moments.covariance) / counts
    )
    stderr, dof = total_variance(terms.clamp(min=0.0).tolist(), (moments.n - 1.0).tolist())
    value = float((weights * gc).sum())
    reason = (
        f"{name}: undefined, a class has fewer than 2 examples or a corrected squared distance is "
        "not positive"
    )
    return Estimate(
        value=value,
        stderr=stderr,
        n_samples=len(g),
        population="distribution",
        estimator="delta",
        dof=dof,
        warnings=(reason,) if math.isnan(value) or math.isnan(stderr) else (),
    )


def _moments(g: Tensor, other: Tensor, index: Tensor, n_classes: int) -> _ClassMoments:
    def class_sum(values: Tensor) -> Tensor:
        return values.new_zeros(n_classes).index_add_(0, index, values)

    n = class_sum(torch.ones_like(g))
    dof = torch.where(n > 1, n - 1.0, torch.nan)
    mean_g = class_sum(g) / n
    dg = g - mean_g[index]
    d_other = other - (class_sum(other) / n)[index]
    return _ClassMoments(n, mean_g, class_sum(dg.square()) / dof, class_sum(dg * d_other) / dof)


def _measured_rows(data: LabelledFeatures, rows: Array | None, g: Tensor) -> Tensor:
    n = len(data.features)
    measured = torch.arange(n) if rows is None else as_tensor("rows", rows)
    if measured.is_floating_point():
        raise TypeError(f"rows: expected integers, got {measured.dtype}; do rows.long()")
    if g.ndim != 1 or measured.shape != g.shape:
        raise ValueError(
            f"squared_norms: expected one number for each of {len(measured)} rows, got "
            f"{tuple(g.shape)}; "
            "do rows=... if only some examples were measured"
        )
    check_finite("squared_norms", g)
    distinct = measured.unique()
    if len(distinct) < len(measured) or (
        len(distinct) and not 0 <= int(distinct[0]) <= int(distinct[-1]) < n
    ):
        raise ValueError(
            f"rows: expected distinct positions from 0 to {n - 1}; do pass row numbers of features"
        )
    return measured.long().to(data.features.device)
