"""Squared Frobenius norms of the Jacobians of a batch: exactly, or by random probes, one example at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from geocollapse import probes
from geocollapse.borrow import borrowed, check_independent
from geocollapse.estimate import check_finite

Map = Callable[[Tensor], Tensor]
Estimator = Literal["exact", "rademacher", "gaussian", "orthogonal", "outputs"]

_PROBES: dict[str, Callable[[int, Tensor, int, int], Tensor]] = {
    "rademacher": probes.rademacher,
    "gaussian": probes.gaussian,
    "orthogonal": probes.orthogonal,
    "outputs": probes.sampled_outputs,
}
_WITHOUT_REPLACEMENT = ("orthogonal", "outputs")  # probes of one example depend on each other; all p of them are exact


@dataclass(frozen=True)
class SquaredNorms:
    """||J||_F^2 of each example of a batch.

    Attributes:
        values: (n,) float64, the estimates y_i.
        variances: (n,) float64, unbiased estimates of Var(y_i | example i): 0 if exact, NaN with a single probe.
        scaled: (n,) float64, the same estimates of ||J diag(1/s)||_F^2, or None where no input scale s was given.
    """

    values: Tensor
    variances: Tensor
    scaled: Tensor | None = None

    def __getitem__(self, rows: slice | Tensor) -> SquaredNorms:
        scaled = None if self.scaled is None else self.scaled[rows]
        return SquaredNorms(self.values[rows], self.variances[rows], scaled)

    def cpu(self) -> SquaredNorms:
        """The same on the CPU."""
        return SquaredNorms(self.values.cpu(), self.variances.cpu(), None if self.scaled is None else self.scaled.cpu())

    @staticmethod
    def cat(parts: list[SquaredNorms]) -> SquaredNorms:
        """Join batches."""
        scaled = [part.scaled for part in parts if part.scaled is not None]
        return SquaredNorms(
            torch.cat([part.values for part in parts]),
            torch.cat([part.variances for part in parts]),
            torch.cat(scaled) if scaled else None,
        )


def squared_jacobian_norms(
    f: Map,
    x: Tensor,
    *,
    estimator: Estimator = "exact",
    n_probes: int = 1,
    seed: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """Squared Frobenius norm of each example's own Jacobian, ||df/dx (x_i)||_F^2.

    With A = J J^T, probes v with E[v v^T] = I give ||J||_F^2 = E ||J^T v||^2. Variance of one probe: gaussian
    2 ||A||_F^2; rademacher 2 (||A||_F^2 - sum_i A_ii^2); orthogonal, mean of r: 2p/(p+2) (||A||_F^2 - tr(A)^2/p)/r
    (p-r)/(p-1); outputs, mean of r: (1 - r/p) S^2/r with S^2 the variance of p ||df_i/dx||^2.

    Range [0, inf). Invariant under rotations of the output and of the input; degree 2 in f, -2 in x. Unit: (output
    unit / input unit)^2. Cost: one forward pass, then n_probes vector-Jacobian products; ``exact`` takes p of them, or
    d Jacobian-vector products if d < p. Memory: the graph of the batch; J is never formed.

    Source: Dherin, Munn, Rosca, Barrett (2022), definition of GC; Hutchinson (1990); definitions 1.

    Args:
        f: a map (n, ...) -> (n, ...) that treats examples independently; a Module must not be in training mode if it
            holds batch normalisation or dropout.
        x: (n, ...) floating.
        estimator: ``exact``, ``rademacher``, ``gaussian``, ``orthogonal`` or ``outputs`` (sampled output coordinates).
        n_probes: probes (or sampled outputs) for each example; not used by ``exact``.
        seed: probes are a function of (seed, index, probe number).
        indices: (n,) positions of the examples in their data set; 0..n-1 by default.

    Returns:
        (n,) float64.

    Raises:
        ValueError: unknown estimator, too many probes, non-finite outputs, outputs of another batch size.
        TypeError: ``x`` is not floating.
        RuntimeError: ``f`` mixes the examples of a batch.

    Examples:
        >>> f = torch.nn.Linear(3, 2)
        >>> norms = squared_jacobian_norms(f, torch.randn(4, 3))
        >>> bool(torch.allclose(norms, f.weight.detach().double().square().sum().expand(4)))
        True
    """
    check_estimator(estimator, n_probes)
    leaf = track(x)
    positions = torch.arange(len(x), device=x.device) if indices is None else indices
    module = f if isinstance(f, torch.nn.Module) else None
    check_independent(module)
    with borrowed(module, evaluation=False), torch.enable_grad():
        features = flatten_features(f(unshared(leaf)), len(x))
        plan = ProbePlan(estimator, seed)
        return plan.norms(features, leaf, positions, n_probes, f=f).values


@dataclass(frozen=True)
class ProbePlan:
    """How Jacobians are probed: the estimator, the seed and, if wanted, the scale s of each input channel."""

    estimator: Estimator = "rademacher"
    seed: int = 0
    input_std: Tensor | None = None

    def norms(
        self,
        features: Tensor,
        leaf: Tensor,
        indices: Tensor,
        n_probes: int,
        *,
        f: Map,
        n_counted: int | None = None,
        keep_graph: bool = False,
    ) -> SquaredNorms:
        """Squared Jacobian norms of ``features`` (n, p) with respect to ``leaf`` (n, ...) on their existing graph.

        The value is the mean of the first ``n_counted`` probes (default all of them); further ones only serve the
        variance. ``f`` maps ``leaf`` to ``features``, for what needs forward mode.
        """
        check_finite("features", features.detach())
        if not features.requires_grad:  # the features do not depend on the inputs
            zeros = torch.zeros(len(leaf), dtype=probes.accumulation_dtype(leaf.device), device=leaf.device)
            return SquaredNorms(zeros, zeros, None if self.input_std is None else zeros)
        if self.estimator == "exact":
            return self._exact(features, leaf, f, keep_graph)
        n_features = features.shape[1]
        if n_counted is not None and self.estimator in _WITHOUT_REPLACEMENT:
            n_probes = min(n_probes, max(n_counted, n_features))  # a probe for the variance alone may not exist
        vectors = _PROBES[self.estimator](self.seed, indices.to(leaf.device), n_probes, n_features)
        terms = [
            self._squares(_pull_back(features, leaf, v.to(features.dtype), keep_graph or not last))
            for v, last in _with_last(vectors.unbind(1))
        ]
        n_distinct = n_features if self.estimator in _WITHOUT_REPLACEMENT else math.inf
        return _mean_of_probes(torch.stack(terms), n_counted or n_probes, n_distinct)

    def _exact(self, features: Tensor, leaf: Tensor, f: Map, keep_graph: bool) -> SquaredNorms:
        """Sum of squares over the p output rows, or over the d input columns where there are fewer of them."""
        fewer_inputs = leaf[0].numel() < features.shape[1]
        total = self._sum_columns(f, leaf.detach()) if fewer_inputs else None
        if total is None:
            total = self._sum_rows(features, leaf, keep_graph)
        return SquaredNorms(total[0], torch.zeros_like(total[0]), total[1] if self.input_std is not None else None)

    def _sum_rows(self, features: Tensor, leaf: Tensor, keep_graph: bool) -> Tensor:
        """Reverse mode: one vector-Jacobian product for each output coordinate."""
        basis = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
        total = torch.zeros((), dtype=probes.accumulation_dtype(leaf.device), device=leaf.device)
        for row, last in _with_last(basis.unbind(0)):
            total = total + self._squares(_pull_back(features, leaf, row.expand_as(features), keep_graph or not last))
        return total

    def _sum_columns(self, f: Map, x: Tensor) -> Tensor | None:
        """Forward mode: one Jacobian-vector product for each input coordinate; None where f has no forward mode."""
        scale = self._channel_scale(x[0:1]).expand_as(x[0:1]).flatten()
        total = torch.zeros(2, len(x), dtype=probes.accumulation_dtype(x.device), device=x.device)
        for coordinate in range(x[0].numel()):
            tangent = torch.zeros_like(x).flatten(1)
            tangent[:, coordinate] = 1.0
            try:
                column = torch.func.jvp(
                    lambda z: flatten_features(f(unshared(z)), len(z)), (x,), (tangent.view_as(x),)
                )[1]
            except NotImplementedError:
                return None
            squares = _sum_of_squares(column)
            total += torch.stack([squares, squares / scale[coordinate].to(squares.dtype) ** 2])
        return total

    def _squares(self, gradient: Tensor) -> Tensor:
        """Squared norm of each example's gradient, plain and in units of the input scale: (1 or 2, n)."""
        plain = _sum_of_squares(gradient)
        if self.input_std is None:
            return plain[None]
        return torch.stack([plain, _sum_of_squares(gradient / self._channel_scale(gradient))])

    def _channel_scale(self, x: Tensor) -> Tensor:
        """The input scale, shaped to broadcast over the channels (dimension 1) of ``x``."""
        if self.input_std is None:
            return torch.ones((), dtype=x.dtype, device=x.device)
        return self.input_std.to(x).reshape(1, -1, *[1] * (x.ndim - 2))


