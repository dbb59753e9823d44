"""What one pass over a model leaves: all that the measures of a layer are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from geocollapse.complexity.means import EstimateSettings
from geocollapse.complexity.probing import Ending
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.jacobian import SquaredNorms

Head = (
    tuple[Tensor, Tensor | None] | str
)  # weight (C, p) and bias (C,) of the classifier, or why there is none


@dataclass(frozen=True, eq=False)
class Context:
    """What all layers of one measurement share.

    Attributes:
        labels: (n,) of all examples that were read.
        ids: (n,) their positions in the data set.
        logits: (n, C) the model's own output, where a classifier gives one.
        probed: rows whose Jacobians were probed.
        n_population: examples in the data set.
        class_counts: examples of each class in the data set, by label.
        is_stratified: the probed sample was drawn by class.
        settings: estimator, probes and population, as an Estimate records them.
        rule: when the probes were to stop.
        ending: how they did.
        class_names: a name for each class, or None to name it by its label.
        accuracy: share of the examples that the classifier gets right; None without one for these
            classes.
        split: the part of the data set.
        lambda_max: largest eigenvalue of a class's input covariance.
        preprocessing: what was done to the inputs.
        provenance: where the numbers come from.
        warnings: what a reader must know, whatever the layer.
    """

    labels: Tensor
    ids: Tensor
    logits: Tensor | None
    probed: Tensor
    n_population: int
    class_counts: Mapping[int, float]
    is_stratified: bool
    settings: EstimateSettings
    rule: StoppingRule
    ending: Ending
    class_names: Sequence[str] | None
    accuracy: float | None
    split: str | None
    lambda_max: float | None
    preprocessing: Mapping[str, Any]
    provenance: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class KeptLayer:
    """One layer's features and squared Jacobian norms, with what they belong to.

    Attributes:
        layer: where the features were taken.
        features: (n, p).
        norms: of the rows ``context.probed``.
        head: the classifier that the layer feeds, or the reason why there is none.
        context: what all layers share.
    """

    layer: str
    features: Tensor = field(repr=False)
    norms: SquaredNorms = field(repr=False)
    head: Head = field(repr=False)
    context: Context = field(repr=False)

    @property
    def labels(self) -> Tensor:
        """(n,) of all examples."""
        return self.context.labels


def accuracy_of(
    logits: Tensor, labels: Tensor, class_names: Sequence[str] | None
) -> tuple[float | None, tuple[str, ...]]:
    """Share of the examples whose largest logit is their label, or None and why: outputs and labels
    must agree.
    """
    n_outputs = logits.shape[1]
    n_classes = len(class_names) if class_names is not None else n_outputs
    if n_classes != n_outputs or int(labels.max()) >= n_outputs or int(labels.min()) < 0:
        n_seen = max(n_classes, int(labels.max()) + 1) if class_names is None else n_classes
        return None, (f"accuracy: the model has {n_outputs} outputs, the data {n_seen} classes",)
    hits = logits.argmax(dim=1).cpu() == labels
    return float(hits.double().mean()), ()
