"""From any accepted form of data to examples with positions."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from geocollapse.batches.batch import as_labels
from geocollapse.batches.examples import EMPTY, Examples, MapExamples, StreamExamples
from geocollapse.batches.sharing import sampled_positions

_DEFAULT_BATCH_SIZE = 128
_FORMS = "a DataLoader, a map-style Dataset, a pair (inputs, labels) or a tensor of inputs"


def as_examples(data: Any, *, labels: Any = None, batch_size: int | None = None) -> Examples:
    """Normalise ``data`` to examples with positions.

    Of a loader over a map-style data set only the data set, collate function, batch size, worker
    settings and the sampler's set of positions are taken; its order, and ``drop_last``, are not:
    every example counts once. A DistributedSampler stands for the whole data set that it samples.

    Raises:
        TypeError: not one of the accepted forms.
        ValueError: no examples, labels of another length, a batch size below 1, a distributed
            sampler of another number of processes.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(
            f"batch_size: expected at least 1, got {batch_size}; do "
            f"batch_size={_DEFAULT_BATCH_SIZE}"
        )
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size or _DEFAULT_BATCH_SIZE)
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            return _stream(data, labels)
        return _of_loader(data, labels, batch_size)
    dataset = _as_dataset(data)
    if dataset is not None:
        indices = torch.arange(len(dataset))  # type: ignore[arg-type]
        collate = getattr(
            dataset, "collate_fn", None
        )  # a data set that knows how its examples make a batch
        loading = {} if collate is None else {"collate_fn": collate}
        return _of_dataset(dataset, indices, labels, batch_size or _DEFAULT_BATCH_SIZE, loading)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        return _stream(data, labels)
    raise TypeError(
        f"data: expected {_FORMS}, got {type(data).__name__}; do DataLoader(dataset, "
        f"batch_size=128)"
    )


def _as_dataset(data: Any) -> Dataset[Any] | None:
    if isinstance(data, Tensor | np.ndarray):
        return TensorDataset(torch.as_tensor(data))
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    if is_pair and all(isinstance(part, Tensor | np.ndarray) for part in data):
        inputs, labels = torch.as_tensor(data[0]), as_labels(data[1])
        if len(inputs) != len(labels):
            raise ValueError(
                f"labels: expected one for each of {len(inputs)} inputs, got {len(labels)}; do "
                f"pass matching tensors"
            )
        return TensorDataset(inputs, labels)
    if isinstance(
        data, list | tuple | Mapping | str | bytes
    ):  # a plain list is one of batches, not of examples
        return None
    return data if hasattr(data, "__getitem__") and hasattr(data, "__len__") else None


def _of_loader(loader: DataLoader[Any], labels: Any, batch_size: int | None) -> MapExamples:
    positions = sampled_positions(
        loader.batch_sampler
        if loader.batch_size is None and loader.batch_sampler
        else loader.sampler
    )
    loading: dict[str, Any] = {"collate_fn": loader.collate_fn}
    if loader.num_workers:
        loading |= {
            "num_workers": loader.num_workers,
            "worker_init_fn": functools.partial(_start_worker, loader.worker_init_fn),
            "multiprocessing_context": loader.multiprocessing_context,
            "prefetch_factor": loader.prefetch_factor,
        }
    if loader.pin_memory:
        loading["pin_memory"] = True
    if loader.collate_fn is torch.utils.data.default_collate and not loader.num_workers:
        loading = {}
    size = batch_size or loader.batch_size or _DEFAULT_BATCH_SIZE
    return _of_dataset(loader.dataset, positions, labels, size, loading)


def _start_worker(worker_init_fn: Callable[[int], None] | None, worker: int) -> None:
    """Leave Ctrl-C to the main process, which ends with what was read so far."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if worker_init_fn is not None:
        worker_init_fn(worker)


def _of_dataset(
    dataset: Dataset[Any], indices: Tensor, labels: Any, batch_size: int, loading: dict[str, Any]
) -> MapExamples:
    if len(indices) == 0:
        raise ValueError(EMPTY)
    known = _known_labels(dataset) if labels is None else as_labels(labels)
    if known is not None and len(known) != len(dataset):  # type: ignore[arg-type]
        raise ValueError(
            f"labels: expected one for each of {len(dataset)} examples, got {len(known)}; "  # type: ignore[arg-type]
            f"do labels=None to read them from the batches"
        )
    lengths = getattr(dataset, "lengths", None)
    return MapExamples(
        dataset, indices, None if known is None else known[indices], batch_size, loading, lengths
    )


def _known_labels(dataset: Any) -> Tensor | None:
    """Labels that a data set offers without reading its examples (torchvision's ``targets``)."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return as_labels(dataset.tensors[1]).cpu()
    if isinstance(dataset, torch.utils.data.Subset):
        whole = _known_labels(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)]
    targets = getattr(dataset, "targets", None)
    return None if targets is None else as_labels(targets)


def _stream(iterable: Iterable[Any], labels: Any) -> StreamExamples:
    if labels is not None:
        raise ValueError(
            "labels: expected None for a stream of batches, got labels; do yield (inputs, labels) "
            "batches"
        )
    return StreamExamples(iterable)
