"""How well each score agreed with the measured order of the models of one ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geocollapse.ranking.accuracy import SampledAccuracy

_N_DRAWS = 2000


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau of a score with the measured accuracy over the models of one ranking.

    Attributes:
        tau: rank correlation tau-b, 1 for the same order; NaN where one of both is constant.
        interval: its 95 % range over other examples like these, for these models.
        n_models: models that have the score.
        picked: label of the model that the score puts first.
        regret: accuracy lost by taking that one instead of the best.
    """

    tau: float
    interval: tuple[float, float]
    n_models: int
    picked: str
    regret: float


def agreement(
    scores: Mapping[str, tuple[float, float]],
    accuracies: Mapping[str, SampledAccuracy],
    *,
    higher_is_better: bool,
    seed: int = 0,
) -> Agreement:
    """Kendall's tau of one score with the measured accuracy.

    The interval is that of tau over draws of accuracies and scores from their sampling errors:
    accuracies jointly normal, with the covariance of their half-samples, scores independently. It
    speaks about these models on other examples, not about other models.

    Source: Kendall (1945), tau-b.

    Args:
        scores: value and standard error by label; NaN for an unknown error.
        accuracies: by label.
        higher_is_better: the direction of the score.
        seed: of the draws.
    """
    labels = [label for label, (value, _) in scores.items() if not math.isnan(value)]
    sign = 1.0 if higher_is_better else -1.0
    values = sign * np.array([scores[label][0] for label in labels])
    measured = np.array([accuracies[label].over_episodes.value for label in labels])
    best = max(found.over_episodes.value for found in accuracies.values())
    place = int(values.argmax())
    picked = (labels[place], best - float(measured[place]))
    if len(labels) < 2:
        return Agreement(math.nan, (math.nan, math.nan), len(labels), *picked)
    errors = np.nan_to_num(np.array([scores[label][1] for label in labels]))
    generator = np.random.default_rng(seed)
    drawn = values + errors * generator.standard_normal((_N_DRAWS, len(labels)))
    halves = _deviations([accuracies[label] for label in labels])
    weights = generator.standard_normal((_N_DRAWS, len(halves)))
    moved = measured + weights @ halves
    taus = _tau(drawn, moved)
    taus = taus[~np.isnan(taus)]
    low, high = np.quantile(taus, [0.025, 0.975]) if len(taus) else (math.nan, math.nan)
    tau = float(_tau(values, measured))
    return Agreement(tau, (float(low), float(high)), len(labels), *picked)


def _deviations(accuracies: Sequence[SampledAccuracy]) -> NDArray[np.float64]:
    """Half-sample deviations (h, M), scaled so that their outer products add up to a covariance."""
    means = np.stack([a.halves.mean(dim=1).numpy() for a in accuracies], axis=1)
    if len(means) < 2:
        return np.zeros((1, len(accuracies)))
    centred: NDArray[np.float64] = (means - means.mean(axis=0)) / math.sqrt(len(means) - 1)
    return centred


def _tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """tau-b of rows (..., M): (concordant - discordant) / sqrt(untied of a * untied of b)."""
    first = np.sign(a[..., :, None] - a[..., None, :])
    second = np.sign(b[..., :, None] - b[..., None, :])
    size = np.sqrt(np.square(first).sum((-2, -1)) * np.square(second).sum((-2, -1)))
    with np.errstate(invalid="ignore"):
        return np.asarray((first * second).sum((-2, -1)) / size)
