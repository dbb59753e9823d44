"""Examples and the ways to read them: in any order by their positions, or once as they come."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from geocollapse.batches.about import AboutData
from geocollapse.batches.batch import Batch, as_batch, n_examples_in
from geocollapse.inputs import Inputs, rows_of

EMPTY = "data: expected at least one example, got none; do check the data set and its sampler"
_AHEAD = 8  # batches of a stream that are read ahead for one with two examples
_WINDOW = 32  # batches among which examples are sorted by length


@dataclass(frozen=True)
class MapExamples:
    """Examples that can be read in any order: a map-style data set and the positions taken from it.

    Attributes:
        dataset: the data set.
        indices: (n,) int64, the sorted positions that are read.
        labels: (n,) labels of ``indices`` where they are known before reading, else None.
        batch_size: examples that are read together.
        loading: collate function and worker settings, as keyword arguments of a DataLoader.
        lengths: (n,) tokens of each example of the data set, where it tells (``dataset.lengths``),
            else None.
    """

    dataset: Dataset[Any]
    indices: Tensor
    labels: Tensor | None
    batch_size: int
    loading: dict[str, Any] = field(default_factory=dict)
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def size(self) -> int | None:
        """The number of examples, known before reading."""
        return len(self.indices)

    @property
    def about(self) -> AboutData:
        """What the data set says of itself."""
        return AboutData.of(self.dataset)

    def rows(self, batch: Batch) -> Tensor:
        """Rows of a batch among all examples that are read."""
        return torch.searchsorted(self.indices, batch.indices)

    def positions(self, rows: Tensor) -> Tensor:
        """Positions in the data set of rows among all examples that are read."""
        return self.indices[rows]

    def labels_at(self, indices: Tensor) -> Tensor | None:
        """Labels (k,) of the examples at positions ``indices`` (k,), where known before reading."""
        if self.labels is None:
            return None
        return self.labels[torch.searchsorted(self.indices, indices)]

    def class_counts(self) -> dict[int, int]:
        """Examples of each class, by its label; empty where labels are not known before reading."""
        if self.labels is None:
            return {}
        classes, counts = self.labels.unique(return_counts=True)
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))

    def labels_of(self, batch: Batch) -> Tensor:
        """Labels (k,) of a batch: those known before reading, else those that it carries.

        Raises:
            ValueError: neither.
        """
        known = self.labels_at(batch.indices)
        return _own_labels(batch) if known is None else known

    def peek(self, n_examples: int = 1) -> Inputs:
        """The inputs of the first examples: at most ``n_examples``, of one batch."""
        return next(self.batches(self.indices[:n_examples])).inputs

    def batches(self, *segments: Tensor, share: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Read the positions of ``segments`` in their order; a batch never spans two segments.

        Without segments: all positions in ascending order. A ``share`` (rank, number of processes)
        is some of the batches, each as it is without one.
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
                yield as_batch(
                    tuple(tensor[part.to(tensor.device)] for tensor in self.dataset.tensors),
                    part,
                    number,
                )
            return
        loader = DataLoader(
            self.dataset, batch_sampler=[part.tolist() for _, part in parts], **self.loading
        )
        for raw, (number, part) in zip(loader, parts, strict=True):
            yield as_batch(raw, part, number)

    def _parts(self, segment: Tensor) -> Iterable[Tensor]:
        """A segment in batches; where examples have lengths, those of similar length together, to
        save padding.

        Batches of one window are in the order of the places where their shortest examples stood, so
        that in a segment of random order what was read at any time is a random sample.
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

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterator = iter(iterable)
        self._seen: list[Any] = []

    @property
    def size(self) -> int | None:
        """None: the number of examples is not known before reading."""
        return None

    @property
    def about(self) -> AboutData:
        """Nothing: a stream has no attributes."""
        return AboutData()

    def rows(self, batch: Batch) -> Tensor:
        """Rows of a batch among all examples: their positions."""
        return batch.indices

    def positions(self, rows: Tensor) -> Tensor:
        """Positions of rows among all examples: the rows themselves."""
        return rows

    def labels_at(self, indices: Tensor) -> Tensor | None:
        """None: labels come with the batches."""
        del indices
        return None

    def class_counts(self) -> dict[int, int]:
        """Empty: labels come with the batches."""
        return {}

    def labels_of(self, batch: Batch) -> Tensor:
        """Labels (k,) that a batch carries.

        Raises:
            ValueError: it carries none.
        """
        return _own_labels(batch)

    def peek(self, n_examples: int = 1) -> Inputs:
        """The inputs of the first examples that share a batch: of the first one that has so many,
        among those ahead.

        What was read ahead is read again by ``batches``.
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
        """The batches of the iterable; positions count the examples read. It cannot be shared:
        ``check_shared``.
        """
        del share
        start = 0
        for raw in itertools.chain(self._seen, self._iterator):
            n_examples = n_examples_in(raw)
            yield as_batch(raw, torch.arange(start, start + n_examples))
            start += n_examples


Examples = MapExamples | StreamExamples


def as_map(
    examples: Examples,
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
            f"{argument}: expected a data set that can be read {wanted}, got a stream of batches; "
            f"do {remedy}"
        )
    return examples


def _own_labels(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise ValueError(
            "data: expected batches with labels (collapse is a statement about classes), got "
            "inputs alone; do pass (inputs, labels), or labels="
        )
    return batch.labels


def _shared(
    parts: list[tuple[int, Tensor]], rank: int, n_processes: int
) -> list[tuple[int, Tensor]]:
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
