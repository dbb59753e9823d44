"""The one pass over the model: features, outputs, labels and squared Jacobian norms of every
example.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geocollapse.batches import Batch, MapExamples, StreamExamples
from geocollapse.complexity.means import complexity_so_far, estimate_settings
from geocollapse.complexity.probing import Probing
from geocollapse.complexity.schedule import ProbeSchedule
from geocollapse.complexity.stopping import StoppingRule, first_interrupt_asks
from geocollapse.features import CallableMap, FeatureMap, forward_pass
from geocollapse.inputs import device_of, move
from geocollapse.jacobian import ProbePlan
from geocollapse.measurement.reading import LayerReading, Reading
from geocollapse.runtime.processes import shards, share
from geocollapse.runtime.progress import progress_bar
from geocollapse.store import RowStore


def read_once(
    model: Any,
    feature_map: FeatureMap | CallableMap,
    examples: MapExamples | StreamExamples,
    schedule: ProbeSchedule,
    plan: ProbePlan,
    rule: StoppingRule,
    *,
    progress: bool = False,
) -> Reading:
    """Send every example of a borrowed model forward once, with the probes of ``schedule``; Ctrl-C
    ends it early.

    Several processes share the batches; each ends with the whole reading.
    """
    rank, n_processes = share()
    n_total = len(examples) if isinstance(examples, MapExamples) else None
    stores = [RowStore(n_total) for _ in feature_map.layers]
    outputs = RowStore(n_total)
    labels: list[tuple[Tensor, Tensor]] = []
    n_read = 0
    settings = estimate_settings(plan, schedule, rule)
    probing = Probing(
        schedule,
        rule,
        plan,
        lambda: [complexity_so_far(taken, examples, **settings) for taken in probing.readings],
        n_layers=len(stores),
        counts_forward=False,
    )
    with (
        progress_bar("examples", shown=progress and rank == 0) as advance,
        first_interrupt_asks() as interrupted,
    ):
        for batch in examples.batches(*schedule.segments, share=(rank, n_processes)):
            if interrupted() and probing.interrupt():
                break
            features, output = _forward(model, feature_map, probing, batch)
            rows = _rows(examples, batch)
            for store, z in zip(stores, features, strict=True):
                store.write(rows, z)
            if isinstance(output, Tensor) and output.ndim == 2:
                outputs.write(rows, output)
            labels.append((rows, _labels(examples, batch)))
            n_read += len(rows)
            advance(n_read, None if n_total is None else max(n_read, n_total // n_processes))
    probing.finish()
    if n_processes > 1:
        labels = _exchange([*stores, outputs], labels, device_of(model))
    return _assemble(examples, stores, probing, labels, outputs)


def _forward(
    model: Any, feature_map: FeatureMap | CallableMap, probing: Probing, batch: Batch
) -> tuple[list[Tensor], Any]:
    """Features of each layer and the output of one batch, which is probed if it is wanted."""
    inputs = move(batch.inputs, model)
    with forward_pass(inputs):  # a later batch may hold longer texts than the first
        if probing.wants(batch):
            probed = probing.probe(feature_map.enter, inputs, batch)
            return probed.features, probed.output
        with torch.no_grad():
            take, x = feature_map.enter(inputs)
            return take(x)


def _exchange(
    stores: list[RowStore], labels: list[tuple[Tensor, Tensor]], device: torch.device | None
) -> list[tuple[Tensor, Tensor]]:
    """Write what the other processes have read into ``stores``; returns the rows and labels of all."""
    none = torch.zeros(0, dtype=torch.int64)
    own = torch.cat([none, *(rows for rows, _ in labels)])
    own_labels = torch.cat([none, *(batch_labels.cpu() for _, batch_labels in labels)])
    everyone = list(shards(own))
    for store in stores:
        written = shards(store.rows()[own.to(store.rows().device)] if store.is_used else None)
        for sender, (rows, part) in enumerate(
            zip(everyone, written)
        ):  # nothing comes where no process wrote
            if sender != share()[0]:
                store.write(rows, part.to(device or part.device))
    return list(zip(everyone, shards(own_labels), strict=True))


def _assemble(
    examples: MapExamples | StreamExamples,
    stores: list[RowStore],
    probing: Probing,
    labels: list[tuple[Tensor, Tensor]],
    outputs: RowStore,
) -> Reading:
    rows, order = torch.cat([rows for rows, _ in labels]).sort()
    is_whole = isinstance(examples, StreamExamples) or len(rows) == len(examples)
    taken = [_written(store, rows, is_whole) for store in stores]
    gathered = [readings.gathered() for readings in probing.readings]
    return Reading(
        layers=[
            LayerReading(features, norms)
            for features, (norms, _) in zip(taken, gathered, strict=True)
        ],
        labels=torch.cat([batch_labels.cpu() for _, batch_labels in labels])[order],
        indices=rows if isinstance(examples, StreamExamples) else examples.indices[rows],
        probed=gathered[0][1],
        output=_written(outputs, rows, is_whole) if outputs.is_used else None,
        ending=probing.ending,
    )


def _written(store: RowStore, rows: Tensor, is_whole: bool) -> Tensor:
    """The rows of a store that were written, without a copy where that is all of them."""
    return store.rows() if is_whole else store.rows()[rows.to(store.rows().device)]


def _rows(examples: MapExamples | StreamExamples, batch: Batch) -> Tensor:
    """Rows of a batch's examples among all that are read (positions count the whole data set)."""
    if isinstance(examples, StreamExamples):
        return batch.indices
    return torch.searchsorted(examples.indices, batch.indices)


def _labels(examples: MapExamples | StreamExamples, batch: Batch) -> Tensor:
    if isinstance(examples, MapExamples) and examples.labels is not None:
        return examples.labels[_rows(examples, batch)]
    if batch.labels is None:
        raise ValueError(
            "data: expected batches with labels (collapse is a statement about classes), got "
            "inputs alone; "
            "do pass (inputs, labels), or labels="
        )
    return batch.labels
