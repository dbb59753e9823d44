"""Examples that are read by their positions, in any order, or once as a stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypedDict, cast, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from geocollapse.arrays import check_no_negative
from geocollapse.batches.about import AboutData
from geocollapse.batches.batch import Batch, as_batch, n_examples_in
from geocollapse.inputs import Inputs, n_rows, rows_of, tensors_of

EMPTY = "data: expected at least one example, got none; do check the data set and its sampler"
RANDOM = (
    "data: two readings of the same examples differ (random augmentation?), and each measure takes "
    "one draw of them; do measure without augmentation"
)
_READ_TWICE = 8  # a random flip is missed with probability 2^-8
_AHEAD = 8  # batches of a stream to read ahead in search of one with enough examples
_WINDOW = 32  # batches among which examples are sorted by length


@runtime_checkable
class MapDataset(Protocol):
    """A map-style data set: one example for each position."""

    def __getitem__(self, position: int, /) -> object:
        """The example at a position."""

    def __len__(self) -> int:
        """The number of examples."""


class Loading(TypedDict, total=False):
    """Keyword arguments of the DataLoader that reads a data set."""

    collate_fn: Callable[[list[object]], object]
    num_workers: int
    worker_init_fn: Callable[[int], None]
    multiprocessing_context: object
    prefetch_factor: int | None
    pin_memory: bool


@dataclass(frozen=True)
class MapExamples:
    """Examples that can be read in any order: positions of a map-style data set.

    Attributes:
        dataset: the data set.
        indices: (n,) int64, the sorted positions to read.
        labels: (n,) labels of ``indices`` if they are known before reading, else None.
        labels_are_given: the caller gave the labels, so that those of the batches do not count.
        class_names: of class 0, 1, ..., if the labels were given as names.
        batch_size: examples that are read together.
        loading: collate function and worker settings of the DataLoader.
        lengths: (n,) number of tokens of each example of the data set (``dataset.lengths``), None
            if the data set does not tell.
        notes: what a reader must know about the positions.
    """

    dataset: MapDataset
    indices: Tensor
    labels: Tensor | None
    batch_size: int
    loading: Loading = field(default_factory=Loading)
    lengths: Tensor | None = None
    labels_are_given: bool = False
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def size(self) -> int | None:
        """The number of examples, known before reading."""
        return len(self.indices)

    @property
    def about(self) -> AboutData:
        """The attributes that describe the data set."""
        about = AboutData.of(self.dataset)
        return about if self.class_names is None else replace(about, classes=self.class_names)

    def rows(self, batch: Batch) -> Tensor:
        """Rows (k,) of a batch among all examples that are read."""
        return torch.searchsorted(self.indices, batch.indices)

    def positions(self, rows: Tensor) -> Tensor:
        """Positions in the data set of ``rows`` among all examples that are read."""
        return self.indices[rows]

    def labels_at(self, indices: Tensor) -> Tensor | None:
        """Labels (k,) at positions ``indices`` (k,), None if they are not known before reading."""
        if self.labels is None:
            return None
        return self.labels[torch.searchsorted(self.indices, indices)]

    def class_counts(self) -> dict[int, int]:
        """Examples of each class, by its label; empty if labels are not known before reading."""
        if self.labels is None:
            return {}
        classes, counts = self.labels.unique(return_counts=True)
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))

    def labels_of(self, batch: Batch) -> Tensor:
        """Labels (k,) of a batch: those known before reading, else those in the batch.

        Raises:
            ValueError: there are neither, one is negative, or those of the data set (its
                ``targets``) are not those in the batch.
        """
        known = self.labels_at(batch.indices)
        if known is None:
            return _own_labels(batch)
        if batch.labels is not None and not self.labels_are_given:
            _check_same_labels(known, batch.labels, batch.indices)
        return _checked(known)

    def check(self) -> tuple[str, ...]:
        """Read the first examples twice: are the labels those of the data set, is it random?

        Returns:
            Notes on the positions, and one if two readings of an example differ.

        Raises:
            ValueError: see ``labels_of``.
        """
        if isinstance(self.dataset, TensorDataset) and not self.loading:
            return self.notes
        here = replace(self, loading=_without_workers(self.loading))
        twice = zip(*(here.batches(self.indices[:_READ_TWICE]) for _ in range(2)), strict=True)
        same = True
        for first, again in twice:
            known = self.labels_at(first.indices)
            if known is not None and first.labels is not None and not self.labels_are_given:
                _check_same_labels(known, first.labels, first.indices)
            same &= all(map(_equal, tensors_of(first.inputs), tensors_of(again.inputs)))
        return self.notes if same else (*self.notes, RANDOM)

    def peek(self, n_examples: int = 1) -> Inputs:
        """The inputs of the first ``n_examples`` examples, or of fewer if one batch holds fewer."""
        return next(self.batches(self.indices[:n_examples])).inputs

    def batches(self, *segments: Tensor, share: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Read the positions in ``segments`` in order; a batch never spans two segments.

        Without segments, all positions are read in ascending order. A ``share`` (rank, number of
        processes) is one process's part of these batches, none of which it changes.
        """
        parts = [
            (number, part)
            for number, segment in enumerate(segments or (self.indices,))
            if len(segment)
            for part in self._parts(segment)
        ]
        parts = _shared(parts, *share)
        for raw, (number, part) in zip(self._read(parts), parts, strict=True):
            yield as_batch(raw, part, number, self.class_names, not self.labels_are_given)

    def _read(self, parts: Sequence[tuple[int, Tensor]]) -> Iterator[object]:
        """The examples at each part's positions, in the form that the data set yields."""
        if isinstance(self.dataset, TensorDataset) and not self.loading:
            for _, part in parts:
                tensors = self.dataset.tensors
                yield tuple(x.index_select(0, part.to(x.device)) for x in tensors)
            return
        dataset = cast("Dataset[object]", self.dataset)
        positions = [part.tolist() for _, part in parts]
        try:
            yield from DataLoader(dataset, batch_sampler=positions, **self.loading)
        except (RuntimeError, ValueError) as error:
            if "collate_fn" in self.loading or not _is_ragged(error):
                raise
            raise ValueError(
                "data: expected examples of one shape, got some of different lengths; do a "
                "collate_fn that pads them (for tokens: DataCollatorWithPadding(tokenizer)), or "
                "geocollapse.models.prepare"
            ) from error

    def _parts(self, segment: Tensor) -> Iterable[Tensor]:
        """Split a segment into batches, of examples of similar length if lengths are known.

        Similar lengths save padding. Within a window, batches are ordered by the position of their
        shortest example, so that what has been read of a shuffled segment is always a random
        sample.
        """
        if self.lengths is None:
            return segment.split(self.batch_size)
        parts = []
        for window in segment.split(_WINDOW * self.batch_size):
            by_length = self.lengths[window].argsort(stable=True).split(self.batch_size)
            parts += [
                window[places] for places in sorted(by_length, key=lambda places: int(places[0]))
            ]
        return parts


