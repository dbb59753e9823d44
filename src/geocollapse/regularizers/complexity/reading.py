"""Geometric complexity and collapse of a penalised step, computed when they are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from geocollapse.collapse import ClassStatistics, geometric_collapse
from geocollapse.complexity.means import EstimateSettings, mean_norm, norms_by_class
from geocollapse.estimate import Estimate
from geocollapse.jacobian import SquaredNorms, mean_of_probes


@dataclass(frozen=True)
class PenaltyReading:
    """The penalised examples of one step, without a graph.

    Attributes:
        terms: (r, n) estimates of ||J||_F^2, one for each probe and example.
        features: (n, p).
        settings: what the Estimates record of how they were made.
        labels: (n,) classes of the examples, or None.
        batch_labels: those of the whole batch that the examples were taken from, or None.
    """

    terms: Tensor
    features: Tensor
    settings: EstimateSettings
    labels: Tensor | None = None
    batch_labels: Tensor | None = None

    @cached_property
    def complexity(self) -> Estimate:
        """Unweighted geometric complexity of the distribution behind the batch."""
        norms = self._norms()
        return mean_norm(norms, len(norms), self.settings)

    @cached_property
    def collapse(self) -> Estimate | None:
        """Geometric collapse of the penalised examples; NaN where a class of the batch is missing."""
        if self.labels is None or self.batch_labels is None:
            return None
        settings = replace(self.settings, population="dataset")
        labels = self.labels.cpu()
        classes = self.batch_labels.cpu().unique()
        missing = classes[~torch.isin(classes, labels)].tolist()
        if missing or len(classes) < 2:
            reason = (
                f"no penalised example of class {missing[0]}"
                if missing
                else f"{len(classes)} class in the batch"
            )
            note = (
                f"geometric collapse: undefined, {reason}; do take larger batches or a larger "
                f"batch_fraction"
            )
            return Estimate(
                math.nan,
                math.nan,
                len(labels),
                n_probes=settings.n_probes,
                estimator=settings.estimator,
                layer=settings.layer,
                warnings=(note,),
            )
        counts = {label: float((labels == label).sum()) for label in classes.tolist()}
        by_class = norms_by_class(self._norms(), labels, counts, settings)
        statistics = ClassStatistics.of(self.features.cpu().double(), labels)
        return geometric_collapse(
            [by_class[label] for label in statistics.classes.tolist()], statistics.means
        )

    def _norms(self) -> SquaredNorms:
        n_distinct = len(self.terms) if self.settings.estimator == "exact" else math.inf
        return mean_of_probes(self.terms[:, None].cpu().double(), n_distinct=n_distinct)
