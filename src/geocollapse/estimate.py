"""Estimate: a value with its standard error and interval; the difference of two of them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, overload

import numpy as np
from torch import Tensor
from typing_extensions import TypedDict

from geocollapse.influence import Influence

Population = Literal["dataset", "distribution"]
Scale = Literal["log", "linear", "share"]
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

# definitions 1: quantile of a 95 % interval whose sample size was chosen by looking at it
SEQUENTIAL_Z = 2.24
LARGEST_SHARE_LIMIT = 0.03  # definitions 1: above it a few examples carry the mean


class GeocollapseWarning(UserWarning):
    """A valid result that must be read with care, for the reason in the text."""


class IntervalDict(TypedDict):
    """A value with its standard error and 95 % interval.

    Attributes:
        ci95: lower and upper end of the 95 % interval; null where there is none.
    """

    value: float | None
    stderr: float | None
    ci95: tuple[float | None, float | None]


class EstimateDict(IntervalDict):
    """The JSON form of an ``Estimate``."""

    n_samples: int
    n_probes: int
    estimator: str
    population: str
    largest_share: float | None
    interrupted: bool
    layer: str | None


@dataclass(frozen=True)
class TopExample:
    """An example that carries much of a mean, by its position in the data set.

    Attributes:
        index: position in the data set.
        value: the example's own term.
        share: that term divided by the sum of all.
        class_name: name of its class, where one is known.
    """

    index: int
    value: float
    share: float
    class_name: str | None = None


@dataclass(frozen=True, repr=False)
class Estimate:
    """A measured value with its standard error.

    The interval at level L with t the Student quantile of (1 + L)/2 at ``dof`` degrees of freedom
    is

        log scale (positive, right-skewed: GC and ratios):   value * exp(+- t * stderr / value)
        linear scale (differences, means of episodes):       value +- t * stderr
        share scale (shares of examples):                    Wilson's interval for a share of
                                                             value (1 - value) / stderr^2 examples

    Source: standard delta method on log(value); Wilson (1927) for shares; coverage measured in the
    project's tests.

    Attributes:
        value: the point estimate.
        stderr: its standard error, in the unit of ``value``; NaN where it cannot be estimated.
        n_samples: number of examples (or episodes) behind it.
        n_probes: random probes for each example.
        population: ``dataset`` (the examples at hand) or ``distribution`` (what they were drawn
            from).
        estimator: how the value was obtained.
        largest_share: largest example's share of the sum; above 0.03 the interval may be too short.
        dof: degrees of freedom of the Student quantile.
        scale: ``log``, ``linear`` or ``share``, see above.
        sequential: the sample size was chosen by looking at the interval, which is then made wider:
            the normal quantile of half the error probability, z = 2.24 at 95 %.
        interrupted: Ctrl-C ended the sampling; the estimate is of the examples until then.
        layer: where the features were taken: ``NAME``, ``NAME:in``, ``""`` for the output of a
            model or a callable; None for what is no measure of one layer.
        values: the terms (n_samples,) behind the mean, in float64, where they are kept.
        indices: (n_samples,) the positions in the data set that ``values`` belong to.
        influence: how much each example moves the value, where that is known; see ``paired``.
        warnings: what a reader must know before using the number.

    An Estimate prints as ``value [low, high]``; ``f"{gc:.3g}"`` formats the value alone.

    Examples:
        >>> gc = Estimate(2.0, 0.1, n_samples=1000, dof=999, layer="fc:in")
        >>> gc
        Estimate 2 [1.813, 2.206], exact, of 1000 samples at 'fc:in'
        >>> f"{gc:.3f}"
        '2.000'
        >>> tuple(round(x, 3) for x in Estimate(2.0, 0.1, n_samples=1000, dof=999).interval())
        (1.813, 2.206)
    """

    value: float
    stderr: float
    n_samples: int
    n_probes: int = 1
    population: Population = "dataset"
    estimator: str = "exact"
    largest_share: float | None = None
    dof: float = math.inf
    scale: Scale = "log"
    sequential: bool = False
    interrupted: bool = False
    layer: str | None = None
    values: Tensor | None = field(default=None, repr=False, compare=False)
    indices: Tensor | None = field(default=None, repr=False, compare=False)
    influence: Influence | None = field(default=None, repr=False, compare=False)
    warnings: tuple[str, ...] = ()

    def __float__(self) -> float:
        return float(self.value)

    def __format__(self, spec: str) -> str:
        return format(float(self.value), spec) if spec else str(self)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.4g} [{low:.4g}, {high:.4g}]"

    def __repr__(self) -> str:
        place = "" if self.layer is None else f" at {self.layer or 'the output'!r}"
        return f"Estimate {self}, {self.estimator}, of {self.n_samples} samples{place}"

    def _repr_html_(self) -> str:
        """The value, its interval, and what the interval speaks about, for a notebook."""
        return f"<pre>{html.escape(repr(self))}\n95 % interval for {self.speaks_about}</pre>"

    @property
    def speaks_about(self) -> str:
        """What the interval is about, in words."""
        if self.scale == "linear":
            return "further draws like these"
        if self.population == "dataset":
            return "this data set"
        return "data like these"

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided confidence interval at ``level``.

        Raises:
            ValueError: ``level`` is not strictly between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(
                f"level: expected a number between 0 and 1, got {level}; do interval(level=0.95)"
            )
        probability = (3.0 + level) / 4.0 if self.sequential else (1.0 + level) / 2.0
        if self.scale == "share":
            return self._wilson(_student_quantile(probability, math.inf))
        if self.stderr == 0.0:
            return (self.value, self.value)
        dof = math.inf if self.sequential else self.dof
        half = _student_quantile(probability, dof) * self.stderr
        if self.scale == "linear":
            return (self.value - half, self.value + half)
        if self.value <= 0.0 or math.isnan(half):
            return (math.nan, math.nan)
        factor = math.exp(min(half / self.value, 700.0))
        return (self.value / factor, self.value * factor)

    def _wilson(self, z: float) -> tuple[float, float]:
        """Wilson's interval; a share of 0 or 1, whose error cannot be seen, counts all examples."""
        inside = self.value * (1.0 - self.value)
        n = inside / self.stderr**2 if inside > 0.0 and self.stderr > 0.0 else self.n_samples
        if math.isnan(inside) or math.isnan(n) or n == 0:
            return (math.nan, math.nan)
        return wilson_interval(self.value, n, z)

    def top_examples(self, k: int = 10) -> list[TopExample]:
        """List the k examples that carry most of the mean, largest first.

        The share of the first is ``largest_share``.

        Raises:
            ValueError: k below 1, or an estimate that kept no values.
        """
        if k < 1:
            raise ValueError(
                f"k: expected a positive number of examples, got {k}; do top_examples(10)"
            )
        if self.values is None:
            raise ValueError(
                "top_examples: expected an estimate over examples, got one without values; do "
                "measure GC"
            )
        values, rows = self.values.sort(descending=True, stable=True)
        indices = rows if self.indices is None else self.indices[rows]
        shares = values / values.sum()
        first = zip(indices[:k].tolist(), values[:k].tolist(), shares[:k].tolist(), strict=True)
        return [TopExample(*entry) for entry in first]

    def to_interval_dict(self) -> IntervalDict:
        """Return value, standard error and interval as strict JSON; undefined numbers are None."""
        low, high = self.interval()
        return {
            "value": finite_or_none(self.value),
            "stderr": finite_or_none(self.stderr),
            "ci95": (finite_or_none(low), finite_or_none(high)),
        }

    def to_dict(self) -> EstimateDict:
        """Return the strict JSON form; undefined numbers are None."""
        return {
            **self.to_interval_dict(),
            "n_samples": self.n_samples,
            "n_probes": self.n_probes,
            "estimator": self.estimator,
            "population": self.population,
            "largest_share": None
            if self.largest_share is None
            else finite_or_none(self.largest_share),
            "interrupted": self.interrupted,
            "layer": self.layer,
        }


