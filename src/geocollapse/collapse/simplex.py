"""NC2, convergence to a simplex: norms and angles of centred class means or classifier rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from geocollapse.collapse.distances import distance_blocks, upper_tiles
from geocollapse.collapse.sampled import PairSample
from geocollapse.estimate import Estimate

_COLUMNS = 512  # of U^T U that are held at a time


class NC2(NamedTuple):
    """The three numbers of NC2; all 0 for a simplex equiangular tight frame."""

    equinorm: float
    equiangular: float
    max_angle: float


def nc2(vectors: Tensor) -> NC2:
    """Deviation of C vectors from a simplex equiangular tight frame, by norms and angles.

        equinorm    = std_c ||m_c|| / mean_c ||m_c||
            equiangular = std over pairs of cos(m_c, m_c')
        max_angle   = mean over pairs of |cos(m_c, m_c') + 1/(C-1)|
            (standard deviations divide by the count)

    Invariant under rotation and scaling. If p < C - 1 no simplex exists and the last two cannot
    reach 0: then read ``hyperspherical_uniformity``. NaN where a vector is zero or NaN. O(C^2 p).

    Source: Papyan, Han, Donoho (2020), NC2.

    Args:
        vectors: (C, p), the means minus their mean, or classifier rows.

    Examples:
        >>> nc2(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        NC2(equinorm=0.0, equiangular=0.0, max_angle=0.0)
    """
    norms = vectors.norm(dim=1)
    units = vectors / norms[:, None]
    simplex = -1.0 / (len(vectors) - 1)
    mean = _pair_mean(units, lambda cosines: cosines)
    variance = _pair_mean(units, lambda cosines: (cosines - mean).square())
    max_angle = _pair_mean(units, lambda cosines: (cosines - simplex).abs())
    return NC2(
        float(norms.std(correction=0) / norms.mean()), float(variance.sqrt()), float(max_angle)
    )


def norms_and_angles(vectors: Tensor) -> tuple[float, float]:
    """``equinorm`` and ``equiangular`` of ``nc2`` without a look at each pair: O(C p^2).

        sum_{c, c'} cos = ||sum_c u_c||^2,    sum_{c, c'} cos^2 = ||U^T U||_F^2

    U the normalised vectors (C, p), a block of the columns at a time. To about 1e-8.
    """
    norms = vectors.norm(dim=1)
    units = vectors / norms[:, None]
    n_classes, n_features = units.shape
    n_pairs = n_classes * (n_classes - 1)
    total = units.sum(dim=0).square().sum()
    squares = units.new_zeros(())
    for start in range(0, n_features, _COLUMNS):
        squares += (units[:, start : start + _COLUMNS].T @ units).square().sum()
    mean = (total - n_classes) / n_pairs
    variance = ((squares - n_classes) / n_pairs - mean.square()).clamp(min=0.0)
    return float(norms.std(correction=0) / norms.mean()), float(variance.sqrt())


def estimate_max_angle(name: str, vectors: Tensor, sample: PairSample) -> Estimate:
    """``max_angle`` of ``nc2`` from the drawn pairs."""
    units = vectors / vectors.norm(dim=1, keepdim=True)
    simplex = -1.0 / (len(vectors) - 1)
    cosines = sample.map(units, torch.linalg.vecdot)
    return sample.estimate(name, (cosines - simplex).abs())


def estimate_uniformity(vectors: Tensor, sample: PairSample) -> Estimate:
    """``hyperspherical_uniformity`` from the drawn pairs."""
    units = vectors / vectors.norm(dim=1, keepdim=True)
    values = -0.5 * sample.distances_squared(units).log()
    return sample.estimate("hyperspherical_uniformity", values, scale="linear")


def hyperspherical_uniformity(vectors: Tensor) -> float:
    """Mean over pairs of log(1 / ||u_c - u_c'||), u the normalised vectors; lower is more uniform.

    Its minimum, the most spread arrangement on the sphere, exists for every C; a simplex (C <= p +
    1) has -log(2C/(C-1))/2. inf where two directions coincide.

    Source: Jiang et al. (2024), generalised neural collapse; Wu and Papyan (2024).

    Args:
        vectors: (C, p), the class means minus their mean.
    """
    n_pairs = len(vectors) * (len(vectors) - 1) / 2
    units = vectors / vectors.norm(dim=1, keepdim=True)
    total = units.new_zeros(())
    for a, b, squared in distance_blocks(units):
        total -= 0.5 * _pairs(squared, a == b).log().sum()
    return float(total / n_pairs)


def _pair_mean(units: Tensor, term: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean of ``term`` over the cosines of all pairs i < j, tile by tile."""
    total = units.new_zeros(())
    for a, b in upper_tiles(len(units), units.device):
        total += term(_pairs(units[a] @ units[b].T, a == b)).sum()
    return total / (len(units) * (len(units) - 1) / 2)


def _pairs(block: Tensor, diagonal: bool) -> Tensor:
    """Entries of a tile that belong to pairs i < j, as a vector."""
    if not diagonal:
        return block.flatten()
    i, j = torch.triu_indices(len(block), len(block), offset=1, device=block.device)
    return block[i, j]
