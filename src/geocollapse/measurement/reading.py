"""The one pass over the model: features, outputs, labels and squared Jacobian norms of every example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geocollapse.batches import Batch, MapExamples, StreamExamples
from geocollapse.complexity import complexity_so_far, estimate_settings, move
from geocollapse.features import CallableMap, FeatureMap
from geocollapse.jacobian import ProbePlan, SquaredNorms, track
from geocollapse.measurement.store import RowStore
from geocollapse.progress import progress_bar
from geocollapse.sampling import ProbeSchedule, Readings, Stopping


@dataclass(frozen=True)
class LayerReading:
    """One layer's features (n, p) and the squared Jacobian norms of the rows that were probed."""

    features: Tensor
    norms: SquaredNorms


@dataclass(frozen=True)
class Reading:
    """What one pass over the model gives, in the order of the data.

    Attributes:
        layers: one entry a layer.
        labels: (n,) int64.
        probed: rows whose Jacobians were probed.
        output: the model's own output (n, C) where it is one matrix, else None.
    """

    layers: list[LayerReading]
    labels: Tensor
    probed: Tensor
    output: Tensor | None


def read_once(
    model: Any,
    feature_map: FeatureMap | CallableMap,
    examples: MapExamples | StreamExamples,
    schedule: ProbeSchedule,
    plan: ProbePlan,
    *,
    rtol: float | None = None,
    progress: bool = False,
) -> Reading:
    """Send every example of a borrowed model forward once, with the probes of ``schedule``."""
    n_total = len(examples) if isinstance(examples, MapExamples) else None
    maps = feature_map.each()
    stores = [RowStore(n_total) for _ in maps]
    outputs, readings = RowStore(n_total), [Readings() for _ in maps]
    labels: list[tuple[Tensor, Tensor]] = []
    n_read = 0
    settings = estimate_settings(plan, schedule, rtol=rtol)
    stopping = Stopping(rtol, lambda: [complexity_so_far(taken, examples, **settings) for taken in readings])
    with progress_bar("examples", shown=progress) as advance:
        for batch in examples.batches(*schedule.segments):
            is_probed = schedule.is_probed(batch) and stopping.wants(batch)
            with torch.set_grad_enabled(is_probed):
                x = track(move(batch.inputs, model)) if is_probed else move(batch.inputs, model)
                features, output = feature_map.with_output(x)
                for number, z in enumerate(features if is_probed else []):
                    keep = number + 1 < len(maps)
                    norms = schedule.norms(plan, z, x, batch, f=maps[number], keep_graph=keep)
                    readings[number].add(norms, batch)
            rows = _rows(examples, batch)
            for store, z in zip(stores, features, strict=True):
                store.write(rows, z)
            if isinstance(output, Tensor) and output.ndim == 2:
                outputs.write(rows, output)
            labels.append((rows, _labels(examples, batch)))
            n_read += len(rows)
            advance(n_read, n_total)
    return _assemble(stores, readings, labels, outputs)


def _assemble(
    stores: list[RowStore], readings: list[Readings], labels: list[tuple[Tensor, Tensor]], outputs: RowStore
) -> Reading:
    order = torch.cat([rows for rows, _ in labels]).argsort()
    gathered = [reading.gathered() for reading in readings]
    layers = [LayerReading(store.rows(), norms) for store, (norms, _) in zip(stores, gathered, strict=True)]
    ordered = torch.cat([batch_labels.cpu() for _, batch_labels in labels])[order]
    return Reading(layers, ordered, gathered[0][1], outputs.rows() if outputs.is_used else None)


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
            "data: expected batches with labels (collapse is a statement about classes), got inputs alone; "
            "do pass (inputs, labels), or labels="
        )
    return batch.labels
