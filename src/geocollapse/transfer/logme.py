"""LogME: the log evidence of a linear model of the labels, maximised over its two precisions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels
from geocollapse.transfer.sample import Sample

_STEP = 0.25  # of log tau in the first search, far below the width of a maximum
_REACH = 36.0  # e^-36 is below rounding
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_REFINEMENTS = 44  # 2 * 0.25 * 0.618^44 = 3e-10 in log tau, an error of 1e-19 of the evidence
_EXACT_FIT = 1e-12  # share of ||y||^2 up to which a residual is rounding


def logme(features: Array, labels: Labels) -> float:
    """LogME: maximum log evidence of the class indicators under Bayesian linear regression.

        LogME = 1/C sum_c max_{alpha, beta} 1/n log p(y_c | F, alpha, beta),
            y_c ~ N(0, I/beta + F F^T/alpha),    y_c the indicator of class c

    With tau = alpha/beta, s_k the eigenvalues of F^T F, u_k the coordinates of y_c in its
    eigenvectors and r the squared length of the rest, the best beta is known,

        1/n log p = 1/2 log(n/Q) - 1/(2n) sum_k log(1 + s_k/tau) - (1 + log 2 pi)/2,
            Q = sum_k u_k^2/(1 + s_k/tau) + r

    and one maximum over log tau is left. It is found on a grid and refined, which cannot diverge;
    the published fixed-point iteration adds 1e-5 to its denominators and stops after 11 steps, so
    that it agrees to about 7 digits where it converges.

    Range: from 1/C sum_c (log(n/n_c) - 1 - log 2 pi)/2, what features without any information
    have, to infinity. No unit. Invariant under permutation, relabelling, gaps in the labels,
    rotation and scaling; not under translation, for the model has no intercept.

    It misleads where classes differ in number or balance between the data sets compared, and with
    few examples: with n <= p the evidence of noise is hardly below that of good features. Read it
    beside its value under shuffled labels. O(n p min(n, p) + C p) time, memory of (n, p).

    Source: You, Liu, Wang, Long (2021), ICML, arXiv 2102.11005, eq. 2 and 3, algorithm 1; the
    profile in tau: Gull (1988), Tipping (2001).

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, fewer than two classes, the same features for all
            examples, or a class whose indicator is an exact linear function of the features, so
            that the evidence has no bound.

    Examples:
        >>> x = torch.tensor([[1.0, 0.2], [0.8, 0.1], [0.1, 1.0], [0.3, 0.9]])
        >>> round(logme(x, torch.tensor([0, 0, 1, 1])), 4)
        -0.3464
    """
    sample = Sample.of(features, labels)
    return LinearEvidence.of(sample).score(sample)


@dataclass(frozen=True, eq=False)
class LinearEvidence:
    """The part of LogME that does not depend on the labels.

    Attributes:
        eigenvalues: s_k of F^T F above rounding (r,).
        vectors: its eigenvectors (p, r).
        features: (n, p).
    """

    eigenvalues: Tensor
    vectors: Tensor
    features: Tensor

    @classmethod
    def of(cls, sample: Sample) -> LinearEvidence:
        """Decompose the features.

        Raises:
            ValueError: the same features for all examples.
        """
        _ = sample.centred  # refuses the same features for all
        eigenvalues, vectors = sample.raw_spectrum
        return cls(eigenvalues, vectors, sample.reduced)

    def score(self, sample: Sample) -> float:
        """LogME of these labels."""
        squares, rest = self._projections(sample)
        log_tau = self._best(squares, rest)
        return float(self._evidence(log_tau, squares, rest).mean())

    def influences(self, sample: Sample) -> Tensor:
        """Change of the score by each example (n,), as its log density given all the others.

            log p(y_i | others) = 1/2 log(beta (1 - h_i)/2 pi) - beta e_i^2/(2 (1 - h_i)),
                e_i = y_i - f_i m,    h_i = f_i (F^T F + tau)^-1 f_i,    beta = n/Q

        m is the posterior mean. Exact at fixed precisions, which are at their best, so that their
        own change counts only to second order.

        Source: Rasmussen, Williams (2006), eq. 5.10 to 5.12.
        """
        squares, rest = self._projections(sample)
        log_tau = self._best(squares, rest)
        quadratic = self._quadratic(log_tau, squares, rest)
        inverse = 1.0 / (self.eigenvalues + log_tau.exp()[:, None])  # (C, r)
        coordinates = self.features @ self.vectors
        sums = sample.class_sums(coordinates)
        indicators = torch.nn.functional.one_hot(sample.index, sample.n_classes).double()
        errors = indicators - coordinates @ (sums * inverse).T
        spare = (1.0 - coordinates.square() @ inverse.T).clamp_min(1e-12)
        n = len(self.features)
        beta = n / quadratic
        density = (
            0.5 * (beta * spare / (2.0 * math.pi)).log() - 0.5 * beta * errors.square() / spare
        )
        return (density - self._evidence(log_tau, squares, rest)).mean(dim=1) / n

    def _projections(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """u_k^2 (C, r) and r (C,) of the indicators.

        Raises:
            ValueError: an indicator in the span of fewer directions than examples.
        """
        sums = sample.class_sums(self.features) @ self.vectors
        squares = sums.square() / self.eigenvalues
        n = len(self.features)
        rank = len(self.eigenvalues)
        if rank >= n:
            return squares, torch.zeros_like(sample.counts)
        rest = sample.counts - squares.sum(dim=1)
        if bool((rest <= _EXACT_FIT * sample.counts).any()):
            raise ValueError(
                "features: expected classes that are no exact linear functions of them, got "
                f"{int((rest <= _EXACT_FIT * sample.counts).sum())} that are, so the evidence has "
                "no bound; do check for collapsed or repeated examples"
            )
        return squares, rest

    def _quadratic(self, log_tau: Tensor, squares: Tensor, rest: Tensor) -> Tensor:
        """Q of each class at its tau (C,)."""
        return (squares * self._kept(log_tau[:, None])).sum(dim=1) + rest

    def _evidence(self, log_tau: Tensor, squares: Tensor, rest: Tensor) -> Tensor:
        """1/n log p of each class at its tau (C,)."""
        return self._profile(
            self._quadratic(log_tau, squares, rest), self._log_volume(log_tau[:, None])
        )

    def _best(self, squares: Tensor, rest: Tensor) -> Tensor:
        """The log tau of largest evidence of each class (C,): best of a grid, golden sections."""
        logs = self.eigenvalues.log()
        first = float(logs.min()) - _REACH
        last = float(logs.max()) + math.log(len(self.features)) + _REACH
        grid = torch.arange(first, last + _STEP, _STEP, dtype=logs.dtype, device=logs.device)
        quadratic = squares @ self._kept(grid[:, None]).T + rest[:, None]
        best = grid[self._profile(quadratic, self._log_volume(grid[:, None])).argmax(dim=1)]
        low = best - _STEP
        width = 2.0 * _STEP
        left = self._evidence(low + (1.0 - _GOLDEN) * width, squares, rest)
        right = self._evidence(low + _GOLDEN * width, squares, rest)
        for _ in range(_REFINEMENTS):
            is_right = left < right
            low = torch.where(is_right, low + (1.0 - _GOLDEN) * width, low)
            width = width * _GOLDEN
            # of the two points inside, one is a point of before
            part = torch.where(is_right, _GOLDEN, 1.0 - _GOLDEN)
            new = self._evidence(low + part * width, squares, rest)
            left, right = torch.where(is_right, right, new), torch.where(is_right, new, left)
        return low + 0.5 * width

    def _profile(self, quadratic: Tensor, log_volume: Tensor) -> Tensor:
        n = len(self.features)
        constant = 1.0 + math.log(2.0 * math.pi)
        return 0.5 * ((n / quadratic).log() - log_volume / n - constant)

    def _kept(self, log_tau: Tensor) -> Tensor:
        """1/(1 + s_k/tau), for log tau (..., 1)."""
        return torch.sigmoid(log_tau - self.eigenvalues.log())

    def _log_volume(self, log_tau: Tensor) -> Tensor:
        """sum_k log(1 + s_k/tau), for log tau (..., 1)."""
        return torch.nn.functional.softplus(self.eigenvalues.log() - log_tau).sum(dim=-1)
