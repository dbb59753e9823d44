"""Rank correlation over a few settings, its interval and exact test; means paired by seed.

A p is one-sided where a sign is expected. NaN: the quantity is undefined (a constant column, too
few settings).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from geocollapse import estimate

Array = NDArray[np.float64]

EXACT_SETTINGS = 8  # up to here all n! orders are visited (40,320); above it N_PERMUTATIONS
N_PERMUTATIONS = 20_000
N_RESAMPLES = 10_000
_TIE = 1e-12  # two correlations closer than this are the same number, up to rounding


def spearman(x: Array, y: Array) -> float:
    """Spearman's rank correlation of two vectors of settings.

        rho = corr(rank x, rank y),    ties share their mean rank

    Range [-1, 1]; unchanged by increasing transforms of either vector, and NaN if one of them is
    constant.

    Source: Spearman (1904).

    Args:
        x: values (n,).
        y: values (n,).

    Examples:
        >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0, 100.0]))
        1.0
    """
    return float(spearman_rows(x[None], y[None])[0])


def spearman_rows(x: Array, y: Array) -> Array:
    """Spearman's rho of each row of ``x`` (m, n) with the same row of ``y`` (m, n) -> (m,)."""
    return _row_correlations(ranks(x), ranks(y))


def kendall(x: Array, y: Array) -> float:
    """Kendall's tau-b of two vectors of settings; NaN if one of them is constant.

        tau = (concordant - discordant) / sqrt((pairs - ties in x) (pairs - ties in y))

    Range [-1, 1]; unchanged by increasing transforms of either vector. (1 + tau) / 2 is the share
    of pairs of settings in the same order by both, where there are no ties.

    Source: Kendall (1945).

    Args:
        x: values (n,).
        y: values (n,).
    """
    from scipy import stats

    return float(stats.kendalltau(x, y).statistic) if len(x) > 1 else math.nan


def partial_spearman(x: Array, y: Array, given: Array) -> float:
    """Spearman's rho of x and y, given a third vector.

        rho_xy.z = (rho_xy - rho_xz rho_yz) / sqrt((1 - rho_xz^2) (1 - rho_yz^2))

    Range [-1, 1]. NaN if a vector is constant, or has the order of ``given`` or its reverse: then
    nothing is left to correlate.

    Source: Kendall (1942), with Spearman's rho for tau.

    Args:
        x: values (n,).
        y: values (n,).
        given: what both may follow (n,).
    """
    xz = spearman(x, given)
    yz = spearman(y, given)
    left = (1.0 - xz * xz) * (1.0 - yz * yz)
    if not left > _TIE:
        return math.nan
    return float(np.clip((spearman(x, y) - xz * yz) / math.sqrt(left), -1.0, 1.0))


