"""Any accepted form of data, read as batches of (inputs, labels, positions in the data set)."""

from __future__ import annotations

import functools
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from geocollapse.borrow import device_of, dtype_of
from geocollapse.processes import check_same, digest, gather_rows, share

Inputs = Tensor | Mapping[str, Tensor]  # one tensor, or tensors by name; one row an example

_DEFAULT_BATCH_SIZE = 128
_AHEAD = 8  # batches of a stream that are read ahead for one with two examples
_WINDOW = 32  # batches among which examples are sorted by length
_EMPTY = "data: expected at least one example, got none; do check the data set and its sampler"
_FORMS = "a DataLoader, a map-style Dataset, a pair (inputs, labels) or a tensor of inputs"


@dataclass(frozen=True)
class Batch:
    """Examples that go through the model together.

    Attributes:
        inputs: (n, ...), or tensors by the names of the model's arguments, each (n, ...).
        labels: (n,) int64, or None where the data has none.
        indices: (n,) int64, positions in the data set; probes are a function of them.
        segment: number of the segment the batch was read from.
    """

    inputs: Inputs
    labels: Tensor | None
    indices: Tensor
    segment: int = 0


@dataclass(frozen=True)
class MapExamples:
    """Examples that can be read in any order: a map-style data set and the positions taken from it.

    Attributes:
        dataset: the data set.
        indices: (n,) int64, the sorted positions that are read.
        labels: (n,) labels of ``indices`` where they are known before reading, else None.
        loading: batch size, collate function and worker settings, as keyword arguments of a DataLoader.
        lengths: (n,) tokens of each example of the data set, where it tells (``dataset.lengths``), else None.
    """

    dataset: Dataset[Any]
    indices: Tensor
    labels: Tensor | None
    batch_size: int
    loading: dict[str, Any] = field(default_factory=dict)
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def peek(self, n_examples: int = 1) -> Inputs:
        """The inputs of the first examples: at most ``n_examples``, and no more than share a batch."""
        return next(self.batches(self.indices[:n_examples])).inputs

    def batches(self, *segments: Tensor, share: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Read the positions of ``segments`` in their order; a batch never spans two segments.

        Without segments: all positions in ascending order. A ``share`` (rank, number of processes) is some of the
        batches, each as it is without one.
        """
        parts = [
            (number, part)
            for number, segment in enumerate(segments or (self.indices,))
            if len(segment)
            for part in self._parts(segment)
        ]
        parts = _shared(parts, *share)
        if isinstance(self.dataset, TensorDataset) and not self.loading:
            for number, part in parts:
                yield _as_batch(tuple(tensor[part.to(tensor.device)] for tensor in self.dataset.tensors), part, number)
            return
        loader = DataLoader(self.dataset, batch_sampler=[part.tolist() for _, part in parts], **self.loading)
        for raw, (number, part) in zip(loader, parts, strict=True):
            yield _as_batch(raw, part, number)

    def _parts(self, segment: Tensor) -> Iterable[Tensor]:
        """A segment in batches; where examples have lengths, those of similar length together, to save padding.

        Batches of one window are in the order of the places where their shortest examples stood, so that in a segment
        of random order what was read at any time is a random sample.
        """
        if self.lengths is None:
            return segment.split(self.batch_size)
        parts = []
        for window in segment.split(_WINDOW * self.batch_size):
            by_length = self.lengths[window].argsort(stable=True).split(self.batch_size)
            parts += [window[places] for places in sorted(by_length, key=lambda places: int(places[0]))]
        return parts


class StreamExamples:
    """Examples that are read once, in their own order: an iterable of batches."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterator = iter(iterable)
        self._seen: list[Any] = []

    def peek(self, n_examples: int = 1) -> Inputs:
        """The inputs of the first examples that share a batch: of the first one that has so many, among those ahead.

        What was read ahead is read again by ``batches``.
        """
        while len(self._seen) < _AHEAD and not any(_n_rows(raw) >= n_examples for raw in self._seen):
            ahead = list(itertools.islice(self._iterator, 1))
            if not ahead:
                break
            self._seen += ahead
        if not self._seen:
            raise ValueError(_EMPTY)
        raw = next((raw for raw in self._seen if _n_rows(raw) >= n_examples), self._seen[0])
        return rows_of(_as_batch(raw, torch.arange(_n_rows(raw))).inputs, slice(n_examples))

    def batches(self, *, share: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """The batches of the iterable; positions count the examples read. It cannot be shared: ``check_shared``."""
        del share
        start = 0
        for raw in itertools.chain(self._seen, self._iterator):
            n_examples = _n_rows(raw)
            yield _as_batch(raw, torch.arange(start, start + n_examples))
            start += n_examples


def as_examples(data: Any, *, labels: Any = None, batch_size: int | None = None) -> MapExamples | StreamExamples:
    """Normalise ``data`` to examples with positions.

    Of a loader over a map-style data set only the data set, collate function, batch size, worker settings and the
    sampler's set of positions are taken; its order, and ``drop_last``, are not: every example counts once. Of a
    distributed sampler these are the positions of all processes together, without its padding repeats.

    Raises:
        TypeError: not one of the accepted forms.
        ValueError: no examples, labels of another length, a batch size below 1, a distributed sampler of another
            number of processes.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}; do batch_size={_DEFAULT_BATCH_SIZE}")
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size or _DEFAULT_BATCH_SIZE)
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            return _stream(data, labels)
        return _of_loader(data, labels, batch_size)
    dataset = _as_dataset(data)
    if dataset is not None:
        indices = torch.arange(len(dataset))  # type: ignore[arg-type]
        collate = getattr(dataset, "collate_fn", None)  # a data set that knows how its examples make a batch
        loading = {} if collate is None else {"collate_fn": collate}
        return _of_dataset(dataset, indices, labels, batch_size or _DEFAULT_BATCH_SIZE, loading)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        return _stream(data, labels)
    raise TypeError(f"data: expected {_FORMS}, got {type(data).__name__}; do DataLoader(dataset, batch_size=128)")


def as_map(
    examples: MapExamples | StreamExamples,
    argument: str,
    *,
    wanted: str = "in any order",
    remedy: str = "pass a map-style data set or a loader over one",
) -> MapExamples:
    """``examples``, where ``argument`` needs a data set that can be read as ``wanted``.

    Raises:
        ValueError: a stream, which comes once and in its own batches.
    """
    if isinstance(examples, StreamExamples):
        raise ValueError(
            f"{argument}: expected a data set that can be read {wanted}, got a stream of batches; do {remedy}"
        )
    return examples


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


def as_labels(labels: Any) -> Tensor:
    """Class labels as an int64 vector.

    Raises:
        TypeError: labels that are not integers.
        ValueError: not one label for each example.
    """
    tensor = torch.as_tensor(labels)
    if tensor.is_floating_point() or tensor.is_complex():
        raise TypeError(
            f"labels: expected integers, one class for each example, got {tensor.dtype}; do labels.long() if they count"
        )
    if tensor.ndim != 1:
        raise ValueError(
            f"labels: expected shape (n,), got {tuple(tensor.shape)}; do labels.argmax(dim=1) for one-hot labels"
        )
    return tensor.to(torch.int64)


def _as_dataset(data: Any) -> Dataset[Any] | None:
    if isinstance(data, Tensor | np.ndarray):
        return TensorDataset(torch.as_tensor(data))
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    if is_pair and all(isinstance(part, Tensor | np.ndarray) for part in data):
        inputs, labels = torch.as_tensor(data[0]), as_labels(data[1])
        if len(inputs) != len(labels):
            raise ValueError(
                f"labels: expected one for each of {len(inputs)} inputs, got {len(labels)}; do pass matching tensors"
            )
        return TensorDataset(inputs, labels)
    if isinstance(data, list | tuple | Mapping | str | bytes):  # a plain list is one of batches, not of examples
        return None
    return data if hasattr(data, "__getitem__") and hasattr(data, "__len__") else None


def _of_loader(loader: DataLoader[Any], labels: Any, batch_size: int | None) -> MapExamples:
    positions = _positions(
        loader.batch_sampler if loader.batch_size is None and loader.batch_sampler else loader.sampler
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


def _positions(sampler: Any) -> Tensor:
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


def _shared(parts: list[tuple[int, Tensor]], rank: int, n_processes: int) -> list[tuple[int, Tensor]]:
    """The parts of one process: each goes to the process that has the fewest examples by then."""
    if n_processes == 1:
        return parts
    loads, own = [0] * n_processes, []
    for part in parts:
        least = loads.index(min(loads))
        loads[least] += len(part[1])
        if least == rank:
            own.append(part)
    return own


def _start_worker(worker_init_fn: Callable[[int], None] | None, worker: int) -> None:
    """Leave Ctrl-C to the main process, which ends with what was read so far."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if worker_init_fn is not None:
        worker_init_fn(worker)


def _of_dataset(
    dataset: Dataset[Any], indices: Tensor, labels: Any, batch_size: int, loading: dict[str, Any]
) -> MapExamples:
    if len(indices) == 0:
        raise ValueError(_EMPTY)
    known = _known_labels(dataset) if labels is None else as_labels(labels)
    if known is not None and len(known) != len(dataset):  # type: ignore[arg-type]
        raise ValueError(
            f"labels: expected one for each of {len(dataset)} examples, got {len(known)}; "  # type: ignore[arg-type]
            f"do labels=None to read them from the batches"
        )
    lengths = getattr(dataset, "lengths", None)
    return MapExamples(dataset, indices, None if known is None else known[indices], batch_size, loading, lengths)


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
        raise ValueError("labels: expected None for a stream of batches, got labels; do yield (inputs, labels) batches")
    return StreamExamples(iterable)


def _as_batch(raw: Any, indices: Tensor, segment: int = 0) -> Batch:
    inputs, labels = _unpack(raw)
    n_examples = n_rows(inputs)
    if n_examples != len(indices):
        raise ValueError(
            f"batch: expected {len(indices)} examples, got {n_examples}; do make collate_fn keep every example"
        )
    if labels is not None:
        labels = as_labels(labels)
        if len(labels) != n_examples:
            raise ValueError(
                f"labels: expected one for each of {n_examples} inputs, got {len(labels)}; do check the collate_fn"
            )
    return Batch(inputs, labels, indices, segment)


def n_rows(inputs: Inputs) -> int:
    """The number of examples.

    Raises:
        TypeError: neither a tensor nor tensors by name.
        ValueError: tensors of different lengths.
    """
    tensors = inputs if isinstance(inputs, Mapping) else {"inputs": inputs}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"batch: expected tensors as inputs, got {type(tensor).__name__} at {name!r}; "
                f"do yield (inputs, labels) or a mapping of tensors with 'labels'"
            )
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"batch: expected inputs of one length, got {lengths}; do check the collate_fn")
    return next(iter(lengths.values()))


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """The tensors that belong to the examples."""
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def rows_of(inputs: Inputs, rows: slice | Tensor) -> Inputs:
    """The inputs of some examples."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return {name: tensor[rows] for name, tensor in inputs.items()}


def move(inputs: Inputs, model: object) -> Inputs:
    """``inputs`` on the model's device and, where they and it are floating, in its dtype."""
    if isinstance(inputs, Mapping):
        return {name: _moved(tensor, model) for name, tensor in inputs.items()}
    return _moved(inputs, model)


def _moved(tensor: Tensor, model: object) -> Tensor:
    dtype = dtype_of(model) if tensor.is_floating_point() else None
    return tensor.to(device=device_of(model) or tensor.device, dtype=dtype or tensor.dtype)


def _n_rows(raw: Any) -> int:
    return n_rows(_unpack(raw)[0])


def _unpack(raw: Any) -> tuple[Any, Any]:
    """Inputs and labels; of a mapping, all but ``labels`` are inputs, and a single one needs no name."""
    if isinstance(raw, Mapping):
        rest = {key: value for key, value in raw.items() if key != "labels"}
        return (next(iter(rest.values())) if len(rest) == 1 else rest), raw.get("labels")
    if isinstance(raw, tuple | list):
        if len(raw) == 1:
            return raw[0], None
        if len(raw) == 2:
            return raw[0], raw[1]
    if isinstance(raw, Tensor):
        return raw, None
    raise TypeError(
        f"batch: expected (inputs, labels) or a mapping with 'labels', got {type(raw).__name__}; do adapt collate_fn"
    )
