"""From data in any accepted form to examples with positions."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from geocollapse.arrays import Labels, as_classes, as_labels, as_list
from geocollapse.batches.examples import (
    EMPTY,
    Examples,
    Loading,
    MapDataset,
    MapExamples,
    StreamExamples,
)
from geocollapse.batches.sharing import sampled_positions
from geocollapse.numerics import is_count

_DEFAULT_BATCH_SIZE = 128
_FORMS = "a DataLoader, a map-style Dataset, a pair (inputs, labels) or a tensor of inputs"


def as_examples(
    data: object,
    *,
    labels: Labels | None = None,
    batch_size: int | None = None,
    ignore_index: int | None = None,
) -> Examples:
    """Turn data in any accepted form into examples with positions.

    A loader over a map-style data set lends its data set, collate function, batch size, worker
    settings and the set of positions in its sampler, but neither their order nor ``drop_last``:
    every example counts once. A DistributedSampler stands for the whole data set it samples.

    Args:
        data: a loader, a map-style data set, a pair (inputs, labels), a tensor of inputs, or an
            iterable of batches.
        labels: one for each example of a map-style data set; by default its own.
        batch_size: examples to read together; by default that of the loader.
        ignore_index: leave out the examples with this label.

    Raises:
        TypeError: not one of the accepted forms.
        ValueError: no examples, labels of another length, a batch size below 1, a distributed
            sampler for another number of processes, ``ignore_index`` for labels that are not known
            before a map-style data set is read.
    """
    if batch_size is not None and not is_count(batch_size):
        raise ValueError(
            f"batch_size: expected a whole number of at least 1, got {batch_size}; do "
            f"batch_size={_DEFAULT_BATCH_SIZE}"
        )
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size or _DEFAULT_BATCH_SIZE)
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            return _stream(data, labels, ignore_index)
        return _without(_of_loader(data, labels, batch_size), ignore_index)
    dataset = _as_dataset(data)
    if dataset is not None:
        whole = _of_whole(dataset, labels, batch_size or _DEFAULT_BATCH_SIZE)
        return _without(whole, ignore_index)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        return _stream(data, labels, ignore_index)
    raise TypeError(
        f"data: expected {_FORMS}, got {type(data).__name__}; do DataLoader(dataset, "
        f"batch_size=128)"
    )


def _as_dataset(data: object) -> MapDataset | None:
    """A map-style data set of ``data``; None if they are a stream or no data at all."""
    if isinstance(data, Tensor | np.ndarray):
        return TensorDataset(torch.as_tensor(data))
    if isinstance(data, tuple | list):
        return _of_pair(*data) if _is_pair(data) else None  # another list holds batches
    if isinstance(data, Mapping | str | bytes):
        return None
    return data if isinstance(data, MapDataset) else None


class _Named(TensorDataset):
    """Inputs and labels in memory, with the names of class 0, 1, ..."""

    def __init__(self, inputs: Tensor, labels: Tensor, classes: tuple[str, ...]) -> None:
        super().__init__(inputs, labels)
        self.classes = classes


def _is_pair(data: Sequence[object]) -> bool:
    """True for arrays of inputs and labels, and for inputs with a list of names."""
    if len(data) != 2 or not isinstance(data[0], Tensor | np.ndarray):
        return False
    labels = data[1]
    are_names = isinstance(labels, list | tuple) and any(isinstance(one, str) for one in labels)
    return are_names or isinstance(labels, Tensor | np.ndarray)


def _of_pair(inputs: Tensor | np.ndarray, labels: Labels) -> TensorDataset:
    x = torch.as_tensor(inputs)
    y, names = as_classes(labels)
    if len(x) != len(y):
        raise ValueError(
            f"labels: expected one for each of {len(x)} inputs, got {len(y)}; do pass matching "
            f"tensors"
        )
    return TensorDataset(x, y) if names is None else _Named(x, y, names)


def _of_whole(dataset: MapDataset, labels: Labels | None, batch_size: int) -> MapExamples:
    """All examples of a data set, collated as it asks (``dataset.collate_fn``)."""
    collate = getattr(dataset, "collate_fn", None)
    loading = Loading() if collate is None else Loading(collate_fn=collate)
    return _of_dataset(dataset, torch.arange(len(dataset)), labels, batch_size, loading)


def _of_loader(
    loader: DataLoader[object], labels: Labels | None, batch_size: int | None
) -> MapExamples:
    own_batches = loader.batch_sampler if loader.batch_size is None else None
    positions, notes = sampled_positions(own_batches or loader.sampler)
    size = batch_size or loader.batch_size or _DEFAULT_BATCH_SIZE
    dataset = cast("MapDataset", loader.dataset)
    examples = _of_dataset(dataset, positions, labels, size, _loading(loader))
    return replace(examples, notes=notes)


def _without(examples: MapExamples, ignore_index: int | None) -> MapExamples:
    """``examples`` without those of the class ``ignore_index``."""
    if ignore_index is None:
        return examples
    if examples.labels is None:
        raise ValueError(
            f"ignore_index: expected labels that are known before the data are read, got "
            f"{ignore_index} for labels that come with the batches; do labels= with one for each "
            f"example"
        )
    keep = examples.labels != ignore_index
    if not bool(keep.any()):
        raise ValueError(
            f"ignore_index: expected an example of another class, got {ignore_index}, the label of "
            f"all {len(keep)} examples; do check the labels"
        )
    return replace(examples, indices=examples.indices[keep], labels=examples.labels[keep])


def _loading(loader: DataLoader[object]) -> Loading:
    """The settings of a loader; none where its data set can be read without a DataLoader."""
    if loader.collate_fn is default_collate and not loader.num_workers:
        return Loading()
    loading = Loading(collate_fn=loader.collate_fn)
    if loader.num_workers:
        loading["num_workers"] = loader.num_workers
        loading["worker_init_fn"] = functools.partial(_start_worker, loader.worker_init_fn)
        loading["multiprocessing_context"] = loader.multiprocessing_context
        loading["prefetch_factor"] = loader.prefetch_factor
    if loader.pin_memory:
        loading["pin_memory"] = True
    return loading


def _start_worker(worker_init_fn: Callable[[int], None] | None, worker: int) -> None:
    """Leave Ctrl-C to the main process, which ends with what it has read so far."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if worker_init_fn is not None:
        worker_init_fn(worker)


