"""The record of one pass over a model, from which the measures of a layer are computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from geocollapse.complexity.means import EstimateSettings
from geocollapse.complexity.probing import Ending
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.features import Pool
from geocollapse.jacobian import SquaredNorms
from geocollapse.numerics import check_finite

_POOLS: dict[object, Pool] = {"mean": "mean", "cls": "cls", "last": "last"}


class LinearHead(NamedTuple):
    """A linear classifier: weight (C, p) and bias (C,), None for one without bias."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class Context:
    """The facts that all layers of one measurement share.

    Attributes:
        labels: (n,) of all examples that were read.
        ids: (n,) their positions in the data set.
        logits: (n, C) the model's own output, if a classifier produces it.
        probed: rows whose Jacobians were probed.
        n_population: examples in the data set.
        class_counts: examples of each class in the data set, by label.
        is_stratified: the probed sample was drawn by class.
        settings: estimator, probes and population, as an Estimate records them.
        rule: when the probes were to stop.
        ending: how they came to their end.
        class_names: a name for each class, or None to name it by its label.
        accuracy: share of the examples that the classifier gets right; None if no classifier has
            these classes.
        split: the part of the data set.
        lambda_max: largest eigenvalue of a class's input covariance.
        preprocessing: how the inputs were prepared, and how the model ran.
        provenance: versions, device, seed and code revision behind the numbers.
        warnings: caveats that hold for every layer.
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
    preprocessing: Mapping[str, object]
    provenance: Mapping[str, object]
    warnings: tuple[str, ...] = ()

    @property
    def pool(self) -> Pool | None:
        """How positions were pooled; None if they were flattened, or if a file does not say."""
        return _POOLS.get(self.preprocessing.get("pool"))

    @property
    def seed(self) -> int:
        """The seed of the probes and of the sample; 0 if a file does not say."""
        seed = self.provenance.get("seed")
        return seed if isinstance(seed, int) else 0

    def names_of(self, labels: Sequence[int]) -> tuple[str, ...]:
        """A name for each label; the label itself if it has none.

        The label stands behind a name that two of them have, as ImageNet's cranes do.
        """
        given = self.class_names or ()
        names = [given[label] if label < len(given) else str(label) for label in labels]
        times = Counter(names)
        pairs = zip(names, labels, strict=True)
        return tuple(f"{name} ({label})" if times[name] > 1 else name for name, label in pairs)


@dataclass(frozen=True, eq=False)
class KeptLayer:
    """One layer's features and squared Jacobian norms, with their context.

    Attributes:
        layer: the name of the layer.
        features: (n, p).
        norms: of the rows ``context.probed``.
        head: the classifier that the layer feeds, if any.
        context: the facts that all layers share.
        no_head: the reason why there is no classifier.
    """

    layer: str
    features: Tensor = field(repr=False)
    norms: SquaredNorms = field(repr=False)
    head: LinearHead | None = field(repr=False)
    context: Context = field(repr=False)
    no_head: str = field(default="", repr=False)

    @property
    def labels(self) -> Tensor:
        """(n,) of all examples."""
        return self.context.labels


def accuracy_of(
    logits: Tensor, labels: Tensor, class_names: Sequence[str] | None
) -> tuple[float | None, tuple[str, ...]]:
    """Share of the examples whose largest logit is their label.

    None and the reason if the model's outputs and the data's classes do not correspond.

    Raises:
        ValueError: NaN among the logits.
    """
    check_finite("logits", logits.clamp(-1.0, 1.0))
    n_outputs = logits.shape[1]
    n_classes = len(class_names) if class_names is not None else n_outputs
    if n_classes != n_outputs or int(labels.max()) >= n_outputs or int(labels.min()) < 0:
        n_seen = max(n_classes, int(labels.max()) + 1) if class_names is None else n_classes
        return None, (f"accuracy: the model has {n_outputs} outputs, the data {n_seen} classes",)
    hits = logits.argmax(dim=1).cpu() == labels
    return float(hits.double().mean()), ()
