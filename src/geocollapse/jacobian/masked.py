"""Jacobian masking: K of the p d entries of each example's Jacobian, without replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from geocollapse.jacobian import probes
from geocollapse.jacobian.reverse import pull_back, unit_vectors
from geocollapse.numerics import accumulation_dtype


def masked_entries(
    features: Tensor, leaf: Tensor, indices: Tensor, *, seed: int, n_entries: int, keep_graph: bool
) -> tuple[Tensor, Tensor]:
    """Return the values (n, K) of sampled entries of each Jacobian, and their input coordinates.

    Cost: one vector-Jacobian product for each output that has an entry in the batch, so masking
    saves time only where it drops whole rows.

    Source: Munn, Dherin, Gonzalvo (2024), Jacobian masking.
    """
    n_inputs = leaf[0].numel()
    n_features = features.shape[1]
    entries = probes.sampled_entries(seed, indices, n_entries, n_inputs * n_features)
    outputs = (entries // n_inputs).flatten()
    inputs = entries % n_inputs
    kept = outputs.bincount(minlength=n_features).tolist()
    of_output = outputs.argsort(stable=True).split(kept)
    rows = [row for row, count in enumerate(kept) if count]
    dtype = accumulation_dtype(leaf.device)
    values = torch.empty(entries.shape, dtype=dtype, device=leaf.device)
    vectors = unit_vectors(n_features, features, rows)
    gradients = pull_back(features, leaf, vectors, keep_graph=keep_graph)
    for row, gradient in zip(rows, gradients, strict=True):
        places = of_output[row]
        found = gradient.flatten(1)[places // n_entries, inputs.view(-1)[places]]
        values.view(-1)[places] = found.to(dtype)
    return values, inputs
