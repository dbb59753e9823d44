"""Jacobian masking: K of the p d entries of each example's Jacobian, drawn without replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from geocollapse.jacobian import probes
from geocollapse.jacobian.reverse import pull_back, unit_vectors


def masked_entries(
    features: Tensor, leaf: Tensor, indices: Tensor, *, seed: int, n_entries: int, keep_graph: bool
) -> tuple[Tensor, Tensor]:
    """K sampled entries of each example's Jacobian: their values (n, K) and their input coordinates
    (n, K).

    Cost: one vector-Jacobian product for each output that has an entry in the batch, so that
    masking saves computing only where whole rows are dropped.

    Source: Munn, Dherin, Gonzalvo (2024), Jacobian masking.
    """
    n_inputs, n_features = leaf[0].numel(), features.shape[1]
    entries = probes.sampled_entries(seed, indices, n_entries, n_inputs * n_features)
    outputs, inputs = (entries // n_inputs).flatten(), entries % n_inputs
    kept = outputs.bincount(minlength=n_features).tolist()
    of_output = outputs.argsort(stable=True).split(kept)
    rows = [row for row, count in enumerate(kept) if count]
    values = torch.empty(
        entries.shape, dtype=probes.accumulation_dtype(leaf.device), device=leaf.device
    )
    gradients = pull_back(
        features, leaf, unit_vectors(n_features, features, rows), keep_graph=keep_graph
    )
    for row, gradient in zip(rows, gradients, strict=True):
        places = of_output[row]
        values.view(-1)[places] = gradient.flatten(1)[
            places // n_entries, inputs.view(-1)[places]
        ].to(values.dtype)
    return values, inputs