def check_estimator(estimator: str, n_probes: int) -> None:
    """Raise a ValueError for an unknown estimator or a count of probes below 1."""
    if estimator not in get_args(Estimator):
        names = ", ".join(get_args(Estimator))
        raise ValueError(f"estimator: expected one of {names}, got {estimator!r}; do estimator='rademacher'")
    if isinstance(n_probes, bool) or not isinstance(n_probes, int) or n_probes < 1:
        raise ValueError(f"n_probes: expected a whole number of at least 1, got {n_probes!r}; do n_probes=1")


def track(x: Tensor) -> Tensor:
    """A leaf with the values of ``x`` that takes gradients; the caller's tensor is not touched."""
    check_floating(x)
    return x.detach().clone().requires_grad_()


def check_floating(x: object) -> None:
    """Raise a TypeError for inputs that are not a floating tensor: they have no Jacobian."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"inputs: expected a floating tensor (a Jacobian needs a continuous input), got {got}; "
            f"do inputs.float(), scaled as the model expects"
        )


def unshared(leaf: Tensor) -> Tensor:
    """A copy for a map that may work in place; gradients flow back to ``leaf``."""
    return leaf.clone() if torch.is_grad_enabled() else leaf


def flatten_features(output: object, n_examples: int) -> Tensor:
    """The output of a map as (n, p).

    Raises:
        TypeError: not one floating tensor (a tuple, a dict, integers).
        ValueError: the first dimension is not the number of examples.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"features: expected one floating tensor, got {got}; "
            f"do name a layer that returns a tensor, or pass a callable that picks one"
        )
    if output.ndim == 0 or len(output) != n_examples:
        raise ValueError(
            f"features: expected one row for each of {n_examples} examples, got shape {tuple(output.shape)}; "
            f"do name a layer whose first dimension is the batch"
        )
    return output.reshape(n_examples, -1)


