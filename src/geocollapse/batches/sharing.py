"""What several processes must have in common to share the batches of one data set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geocollapse.batches.examples import MapExamples, StreamExamples, as_map
from geocollapse.processes import check_same, digest, gather_rows, share


def check_shared(examples: MapExamples | StreamExamples, model: nn.Module | None, settings: Any) -> None:
    """Refuse what several processes cannot share: a stream, or other data, weights or settings in one of them.

    Raises:
        ValueError: says what differs.
    """
    if share()[1] == 1:
        return
    remedy = "pass a map-style data set, or use CollapseMetric, which takes each process's own stream"
    shared = as_map(examples, "data", wanted="in parts by several processes", remedy=remedy)
    n_dataset = len(shared.dataset)  # type: ignore[arg-type]
    remedy = "give each process the whole data set, or a loader with a DistributedSampler over it"
    check_same("data", n_dataset, expected="a data set of the same length", remedy=remedy)
    check_same("data", len(shared), expected="the same number of positions", remedy=remedy)
    taken = digest(shared.indices, shared.labels)
    check_same("data", taken, expected="the same positions and labels (by their digest)", remedy=remedy)
    settings = (shared.batch_size, settings)
    check_same("arguments", settings, expected="the same settings", remedy="pass the same ones in each process")
    weights = [] if model is None else [*model.parameters(), *model.buffers()]
    remedy = "load one checkpoint in all, or broadcast parameters and buffers (batch statistics drift apart)"
    check_same("model", digest(*weights), expected="the same weights and buffers (by their digest)", remedy=remedy)


def sampled_positions(sampler: Any) -> Tensor:
    """The positions that a sampler takes, each once; of a distributed one those of all processes together."""
    entries = [entry if isinstance(entry, list | tuple) else [entry] for entry in sampler]
    positions = torch.tensor([position for entry in entries for position in entry], dtype=torch.int64)
    for distributed in (sampler, getattr(sampler, "sampler", None)):
        n_replicas, n_processes = getattr(distributed, "num_replicas", None), share()[1]
        if n_replicas is None:
            continue
        if n_replicas != n_processes:
            raise ValueError(
                f"sampler: expected num_replicas = world size {n_processes}, got {n_replicas}, of which a part of the "
                f"data would be left out; do init_process_group before DistributedSampler(dataset), or no sampler"
            )
        positions = gather_rows(positions)
    return positions.unique()