def paired(a: Estimate, b: Estimate, *, scale: Scale = "linear") -> Estimate:
    """Difference of one measure of two models on the same examples, or the log of its ratio.

        linear: a - b, SE^2 = sum_i (u_i - v_i)^2        log: log(a/b), u_i/a and v_i/b instead

    u, v are the influences of the examples on a and b. What both models find hard cancels, so the
    error is that of the difference and not of two independent values. The rounding of the features
    is added to it: a model and its rotation differ by that alone. O(n).

    Source: Efron (1982), chapter 6; definitions 3.

    Args:
        a: an estimate of the distribution, from ``Measurement.estimates``.
        b: the same measure of another model on the same examples.
        scale: ``linear`` for a - b, ``log`` for log(a/b).

    Returns:
        An Estimate on the linear scale: the models differ at 95 % where 0 is outside its interval.
        NaN where one of both is undefined or, for ``log``, not positive.

    Raises:
        ValueError: an estimate without influences, estimates of different examples, an unknown
            scale.

    Examples:
        >>> u = torch.tensor([0.1, -0.1, 0.2, -0.2]).double()
        >>> rows = torch.arange(4)
        >>> a = Estimate(2.0, 0.3, 4, influence=Influence(u, rows // 2, rows))
        >>> b = Estimate(1.5, 0.3, 4, influence=Influence(u, rows // 2, rows))
        >>> paired(a, b).interval()
        (0.5, 0.5)
    """
    if scale not in ("linear", "log"):
        raise ValueError(f"scale: expected 'linear' or 'log', got {scale!r}; do scale='linear'")
    u, v = _influence("a", a), _influence("b", b)
    if not u.is_of_the_examples_of(v):
        raise ValueError(
            f"b: expected an estimate of the examples of a, got {b.n_samples} others; do measure "
            "both models on the same data"
        )
    if scale == "linear":
        value = a.value - b.value
        terms = u.terms - v.terms
    else:
        is_defined = a.value > 0.0 and b.value > 0.0
        value = math.log(a.value / b.value) if is_defined else math.nan
        terms = u.terms / a.value - v.terms / b.value if is_defined else u.terms * math.nan
    rounding = max(u.rounding, v.rounding)
    influence = Influence(terms, u.classes, u.indices, rounding)
    stderr, dof = influence.spread()
    size = max(abs(a.value), abs(b.value)) if scale == "linear" else 1.0
    return Estimate(
        value,
        math.hypot(stderr, rounding * size),
        n_samples=a.n_samples,
        n_probes=min(a.n_probes, b.n_probes),
        population=a.population,
        estimator="paired",
        dof=dof,
        scale="linear",
        sequential=a.sequential or b.sequential,
        interrupted=a.interrupted or b.interrupted,
        influence=influence,
        warnings=tuple(dict.fromkeys((*a.warnings, *b.warnings))),
    )


