"""NC4 and nearest-mean error: what the classifier and the nearest class mean decide about each
example.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from geocollapse.collapse.labelled import LabelledFeatures


def nearest_mean_error(data: LabelledFeatures) -> float:
    """Share of the examples with another class mean at least as near as their own; a tie is an
    error.

    The means are those of the same examples, so this is a training error. NaN where a class has no
    example.
    """
    errors = data.features.new_zeros((), dtype=torch.float64)
    for _, scores, index in _mean_scores(data):
        own = scores.gather(1, index[:, None]).squeeze(1)
        rivals = scores.scatter(1, index[:, None], -torch.inf).amax(dim=1)
        errors += torch.where(
            own.isnan() | rivals.isnan(), torch.nan, (rivals >= own).double()
        ).sum()
    return float(errors / len(data.features))


def nc4(data: LabelledFeatures, weight: Tensor, bias: Tensor) -> float:
    """Share of the examples on which the classifier and the nearest class mean disagree.

        NC4 = 1/n sum_x [ argmax_c <w_c, f(x)> + b_c  !=  argmin_c ||f(x) - mu_c|| ]

    Range [0, 1]; near 0 also for a network that is wrong in the same way. A second pass over kept
    features.

    Source: Papyan, Han, Donoho (2020), NC4.

    Args:
        data: the features and labels that gave the means.
        weight: classifier W (C, p), float64.
        bias: b (C,), float64.
    """
    disagreements = data.features.new_zeros((), dtype=torch.float64)
    for x, scores, _ in _mean_scores(data):
        disagreements += ((x @ weight.T + bias).argmax(dim=1) != scores.argmax(dim=1)).sum()
    return float(disagreements / len(data.features))


def _mean_scores(data: LabelledFeatures) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Chunks of f(x) (m, p), scores (m, C) that are largest at the nearest mean, and class rows
    (m,).

    ||f - mu_b||^2 = const - 2 (<f - mu_G, m_b> - ||m_b||^2/2), m_b = mu_b - mu_G.
    """
    means = data.statistics.centred_means()
    class_means = data.statistics.means
    half_norms = 0.5 * means.square().sum(dim=1)
    for z, index in data.residuals(extra_width=2 * len(means)):
        yield z + class_means[index], (z + means[index]) @ means.T - half_norms, index
