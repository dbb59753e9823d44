"""The one pass over model and data: features, outputs, labels and squared Jacobian norms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocollapse.batches import Batch, Examples
from geocollapse.complexity.probing import Probing
from geocollapse.complexity.setup import Setup
from geocollapse.complexity.stopping import first_interrupt_asks
from geocollapse.features import forward_pass
from geocollapse.inputs import device_of, move
from geocollapse.measurement.reading import LayerReading, Reading
from geocollapse.numerics import check_finite
from geocollapse.runtime.processes import shards, share
from geocollapse.runtime.progress import progress_bar
from geocollapse.store import RowStore


def read_once(setup: Setup, *, progress: bool = False) -> Reading:
    """Send every example forward once and probe those that the schedule wants.

    Ctrl-C ends the pass early. Several processes share the batches; each ends with the whole
    reading.
    """
    rank, n_processes = share()
    examples = setup.examples
    n_total = examples.size
    n_expected = None if n_total is None else n_total // n_processes
    probing = Probing(setup, counts_forward=False)
    kept = _Kept.empty(len(setup.layers), n_total)
    n_read = 0
    with (
        progress_bar("examples", shown=progress and rank == 0) as advance,
        first_interrupt_asks() as interrupted,
    ):
        for batch in examples.batches(*probing.schedule.segments, share=(rank, n_processes)):
            if interrupted() and probing.interrupt():
                break
            features, output = _forward(setup, probing, batch)
            if isinstance(output, Tensor) and output.is_floating_point():
                # an infinite logit may stand for a masked class
                check_finite("logits", output.detach().clamp(-1.0, 1.0), batch.indices)
            kept.write(examples.rows(batch), features, output, examples.labels_of(batch))
            n_read += len(batch.indices)
            advance(n_read, None if n_expected is None else max(n_read, n_expected))
    probing.finish()
    if n_processes > 1:
        kept.exchange(device_of(setup.model))
    return _assembled(examples, kept, probing)


def _forward(setup: Setup, probing: Probing, batch: Batch) -> tuple[list[Tensor], object]:
    """Features of each layer and the output for one batch, which is probed if it is wanted."""
    inputs = move(batch.inputs, setup.model)
    with forward_pass(inputs):  # a later batch may hold longer texts than the first
        if probing.wants(batch):
            probed = probing.probe(inputs, batch)
            return probed.features, probed.output
        with torch.no_grad():
            take, x = setup.feature_map.enter(inputs)
            features, output = take(x)
    for z in features:  # those that are probed were looked at there
        check_finite("features", z, batch.indices)
    return features, output


@dataclass(frozen=True)
class _Kept:
    """The rows of each layer and of the output, and the labels with their rows, batch by batch."""

    layers: list[RowStore]
    outputs: RowStore
    labels: list[tuple[Tensor, Tensor]]

    @classmethod
    def empty(cls, n_layers: int, n_total: int | None) -> _Kept:
        return cls([RowStore(n_total) for _ in range(n_layers)], RowStore(n_total), [])

    def write(self, rows: Tensor, features: list[Tensor], output: object, labels: Tensor) -> None:
        """Keep one batch; its output only if that is one matrix."""
        for store, z in zip(self.layers, features, strict=True):
            store.write(rows, z)
        if isinstance(output, Tensor) and output.ndim == 2:
            self.outputs.write(rows, output)
        self.labels.append((rows, labels))

    def exchange(self, device: torch.device | None) -> None:
        """Add what the other processes have read; each process must call it."""
        none = torch.zeros(0, dtype=torch.int64)
        own = torch.cat([none, *(rows for rows, _ in self.labels)])
        own_labels = torch.cat([none, *(labels.cpu() for _, labels in self.labels)])
        everyone = list(shards(own))
        for store in (*self.layers, self.outputs):
            written = shards(store.rows()[own.to(store.rows().device)] if store.is_used else None)
            # no rows come if no process wrote any
            for sender, (rows, part) in enumerate(zip(everyone, written)):
                if sender != share()[0]:
                    store.write(rows, part.to(device or part.device))
        self.labels[:] = zip(everyone, shards(own_labels), strict=True)


def _assembled(examples: Examples, kept: _Kept, probing: Probing) -> Reading:
    """The reading in the order of the data."""
    rows, order = torch.cat([rows for rows, _ in kept.labels]).sort()
    is_whole = examples.size in (None, len(rows))
    gathered = [readings.gathered() for readings in probing.readings]
    return Reading(
        layers=[
            LayerReading(_written(store, rows, is_whole), norms)
            for store, (norms, _) in zip(kept.layers, gathered, strict=True)
        ],
        labels=torch.cat([labels.cpu() for _, labels in kept.labels])[order],
        indices=examples.positions(rows),
        probed=gathered[0][1],
        output=_written(kept.outputs, rows, is_whole) if kept.outputs.is_used else None,
        settings=replace(probing.settings[0], layer=None),
        ending=probing.ending,
    )


def _written(store: RowStore, rows: Tensor, is_whole: bool) -> Tensor:
    """The rows of a store that were written, without a copy if that is all of them."""
    return store.rows() if is_whole else store.rows()[rows.to(store.rows().device)]
