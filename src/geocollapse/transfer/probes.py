"""Linear probes of episodes: ridge regression and multinomial logistic regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from geocollapse.transfer.deciding import rounding_of, strictly_largest, without_rounding
from geocollapse.transfer.episode_classifier import EpisodeClassifier

# penalty of a probe, in units of the mean squared length of centred labelled features
RIDGE = 1.0
LOGISTIC = 1.0
TOLERANCE = 1e-8  # of the gradient of the logistic probe, whose largest possible entry is 1
SOLVED_TIE = 1e-7  # of an episode's largest score, or of 1/penalty if that is larger
MOST_STEPS = 10_000


@dataclass(frozen=True)
class LinearProbe(EpisodeClassifier):
    """Ridge regression of one-vs-rest targets +-1 with intercept.

    The penalty is ``penalty`` times the mean squared length of the centred labelled features, so
    that scaling the features changes nothing. Invariant under translation and rotation too.

    Source: Hoerl and Kennard (1970), eq. 2.1.
    """

    penalty: float = RIDGE

    def __post_init__(self) -> None:
        _check_penalty(self.penalty)

    @property
    def name(self) -> str:
        """Its name in results."""
        return "linear_probe"

    def right(self, support: Tensor, query: Tensor) -> Tensor:
        """True for each query that gets its own class.

            A = (Z Z^T + alpha I)^-1 Y,  score = (x - z_0)^T Z^T A + y_0,

        Z and Y centred, alpha = penalty tr(Z Z^T)/n, n = n_way k labelled examples: solved in the
        space of the examples.
        """
        z, flat, one_hot = _centred(support, query)
        targets = 2.0 * one_hot - 1.0
        offset = targets.mean(dim=0)
        gram = z @ z.mT
        gram.diagonal(dim1=1, dim2=2).add_(self.penalty * _mean_square(gram)[:, None])
        weights = torch.linalg.solve(gram, (targets - offset).expand(len(z), -1, -1))
        scores = flat @ (z.mT @ weights) + offset
        return strictly_largest(scores.view(*query.shape[:3], -1))


@dataclass(frozen=True)
class LogisticProbe(EpisodeClassifier):
    """Multinomial logistic regression with an L2 penalty and a free intercept.

        min over W, b of  sum_i -log softmax(W z_i + b)[y_i] + penalty/2 ||W||_F^2

    z is the feature centred on the mean of the labelled examples and divided by their root mean
    squared length, so that scaling the features changes nothing; penalty 1 is then C = 1 of
    scikit-learn, which Tian et al. take on features of unit length. Invariant under translation and
    rotation too. Solved until no entry of the gradient, in the space of the examples, is above
    1e-8.

    Source: Tian, Wang, Krishnan, Tenenbaum, Isola (2020), section 3.2.
    """

    n_chunks: ClassVar[int] = 16
    penalty: float = LOGISTIC

    def __post_init__(self) -> None:
        _check_penalty(self.penalty)

    @property
    def name(self) -> str:
        """Its name in results."""
        return "logistic_probe"

    def right(self, support: Tensor, query: Tensor) -> Tensor:
        """True for each query that gets its own class."""
        z, flat, one_hot = _centred(support, query)
        gram = z @ z.mT
        size = _mean_square(gram)[:, None, None]
        coefficients, intercept = solve_logistic(gram / size, one_hot, self.penalty)
        scores = ((flat @ z.mT / size) @ coefficients + intercept).view(*query.shape[:3], -1)
        rounding = rounding_of(scores, SOLVED_TIE).clamp(min=SOLVED_TIE / self.penalty)
        return strictly_largest(scores, rounding)


def solve_logistic(gram: Tensor, one_hot: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Coefficients A (e, n, N) and intercepts b (e, 1, N) of multinomial logistic regression.

    With P the softmax of F = K A + 1 b^T and W = Z^T A, the gradient in W is Z^T (P - Y + penalty
    A). The Hessian of the loss is at most 1/2 Z^T Z for every class (Böhning 1992), so

        A <- A - (K/2 + penalty I)^-1 (P - Y + penalty A),    b <- b - (2/n) 1^T (P - Y)

    never raises the loss; steps are accelerated (Nesterov 1983), starting anew in an episode where
    one points uphill (O'Donoghue and Candès 2015, gradient scheme).

    Source: Böhning (1992), theorem 5.3.

    Args:
        gram: K = Z Z^T of centred features (e, n, n).
        one_hot: classes Y (n, N) of the examples.
        penalty: of ||W||_F^2/2.

    Raises:
        RuntimeError: no solution after 10,000 steps.
    """
    n = len(one_hot)
    bound = gram / 2
    bound.diagonal(dim1=1, dim2=2).add_(penalty)
    factor = torch.linalg.cholesky(bound)
    current = gram.new_zeros(len(gram), n + 1, one_hot.shape[1])  # A, and b as the last row
    ahead = current
    momentum = gram.new_ones(len(gram), 1, 1)
    for _ in range(MOST_STEPS):
        residual = torch.softmax(gram @ ahead[:, :n] + ahead[:, n:], dim=2) - one_hot
        slope = residual + penalty * ahead[:, :n]
        total = residual.sum(dim=1, keepdim=True)
        if max(float(slope.abs().max()), float(total.abs().max()) / n) <= TOLERANCE:
            return ahead[:, :n], ahead[:, n:]
        step = torch.cat([torch.cholesky_solve(slope, factor), 2.0 / n * total], dim=1)
        following = ahead - step
        moved = following - current
        is_uphill = (step * moved).sum(dim=(1, 2), keepdim=True) > 0
        momentum = torch.where(is_uphill, 1.0, momentum)
        longer = (1.0 + (1.0 + 4.0 * momentum.square()).sqrt()) / 2.0
        ahead = following + (momentum - 1.0) / longer * moved
        current = following
        momentum = longer
    raise RuntimeError(
        f"penalty: expected a logistic probe that is solved in {MOST_STEPS} steps, got a gradient "
        f"of {float(slope.abs().max()):.1e}; do LogisticProbe(penalty={10 * penalty:g})"
    )


def _centred(support: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred labelled features (e, n, p), queries (e, m, p), and classes (n, n_way) as 0 and 1."""
    n_way, k_shot = support.shape[1:3]
    labelled = support.flatten(1, 2)
    centre = labelled.mean(dim=1, keepdim=True)
    z = without_rounding(labelled - centre, labelled)
    flat = without_rounding(query.flatten(1, 2) - centre, labelled)
    one_hot = torch.eye(n_way, dtype=z.dtype, device=z.device).repeat_interleave(k_shot, dim=0)
    return z, flat, one_hot


def _mean_square(gram: Tensor) -> Tensor:
    """Mean squared length (e,); 1 where all features are equal, which gives equal scores."""
    size = gram.diagonal(dim1=1, dim2=2).mean(dim=1)
    return torch.where(size > 0, size, torch.ones_like(size))


def _check_penalty(penalty: float) -> None:
    if not 0.0 < penalty < float("inf"):
        raise ValueError(f"penalty: expected a positive number, got {penalty!r}; do penalty=1.0")
