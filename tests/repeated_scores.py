"""Scores of repeated samples of one law: how long their errors are, and what they contain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocollapse.estimate import Estimate
from geocollapse.ranking import score_all

Law = Callable[[int], tuple[Tensor, Tensor]]
N_LOGITS = 8


@dataclass(frozen=True)
class ErrorsOfAScore:
    """The errors of a score over repeated samples.

    Attributes:
        ratio: mean standard error over the standard deviation of the values.
        coverage: share of the 95 % intervals that contain the mean of the values.
        coverage_of_a_third: the same with a third of each standard error.
    """

    ratio: float
    coverage: float
    coverage_of_a_third: float

    @classmethod
    def of(cls, estimates: list[Estimate]) -> ErrorsOfAScore:
        """Compare the errors of these estimates with their spread."""
        values = torch.tensor([found.value for found in estimates], dtype=torch.float64)
        errors = torch.tensor([found.stderr for found in estimates], dtype=torch.float64)
        mean = float(values.mean())
        thirds = [replace(found, stderr=found.stderr / 3.0) for found in estimates]
        return cls(float(errors.mean() / values.std()), share(estimates, mean), share(thirds, mean))


def share(estimates: list[Estimate], value: float) -> float:
    """Share of the intervals that contain ``value``."""
    intervals = [found.interval() for found in estimates]
    return sum(low <= value <= high for low, high in intervals) / len(intervals)


def gaussian(n: int, p: int, n_classes: int) -> Law:
    """Gaussian classes around Gaussian means, with a spectrum that falls by nine."""
    means = 0.35 * torch.randn(n_classes, p, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) % n_classes

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(n, p, generator=torch.Generator().manual_seed(seed + 1))
        return means[labels] + noise * torch.linspace(0.5, 1.5, p), labels

    return draw


def heavy_tailed(n: int, p: int, n_classes: int) -> Law:
    """The same with lengths of the noise from Student's t of four degrees of freedom."""
    plain = gaussian(n, p, n_classes)
    means = 0.35 * torch.randn(n_classes, p, generator=torch.Generator().manual_seed(0))

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        x, labels = plain(seed)
        generator = torch.Generator().manual_seed(1_000_000 + seed)
        chi2 = torch.randn(n, 4, generator=generator).square().sum(dim=1)
        lengths = (4.0 / chi2).sqrt()[:, None]
        return means[labels] + lengths * (x - means[labels]), labels

    return draw


def errors_of_scores(draw: Law, repeats: int) -> dict[str, ErrorsOfAScore]:
    """The errors of all scores that are defined for samples of this law."""
    found: dict[str, list[Estimate]] = {}
    for seed in range(repeats):
        x, y = draw(seed)
        logits = 2.0 * x[:, :N_LOGITS]
        for name, score in score_all(x, y, head_outputs=logits, n_nulls=0, seed=seed).items():
            found.setdefault(name, []).append(score.estimate)
    return {
        name: ErrorsOfAScore.of(estimates)
        for name, estimates in found.items()
        if not math.isnan(estimates[0].value)
    }
