"""The variance of a measure between and within ratios of rate and batch size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geocollapse.papers.implicit.claims import RATE_OVER_BATCH
from geocollapse.papers.ordered import MIN_SETTINGS
from geocollapse.papers.statistics import EXACT_SETTINGS, Array, permutations
from geocollapse.papers.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

_RATE = "training.learning_rate"
_BATCH = "training.batch_size"


def share_between(values: Array, groups: NDArray[np.int64]) -> float:
    """The share of the variance of values that lies between groups, eta^2.

        eta^2 = sum_g n_g (mean_g - mean)^2 / sum_i (y_i - mean)^2

    Range [0, 1], 1 where values of one group are equal; NaN where all are. Unchanged by shifts and
    scalings.

    Source: Fisher (1925), the correlation ratio.

    Args:
        values: y (n,).
        groups: the group of each value, (n,).

    Examples:
        >>> share_between(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1]))
        1.0
    """
    return float(_shares(values[None], groups)[0])


def judge_ratio(sweep: str, runs: pd.DataFrame, y: str, words: str, *, seed: int = 0) -> Verdict:
    """The share of the variance of ``y`` between ratios of rate and batch size, before decision.

    Means over the seeds of each setting; p is the share of orders of these means with as large a
    share between the ratios. GC is taken as its logarithm.

    Args:
        sweep: its name.
        runs: of a grid of rates and batch sizes.
        y: column of the measure.
        words: its name in the statement.
        seed: of sampled orders, above 8 settings.
    """
    verdict = Verdict(
        claim=RATE_OVER_BATCH.name,
        statement=f"{words} differs less within a ratio of rate and batch size than between them",
        sweep=sweep,
        x="rate / batch",
        y=y,
        verdict="undecided",
        n_runs=0,
        figure=f"implicit-settings-{sweep}",
        effect_name="share between ratios",
        test="permutation of the settings",
    )
    if runs.empty:
        return replace(verdict, note="No run converged.")
    if y not in runs:
        return replace(verdict, note=f"Not recorded: {y}.")
    known = runs.assign(value=runs[y].astype(float)).dropna(subset=["value"])
    is_positive = bool((known["value"] > 0.0).all())
    if y.startswith("source.") and is_positive:
        known = known.assign(value=np.log(known["value"]))
    means = known.groupby([_RATE, _BATCH])["value"].mean().reset_index()
    ratios = np.round(np.log2(means[_RATE] / means[_BATCH]), 6)
    groups = np.unique(ratios, return_inverse=True)[1]
    verdict = replace(verdict, n_runs=len(known), n_settings=len(means))
    if len(np.unique(groups)) < MIN_SETTINGS or len(means) == len(np.unique(groups)):
        return replace(verdict, note="No ratio has two settings, or there are fewer than 3 ratios.")
    values = means["value"].to_numpy(dtype=float)
    share = share_between(values, groups)
    shares = _shares(values[permutations(len(values), seed=seed)], groups)
    observed = 0 if len(values) <= EXACT_SETTINGS else 1  # the observed order, if not among them
    n = len(shares) + observed
    return replace(
        verdict,
        effect=share,
        p=(int(np.count_nonzero(shares >= share - 1e-12)) + observed) / n,
        p_opposite=(int(np.count_nonzero(shares <= share + 1e-12)) + observed) / n,
    )


def _shares(rows: Array, groups: NDArray[np.int64]) -> Array:
    """eta^2 of each row (m, n)."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=1)
    sums = np.stack([centred[:, groups == g].sum(axis=1) for g in np.unique(groups)], axis=1)
    sizes = np.array([np.count_nonzero(groups == g) for g in np.unique(groups)])
    between = (sums**2 / sizes).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(total > 0.0, between / total, np.nan))
