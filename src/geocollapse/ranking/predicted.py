"""Predicted accuracy of one model, as a score and to be paired with that of others."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from geocollapse.estimate import Estimate
from geocollapse.ranking.accuracy import EpisodeSettings
from geocollapse.ranking.scores import Null, Score
from geocollapse.transfer import Jackknifed, jackknifed_error, quick_prediction

PREDICTED = "predicted_accuracy"
_N_NULLS = 5
_NULL_QUERIES = 200


def predicted_accuracy(x: Tensor, y: Tensor, episodes: EpisodeSettings) -> Jackknifed:
    """Accuracy of the nearest mean in these episodes, predicted from the geometry of the classes.

    Raises:
        ValueError: too few examples of a class, or more ways than classes.
    """
    error = jackknifed_error(x, y, n_way=episodes.n_way, k_shot=episodes.k_shot, seed=episodes.seed)
    return error.complement()


def as_score(predicted: Jackknifed, x: Tensor, y: Tensor, episodes: EpisodeSettings) -> Score:
    """The predicted accuracy beside its value under shuffled labels."""
    estimate = replace(predicted.estimate(), values=None)
    if math.isnan(estimate.value):
        reason = f"{PREDICTED}: expected a finite value, got nan; do check the features"
        return Score(PREDICTED, estimate, valid=False, reason=reason)
    return Score(PREDICTED, estimate, _null(x, y, episodes))


def missing_score(reason: str) -> Score:
    """The score of a model for which nothing can be predicted."""
    none = Estimate(math.nan, math.nan, 0, scale="linear")
    return Score(PREDICTED, none, valid=False, reason=reason)


def _null(x: Tensor, y: Tensor, episodes: EpisodeSettings) -> Null | None:
    """Predicted accuracy under shuffled labels: near one in ``n_way``.

    Of five shuffles, 200 queries and the class sets of 100 episodes, in 0.2 s for 1,000 examples of
    512 features: its standard deviation is, if anything, too large.
    """
    generator = torch.Generator().manual_seed(episodes.seed)
    values = []
    for _ in range(_N_NULLS):
        shuffled = y[torch.randperm(len(y), generator=generator).to(y.device)]
        found = quick_prediction(
            x,
            shuffled,
            [episodes.k_shot],
            episodes.seed,
            n_way=episodes.n_way,
            n_queries=_NULL_QUERIES,
        )
        if not found.errors:
            return None
        values.append(1.0 - found.errors[0].value)
    drawn = torch.tensor(values, dtype=torch.float64)
    return Null(float(drawn.mean()), float(drawn.std()), _N_NULLS)
