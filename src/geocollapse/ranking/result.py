"""A ranking: the models best first, how each pair compares, and what follows."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from geocollapse.estimate import Estimate, IntervalDict, finite_or_none
from geocollapse.ranking.accuracy import SampledAccuracy
from geocollapse.ranking.agreement import Agreement
from geocollapse.ranking.json_form import (
    AgreementDict,
    FailedModelDict,
    PairDict,
    RankedModelDict,
    RankingDict,
)
from geocollapse.ranking.scores import Score
from geocollapse.ranking.ties import Pair, tied_with
from geocollapse.store import KeptLayer
from geocollapse.transfer import FewShotAccuracy, Jackknifed

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, kw_only=True)
class RankedModel:
    """One model on the target.

    Attributes:
        label: its name in the ranking.
        kept: its features, labels and squared Jacobian norms.
        sampled: accuracies of episodes and half-samples; None where nothing was measured.
        curve: accuracy by number of shots, with the error over episodes.
        predicted: accuracy from the geometry of the features, to be paired with that of other
            models; None where it is not defined.
        geometric_complexity: of the map to the layer; None without Jacobians.
        scores: by name, see ``geocollapse.measures.SCORES``.
        warnings: what a reader must know about this model.
    """

    label: str
    kept: KeptLayer
    sampled: SampledAccuracy | None
    curve: Mapping[int, FewShotAccuracy]
    predicted: Jackknifed | None
    geometric_complexity: Estimate | None
    scores: Mapping[str, Score]
    warnings: tuple[str, ...] = ()

    @property
    def accuracy(self) -> Estimate | None:
        """Few-shot accuracy, with the error over examples like these; None if not measured."""
        return None if self.sampled is None else self.sampled.estimate()

    @property
    def predicted_accuracy(self) -> Estimate | None:
        """Accuracy from the geometry of the features; None where it is not defined."""
        return None if self.predicted is None else self.predicted.estimate()

    @property
    def ranked_by(self) -> Estimate:
        """The accuracy that it is ranked by: measured, else predicted; NaN without labels."""
        found = self.accuracy or self.predicted_accuracy
        return Estimate(math.nan, math.nan, 0, scale="linear") if found is None else found

    @property
    def n_parameters(self) -> int | None:
        """Parameters of the whole model; None for features from a file."""
        found = self.kept.context.provenance.get("n_parameters")
        return found if isinstance(found, int) else None

    @property
    def seconds_per_example(self) -> float | None:
        """Time of a forward pass on the machine that took the features; None for a file."""
        found = self.kept.context.provenance.get("seconds_per_example")
        return found if isinstance(found, float) else None

    def to_dict(self, pairs: list[Pair]) -> RankedModelDict:
        """The strict JSON form."""
        origin = self.kept.context.provenance
        accuracy = self.accuracy
        over_episodes = None if self.sampled is None else self.sampled.over_episodes
        return {
            "label": self.label,
            "model": text_or_none(origin.get("model")),
            "weights": text_or_none(origin.get("weights")),
            "layer": self.kept.layer,
            "n_features": self.kept.features.shape[1],
            "n_parameters": self.n_parameters,
            "seconds_per_example": self.seconds_per_example,
            "preprocessing": dict(self.kept.context.preprocessing),
            "accuracy": _interval_dict(accuracy),
            "accuracy_over_episodes": None
            if over_episodes is None
            else over_episodes.to_interval_dict(),
            "learning_curve": {str(k): e.to_interval_dict() for k, e in self.curve.items()},
            "predicted_accuracy": _interval_dict(self.predicted_accuracy),
            "geometric_complexity": _interval_dict(self.geometric_complexity),
            "scores": {name: score.to_dict() for name, score in self.scores.items()},
            "tied_with": tied_with(self.label, pairs),
            "from_cache": bool(origin.get("from_cache")),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class FailedModel:
    """A model that could not be ranked.

    Attributes:
        label: its name in the ranking.
        error: the reason, in one line.
    """

    label: str
    error: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """Several models on one target, best first.

    Attributes:
        models: best first.
        failed: those that could not be ranked.
        ranked_by: ``accuracy`` (measured), ``predicted_accuracy`` or the name of a score.
        pairs: the difference of each pair, with its test.
        agreement: of each score with the measured accuracy, where scores of these models can be
            compared; empty unless accuracy was measured.
        advice: what follows, in plain words.
        path: labels of checkpoints in the order of their training; empty for other models.
        about: data, split, classes and the sizes of the episodes.
        warnings: what a reader must know.
        provenance: versions, device, seed and code revision.
    """

    models: tuple[RankedModel, ...]
    failed: tuple[FailedModel, ...] = ()
    ranked_by: str
    pairs: list[Pair]
    agreement: Mapping[str, Agreement]
    advice: str
    path: tuple[str, ...] = ()
    about: Target
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_guess(self) -> bool:
        """True if the target has no labels, so that a score alone orders the models."""
        return self.ranked_by not in ("accuracy", "predicted_accuracy")

    def to_text(self) -> str:
        """Advice, table, agreement of the scores and notes."""
        from geocollapse.ranking.table import as_text

        return as_text(self)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        labels = ", ".join(model.label for model in self.models)
        return f"Ranking of {labels}, best first. {self.advice}"

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def to_frame(self) -> pandas.DataFrame:
        """A pandas frame with one row a model, best first, and dotted names."""
        import pandas

        return pandas.json_normalize([dict(model) for model in self.to_dict()["models"]])

    def to_dict(self) -> RankingDict:
        """The strict JSON form."""
        return {
            "schema_version": 1,
            "ranked_by": self.ranked_by,
            "advice": self.advice,
            "models": [model.to_dict(self.pairs) for model in self.models],
            "failed": [
                FailedModelDict(label=failed.label, error=failed.error) for failed in self.failed
            ],
            "pairs": [_pair_dict(pair) for pair in self.pairs],
            "agreement": {name: _agreement_dict(a) for name, a in self.agreement.items()},
            "checkpoints": list(self.path),
            "data": self.about.data,
            "split": self.about.split,
            "classes": list(self.about.classes),
            "n_samples": self.about.n_samples,
            "n_way": self.about.n_way,
            "k_shot": self.about.k_shot,
            "n_query": self.about.n_query,
            "n_episodes": self.about.n_episodes,
            "classifier": self.about.classifier,
            "warnings": list(self.warnings),
            "provenance": dict(self.provenance),
        }


@dataclass(frozen=True)
class Target:
    """The examples that the models were ranked on, and the episodes drawn from them.

    Attributes:
        data: name of the data set.
        split: the part of it.
        classes: name of each class; empty for a target without labels.
        n_samples: number of examples.
        smallest_class: examples of the smallest class.
        n_way: classes of an episode; 0 without labels, as all that is said of episodes.
        k_shot: labelled examples of each.
        n_query: examples of each to classify.
        n_episodes: number of episodes.
        classifier: of the features.
    """

    data: str | None
    split: str | None
    classes: tuple[str, ...]
    n_samples: int
    smallest_class: int
    n_way: int
    k_shot: int
    n_query: int
    n_episodes: int
    classifier: str


def _interval_dict(estimate: Estimate | None) -> IntervalDict | None:
    return None if estimate is None else estimate.to_interval_dict()


def text_or_none(value: object) -> str | None:
    """An entry of a provenance, if it is a text."""
    return value if isinstance(value, str) else None


def _pair_dict(pair: Pair) -> PairDict:
    return {
        "first": pair.first,
        "second": pair.second,
        "difference": pair.difference.to_interval_dict(),
        "p": finite_or_none(pair.p),
        "p_holm": finite_or_none(pair.p_holm),
        "tied": pair.is_tie,
    }


def _agreement_dict(found: Agreement) -> AgreementDict:
    low, high = found.interval
    return {
        "tau": finite_or_none(found.tau),
        "ci95": (finite_or_none(low), finite_or_none(high)),
        "n_models": found.n_models,
        "picked": found.picked,
        "regret": finite_or_none(found.regret),
    }