def bootstrap_interval(
    x: Array, y: Array, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of rho from resampled settings.

    Whole settings are drawn with replacement, so all seeds of a setting stay together. Resamples in
    which a vector is constant have no rank correlation and are dropped. Cost: 10,000 rankings of n
    numbers.

    Source: Efron (1979); definitions 5.
    """
    if len(x) < 2:
        return (math.nan, math.nan)
    draws = np.random.default_rng(seed).integers(0, len(x), size=(N_RESAMPLES, len(x)))
    correlations = spearman_rows(x[draws], y[draws])
    correlations = correlations[np.isfinite(correlations)]
    if correlations.size == 0:
        return (math.nan, math.nan)
    low, high = np.quantile(correlations, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high))


def permutation_p(x: Array, y: Array, *, sign: int, seed: int = 0) -> float:
    """The p of rho over permutations of the settings: on the side of ``sign``, or on both for 0.

        p = share of orders pi with sign * rho(x, y_pi) >= sign * rho(x, y);
            for sign 0 with |rho(x, y_pi)| >= |rho(x, y)|

    The orders are all n! up to n = 8, so five settings in perfect order give 1/120; above that,
    20,000 seeded ones and the observed one, which keeps the test valid.

    Source: Pitman (1937); Phipson and Smyth (2010) for the observed order in a sampled test.
    """
    observed = spearman(x, y)
    if math.isnan(observed):
        return math.nan
    orders = permutations(len(y), seed=seed)
    permuted = _row_correlations(
        np.broadcast_to(ranks(x[None]), orders.shape), ranks(y[None])[0][orders]
    )
    if sign == 0:
        as_far = int(np.count_nonzero(np.abs(permuted) >= abs(observed) - _TIE))
    else:
        as_far = int(np.count_nonzero(sign * permuted >= sign * observed - _TIE))
    if len(x) <= EXACT_SETTINGS:
        return as_far / len(permuted)
    return (as_far + 1) / (len(permuted) + 1)


def permutations(n: int, *, seed: int = 0) -> NDArray[np.int64]:
    """All orders of n settings (n!, n), or 20,000 seeded ones (20000, n) above 8 settings."""
    if n <= EXACT_SETTINGS:
        return np.array(list(itertools.permutations(range(n))), dtype=np.int64)
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (N_PERMUTATIONS, 1)), axis=1)


def mean_interval(values: Array, *, level: float = 0.95) -> tuple[float, tuple[float, float]]:
    """The mean of a few values and its Student interval; NaN ends for fewer than two.

        mean +- t_{n-1} std/sqrt(n)

    For differences paired by seed. It takes them as normal, which three of them cannot show.

    Source: Student (1908).

    Args:
        values: (n,), one a seed.
        level: of the interval.

    Examples:
        >>> mean, (low, high) = mean_interval(np.array([1.0, 2.0, 3.0]))
        >>> mean, round(low, 2), round(high, 2)
        (2.0, -0.48, 4.48)
    """
    from scipy import stats

    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return mean, (math.nan, math.nan)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return mean, (mean - half, mean + half)


def student_p(values: Array) -> float:
    """One-sided p of Student's t test that the mean of a few values is above 0.

        p = P(T >= mean sqrt(n) / std),    T of n - 1 degrees of freedom

    Equal values have a p of 0 above 0, and of 1 at or below it. NaN for fewer than two values.

    Source: Student (1908).

    Args:
        values: (n,), one a seed.

    Examples:
        >>> round(student_p(np.array([1.0, 2.0, 3.0])), 3)
        0.037
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        return math.nan
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    if error == 0.0:
        return 0.0 if mean > 0.0 else 1.0
    return float(stats.t.sf(mean / error, n - 1))


def mcnemar_p(n_expected: int, n_opposite: int) -> float:
    """One-sided p of McNemar's exact test on pairs that differ; 1 if none does.

        p = P(X >= n_expected),    X binomial with n_expected + n_opposite trials of share 1/2

    Source: McNemar (1947), with the binomial distribution in place of its chi-squared limit.

    Args:
        n_expected: pairs that differ on the expected side.
        n_opposite: pairs that differ on the other side.

    Examples:
        >>> mcnemar_p(5, 0)
        0.03125
    """
    from scipy import stats

    n_pairs = n_expected + n_opposite
    if n_pairs == 0:
        return 1.0
    return float(stats.binomtest(n_expected, n_pairs, alternative="greater").pvalue)


def paired_share_interval(
    n_first: int, n_second: int, n_pairs: int, *, z: float = 1.959964
) -> tuple[float, float]:
    """Interval at 95 % of the difference of two shares over the same pairs.

        d +- z sqrt((p + q - d^2)/(n + 2)),    p = (n_first + 1)/(n + 2),  q likewise,  d = p - q

    Inside [-1, 1], and of some width where no pair differs.

    Source: Bonett and Price (2012), the adjusted Wald interval.

    Args:
        n_first: pairs that count by the first alone.
        n_second: pairs that count by the second alone.
        n_pairs: n, all of them.
        z: half-width in standard errors.

    Examples:
        >>> low, high = paired_share_interval(5, 0, 10)
        >>> round(low, 2), round(high, 2)
        (0.05, 0.78)
    """
    p, q = ((count + 1.0) / (n_pairs + 2.0) for count in (n_first, n_second))
    difference = p - q
    half = z * math.sqrt((p + q - difference**2) / (n_pairs + 2.0))
    return max(-1.0, difference - half), min(1.0, difference + half)


def wilson_interval(n_hits: int, n_trials: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share at 95 %.

    Inside [0, 1], also at shares of 0 and 1.

    Source: Wilson (1927).
    """
    if n_trials == 0:
        return (math.nan, math.nan)
    return estimate.wilson_interval(n_hits / n_trials, n_trials, z)


def ranks(rows: Array) -> Array:
    """Ranks within each row (m, n); ties share their mean rank."""
    from scipy import stats

    return np.asarray(stats.rankdata(rows, axis=1), dtype=np.float64)


def _row_correlations(a: Array, b: Array) -> Array:
    """Pearson correlation of each row of ``a`` with that of ``b``; NaN if a row is constant."""
    a = a - a.mean(axis=1, keepdims=True)
    b = b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, (a * b).sum(axis=1) / norms, np.nan)