def _influence(name: str, estimate: Estimate) -> Influence:
    if estimate.influence is None:
        raise ValueError(
            f"{name}: expected an estimate that knows the influence of each example, got one "
            f"without; do m.estimates[...] of a measurement"
        )
    return estimate.influence


@overload
def strict_json(value: Mapping[str, object]) -> dict[str, Json]: ...
@overload
def strict_json(value: object) -> Json: ...
def strict_json(value: object) -> Json:
    """Convert ``value`` to plain Python that strict JSON can hold.

    Tensors and arrays become lists, Estimates and other mappings dicts, NaN and infinities None.

    Raises:
        TypeError: a value, at any depth, that has no JSON form.
    """
    if isinstance(value, Estimate):
        return strict_json(value.to_dict())
    if isinstance(value, Tensor | np.ndarray):
        return strict_json(value.tolist())
    if isinstance(value, np.generic):
        return strict_json(value.item())
    if isinstance(value, Mapping):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [strict_json(item) for item in value]
    if isinstance(value, float):
        return finite_or_none(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(
        f"value: expected numbers, texts, tensors, lists and mappings, got "
        f"{type(value).__name__}; do str(value)"
    )


def finite_or_none(value: float) -> float | None:
    """Return ``value``, or None for NaN and infinities, which strict JSON has no word for."""
    return float(value) if math.isfinite(value) else None


def wilson_interval(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share of ``n`` trials, inside [0, 1] also at shares of 0 and 1.

    Source: Wilson (1927).
    """
    shrink = 1.0 + z * z / n
    centre = (share + z * z / (2.0 * n)) / shrink
    half = z * math.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n)) / shrink
    return (max(0.0, centre - half), min(1.0, centre + half))


def total_variance(variances: Sequence[float], dofs: Sequence[float]) -> tuple[float, float]:
    """Standard error and Satterthwaite degrees of freedom of a sum of independent terms.

    SE^2 = sum_i v_i and dof = SE^4 / sum_i v_i^2 / dof_i, v_i the variance of term i.
    Source: Satterthwaite (1946), eq. 17; definitions 3.
    """
    total = math.fsum(variances)
    denominator = math.fsum(v * v / d for v, d in zip(variances, dofs, strict=True) if v > 0.0)
    return math.sqrt(total), (total * total / denominator if denominator > 0.0 else math.inf)


def _student_quantile(probability: float, dof: float) -> float:
    from scipy import special

    if math.isinf(dof):
        return float(special.ndtri(probability))
    return float(special.stdtrit(dof, probability))
