"""Margins of a classifier, the ramp loss, and geometric complexity over the squared margin."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocollapse.arrays import Array, as_features, as_labels, refuse_names
from geocollapse.estimate import Estimate
from geocollapse.numerics import is_number


def margins(logits: Array, labels: Array) -> Tensor:
    """The margin of each example: its label's logit minus the largest of the other logits.

        m = f_y - max_{j != y} f_j

    Positive where the classifier is right, 0 at a tie, which counts as an error, and negative where
    it is wrong. Degree 1 in the logits; invariant to a constant added to all logits of an example.
    Unit: logit unit. O(n C), float64.

    Source: Munn, Dherin, Gonzalvo (2024), arXiv 2405.18590.

    Args:
        logits: (n, C), at least two classes.
        labels: (n,) integers from 0 to C - 1.

    Returns:
        (n,) float64.

    Raises:
        ValueError: fewer than two outputs, no example, a label without an output, NaN among the
            logits or a difference of infinite ones, other shapes.
        TypeError: logits that are not floating, labels that are no integers.

    Examples:
        >>> margins(torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 2.0]]), torch.tensor([0, 1])).tolist()
        [2.0, 0.0]
    """
    z, y = _checked(logits, labels)
    own = z.gather(1, y[:, None])[:, 0]
    others = z.scatter(1, y[:, None], -math.inf).max(dim=1).values
    found = own - others
    if bool(found.isnan().any()):
        row = int(found.isnan().nonzero()[0])
        raise ValueError(
            f"logits: expected a margin at each example, got {float(own[row]):g} - "
            f"{float(others[row]):g} at row {row}; do check the model's output"
        )
    return found


def _checked(logits: Array, labels: Array) -> tuple[Tensor, Tensor]:
    """Logits (n, C) in float64 and labels (n,), which must fit each other."""
    z = as_features(logits).double()
    n, n_classes = z.shape
    if n == 0 or n_classes < 2:
        raise ValueError(
            f"logits: expected shape (n, C) with at least one example and two classes, got "
            f"{tuple(z.shape)}; do torch.stack([-z, z], dim=1) for one logit z"
        )
    refuse_names(labels, f"the numbers 0 to {n_classes - 1} of the outputs")
    y = as_labels(labels, n).to(z.device)
    if int(y.min()) < 0 or int(y.max()) >= n_classes:
        raise ValueError(
            f"labels: expected 0 to {n_classes - 1}, one output for each class, got "
            f"{int(y.min())} to {int(y.max())}; do number the classes in the order of the outputs"
        )
    return z, y


def _checked_margin(margin: Tensor) -> Tensor:
    """Margins (n,) of at least one example, none of them NaN."""
    if margin.ndim != 1 or len(margin) == 0:
        raise ValueError(
            f"margin: expected shape (n,) with at least one example, got {tuple(margin.shape)}; do "
            f"margins(logits, labels)"
        )
    if bool(margin.isnan().any()):
        row = int(margin.isnan().nonzero()[0])
        raise ValueError(
            f"margin: expected numbers, got NaN (first at row {row}); do check the model's output"
        )
    return margin


def ramp_loss(margin: Tensor, gamma: float) -> Tensor:
    """The ramp loss: 1 for margins up to 0, 0 from gamma on, and linear in between.

        ramp(m) = clip(1 - m/gamma, 0, 1)

    It lies between two counts: 1[m <= 0] <= ramp(m) <= 1[m < gamma]. Lipschitz with 1/gamma.
    Invariant to scaling margins and gamma together.

    Source: Bartlett, Foster, Telgarsky (2017), section 1; Munn, Dherin, Gonzalvo (2024).

    Args:
        margin: (n,) of ``margins``.
        gamma: the margin from which on nothing is lost, positive.

    Returns:
        (n,).

    Raises:
        ValueError: ``gamma`` that is not positive; margins of another shape, none, or NaN.

    Examples:
        >>> ramp_loss(torch.tensor([-1.0, 0.0, 0.5, 2.0]), gamma=1.0).tolist()
        [1.0, 1.0, 0.5, 0.0]
    """
    _check_gamma(gamma)
    return (1.0 - _checked_margin(margin) / gamma).clamp(0.0, 1.0)


def empirical_margin_risk(margin: Tensor, gamma: float) -> Estimate:
    """The mean ramp loss of the examples, an upper bound on the share of errors.

        R_gamma = 1/n sum_i clip(1 - m_i/gamma, 0, 1)

    Range [0, 1]; it falls as margins grow, and rises with gamma. The standard error is about the
    distribution behind the examples. Beside it stands the margin-normalised complexity in a bound
    on the test error: a larger gamma lowers the complexity and raises this risk.

    Source: Munn, Dherin, Gonzalvo (2024), arXiv 2405.18590.

    Args:
        margin: (n,) of ``margins``.
        gamma: as for ``ramp_loss``.

    Returns:
        An Estimate on the linear scale.

    Raises:
        ValueError: see ``ramp_loss``.

    Examples:
        >>> float(empirical_margin_risk(torch.tensor([-1.0, 0.5, 2.0]), gamma=1.0))
        0.5
    """
    losses = ramp_loss(margin, gamma).double()
    n = len(losses)
    stderr = float(losses.std()) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(
        float(losses.mean()),
        stderr,
        n,
        population="distribution",
        dof=max(n - 1, 1),
        scale="linear",
    )


@dataclass(frozen=True)
class MarginQuantile:
    """The margin gamma below which a share of the training examples lies.

    Attributes:
        value: gamma.
        stderr: its standard error as a quantile of the distribution behind the examples.
        share: the level of the quantile, in (0, 1).
        n_samples: examples behind it.
    """

    value: float
    stderr: float
    share: float
    n_samples: int

    @classmethod
    def of(cls, margin: Tensor, share: float = 0.1) -> MarginQuantile:
        """The ``share`` quantile of margins (n,), interpolated between order statistics.

            SE = (q(p + d) - q(p - d))/2,  d = sqrt(p (1 - p)/n)

        Degree 1 in the margins.

        Source: Woodruff (1952), Confidence intervals for medians and other position measures.

        Raises:
            ValueError: a share outside (0, 1); margins of another shape, none, or NaN.

        Examples:
            >>> MarginQuantile.of(torch.arange(101.0), 0.1).value
            10.0
        """
        check_share(share)
        ordered = _checked_margin(margin).double().cpu().sort().values
        p = torch.tensor(share, dtype=torch.float64)
        half = (p * (1.0 - p) / len(ordered)).sqrt()
        levels = torch.stack([p - half, p, p + half]).clamp(0.0, 1.0)
        # not torch.quantile, which takes at most 2^24 numbers
        place = levels * (len(ordered) - 1)
        below = place.floor().long()
        above = place.ceil().long()
        low, middle, high = torch.lerp(ordered[below], ordered[above], place - below).tolist()
        return cls(middle, (high - low) / 2.0, share, len(ordered))


def check_share(share: float, name: str = "share") -> None:
    """Refuse a level of a quantile outside (0, 1), by the ``name`` of the caller's argument."""
    if not (is_number(share) and 0.0 < share < 1.0):
        raise ValueError(
            f"{name}: expected the level of a quantile of the margins, between 0 and 1, got "
            f"{share!r}; do {name}=0.1"
        )


