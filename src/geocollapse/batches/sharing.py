"""Checks that several processes agree on the data set, model and settings they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from geocollapse.batches.examples import Examples, MapExamples, as_map
from geocollapse.inputs import Enter, Inputs, tensors_of
from geocollapse.runtime.processes import check_same, digest, gather_object, gather_rows, share

# Positions in a data set, one by one or in batches.
Positions = Iterable[int] | Iterable[Sequence[int]]

_ONE_DATA_SET = (
    "give each process the whole data set, or a loader with a DistributedSampler over it"
)


def check_shared(
    examples: Examples,
    model: nn.Module | None,
    enter: Enter,
    pair: Inputs,
    settings: Mapping[str, object],
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse a stream, and processes whose data, weights or settings differ.

    Positions, labels, weights and inputs in memory are compared by their digests. Data that are not
    in memory, and code (another architecture, a callable with its own weights), are compared by the
    inputs and features of the first two examples.

    Args:
        examples: the data.
        model: the module, or None for a callable.
        enter: from inputs to the map of these examples, and the x at which it starts.
        pair: the inputs of the first two examples.
        settings: values by the names of their arguments.
        dtype: the coarsest precision inside the map (autocast); by default that of the features.

    Raises:
        ValueError: names the first difference found.
    """
    if share()[1] == 1:
        return
    remedy = (
        "pass a map-style data set, or use CollapseMetric, which takes each process's own stream"
    )
    shared = as_map(examples, "data", wanted="in parts by several processes", remedy=remedy)
    _check_data(shared, pair)
    _check_settings({"batch_size": shared.batch_size, **settings})
    _check_weights(model)
    _check_features(enter, pair, dtype)


def sampled_positions(sampler: Positions) -> tuple[Tensor, tuple[str, ...]]:
    """The positions that a sampler takes, each once; of a DistributedSampler, those of all ranks.

    With them comes a note if the sampler takes one more than once.

    With torch's own DistributedSampler these are all positions of its data set: neither its
    ``drop_last`` nor epochs that differ between processes leave examples out.

    Raises:
        ValueError: a distributed sampler for another number of processes.
    """
    for distributed in (sampler, getattr(sampler, "sampler", None)):
        n_replicas = getattr(distributed, "num_replicas", None)
        if n_replicas is None:
            continue
        n_processes = share()[1]
        if n_replicas != n_processes:
            raise ValueError(
                f"sampler: expected num_replicas = world size {n_processes}, got {n_replicas}, "
                f"which would leave out a part of the data; do init_process_group before "
                f"DistributedSampler(dataset), or pass no sampler"
            )
        if (
            isinstance(distributed, DistributedSampler)
            and type(distributed).__iter__ is DistributedSampler.__iter__
        ):
            return torch.arange(len(distributed.dataset)), ()  # type: ignore[arg-type]
        return gather_rows(_positions(sampler)).unique(), ()
    drawn = _positions(sampler)
    positions = drawn.unique()
    if len(positions) == len(drawn):
        return positions, ()
    note = (
        f"data: {len(drawn)} draws of the sampler hold {len(positions)} different examples, each "
        f"measured once with weight 1; do pass the data set without a sampler to measure all"
    )
    return positions, (note,)


def _positions(sampler: Positions) -> Tensor:
    """All positions that a sampler yields, in its order; its random numbers are as before.

    Of torch's own BatchSampler these are the positions that it puts in batches, also those of a
    last one that it drops.
    """
    if isinstance(sampler, BatchSampler) and type(sampler).__iter__ is BatchSampler.__iter__:
        sampler = sampler.sampler
    generator = getattr(sampler, "generator", None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    entries = [entry if isinstance(entry, list | tuple) else [entry] for entry in sampler]
    if isinstance(generator, torch.Generator) and state is not None:
        generator.set_state(state)
    return torch.tensor([position for entry in entries for position in entry], dtype=torch.int64)


def _check_data(examples: MapExamples, pair: Inputs) -> None:
    """Refuse processes with other data, positions or labels."""
    dataset = examples.dataset
    taken = digest(examples.indices, examples.labels)
    in_memory = dataset.tensors[:1] if isinstance(dataset, TensorDataset) else ()
    compared: tuple[tuple[int, str], ...] = (
        (len(dataset), "a data set of the same length"),
        (len(examples), "the same number of positions"),
        (taken, "the same positions and labels (by their digest)"),
        (digest(*in_memory), "the same inputs (by their digest)"),
    )
    for value, expected in compared:
        check_same("data", value, expected=expected, remedy=_ONE_DATA_SET)
    remedy = f"{_ONE_DATA_SET}, and switch off random augmentation, if any"
    _check_close("data", tensors_of(pair), expected="the same first examples", remedy=remedy)


def _check_settings(settings: Mapping[str, object]) -> None:
    """Refuse processes with other settings."""
    for name, value in settings.items():
        check_same(
            name, value, expected="the same setting", remedy="pass the same one in each process"
        )


def _check_weights(model: nn.Module | None) -> None:
    """Refuse processes with other parameters or buffers."""
    weights = [] if model is None else [*model.parameters(), *model.buffers()]
    check_same(
        "model",
        digest(*weights),
        expected="the same weights and buffers (by their digest)",
        remedy="load one checkpoint in all, or broadcast parameters and buffers (batch statistics "
        "drift apart)",
    )


def _check_features(enter: Enter, pair: Inputs, dtype: torch.dtype | None) -> None:
    """Refuse processes whose maps give the first examples other features."""
    take, x = enter(pair)
    with torch.no_grad():
        features = take(x.clone())[0]  # a copy: the map may work in place
    _check_close(
        "model",
        features,
        expected="the same features of the first examples",
        remedy="build one model, and give a callable the same weights in each process",
        dtype=dtype,
    )


def _check_close(
    argument: str,
    tensors: Sequence[Tensor],
    *,
    expected: str,
    remedy: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse processes whose ``tensors`` differ in more than the digits that rounding may change.

    Raises:
        ValueError: names the argument and the first process that differs.
    """
    everyone = gather_object([tensor.detach().cpu() for tensor in tensors], what=argument)
    for rank, others in enumerate(everyone):
        same = len(others) == len(everyone[0])
        if not same or not all(
            _close(a, b, dtype) for a, b in zip(everyone[0], others, strict=True)
        ):
            raise ValueError(
                f"{argument}: expected {expected} in each of {len(everyone)} processes, got others "
                f"in process {rank} than in process 0; do {remedy}"
            )


def _close(a: Tensor, b: Tensor, dtype: torch.dtype | None) -> bool:
    """Equal up to half the digits of the largest entry, in ``dtype`` or their own."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point() or a.numel() == 0:
        return torch.equal(a, b)
    tolerance = torch.finfo(dtype or a.dtype).eps ** 0.5
    size = float(a.double().nan_to_num(posinf=0.0, neginf=0.0).abs().max())
    return torch.allclose(a.double(), b.double(), rtol=0.0, atol=tolerance * size, equal_nan=True)
