"""What several processes must have in common to share the batches of one data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torch.utils.data.distributed import DistributedSampler

from geocollapse.batches.examples import Examples, MapExamples, as_map
from geocollapse.inputs import Enter, Inputs, tensors_of
from geocollapse.runtime.processes import check_same, digest, gather_object, gather_rows, share

_ONE_DATA_SET = (
    "give each process the whole data set, or a loader with a DistributedSampler over it"
)


def check_shared(
    examples: Examples,
    model: nn.Module | None,
    enter: Enter,
    pair: Inputs,
    settings: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse what several processes cannot share: a stream, or other data, weights or settings in
    one of them.

    Positions, labels, weights and inputs in memory are compared by their digests. Of what is not in
    memory, and of code (another architecture, a callable with weights of its own), the first two
    examples tell, by their inputs and features.

    Args:
        examples: the data.
        model: the module, or None for a callable.
        enter: from inputs to the map of these examples and the x that it starts from.
        pair: the inputs of the first two examples.
        settings: values by the names of their arguments.
        dtype: the coarsest precision inside the map (autocast); by default that of the features.

    Raises:
        ValueError: says what differs.
    """
    if share()[1] == 1:
        return
    remedy = (
        "pass a map-style data set, or use CollapseMetric, which takes each process's own stream"
    )
    shared = as_map(examples, "data", wanted="in parts by several processes", remedy=remedy)
    _check_data(shared, pair)
    for name, value in {"batch_size": shared.batch_size, **settings}.items():
        check_same(
            name, value, expected="the same setting", remedy="pass the same one in each process"
        )
    weights = [] if model is None else [*model.parameters(), *model.buffers()]
    remedy = "load one checkpoint in all, or broadcast parameters and buffers (batch statistics drift apart)"
    check_same(
        "model",
        digest(*weights),
        expected="the same weights and buffers (by their digest)",
        remedy=remedy,
    )
    take, x = enter(pair)
    with torch.no_grad():
        features = take(x.clone())[0]  # it may work in place
    remedy = "build one model, and let a callable's own weights be the same"
    _check_close(
        "model",
        features,
        expected="the same features of the first examples",
        remedy=remedy,
        dtype=dtype,
    )


def sampled_positions(sampler: Any) -> Tensor:
    """The positions that a sampler takes, each once; of a distributed one those of all processes
    together.

    All processes together are to take the whole data set of torch's own DistributedSampler: neither
    its ``drop_last`` nor epochs that differ between processes leave examples out.

    Raises:
        ValueError: a distributed sampler of another number of processes.
    """
    for distributed in (sampler, getattr(sampler, "sampler", None)):
        n_replicas, n_processes = getattr(distributed, "num_replicas", None), share()[1]
        if n_replicas is None:
            continue
        if n_replicas != n_processes:
            raise ValueError(
                f"sampler: expected num_replicas = world size {n_processes}, got {n_replicas}, of "
                f"which a part of the "
                f"data would be left out; do init_process_group before "
                f"DistributedSampler(dataset), or no sampler"
            )
        if (
            isinstance(distributed, DistributedSampler)
            and type(distributed).__iter__ is DistributedSampler.__iter__
        ):
            return torch.arange(len(distributed.dataset))  # type: ignore[arg-type]
        return gather_rows(_positions(sampler)).unique()
    return _positions(sampler).unique()


def _positions(sampler: Any) -> Tensor:
    entries = [entry if isinstance(entry, list | tuple) else [entry] for entry in sampler]
    return torch.tensor([position for entry in entries for position in entry], dtype=torch.int64)


def _check_data(examples: MapExamples, pair: Inputs) -> None:
    n_dataset = len(examples.dataset)  # type: ignore[arg-type]
    check_same("data", n_dataset, expected="a data set of the same length", remedy=_ONE_DATA_SET)
    check_same("data", len(examples), expected="the same number of positions", remedy=_ONE_DATA_SET)
    taken = digest(examples.indices, examples.labels)
    check_same(
        "data",
        taken,
        expected="the same positions and labels (by their digest)",
        remedy=_ONE_DATA_SET,
    )
    in_memory = examples.dataset.tensors[:1] if isinstance(examples.dataset, TensorDataset) else ()
    check_same(
        "data",
        digest(*in_memory),
        expected="the same inputs (by their digest)",
        remedy=_ONE_DATA_SET,
    )
    remedy = f"{_ONE_DATA_SET}; random augmentation, if any, has to be switched off"
    _check_close("data", tensors_of(pair), expected="the same first examples", remedy=remedy)


def _check_close(
    argument: str,
    tensors: Sequence[Tensor],
    *,
    expected: str,
    remedy: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse processes whose ``tensors`` differ by more than rounding does, at which half of the
    digits stay.
    """
    everyone = gather_object([tensor.detach().cpu() for tensor in tensors], what=argument)
    for rank, others in enumerate(everyone):
        same = len(others) == len(everyone[0])
        if not same or not all(
            _close(a, b, dtype) for a, b in zip(everyone[0], others, strict=True)
        ):
            raise ValueError(
                f"{argument}: expected {expected} in each of {len(everyone)} processes, got others "
                f"in process {rank} "
                f"than in process 0; do {remedy}"
            )


def _close(a: Tensor, b: Tensor, dtype: torch.dtype | None) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point() or a.numel() == 0:
        return torch.equal(a, b)
    tolerance = torch.finfo(dtype or a.dtype).eps ** 0.5
    size = float(a.double().nan_to_num(posinf=0.0, neginf=0.0).abs().max())
    return torch.allclose(a.double(), b.double(), rtol=0.0, atol=tolerance * size, equal_nan=True)
