"""The JSON forms of a ranking."""

from __future__ import annotations

from typing_extensions import TypedDict

from geocollapse.estimate import IntervalDict
from geocollapse.ranking.scores import ScoreDict
from geocollapse.transfer.few_shot import FewShotIntervalDict


class RankedModelDict(TypedDict):
    """One model of ``rank --json``.

    Attributes:
        label: its name in the ranking.
        model: as it was asked for.
        weights: file or source of the weights.
        layer: of the features.
        n_features: their number.
        n_parameters: of the whole model; null for features from a file.
        seconds_per_example: time of a forward pass where the features were taken.
        preprocessing: how the inputs were prepared, and how the model ran.
        accuracy: few-shot accuracy, with the error over examples like these.
        accuracy_over_episodes: the same, with the error over further episodes of these examples.
        learning_curve: accuracy by number of shots, with the error over episodes.
        predicted_accuracy: from the geometry of the features.
        geometric_complexity: of the map to the layer.
        scores: by name.
        tied_with: labels of the models that cannot be told apart from this one.
        from_cache: its features were on disk.
        warnings: what a reader must know about this model.
    """

    label: str
    model: str | None
    weights: str | None
    layer: str
    n_features: int
    n_parameters: int | None
    seconds_per_example: float | None
    preprocessing: dict[str, object]
    accuracy: IntervalDict | None
    accuracy_over_episodes: FewShotIntervalDict | None
    learning_curve: dict[str, FewShotIntervalDict]
    predicted_accuracy: IntervalDict | None
    geometric_complexity: IntervalDict | None
    scores: dict[str, ScoreDict]
    tied_with: list[str]
    from_cache: bool
    warnings: list[str]


class FailedModelDict(TypedDict):
    """A model that could not be ranked.

    Attributes:
        label: its name in the ranking.
        error: the reason, in one line.
    """

    label: str
    error: str


class PairDict(TypedDict):
    """Two models compared on the same examples and episodes.

    Attributes:
        first: label of one model.
        second: label of the other.
        difference: of what the models are ranked by, the first less the second.
        p: of no difference, two-sided.
        p_holm: corrected for all pairs.
        tied: the two cannot be told apart.
    """

    first: str
    second: str
    difference: IntervalDict
    p: float | None
    p_holm: float | None
    tied: bool


class AgreementDict(TypedDict):
    """Agreement of a score with the measured order.

    Attributes:
        tau: Kendall's rank correlation of the score with the measured accuracy.
        ci95: its 95 % range over other examples, for these models.
        n_models: models that have the score.
        picked: label of the model that the score puts first.
        regret: accuracy lost by taking that one instead of the best.
    """

    tau: float | None
    ci95: tuple[float | None, float | None]
    n_models: int
    picked: str
    regret: float | None


class RankingDict(TypedDict):
    """``rank --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        ranked_by: `accuracy`, `predicted_accuracy` or the name of a score.
        advice: what follows, in plain words.
        models: best first.
        failed: models that could not be ranked.
        pairs: each pair of models.
        agreement: of each score that is comparable between the models with the measured accuracy.
        checkpoints: labels in the order of training; empty unless the models are checkpoints.
        data: name of the data set.
        split: the part of it.
        classes: names of the classes; empty for a target without labels.
        n_samples: number of examples.
        n_way: classes of an episode; 0 without labels, as all that is said of episodes.
        k_shot: labelled examples of each.
        n_query: examples of each to classify.
        n_episodes: number of episodes.
        classifier: of the features.
        warnings: what a reader must know.
        provenance: versions, device, seed and code revision.
    """

    schema_version: int
    ranked_by: str
    advice: str
    models: list[RankedModelDict]
    failed: list[FailedModelDict]
    pairs: list[PairDict]
    agreement: dict[str, AgreementDict]
    checkpoints: list[str]
    data: str | None
    split: str | None
    classes: list[str]
    n_samples: int
    n_way: int
    k_shot: int
    n_query: int
    n_episodes: int
    classifier: str
    warnings: list[str]
    provenance: dict[str, object]
