"""Geometric complexity and collapse of a penalised step, computed on demand."""

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
        settings: the settings that the estimates record.
        labels: (n,) classes of the examples, or None.
        batch_labels: classes of the whole batch, or None.
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
        """Geometric collapse of the penalised examples; NaN if they lack a class of the batch."""
        if self.labels is None or self.batch_labels is None:
            return None
        labels = self.labels.cpu()
        classes = self.batch_labels.cpu().unique()
        missing = classes[~torch.isin(classes, labels)].tolist()
        if missing:
            return self._undefined(f"no penalised example of class {missing[0]}")
        if len(classes) < 2:
            return self._undefined(f"{len(classes)} class in the batch")
        settings = replace(self.settings, population="dataset")
        counts = {label: float((labels == label).sum()) for label in classes.tolist()}
        by_class = norms_by_class(self._norms(), labels, counts, settings)
        statistics = ClassStatistics.of(self.features.cpu().double(), labels)
        return geometric_collapse(
            [by_class[label] for label in statistics.classes.tolist()], statistics.means
        )

    def _undefined(self, reason: str) -> Estimate:
        """NaN, with the reason as a warning."""
        note = (
            f"geometric collapse: undefined, {reason}; do take larger batches or a larger "
            f"batch_fraction"
        )
        return Estimate(
            math.nan,
            math.nan,
            len(self.terms[0]),
            n_probes=self.settings.n_probes,
            estimator=self.settings.estimator,
            layer=self.settings.layer,
            warnings=(note,),
        )

    def _norms(self) -> SquaredNorms:
        n_distinct = len(self.terms) if self.settings.estimator == "exact" else math.inf
        return mean_of_probes(self.terms[:, None].cpu().double(), n_distinct=n_distinct)
