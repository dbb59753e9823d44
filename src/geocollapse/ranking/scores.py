"""All scores of one sample of a target, each with its error, its null and the reason if invalid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import TypedDict

from geocollapse.arrays import Array, Labels, as_features
from geocollapse.estimate import Estimate, finite_or_none
from geocollapse.measures import SCORES
from geocollapse.numerics import check_finite
from geocollapse.ranking.kernels import FROM_FEATURES, Kernel, kernel_of, likelihood_kernel
from geocollapse.transfer.sample import Sample

COMPUTED = tuple(name for name in SCORES if name in FROM_FEATURES or name == "leep")
"""Scores that features, labels and head outputs suffice for; the others come from the source."""

N_NULLS = 10
_FEW_PER_CLASS = 2


class Null(NamedTuple):
    """A score under shuffled labels.

    Attributes:
        mean: over the shuffles.
        sd: standard deviation over the shuffles.
        n_shuffles: how many.
    """

    mean: float
    sd: float
    n_shuffles: int


class NullDict(TypedDict):
    """The JSON form of ``Null``.

    Attributes:
        mean: over the shuffles.
        sd: standard deviation over the shuffles.
        n_shuffles: how many.
    """

    mean: float | None
    sd: float | None
    n_shuffles: int


class ScoreDict(TypedDict):
    """The JSON form of ``Score``.

    Attributes:
        value: null where the score is not valid.
        stderr: its standard error, for examples drawn within classes.
        ci95: lower and upper end of the 95 % interval; null where there is none.
        null: the score under shuffled labels; null for what needs no labels.
        valid: false if the score is undefined for this sample.
        reason: why it is not valid; empty where it is.
    """

    value: float | None
    stderr: float | None
    ci95: tuple[float | None, float | None]
    null: NullDict | None
    valid: bool
    reason: str


@dataclass(frozen=True)
class Score:
    """One score of a model on one sample of a target.

    Attributes:
        name: a key of ``geocollapse.measures.SCORES``.
        estimate: value and interval for examples drawn within these classes, on the linear scale;
            value NaN where the score is not valid.
        null: the score under shuffled labels; None for what needs no labels.
        valid: False if the score is undefined for this sample.
        reason: why it is not valid; empty where it is.
    """

    name: str
    estimate: Estimate
    null: Null | None = None
    valid: bool = True
    reason: str = ""

    @property
    def value(self) -> float:
        """The score; NaN where it is not valid."""
        return self.estimate.value

    def to_dict(self) -> ScoreDict:
        """Return the strict JSON form; undefined numbers are None."""
        null = self.null
        return {
            **self.estimate.to_interval_dict(),
            "null": None
            if null is None
            else {
                "mean": finite_or_none(null.mean),
                "sd": finite_or_none(null.sd),
                "n_shuffles": null.n_shuffles,
            },
            "valid": self.valid,
            "reason": self.reason,
        }


def score_all(
    features: Array,
    labels: Labels,
    *,
    head_outputs: Array | None = None,
    seed: int = 0,
    n_nulls: int = N_NULLS,
    names: Sequence[str] | None = None,
) -> dict[str, Score]:
    """All scores of labelled features, each with a standard error and its value by chance.

    **Error.** For examples drawn within the classes at hand. From the change that each example
    makes (the infinitesimal jackknife; for LogME, the plain H-score and VCI as if it were left out)
    where that has a closed form or a derivative; from a jackknife over 10 groups for CDNV,
    directional CDNV, NLEEP (with the variance over 3 starts of its mixture), NCTI, kNN and
    alpha-ReQ; from disjoint groups for PARC of more than 2,000 examples (6,000 where classes are
    many). It is no bootstrap: a copy of an example is its own
    nearest neighbour, and scores that fit p directions rise when a third of the examples are
    copies. The interval is about samples of this size: the bias that many scores have with few
    examples is in the null as well, not in the interval.

    **Null.** Mean and standard deviation of the score under ``n_nulls`` seeded shuffles of the
    labels, which keep the features and the class counts. A value near it says nothing.

    A score that is undefined for the sample is ``valid=False`` with the reason, and the others go
    on. Cost: one decomposition of the features (n, p) for each of some of the scores, O(n p^2), and
    n^2 p for kNN and PARC; about a second for 1,000 examples of 512 features on one thread.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.
        head_outputs: (n, k) logits of the source head, for LEEP; without them it is left out.
        seed: of shuffles, groups and mixture; the global random state is left alone.
        n_nulls: shuffles of the labels, 0 for none.
        names: keys of ``geocollapse.measures.SCORES``; None for all that can be computed.

    Returns:
        The scores by name, in the order of ``geocollapse.measures.SCORES``.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, fewer than two classes, a name that is unknown or
            cannot be computed from the arguments, a negative number of shuffles.

    Examples:
        >>> x = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
        >>> y = torch.arange(120) % 3
        >>> scores = score_all(x + 3 * torch.nn.functional.one_hot(y, 6), y, names=["vci", "logme"])
        >>> [name for name, score in scores.items() if score.value < score.null.mean]
        ['vci']
    """
    sample = Sample.of(features, labels)
    return score_sample(sample, head_outputs, seed=seed, n_nulls=n_nulls, names=names)


def score_sample(
    sample: Sample,
    head_outputs: Array | None = None,
    *,
    seed: int = 0,
    n_nulls: int = N_NULLS,
    names: Sequence[str] | None = None,
) -> dict[str, Score]:
    """All scores of a sample; see ``score_all``."""
    if n_nulls < 0:
        raise ValueError(f"n_nulls: expected a number from 0, got {n_nulls}; do n_nulls={N_NULLS}")
    theta = None if head_outputs is None else _probabilities(head_outputs, len(sample.index))
    wanted = _wanted(names, has_head=theta is not None)
    shuffled = _shuffled(sample, n_nulls, seed)
    return {name: _scored(name, sample, theta, shuffled, seed) for name in wanted}


def score_unlabelled(features: Array, *, seed: int = 0) -> dict[str, Score]:
    """The scores of features that need no labels, with an error for other examples like these.

    Args:
        features: (n, p) floating point.
        seed: of groups of examples.

    Raises:
        TypeError, ValueError: features that are no finite floating-point matrix.
    """
    x = as_features(features)
    check_finite("features", x)
    index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    sample = Sample(x.double(), index, x.new_tensor([len(x)], dtype=torch.float64))
    names = [name for name in FROM_FEATURES if SCORES[name].needs == "nothing"]
    return {name: _scored(name, sample, None, [], seed) for name in names}


def _wanted(names: Sequence[str] | None, *, has_head: bool) -> list[str]:
    possible = [name for name in SCORES if name in FROM_FEATURES or (name == "leep" and has_head)]
    for name in names or ():
        if name not in possible:
            raise ValueError(
                f"names: expected some of {', '.join(possible)}, got {name!r}; do "
                + ("pass head_outputs" if name == "leep" else "leave it out")
            )
    return possible if names is None else [name for name in possible if name in names]


def _probabilities(head_outputs: Array, n: int) -> Tensor:
    logits = as_features(head_outputs)
    if len(logits) != n:
        raise ValueError(
            f"head_outputs: expected shape ({n}, k), one row an example, got "
            f"{tuple(logits.shape)}; do pass the logits of the same examples"
        )
    check_finite("head_outputs", logits)
    return logits.double().softmax(dim=1)


def _shuffled(sample: Sample, n_nulls: int, seed: int) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    n = len(sample.index)
    orders = [torch.randperm(n, generator=generator) for _ in range(n_nulls)]
    return [sample.relabelled(sample.index[order.to(sample.index.device)]) for order in orders]


def _scored(
    name: str, sample: Sample, theta: Tensor | None, shuffled: list[Sample], seed: int
) -> Score:
    try:
        if name == "leep" and theta is not None:
            kernel = likelihood_kernel(theta)
        else:
            kernel = kernel_of(name, sample, seed)
        value = kernel.score(sample)
    except (ValueError, torch.linalg.LinAlgError) as error:
        return Score(name, _estimate(sample, math.nan), valid=False, reason=str(error))
    if not math.isfinite(value):
        reason = f"{name}: expected a finite value, got {value}; do check the features"
        return Score(name, _estimate(sample, math.nan), valid=False, reason=reason)
    stderr, dof = _error(kernel, sample)
    null = _null(kernel, shuffled) if SCORES[name].needs != "nothing" else None
    return Score(name, _estimate(sample, value, stderr, dof), null)


def _error(kernel: Kernel, sample: Sample) -> tuple[float, float]:
    """Standard error and degrees of freedom; NaN where a class has one example or a group fails."""
    if int(sample.counts.min()) < _FEW_PER_CLASS:
        return math.nan, 1.0
    try:
        return kernel.error(sample)
    except (ValueError, torch.linalg.LinAlgError):
        return math.nan, 1.0


def _null(kernel: Kernel, shuffled: list[Sample]) -> Null | None:
    if not shuffled:
        return None
    try:
        values = torch.tensor([kernel.score(s) for s in shuffled], dtype=torch.float64)
    except (ValueError, torch.linalg.LinAlgError):
        return None
    sd = float(values.std()) if len(values) > 1 else math.nan
    return Null(float(values.mean()), sd, len(values))


def _estimate(
    sample: Sample, value: float, stderr: float = math.nan, dof: float = math.inf
) -> Estimate:
    return Estimate(
        value,
        stderr,
        n_samples=len(sample.index),
        population="distribution",
        dof=dof,
        scale="linear",
    )
