"""One model of a ranking: its accuracy, predicted accuracy and scores, from its features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from geocollapse.estimate import Estimate
from geocollapse.measurement import LayerMeasurement
from geocollapse.measurement.compute import measure_layer
from geocollapse.measures import SCORES
from geocollapse.models import TrainingRecord
from geocollapse.ranking.accuracy import Draws, EpisodeSettings, sampled_accuracy
from geocollapse.ranking.predicted import (
    PREDICTED,
    as_score,
    missing_score,
    predicted_accuracy,
)
from geocollapse.ranking.result import RankedModel
from geocollapse.ranking.scores import Score, score_sample
from geocollapse.ranking.source_scores import source_scores
from geocollapse.store import KeptLayer
from geocollapse.transfer import FewShotAccuracy, Jackknifed, learning_curve
from geocollapse.transfer.sample import Sample

CURVE_SHOTS = (1, 2, 5, 10, 20, 50)
UNASKED = ("input_covariance_lambda_max: ", "accuracy: ", "gc_pixel: ")  # of no interest here
_CURVE_EPISODES = 200


def rank_model(
    label: str,
    kept: KeptLayer,
    episodes: EpisodeSettings,
    draws: Draws | None,
    record: TrainingRecord | None = None,
) -> RankedModel:
    """Accuracy with its error, learning curve, predicted accuracy and scores of one model.

    Args:
        label: its name in the ranking.
        kept: its features and labels.
        episodes: the same for all models.
        draws: of these episodes; None asks for the predicted accuracy alone.
        record: of its training, which has scores that need no target.

    Raises:
        ValueError: without ``draws``, classes for which no accuracy can be predicted.
    """
    x, y = kept.features, kept.labels
    measured = measure_layer(kept)
    predicted, of_prediction = _predicted(x, y, episodes, is_needed=draws is None)
    sample = replace(Sample.of(x, y), known_baselines=measured.label_free)
    scores = score_sample(sample, kept.context.logits, seed=episodes.seed)
    scores |= _scores_of(measured) | source_scores(record, kept.layer)
    scores[PREDICTED] = of_prediction
    notes = (of_prediction.reason,) if predicted is None else predicted.warnings
    return RankedModel(
        label=label,
        kept=kept,
        sampled=None if draws is None else sampled_accuracy(x, y, episodes, draws),
        curve=_curve(x, y, episodes),
        predicted=predicted,
        geometric_complexity=_defined(measured.geometric_complexity),
        scores={name: scores[name] for name in SCORES if name in scores},
        warnings=(*(w for w in kept.context.warnings if not w.startswith(UNASKED)), *notes),
    )


def _curve(x: Tensor, y: Tensor, episodes: EpisodeSettings) -> Mapping[int, FewShotAccuracy]:
    """Accuracy by number of shots, up to as many as leave a query."""
    smallest = int(y.unique(return_counts=True)[1].min())
    k_shots = [k for k in CURVE_SHOTS if k < smallest]
    if not episodes.n_query or not k_shots:
        return {}
    found = learning_curve(
        x,
        y,
        k_shots=k_shots,
        classifiers=[episodes.classifier],
        n_way=episodes.n_way,
        n_query=min(episodes.n_query, smallest - k_shots[-1]),
        n_episodes=_CURVE_EPISODES,
        seed=episodes.seed,
    )
    return next(iter(found.accuracy.values()))


def _predicted(
    x: Tensor, y: Tensor, episodes: EpisodeSettings, *, is_needed: bool
) -> tuple[Jackknifed | None, Score]:
    """Predicted accuracy and its score; None and a reason where the examples do not suffice."""
    try:
        found = predicted_accuracy(x, y, episodes)
    except ValueError as error:
        if is_needed:
            raise
        return None, missing_score(f"predicted accuracy: {error}")
    return found, as_score(found, x, y, episodes)


def _scores_of(measured: LayerMeasurement) -> dict[str, Score]:
    """The scores that the Jacobians give, with the reason where one is undefined."""
    names = ("per_pixel.gc_per_variance", "per_pixel.geometric_collapse")
    estimates = measured.estimates
    return {str(name): _score(name, estimates[name]) for name in names if name in estimates}


def _score(name: str, estimate: Estimate) -> Score:
    if not math.isnan(estimate.value):
        return Score(name, estimate)
    reason = "; ".join(estimate.warnings) or "expected a finite value, got nan"
    return Score(name, estimate, valid=False, reason=f"{name}: {reason}")


def _defined(estimate: Estimate) -> Estimate | None:
    return None if math.isnan(estimate.value) else estimate