def _pull_back(features: Tensor, leaf: Tensor, v: Tensor, keep_graph: bool) -> Tensor:
    """J^T v of each example, one vector-Jacobian product."""
    (gradient,) = torch.autograd.grad(features, leaf, v, retain_graph=keep_graph, materialize_grads=True)
    return gradient


def _sum_of_squares(rows: Tensor) -> Tensor:
    """Sum of squares of each row of (n, ...), accumulated in float64."""
    return rows.flatten(1).to(probes.accumulation_dtype(rows.device)).square().sum(dim=1)


def _mean_of_probes(terms: Tensor, n_counted: int, n_distinct: float) -> SquaredNorms:
    """Mean over the first r probes of ``terms`` (probes, 1 or 2, n) and the unbiased variance of that mean.

    The variance is w_i/r, times (1 - r/p) for probes that are drawn without replacement (definitions 1).
    """
    mean = terms[:n_counted].mean(dim=0)
    if n_counted >= n_distinct:
        variances = torch.zeros_like(mean[0])
    elif len(terms) > 1:
        variances = terms[:, 0].var(dim=0) / n_counted * (1.0 - n_counted / n_distinct)
    else:
        variances = torch.full_like(mean[0], math.nan)
    return SquaredNorms(mean[0], variances, mean[1] if len(mean) > 1 else None)


def _with_last(items: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, bool]]:
    for position, item in enumerate(items, start=1):
        yield item, position == len(items)
