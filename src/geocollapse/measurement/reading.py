"""The result of one pass over model and data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from geocollapse.complexity.means import EstimateSettings
from geocollapse.complexity.probing import Ending
from geocollapse.jacobian import SquaredNorms


@dataclass(frozen=True)
class LayerReading:
    """One layer's features (n, p) and the squared Jacobian norms of the rows that were probed."""

    features: Tensor
    norms: SquaredNorms


@dataclass(frozen=True)
class Reading:
    """The result of one pass over model and data, in the order of the data.

    Attributes:
        layers: one entry a layer.
        labels: (n,) int64.
        indices: (n,) positions of the examples read: all of them, unless Ctrl-C ended the pass.
        probed: (m,) positions of those whose Jacobians were probed.
        output: the model's own output (n, C) if it is one matrix, else None.
        settings: the settings that the estimates of every layer record.
        ending: how the probes came to their end.
    """

    layers: list[LayerReading]
    labels: Tensor
    indices: Tensor
    probed: Tensor
    output: Tensor | None
    settings: EstimateSettings
    ending: Ending
