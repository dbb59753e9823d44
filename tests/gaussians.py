"""Gaussian classes, simplices and classifiers for the tests of collapse."""

from __future__ import annotations

import laws
import torch
from hypothesis import strategies as st

from geocollapse.collapse import (
    neural_collapse,
)

FEATURE_MEASURES = (
    "cdnv",
    "cdnv_bias_corrected",
    "directional_cdnv",
    "nc1",
    "nc1_pooled",
    "nc1_trace_ratio",
    "nc2_equinorm",
    "nc2_equiangular",
    "nc2_max_angle",
    "hyperspherical_uniformity",
    "nearest_mean_error",
)
WEIGHT_MEASURES = (
    "nc2_weight_equinorm",
    "nc2_weight_equiangular",
    "nc2_weight_max_angle",
    "nc3",
    "self_duality_gram",
    "nc4",
)


def classes(counts, p, seed=0, spread=3.0):
    """Gaussian classes with unequal covariances: features (n, p) float64 and labels 0..C - 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    scales = 0.2 + torch.rand(len(counts), p, generator=generator, dtype=torch.float64)
    centres = spread * torch.randn(len(counts), p, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), p, generator=generator, dtype=torch.float64)
    return centres[labels] + scales[labels] * noise, labels


def head(n_classes, p, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_classes, p, generator=generator).double(), torch.randn(
        n_classes, generator=generator
    ).double()


def simplex(n_classes, p, seed=0):
    """A simplex equiangular tight frame of C vectors in R^p, rotated."""
    frame = torch.zeros(n_classes, p, dtype=torch.float64)
    frame[:, :n_classes] = torch.eye(n_classes, dtype=torch.float64) - 1.0 / n_classes
    return frame @ laws.random_rotation(p, seed)


def measures_of(features, labels):
    measures = neural_collapse(features, labels)
    return torch.tensor([getattr(measures, name) for name in FEATURE_MEASURES], dtype=torch.float64)


data_sets = st.builds(
    classes,
    counts=st.lists(st.integers(4, 12), min_size=2, max_size=5),
    p=st.integers(5, 9),
    seed=st.integers(0, 10_000),
)

FEATURES, LABELS = classes([3, 3], 4)
