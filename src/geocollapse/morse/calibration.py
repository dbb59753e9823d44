"""Calibration of a classifier, with and without the temperature of a Morse network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.arrays import Array, as_labels, as_tensor, refuse_names
from geocollapse.numerics import check_finite

N_BINS = 15


@dataclass(frozen=True, eq=False)
class Reliability:
    """Accuracy by confidence.

    Attributes:
        confidence: mean largest probability of each bin with examples, (b,).
        accuracy: share of right predictions in it, (b,).
        counts: examples in it, (b,).
        ece: expected calibration error.
    """

    confidence: Tensor
    accuracy: Tensor
    counts: Tensor
    ece: float


def tempered_logits(logits: Tensor, log_density: Tensor) -> Tensor:
    """Divide logits by the temperature 1/mu(x) of a Morse network: mu(x) f(x).

    Far from the data mu is 0 and the softmax uniform; the order of the classes stays. Cost: O(n C).

    Source: Dherin et al. (2023).

    Args:
        logits: of a classifier, (n, C).
        log_density: log mu of the same examples, (n,), from ``MorseNetwork.log_density``.

    Returns:
        (n, C).

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> tempered_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([-700.0])).softmax(dim=1)
        tensor([[0.5000, 0.5000]])
    """
    if logits.ndim != 2 or log_density.shape != logits.shape[:1]:
        raise ValueError(
            f"log_density: expected ({len(logits)},), one for each row of logits (n, C), got "
            f"{tuple(log_density.shape)} for {tuple(logits.shape)}; do net.log_density(x)"
        )
    return logits * log_density.exp()[:, None]


def reliability(probabilities: Array, labels: Array, *, n_bins: int = N_BINS) -> Reliability:
    """Compare a classifier's confidence with its accuracy, in bins of equal width.

        ECE = sum_b n_b/n |accuracy_b - confidence_b|

    In [0, 1], 0 for a calibrated classifier. It grows with the number of bins on few examples.
    Invariant to a permutation of the examples. Cost: O(n C).

    Source: Guo et al. (2017), eq. 3; the value is torchmetrics'.

    Args:
        probabilities: (n, C), rows that sum to 1.
        labels: (n,).
        n_bins: of the confidence.

    Raises:
        ValueError: shapes that do not fit, NaN, rows that are no probabilities, no example, or
            labels that are no columns.

    Examples:
        >>> p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
        >>> round(reliability(p, torch.tensor([0, 0, 1, 0])).ece, 3)
        0.15
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    p = as_tensor("probabilities", probabilities).double()
    refuse_names(labels, "the numbers of the columns")
    y = as_labels(labels, len(p)).to(p.device)
    check_finite("probabilities", p)
    if p.ndim != 2 or bool(((p.sum(dim=1) - 1.0).abs() > 1e-3).any()) or bool((p < 0.0).any()):
        raise ValueError(
            f"probabilities: expected rows (n, C) that sum to 1, got shape {tuple(p.shape)}; do "
            f"logits.softmax(dim=1)"
        )
    if len(y) == 0 or int(y.min()) < 0 or int(y.max()) >= p.shape[1]:
        raise ValueError(
            f"labels: expected columns 0 to {p.shape[1] - 1} of the probabilities, got "
            f"{'none' if len(y) == 0 else f'{int(y.min())} to {int(y.max())}'}; do number the "
            f"classes as the columns are"
        )
    confidence, guess = p.max(dim=1)
    ece = multiclass_calibration_error(p, y, num_classes=p.shape[1], n_bins=n_bins, norm="l1")
    edges = torch.linspace(0.0, 1.0, n_bins + 1, dtype=p.dtype, device=p.device)
    bins = (torch.bucketize(confidence, edges, right=True) - 1).clamp(0, n_bins - 1)
    counts = torch.bincount(bins, minlength=n_bins)
    is_used = counts > 0
    right = torch.bincount(bins, (guess == y).double(), minlength=n_bins)
    sure = torch.bincount(bins, confidence, minlength=n_bins)
    return Reliability(
        (sure / counts)[is_used], (right / counts)[is_used], counts[is_used], float(ece)
    )