def _of_dataset(
    dataset: MapDataset,
    indices: Tensor,
    labels: Labels | None,
    batch_size: int,
    loading: Loading,
) -> MapExamples:
    if len(indices) == 0:
        raise ValueError(EMPTY)
    known, names = _known_labels(dataset) if labels is None else as_classes(labels)
    if known is not None and len(known) != len(dataset):
        raise ValueError(
            f"labels: expected one for each of {len(dataset)} examples, got {len(known)}; "
            f"do labels=None to read them from the batches"
        )
    return MapExamples(
        dataset,
        indices,
        None if known is None else known[indices],
        batch_size,
        loading,
        lengths=getattr(dataset, "lengths", None),
        labels_are_given=labels is not None,
        class_names=names,
    )


def _known_labels(dataset: object) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels that a data set offers without reading its examples (torchvision's ``targets``).

    They go through ``target_transform``, as when an example is read; None if they may depend on the
    input too (torchvision's ``transforms``). Beside them the names of class 0, 1, ..., where the
    labels are names.
    """
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        names = dataset.classes if isinstance(dataset, _Named) else None
        return as_labels(dataset.tensors[1]).cpu(), names
    if isinstance(dataset, Subset):
        whole, names = _known_labels(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)], names
    targets = getattr(dataset, "targets", None)
    joint = getattr(dataset, "transforms", None)
    if targets is None or (joint is not None and type(joint).__name__ != "StandardTransform"):
        return None, None
    transform = getattr(dataset, "target_transform", None)
    if transform is not None:
        targets = [transform(label) for label in as_list(targets)]
    return as_classes(targets)


def _stream(
    iterable: Iterable[object], labels: Labels | None, ignore_index: int | None
) -> StreamExamples:
    if labels is not None:
        raise ValueError(
            "labels: expected None for a stream of batches, got labels; do yield (inputs, labels) "
            "batches"
        )
    return StreamExamples(iterable, ignore_index)
