"""The torchmetrics shell of collapse: streaming, mergeable, synchronised over processes."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torchmetrics import Metric

from geocollapse.arrays import labelled_arrays, refuse_names
from geocollapse.collapse import ClassStatistics, nc1_pooled, streamed_measures
from geocollapse.estimate import GeocollapseWarning
from geocollapse.measures import MEASURES
from geocollapse.numerics import NO_FLOAT64
from geocollapse.runtime.processes import share

_PARTS = ("classes", "counts", "offsets", "sum_squares", "origin", "scatter")
_STREAMED = tuple(name for name, measure in MEASURES.items() if measure.streamed == "moments")
_SCATTERED = tuple(name for name, measure in MEASURES.items() if measure.streamed == "scatter")


class CollapseMetric(Metric):
    """The measures of neural collapse that class statistics alone give, for a stream of features.

    ``compute`` returns 0-d float64 tensors: ``cdnv``, ``cdnv_bias_corrected``, ``nc1_trace_ratio``,
    ``nc2_equinorm``, ``nc2_equiangular``, ``nc2_max_angle``, ``hyperspherical_uniformity`` and,
    with ``scatter``, ``nc1_pooled`` and ``nc1_rank``. Class-weighted NC1, directional CDNV, NC4 and
    nearest-mean error need the final means, so they need kept features:
    ``geocollapse.neural_collapse(features, labels)``.

    The states are class statistics, as lists with one part a process. They are gathered and merged
    by Chan's rule, never summed, so the value is the same to 1e-10 however batches, ``merge_state``
    and processes split the data. ``forward`` also computes the value of the batch alone, which is
    NaN with a warning where a class has no example in it; a training loop needs only ``update``.

    Source: Chan, Golub, LeVeque (1979); definitions 2.

    Args:
        num_classes: declares the labels 0..num_classes - 1; None discovers the classes.
        scatter: keep the pooled scatter (p, p) for NC1; at most 4,096 features.
        **kwargs: those of ``torchmetrics.Metric`` (``sync_on_compute``, ``dist_sync_fn``, ...).
            Values are not cached by default: a process with a value computed inside
            ``processes.alone`` would not join the next gathering, and the others would wait.

    Raises:
        ValueError: on update, wrong shapes, NaN features, a label out of the declared range, or too
            many features for ``scatter``.
        TypeError: on update, features that are not floating point, labels that are not integers.

    Examples:
        >>> metric = CollapseMetric(num_classes=2)
        >>> metric.update(torch.tensor([[-1.0], [9.0]]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([[1.0], [11.0]]), torch.tensor([0, 1]))
        >>> round(float(metric.compute()["cdnv"]), 9)
        0.01
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = True  # an update may discover classes, so it needs the state before it

    classes: list[Tensor]
    counts: list[Tensor]
    offsets: list[Tensor]
    sum_squares: list[Tensor]
    origin: list[Tensor]
    scatter: list[Tensor]

    def __init__(
        self, num_classes: int | None = None, *, scatter: bool = True, **kwargs: object
    ) -> None:
        super().__init__(
            **{"distributed_available_fn": _is_one_of_many, "compute_with_cache": False, **kwargs}
        )
        self.num_classes = num_classes
        self.keep_scatter = scatter
        for name in _PARTS:
            self.add_state(name, default=[], dist_reduce_fx=None)
        self._store(self._empty())

    @property
    def statistics(self) -> ClassStatistics:
        """The class statistics of everything seen, with all parts merged."""
        states = [getattr(self, name) for name in _PARTS]
        parts = [self._part(*tensors) for tensors in zip(*states)]
        return functools.reduce(ClassStatistics.merge, parts)

    def update(self, features: Tensor, target: Tensor) -> None:
        """Add features (n, p) with class labels ``target`` (n,)."""
        refuse_names(target, "class numbers, the same in every batch")
        with torch.inference_mode(False):  # a state made inside could not be changed outside
            x, y = labelled_arrays(features, target, self.num_classes)
            self._store(self.statistics.accumulate(x, y))

    def compute(self) -> dict[str, Tensor]:
        """The measures of everything seen; NaN with a warning before two classes have examples."""
        statistics = self.statistics
        values, reasons = _measures(statistics)
        for reason in reasons:
            warnings.warn(reason, GeocollapseWarning, stacklevel=2)
        return {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in values.items()
        }

    def merge_state(self, incoming_state: Mapping[str, object] | Metric) -> None:
        """Merge the state of another CollapseMetric, or its ``metric_state``, into this one.

        Raises:
            TypeError: ``incoming_state`` is neither of them.
            ValueError: the two declare different classes, have different numbers of features, or
                only one of them has ``scatter``.
        """
        if isinstance(incoming_state, CollapseMetric):
            other = incoming_state
        elif isinstance(incoming_state, Mapping) and set(_PARTS) <= set(incoming_state):
            other = self._of_state(incoming_state)
        else:
            raise TypeError(
                f"incoming_state: expected a CollapseMetric or its metric_state, got "
                f"{type(incoming_state).__name__}; do merge_state(other_metric)"
            )
        self._store(self.statistics.merge(other.statistics))
        self._update_count += other._update_count
        self._computed = None

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        with torch.inference_mode(False):
            self._store(self._empty())

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()
    ) -> CollapseMetric:
        """Move the statistics as ``to`` asks, but keep their dtypes.

        They stay on the CPU where the device has no float64.
        """
        if fn(torch.zeros(())).device.type in NO_FLOAT64:
            return self

        def in_its_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(in_its_dtype, exclude_state)
        return self

    def _of_state(self, state: Mapping[str, object]) -> CollapseMetric:
        """The metric that ``state`` came from, with its declared classes and its ``scatter``.

        Declared classes are 0, 1, ... and may have no examples; discovered ones have examples.
        """
        parts = {name: cast("list[Tensor]", state[name]) for name in _PARTS}
        classes, counts = parts["classes"][0], parts["counts"][0]
        is_range = torch.equal(classes, torch.arange(len(classes), device=classes.device))
        may_be_declared = is_range and (self.num_classes is not None or bool((counts == 0).any()))
        has_rows = parts["origin"][0].numel() > 0
        keeps_scatter = parts["scatter"][0].numel() > 0 if has_rows else self.keep_scatter
        declared = (len(classes) or None) if may_be_declared else None
        other = CollapseMetric(declared, scatter=keeps_scatter)
        for name, tensors in parts.items():
            setattr(other, name, tensors)
        return other

    def _empty(self) -> ClassStatistics:
        return ClassStatistics.empty(
            self.num_classes, scatter=self.keep_scatter, device=self.device
        )

    def _part(
        self,
        classes: Tensor,
        counts: Tensor,
        offsets: Tensor,
        sum_squares: Tensor,
        origin: Tensor,
        scatter: Tensor,
    ) -> ClassStatistics:
        kept = scatter if self.keep_scatter else None
        return ClassStatistics(
            classes, counts, offsets, sum_squares, origin, kept, self.num_classes
        )

    def _store(self, statistics: ClassStatistics) -> None:
        """Keep ``statistics`` as the only part.

        There is one before the first update too, since every process joins every gathering.
        """
        for name in _PARTS:
            value = getattr(statistics, name)
            setattr(self, name, [statistics.counts.new_zeros(0, 0) if value is None else value])


def _is_one_of_many() -> bool:
    """True if there are other processes to gather from."""
    return share()[1] > 1


def _measures(statistics: ClassStatistics) -> tuple[dict[str, float], tuple[str, ...]]:
    """The streamed measures by name, and reasons for those that are NaN."""
    has_scatter = statistics.scatter is not None
    if int((statistics.counts > 0).sum()) < 2:
        names = (*_STREAMED, *(_SCATTERED if has_scatter else ()))
        reason = (
            "target: expected at least two classes with examples, so every measure is NaN; do "
            "update with more"
        )
        return dict.fromkeys(names, math.nan), (reason,)
    values, reasons = streamed_measures(statistics)
    if has_scatter:
        values["nc1_pooled"], values["nc1_rank"] = nc1_pooled(statistics)
    return values, reasons
