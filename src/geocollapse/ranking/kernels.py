"""Each score as what is computed once from features, and what each labelling costs after that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from geocollapse.collapse import ClassStatistics, LabelledFeatures, mean_cdnv
from geocollapse.collapse.directional import mean_directional_cdnv
from geocollapse.estimate import Estimate
from geocollapse.transfer.h_score import WhitenedFeatures, collapse_index, shrunk_h_score
from geocollapse.transfer.knn import is_correct, nearest_neighbours
from geocollapse.transfer.label_free_errors import LeadingDirections, rankme_influences
from geocollapse.transfer.leep import Mixture, expected_log_likelihood
from geocollapse.transfer.logme import LinearEvidence
from geocollapse.transfer.ncti import coordinates_of, discriminant_score
from geocollapse.transfer.parc import PairRanks, dealt, has_groups, parc_sampled
from geocollapse.transfer.sample import Sample, class_standard_error, influences
from geocollapse.transfer.transrate import CodedFeatures, coding_gain

N_GROUPS = 10  # of the jackknife
N_STARTS = 3  # of the mixture of NLEEP
MAX_PAIRED = 2000  # examples up to which PARC is exact
MAX_PAIRED_OF_MANY_CLASSES = 6000  # the same where groups with five of each class are too few
N_NEIGHBOURS = 5
_SPARE_NEIGHBOURS = 25  # of which a group leaves 5 to all but one example in 10^13

Weighted = Callable[[Sample, Tensor], Tensor]


class Kernel(Protocol):
    """A score of one set of features under any labelling."""

    def score(self, sample: Sample) -> float:
        """The score of these labels."""
        ...

    def error(self, sample: Sample) -> tuple[float, float]:
        """Standard error of the score, and its degrees of freedom."""
        ...


@dataclass(frozen=True, eq=False)
class _Influenced:
    """A kernel whose error follows from the influence of each example."""

    value: Callable[[Sample], float]
    influences: Callable[[Sample], Tensor]

    def score(self, sample: Sample) -> float:
        return self.value(sample)

    def error(self, sample: Sample) -> tuple[float, float]:
        dof = len(sample.index) - sample.n_classes
        return class_standard_error(self.influences(sample), sample), float(max(dof, 1))


@dataclass(frozen=True, eq=False)
class _Refitted:
    """A kernel whose error is a jackknife over groups of the examples, refitted without each.

        SE^2 = (G - 1)/G sum_g (theta_(g) - mean theta)^2 + Var_s(theta_s)

    theta_s are the scores of several random starts, where a fit has one; refits go on from the
    first, so that they do not see how far the start moves the score. The degrees of freedom are
    Satterthwaite's.

    Source: Efron (1982), chapter 2; groups are disjoint and have their share of each class.
    """

    value: Callable[[Sample], float]
    without: Callable[[Sample, Tensor], float]
    seed: int
    starts: Callable[[Sample], list[float]] | None = None

    def score(self, sample: Sample) -> float:
        return self.value(sample)

    def error(self, sample: Sample) -> tuple[float, float]:
        n_groups = min(N_GROUPS, int(sample.counts.min()))
        if n_groups < 2:
            return math.nan, 1.0
        values = []
        for group in dealt(sample, n_groups, self.seed):
            kept = torch.ones_like(sample.index, dtype=torch.bool)
            kept[group] = False
            values.append(self.without(sample, kept.nonzero().squeeze(1)))
        spread = torch.tensor(values, dtype=torch.float64).var(correction=0)
        variance = (n_groups - 1) * float(spread)
        if self.starts is None:
            return math.sqrt(variance), n_groups - 1.0
        starts = torch.tensor(self.starts(sample), dtype=torch.float64)
        return _sum_of_variances(
            (variance, n_groups - 1.0), (float(starts.var()), len(starts) - 1.0)
        )


def _sum_of_variances(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """Standard error and degrees of freedom of two variances with theirs. Source: Satterthwaite."""
    total = a[0] + b[0]
    if total == 0.0:
        return 0.0, a[1]
    return math.sqrt(total), total**2 / (a[0] ** 2 / a[1] + b[0] ** 2 / b[1])


@dataclass(frozen=True)
class _SampledPairs:
    """PARC of disjoint groups."""

    seed: int

    def score(self, sample: Sample) -> float:
        return self._estimate(sample).value

    def error(self, sample: Sample) -> tuple[float, float]:
        estimate = self._estimate(sample)
        return estimate.stderr, estimate.dof

    def _estimate(self, sample: Sample) -> Estimate:
        return parc_sampled(sample.features, sample.index, seed=self.seed)


def kernel_of(name: str, sample: Sample, seed: int) -> Kernel:
    """Prepare the score ``name`` for one set of features.

    Raises:
        ValueError: features or classes for which the score is undefined.
    """
    if name in _SEEDED:
        return _SEEDED[name](sample, seed)
    return _UNSEEDED[name](sample)


def likelihood_kernel(theta: Tensor) -> Kernel:
    """LEEP with probabilities theta (n, k), which stay as they are."""
    return _weighted(
        lambda sample, weights: expected_log_likelihood(theta, sample, weights),
        lambda sample: _likelihood(theta, sample),
    )


def _weighted(value: Weighted, kernel: Callable[[Sample], float]) -> Kernel:
    """A kernel from a differentiable function of the weights, and a faster one without them."""
    return _Influenced(kernel, lambda sample: influences(lambda w: value(sample, w), sample))


def _logme(sample: Sample) -> Kernel:
    evidence = LinearEvidence.of(sample)
    return _Influenced(evidence.score, evidence.influences)


def _h_score(sample: Sample) -> Kernel:
    return _weighted(shrunk_h_score, WhitenedFeatures.of(sample, shrinkage=True).score)


def _h_score_plain(sample: Sample) -> Kernel:
    whitened = WhitenedFeatures.of(sample, shrinkage=False)
    return _Influenced(whitened.score, whitened.influences)


def _vci(sample: Sample) -> Kernel:
    """On balanced classes VCI is 1 - H/rank, and any labelling costs no more than H does."""
    if bool((sample.counts == sample.counts[0]).all()):
        whitened = WhitenedFeatures.of(sample, shrinkage=False)
        rank = min(sample.n_classes - 1, whitened.root.shape[1])
        return _Influenced(
            lambda s: 1.0 - whitened.score(s) / rank, lambda s: -whitened.influences(s) / rank
        )

    def slopes(s: Sample) -> Tensor:
        spare = (1.0 - s.leverages).clamp_min(1.0 / len(s.index))
        return influences(lambda w: collapse_index(s, w), s) / spare

    return _Influenced(lambda s: float(collapse_index(s, s.weights)), slopes)


def _transrate(sample: Sample) -> Kernel:
    coded = CodedFeatures.of(sample, sample.weights)
    return _weighted(coding_gain, lambda s: float(coded.gain(s, s.weights)))


def _rankme(_sample: Sample) -> Kernel:
    return _Influenced(lambda s: s.baselines.rankme, rankme_influences)


def _alpha_req(sample: Sample, seed: int) -> Kernel:
    def value(s: Sample) -> float:
        if math.isnan(s.baselines.alpha_req):
            raise ValueError(s.baselines.warnings[-1])
        return s.baselines.alpha_req

    value(sample)  # too narrow a layer is refused before its directions are asked for
    directions = LeadingDirections.of(sample)
    return _Refitted(value, lambda _, rows: directions.alpha_req(rows), seed)


def _directional(sample: Sample, seed: int) -> Kernel:
    x = sample.reduced
    return _Refitted(
        lambda s: _directional_cdnv(x, s.index),
        lambda s, rows: _directional_cdnv(x[rows], s.index[rows]),
        seed,
    )


def _cdnv(_sample: Sample, seed: int) -> Kernel:
    return _Refitted(
        lambda s: _mean_cdnv(s.features, s.index),
        lambda s, rows: _mean_cdnv(s.features[rows], s.index[rows]),
        seed,
    )


def _mean_cdnv(x: Tensor, index: Tensor) -> float:
    return _or_refuse(*mean_cdnv(ClassStatistics.of(x, index)))


def _knn(sample: Sample, seed: int) -> Kernel:
    n = len(sample.index)
    k = min(N_NEIGHBOURS, n - 1)
    spare = nearest_neighbours(sample, min(_SPARE_NEIGHBOURS, n - 1))

    def without(s: Sample, rows: Tensor) -> float:
        kept = torch.zeros_like(s.index, dtype=torch.bool)
        kept[rows] = True
        # the kept ones first, each in their order
        order = (~kept[spare[rows]]).long().argsort(dim=1, stable=True)[:, :k]
        return float(is_correct(spare[rows].gather(1, order), s, rows).mean())

    return _Refitted(lambda s: float(is_correct(spare[:, :k], s).mean()), without, seed)


def _parc(sample: Sample, seed: int) -> Kernel:
    n = len(sample.index)
    if n > MAX_PAIRED_OF_MANY_CLASSES or (n > MAX_PAIRED and has_groups(sample)):
        return _SampledPairs(seed)
    ranks = PairRanks.of(sample)
    return _Influenced(ranks.score, ranks.influences)


def _nleep(sample: Sample, seed: int) -> Kernel:
    mixture = Mixture.of(sample, seed=seed)
    theta = mixture.posteriors.to(sample.features.device)

    def without(s: Sample, rows: Tensor) -> float:
        refitted = mixture.refitted(rows).posteriors.to(theta)
        return _likelihood(refitted, s.subset(rows, refitted))

    def starts(s: Sample) -> list[float]:
        others = [Mixture.of(s, seed=seed + number) for number in range(1, N_STARTS)]
        posteriors = [theta, *(other.posteriors.to(theta) for other in others)]
        return [_likelihood(found, s) for found in posteriors]

    return _Refitted(lambda s: _likelihood(theta, s), without, seed, starts)


def _likelihood(theta: Tensor, sample: Sample) -> float:
    return float(expected_log_likelihood(theta, sample, sample.weights))


def _ncti(sample: Sample, seed: int) -> Kernel:
    coordinates = coordinates_of(sample)

    def without(s: Sample, rows: Tensor) -> float:
        return discriminant_score(coordinates[rows], s.subset(rows, coordinates[rows]))

    return _Refitted(lambda s: discriminant_score(coordinates, s), without, seed)


def _directional_cdnv(x: Tensor, index: Tensor) -> float:
    return _or_refuse(*mean_directional_cdnv(LabelledFeatures.of(x, index)))


def _or_refuse(value: Tensor, reasons: tuple[str, ...]) -> float:
    if reasons:
        raise ValueError(reasons[0])
    return float(value)


_UNSEEDED: Mapping[str, Callable[[Sample], Kernel]] = MappingProxyType(
    {
        "logme": _logme,
        "h_score": _h_score,
        "h_score_plain": _h_score_plain,
        "vci": _vci,
        "transrate": _transrate,
        "label_free.rankme": _rankme,
    }
)
_SEEDED: Mapping[str, Callable[[Sample, int], Kernel]] = MappingProxyType(
    {
        "cdnv": _cdnv,
        "directional_cdnv": _directional,
        "parc": _parc,
        "nleep": _nleep,
        "ncti": _ncti,
        "loo_knn_accuracy": _knn,
        "label_free.alpha_req": _alpha_req,
    }
)
FROM_FEATURES = frozenset((*_UNSEEDED, *_SEEDED))
"""Scores that ``kernel_of`` knows: features suffice, no head is needed."""