class StreamExamples:
    """Examples that are read once, in their own order: an iterable of batches."""

    def __init__(self, iterable: Iterable[object], ignore_index: int | None = None) -> None:
        self._iterator = iter(iterable)
        self._ignore_index = ignore_index
        self._seen: list[object] = []

    @property
    def size(self) -> int | None:
        """None: the number of examples is not known before reading."""
        return None

    @property
    def about(self) -> AboutData:
        """Empty: a stream has no attributes."""
        return AboutData()

    def rows(self, batch: Batch) -> Tensor:
        """Rows (k,) of a batch among all examples: its positions."""
        return batch.indices

    def positions(self, rows: Tensor) -> Tensor:
        """Positions of ``rows`` among all examples: the rows themselves."""
        return rows

    def labels_at(self, indices: Tensor) -> Tensor | None:
        """None: labels come with the batches."""
        del indices
        return None

    def class_counts(self) -> dict[int, int]:
        """Empty: labels come with the batches."""
        return {}

    def labels_of(self, batch: Batch) -> Tensor:
        """Labels (k,) in a batch.

        Raises:
            ValueError: it has none, or one is negative.
        """
        return _own_labels(batch)

    def check(self) -> tuple[str, ...]:
        """No notes: a stream is read once."""
        return ()

    def peek(self, n_examples: int = 1) -> Inputs:
        """The inputs of ``n_examples`` examples of one batch, the first batch that has so many.

        Only a few batches are read ahead, and ``batches`` yields them again; if none of them is
        large enough, the inputs are those of the first batch.
        """
        while len(self._seen) < _AHEAD and not any(
            n_examples_in(raw) >= n_examples for raw in self._seen
        ):
            ahead = list(itertools.islice(self._iterator, 1))
            if not ahead:
                break
            self._seen += ahead
        if not self._seen:
            raise ValueError(EMPTY)
        raw = next((raw for raw in self._seen if n_examples_in(raw) >= n_examples), self._seen[0])
        return rows_of(as_batch(raw, torch.arange(n_examples_in(raw))).inputs, slice(n_examples))

    def batches(self, *, share: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """The batches of the iterable, in order, without the examples of ``ignore_index``.

        Positions count the examples that are kept. A stream cannot be shared between processes:
        ``check_shared`` refuses it.
        """
        del share
        start = 0
        for raw in itertools.chain(self._seen, self._iterator):
            batch = as_batch(raw, torch.arange(n_examples_in(raw)))
            inputs, labels = batch.inputs, batch.labels
            if labels is not None and self._ignore_index is not None:
                keep = labels != self._ignore_index
                inputs, labels = rows_of(inputs, keep), labels[keep]
            n_examples = n_rows(inputs)
            if n_examples:
                yield Batch(inputs, labels, torch.arange(start, start + n_examples))
            start += n_examples


Examples = MapExamples | StreamExamples


def as_map(
    examples: Examples,
    argument: str,
    *,
    wanted: str = "in any order",
    remedy: str = "pass a map-style data set or a loader over one",
) -> MapExamples:
    """Return ``examples`` if they can be read as ``argument`` needs: by position.

    Args:
        examples: the data.
        argument: the argument that needs a map-style data set, for the message.
        wanted: how the data set must be readable, for the message.
        remedy: what to do instead, for the message.

    Raises:
        ValueError: a stream, which can be read only once and in its own batches.
    """
    if isinstance(examples, StreamExamples):
        raise ValueError(
            f"{argument}: expected a data set that can be read {wanted}, got a stream of batches; "
            f"do {remedy}"
        )
    return examples


def _is_ragged(error: Exception) -> bool:
    """True if torch's default collate function met examples of different shapes."""
    return any(words in str(error) for words in ("equal size", "equal length"))


def _own_labels(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise ValueError(
            "data: expected batches with labels (collapse is a statement about classes), got "
            "inputs alone; do pass (inputs, labels), or labels="
        )
    return _checked(batch.labels)


def _checked(labels: Tensor) -> Tensor:
    check_no_negative(labels, "ignore_index={value} to leave them out")
    return labels


def _check_same_labels(known: Tensor, carried: Tensor, positions: Tensor) -> None:
    """Refuse labels of the data set (its ``targets``) that its batches contradict."""
    carried = carried.to(known.device)
    differ = (known != carried).nonzero().flatten()
    if len(differ):
        row = int(differ[0])
        raise ValueError(
            f"labels: expected those of the data set's targets, got {int(carried[row])} in the "
            f"batch for {int(known[row])} at position {int(positions[row])}; do labels= with "
            f"the right ones, or rename the attribute `targets`"
        )


def _without_workers(loading: Loading) -> Loading:
    return Loading(collate_fn=loading["collate_fn"]) if "collate_fn" in loading else Loading()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)


def _shared(
    parts: list[tuple[int, Tensor]], rank: int, n_processes: int
) -> list[tuple[int, Tensor]]:
    """The parts of one process: each part goes to the process with the fewest examples so far."""
    if n_processes == 1:
        return parts
    loads = [0] * n_processes
    own = []
    for part in parts:
        least = loads.index(min(loads))
        loads[least] += len(part[1])
        if least == rank:
            own.append(part)
    return own
