"""How well scores tell other data from the data: AUROC, FPR at 95 % TPR, AUPR, with errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from geocollapse.arrays import Array, as_tensor
from geocollapse.estimate import Estimate, IntervalDict
from geocollapse.numerics import check_finite

Floats = NDArray[np.float64]
TPR = 0.95
N_RESAMPLES = 200
_AT_A_TIME = 1 << 21  # numbers of resampled curves held together


class DetectionDict(TypedDict):
    """The JSON form of a ``Detection``.

    Attributes:
        n_in: scores of the data.
        n_out: scores of the other data.
        auroc: chance that other data score above the data; 0.5 is guessing.
        fpr95: share of the other data accepted where 95 % of the data are.
        aupr_in: average precision with the data as positives; guessing gives their share.
        aupr_out: average precision with the other data as positives, likewise.
    """

    n_in: int
    n_out: int
    auroc: IntervalDict
    fpr95: IntervalDict
    aupr_in: IntervalDict
    aupr_out: IntervalDict


@dataclass(frozen=True)
class Detection:
    """How well one score tells other data from the data.

    Attributes:
        auroc: P(s_out > s_in) + P(s_out = s_in)/2, with DeLong's error.
        fpr95: share of the other data at or below the smallest threshold that accepts 95 % of the
            data.
        aupr_in: average precision with the data as positives, smallest scores first.
        aupr_out: average precision with the other data as positives, largest scores first.
        n_in: scores of the data.
        n_out: scores of the other data.
    """

    auroc: Estimate
    fpr95: Estimate
    aupr_in: Estimate
    aupr_out: Estimate
    n_in: int
    n_out: int

    def to_dict(self) -> DetectionDict:
        """The strict JSON form."""
        return {
            "n_in": self.n_in,
            "n_out": self.n_out,
            "auroc": self.auroc.to_interval_dict(),
            "fpr95": self.fpr95.to_interval_dict(),
            "aupr_in": self.aupr_in.to_interval_dict(),
            "aupr_out": self.aupr_out.to_interval_dict(),
        }


def detection(
    in_scores: Array, out_scores: Array, *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Detection:
    """Compare scores of the data with scores of other data; larger means less like the data.

        AUROC    mean over pairs of [s_out > s_in] + [s_out = s_in]/2
        FPR95    share of s_out <= t, t the smallest score with a share of 0.95 of s_in <= t
        AUPR     sum_k (R_k - R_(k-1)) P_k over all thresholds

    All lie in [0, 1] and are invariant to increasing transformations of the scores. AUPR depends on
    how many of each there are. Errors are those of further data like these: DeLong's for AUROC, for
    the others a bootstrap of both samples; intervals are Wilson's at that error. Cost: one sort and
    O(n) a resample.

    Source: Hanley and McNeil (1982); DeLong et al. (1988); Hendrycks and Gimpel (2017).

    Args:
        in_scores: (n,), at least 2.
        out_scores: (m,), at least 2.
        n_resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: too few scores, another shape, or NaN.

    Examples:
        >>> found = detection(np.array([0.0, 0.1, 0.2, 0.6]), np.array([0.5, 0.7, 0.8, 0.9]))
        >>> round(found.auroc.value, 4), found.fpr95.value
        (0.9375, 0.25)
    """
    s_in = _as_scores("in_scores", in_scores)
    s_out = _as_scores("out_scores", out_scores)
    curves = _Curves(s_in, s_out)
    values = curves.values(np.ones((1, len(s_in))), np.ones((1, len(s_out))))[:, 0]
    resampled = np.concatenate([*curves.resampled(n_resamples, seed)], axis=1)
    errors = resampled.std(axis=1, ddof=1)
    n = min(len(s_in), len(s_out))
    fpr95, aupr_in, aupr_out = (
        _share(float(value), float(error), n, "bootstrap") for value, error in zip(values, errors)
    )
    return Detection(_auroc(s_in, s_out, n), fpr95, aupr_in, aupr_out, len(s_in), len(s_out))


def _auroc(s_in: Floats, s_out: Floats, n: int) -> Estimate:
    """AUROC from the placements of each score among those of the other sample (DeLong)."""
    of_out = _share_below(np.sort(s_in), s_out)
    of_in = 1.0 - _share_below(np.sort(s_out), s_in)
    variance = of_out.var(ddof=1) / len(s_out) + of_in.var(ddof=1) / len(s_in)
    return _share(float(of_out.mean()), math.sqrt(variance), n, "DeLong")


def _share_below(ordered: Floats, scores: Floats) -> Floats:
    """Share of ``ordered`` below each score, ties counted half."""
    left = np.searchsorted(ordered, scores, side="left")
    right = np.searchsorted(ordered, scores, side="right")
    return np.asarray((left + right) / (2.0 * len(ordered)))


def _share(value: float, stderr: float, n: int, estimator: str) -> Estimate:
    inside = min(max(value, 0.0), 1.0)  # a mean of shares may pass 1 by rounding
    return Estimate(
        inside, stderr, n, population="distribution", estimator=estimator, scale="share"
    )


class _Curves:
    """All thresholds of two samples, sorted once for every resample.

    Libraries give these values for one sample; hundreds of resamples would each sort again.
    """

    def __init__(self, s_in: Floats, s_out: Floats) -> None:
        scores = np.concatenate([s_in, s_out])
        self.order = np.argsort(scores, kind="stable")
        ordered = scores[self.order]
        self.ends = np.flatnonzero(np.append(np.diff(ordered) > 0.0, True))  # of equal scores
        self.n_in = len(s_in)
        self.n_out = len(s_out)

    def values(self, w_in: Floats, w_out: Floats) -> Floats:
        """FPR95, AUPR of the data and of the others (3, B) at weights (B, n) and (B, m)."""
        nothing = np.zeros_like(w_in), np.zeros_like(w_out)
        accepted_in = self._cumulative(w_in, nothing[1])
        accepted_out = self._cumulative(nothing[0], w_out)
        total_in = accepted_in[:, -1:]
        total_out = accepted_out[:, -1:]
        at = (accepted_in >= TPR * total_in - 1e-9 * total_in).argmax(axis=1)
        fpr = np.take_along_axis(accepted_out, at[:, None], axis=1) / total_out
        refused_in = total_in - _shifted(accepted_in)
        refused_out = total_out - _shifted(accepted_out)
        of_in = _average_precision(accepted_in, accepted_out)
        of_out = _average_precision(refused_out[:, ::-1], refused_in[:, ::-1])
        return np.stack([fpr[:, 0], of_in, of_out])

    def resampled(self, n_resamples: int, seed: int) -> Iterator[Floats]:
        """The values at weights of bootstrap samples, (3, B) at a time."""
        if n_resamples < 2:
            raise ValueError(
                f"n_resamples: expected at least 2, got {n_resamples}; do n_resamples=200"
            )
        rng = np.random.default_rng(seed)
        step = max(1, _AT_A_TIME // (self.n_in + self.n_out))
        for start in range(0, n_resamples, step):
            n = min(step, n_resamples - start)
            yield self.values(_counts(rng, n, self.n_in), _counts(rng, n, self.n_out))

    def _cumulative(self, w_in: Floats, w_out: Floats) -> Floats:
        weights = np.concatenate([w_in, w_out], axis=1)[:, self.order]
        return np.asarray(weights.cumsum(axis=1)[:, self.ends])


def _counts(rng: np.random.Generator, n_resamples: int, size: int) -> Floats:
    """How often each of ``size`` examples is drawn in a bootstrap sample, (n_resamples, size)."""
    drawn = rng.integers(size, size=(n_resamples, size))
    return np.stack([np.bincount(row, minlength=size) for row in drawn]).astype(np.float64)


def _shifted(cumulative: Floats) -> Floats:
    """Sums before each threshold, from sums up to it."""
    return np.pad(cumulative[:, :-1], ((0, 0), (1, 0)))


def _average_precision(positives: Floats, negatives: Floats) -> Floats:
    """sum_k (R_k - R_(k-1)) P_k from cumulative weights (B, thresholds)."""
    found = positives + negatives
    precision = np.divide(positives, found, out=np.ones_like(positives), where=found > 0.0)
    gained = positives - _shifted(positives)
    return np.asarray((gained * precision).sum(axis=1) / positives[:, -1])


def _as_scores(name: str, scores: Array) -> Floats:
    tensor = as_tensor(name, scores)
    if tensor.ndim != 1 or len(tensor) < 2:
        raise ValueError(
            f"{name}: expected at least 2 scores (n,), got shape {tuple(tensor.shape)}; do one "
            f"score for each example"
        )
    check_finite(name, tensor)
    return np.asarray(tensor.cpu().double().numpy())