def margin_normalised(
    gc: Estimate, margin: Tensor, share: float = 0.1, *, rows: Tensor | None = None
) -> Estimate:
    """Geometric complexity of the logits over the squared margin at a quantile.

        GC_gamma = GC/gamma^2,  gamma the quantile of the margins at level ``share``

    Invariant to scaling the logits, which scales GC by c^2 and gamma by c. Unit: 1/input unit^2.
    Undefined (NaN, with the reason in ``warnings``) where gamma is not positive: the share of
    errors is then at least ``share``.

    Of the ``dataset``, gamma is the quantile of its own margins and has no error: the interval is
    that of GC. Of the ``distribution``, with u_i and w_i the influences of example i on log GC and
    on log gamma,

        (SE/GC_gamma)^2 = (SE(GC)/GC)^2 + 4 (SE(gamma)/gamma)^2 - 4 sum_i u_i w_i

    With 150 to 3,000 examples such a 95 % interval covers 92 to 94 %.

    Source: Munn, Dherin, Gonzalvo (2024), arXiv 2405.18590; the error by the delta method.

    Args:
        gc: geometric complexity of the logits.
        margin: (n,) of all examples.
        share: level of the quantile.
        rows: (m,) rows of ``margin`` behind ``gc.values``; None for all of them in order.

    Returns:
        An Estimate on the log scale, of the population of ``gc``.

    Raises:
        ValueError: a share outside (0, 1); margins of another shape, none, or NaN.

    Examples:
        >>> gc = Estimate(8.0, 0.4, n_samples=101)
        >>> margin_normalised(gc, torch.arange(101.0) / 5, 0.1).value
        2.0
    """
    gamma = MarginQuantile.of(margin, share)
    if not gamma.value > 0.0:
        note = (
            f"margin_complexity: undefined, the margin at the quantile {share:g} is "
            f"{gamma.value:.3g}: the classifier is wrong there"
        )
        return _scaled(gc, math.nan, math.nan, (*gc.warnings, note))
    value = gc.value / gamma.value**2
    if not gc.value > 0.0:
        return _scaled(gc, value, gc.stderr / gamma.value**2, gc.warnings)
    relative = _relative_variance(gc, margin, gamma, rows)
    return _scaled(gc, value, value * math.sqrt(relative), gc.warnings)


def _relative_variance(
    gc: Estimate, margin: Tensor, gamma: MarginQuantile, rows: Tensor | None
) -> float:
    """The variance of log(GC/gamma^2)."""
    of_gc = (gc.stderr / gc.value) ** 2
    if gc.population == "dataset":
        return of_gc
    of_gamma = 4.0 * (gamma.stderr / gamma.value) ** 2
    return max(of_gc + of_gamma - 4.0 * _covariance(gc, margin, gamma, rows), 0.0)


def _covariance(gc: Estimate, margin: Tensor, gamma: MarginQuantile, rows: Tensor | None) -> float:
    """The covariance of log GC and log gamma, from the examples behind both; 0 if not known."""
    if gc.values is None:
        return 0.0
    own = margin.cpu() if rows is None else margin.cpu()[rows]
    p = gamma.share
    below = (own <= gamma.value).double()
    # SE(gamma) = sqrt(p (1 - p)/n)/density, so that the density of the margins is not needed
    slope = gamma.stderr / math.sqrt(p * (1.0 - p) * gamma.n_samples)
    of_gamma = slope * (p - below) / gamma.value
    of_gc = (gc.values.double().cpu() - gc.value) / (len(own) * gc.value)
    return float((of_gc * of_gamma).sum())


def _scaled(gc: Estimate, value: float, stderr: float, warnings: tuple[str, ...]) -> Estimate:
    """The estimate with another value and error, and without the terms of its mean."""
    return replace(gc, value=value, stderr=stderr, values=None, indices=None, warnings=warnings)


def _check_gamma(gamma: float) -> None:
    if not (is_number(gamma) and gamma > 0.0):
        raise ValueError(f"gamma: expected a positive margin, got {gamma!r}; do gamma=1.0")
