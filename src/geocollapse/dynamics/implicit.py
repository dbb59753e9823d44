"""Implicit gradient regularisation: terms that gradient descent and its mini-batches add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from geocollapse.dynamics.corridor import check_lr
from geocollapse.dynamics.losses import BatchNorm, Landscape, Loss, landscapes
from geocollapse.dynamics.trees import Field, Tree, minus, plus, scaled, squared_norm, zeros
from geocollapse.models import LoadedModel


@dataclass(frozen=True)
class ImplicitBias:
    """The gradient norms that steps of a given size add to the loss.

    Attributes:
        loss: C = 1/m sum_k C_k.
        full_norm: ||g||^2, of the gradient of C.
        variance: 1/m sum_k ||g_k - g||^2, of the gradients of the mini-batches; 0 for m = 1.
        n_batches: m.
        lr: h.
    """

    loss: float
    full_norm: float
    variance: float
    n_batches: int
    lr: float

    @property
    def mini_batch_norm(self) -> float:
        """1/m sum_k ||g_k||^2 = ||g||^2 + 1/m sum_k ||g_k - g||^2."""
        return self.full_norm + self.variance

    @property
    def penalty(self) -> float:
        """h/4 1/m sum_k ||g_k||^2, the implicit regulariser."""
        return self.lr / 4.0 * self.mini_batch_norm

    @property
    def modified_loss(self) -> float:
        """C~ = C + penalty, which the steps descend."""
        return self.loss + self.penalty

    def expected_norm(self, batch_size: int) -> float:
        """The mean of ||g_S||^2 over all S of B of the m losses, drawn without replacement.

            E||g_S||^2 = ||g||^2 + (m - B)/(m - 1) variance/B

        With a loss for each example it tells what a batch of B examples would add.

        Raises:
            ValueError: ``batch_size`` below 1 or above m.

        Examples:
            >>> found = ImplicitBias(1.0, full_norm=2.0, variance=6.0, n_batches=4, lr=0.1)
            >>> [found.expected_norm(batch_size) for batch_size in (1, 2, 4)]
            [8.0, 4.0, 2.0]
        """
        if not 1 <= batch_size <= self.n_batches:
            raise ValueError(
                f"batch_size: expected a number from 1 to {self.n_batches}, the number of losses, "
                f"got {batch_size}; do pass a loss for each example"
            )
        if batch_size == self.n_batches:
            return self.full_norm
        share = (self.n_batches - batch_size) / (self.n_batches - 1)
        return self.full_norm + share * self.variance / batch_size


def implicit_bias(
    model: nn.Module | LoadedModel,
    losses: Loss | Sequence[Loss],
    lr: float = 0.1,
    *,
    batch_norm: BatchNorm = "refuse",
) -> ImplicitBias:
    """The implicit regulariser of gradient descent, or of SGD with its mini-batches.

        GD:   E~ = E + h/4 ||g||^2
        SGD:  C~ = C + h/(4 m) sum_k ||g_k||^2 = C + h/4 (||g||^2 + 1/m sum_k ||g_k - g||^2)

    Steps of size h follow the gradient flow of E~, and the mean over all orders of an epoch of m
    mini-batches that of C~ for the time m h, up to O(m^3 h^3). One order alone is also moved by the
    Lie brackets of its batches. At least 0 each; invariant to the order of the losses. Cost: one
    gradient a loss, and the memory of two.

    Source: Barrett, Dherin (2021), arXiv 2009.11162; Smith, Dherin, Barrett, De (2021), arXiv
    2101.12176.

    Args:
        model: any module.
        losses: one loss, or one for each mini-batch C_k of equal size; each from the module to a
            0-d tensor.
        lr: h.
        batch_norm: see ``landscape``.

    Raises:
        ValueError: no losses, ``lr`` that is not positive; see ``gradient``.
        RuntimeError: batch normalisation in training mode.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> _ = nn.init.ones_(model.weight)
        >>> batches = [lambda m: m.weight.square().sum(), lambda m: 4.0 * m.weight.sum()]
        >>> found = implicit_bias(model, batches, lr=0.1)  # g_1 = 2, g_2 = 4
        >>> found.full_norm, found.variance, found.mini_batch_norm
        (9.0, 1.0, 10.0)
    """
    check_lr(lr)
    with landscapes(model, _listed(losses), batch_norm=batch_norm) as batches:
        total = 0.0
        squares = 0.0
        mean = zeros(batches[0].point)
        for count, batch in enumerate(batches, 1):
            value, found = batch.value_and_gradient(partial=len(batches) > 1)
            total += float(value)
            step = minus(found, mean)
            squares += (1.0 - 1.0 / count) * squared_norm(step)  # Welford's sum, without g^2 - g^2
            mean = plus(mean, step, 1.0 / count)
    m = len(batches)
    return ImplicitBias(total / m, squared_norm(mean), squares / m, m, lr)


def implicit_flow(
    model: nn.Module | LoadedModel,
    losses: Loss | Sequence[Loss],
    lr: float,
    *,
    batch_norm: BatchNorm = "refuse",
) -> Tree:
    """The velocity of the modified flow of gradient descent, or of SGD with its mini-batches.

        theta' = -grad C~ = -1/m sum_k (g_k + h/2 H_k g_k)

    Cost: two gradients and one Hessian-vector product a loss.

    Source: Barrett, Dherin (2021), arXiv 2009.11162; Smith, Dherin, Barrett, De (2021), arXiv
    2101.12176.

    Args:
        model: any module.
        losses: one loss, or one for each mini-batch; see ``implicit_bias``.
        lr: h.
        batch_norm: see ``landscape``.

    Returns:
        Name -> tensor.

    Raises:
        ValueError: see ``implicit_bias``.
        RuntimeError: batch normalisation in training mode.
        NotImplementedError: an operation without a second derivative.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> _ = nn.init.ones_(model.weight)
        >>> implicit_flow(model, lambda m: 0.5 * m.weight.square().sum(), lr=0.2)["weight"]
        tensor([[-1.1000]], dtype=torch.float64)
    """
    check_lr(lr)
    with landscapes(model, _listed(losses), batch_norm=batch_norm) as batches:
        return implicit_field(batches, lr)(batches[0].point)


def implicit_field(batches: Sequence[Landscape], lr: float) -> Field:
    """The modified flow of one landscape, or of those of mini-batches, as a field for ``flow``.

    Examples:
        >>> from geocollapse.dynamics import flow
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> with landscapes(model, [lambda m: 0.5 * m.weight.square().sum()]) as found:
        ...     end = flow(implicit_field(found, lr=0.1), found[0].point, 0.1)
        >>> bool((end["weight"] - 0.9 * model.weight).abs().max() < 1e-3)
        True
    """
    check_lr(lr)
    is_partial = len(batches) > 1

    def field(at: Tree) -> Tree:
        total = zeros(at)
        for batch in batches:
            here = batch.expand(at, partial=is_partial)
            bent = plus(here.gradient, here.product(here.gradient), lr / 2.0)
            total = plus(total, bent)
        return scaled(total, -1.0 / len(batches))

    return field


def _listed(losses: Loss | Sequence[Loss]) -> Sequence[Loss]:
    """One loss or several as a list, which must not be empty."""
    listed = [losses] if callable(losses) else losses
    if not listed:
        raise ValueError("losses: expected at least one, got none; do [loss_1, loss_2]")
    return listed
