"""The effects of several tasks on each other: flatness, conflict, the Lie bracket, their order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geocollapse.dynamics.corridor import check_lr
from geocollapse.dynamics.forgetting import Crossing, Ends, Forgetting, forgetting
from geocollapse.dynamics.losses import BatchNorm, Landscape, Loss, NonFiniteError, landscapes
from geocollapse.dynamics.products import Method, filled, touched
from geocollapse.dynamics.rounding import check_full_precision, warn_of_rounding
from geocollapse.dynamics.trees import Tree, cosine, inner, minus, norm, plus, scaled
from geocollapse.models import LoadedModel
from geocollapse.numerics import is_count


@dataclass(frozen=True)
class MultitaskBias:
    """The terms that a step of gradient descent on a sum of losses adds to it.

    Attributes:
        flatness: h/4 sum_i ||g_i||^2.
        conflict: h/2 sum_{i<j} <g_i, g_j>; negative where tasks pull apart.
        losses: (T,) L_i.
        gramian: (T, T) <g_i, g_j>, float64.
        lr: h.
    """

    flatness: float
    conflict: float
    losses: Tensor
    gramian: Tensor
    lr: float

    @property
    def modified_loss(self) -> float:
        """L~ = sum_i L_i + flatness + conflict, which the steps descend."""
        return float(self.losses.sum()) + self.flatness + self.conflict


@dataclass(frozen=True)
class Alignments:
    """Cosines of a vector with the gradients of two tasks; NaN where a vector is zero.

    Attributes:
        a: with g_a.
        b: with g_b.
        total: with g_a + g_b.
    """

    a: float
    b: float
    total: float


@dataclass(frozen=True)
class LieBracket:
    """The Lie bracket of the gradient fields of two losses at a point; in general no gradient.

    Attributes:
        field: [g_a, g_b] = H_b g_a - H_a g_b, a tree.
        norm: of the field.
        alignments: with the gradients.
    """

    field: Tree = dataclasses.field(repr=False)
    norm: float
    alignments: Alignments


@dataclass(frozen=True)
class OrderEffect:
    """The effect of the order of two tasks, measured and predicted.

    Attributes:
        difference: theta_ab - theta_ba of two runs, a tree.
        predicted: (m h)^2 [g_a, g_b], a tree.
        norm: of the difference.
        predicted_norm: of the prediction.
        cosine: between both; NaN where one is zero.
        relative_error: ||difference - predicted||/||predicted||; NaN where it is zero.
        a: what task a loses when b is trained after it.
        b: what task b loses when a is trained after it.
    """

    difference: Tree = dataclasses.field(repr=False)
    predicted: Tree = dataclasses.field(repr=False)
    norm: float
    predicted_norm: float
    cosine: float
    relative_error: float
    a: Forgetting
    b: Forgetting

    @property
    def total_gap(self) -> float:
        """(L_a + L_b)(theta_ab) - (L_a + L_b)(theta_ba), negative where a should come first."""
        return self.a.order_gap - self.b.order_gap

    @property
    def predicted_total_gap(self) -> float:
        """(m h)^2 <g_a + g_b, [g_a, g_b]>."""
        return self.a.predicted_gap - self.b.predicted_gap


def multitask_bias(
    losses: Sequence[Loss],
    model: nn.Module | LoadedModel,
    lr: float = 0.1,
    *,
    batch_norm: BatchNorm = "refuse",
) -> MultitaskBias:
    """The implicit bias of gradient descent on a sum of losses, in its two terms.

        L~ = sum_i L_i + h/4 sum_i ||g_i||^2 + h/2 sum_{i<j} <g_i, g_j>

    Steps of size h follow the gradient flow of L~ to second order: the first term seeks flat
    regions of every task, the second keeps the tasks from pulling together. Their sum is
    h/4 ||sum_i g_i||^2. Invariant to the order of the losses. Cost: one gradient and its memory a
    task. torchjd's ``Engine`` computes the same Gramian without the gradients' memory.

    Source: Dherin (2023), arXiv 2311.00235, multitask learning.

    Args:
        losses: each from the module to a 0-d tensor.
        model: the module that they share; each may have parameters of its own.
        lr: h.
        batch_norm: see ``landscape``.

    Raises:
        ValueError: no losses, ``lr`` that is not positive, several losses that share no parameter;
            see ``gradient``.
        RuntimeError: batch normalisation in training mode.
        TypeError: one loss in place of a list.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> _ = nn.init.ones_(model.weight)
        >>> tasks = [lambda m: m.weight.square().sum(), lambda m: -3 * m.weight.sum()]
        >>> found = multitask_bias(tasks, model, lr=0.1)  # g_1 = 2, g_2 = -3
        >>> round(found.flatness, 6), round(found.conflict, 6)
        (0.325, -0.3)
    """
    check_lr(lr)
    if not isinstance(losses, Iterable):
        raise TypeError(
            f"losses: expected a list of losses, got {type(losses).__name__}; do [loss_a, loss_b]"
        )
    if not losses:
        raise ValueError("losses: expected at least one, got none; do [loss_a, loss_b]")
    with landscapes(model, losses, batch_norm=batch_norm) as tasks:
        pairs = [task.value_and_paths() for task in tasks]
        _check_shared([touched(found) for _, found in pairs])
        gradients = [filled(found, tasks[0].point) for _, found in pairs]
    rows = [[float(inner(a, b)) for b in gradients] for a in gradients]
    gramian = torch.tensor(rows, dtype=torch.float64)
    flatness = lr / 4.0 * float(gramian.diagonal().sum())
    conflict = lr / 2.0 * float(gramian.triu(1).sum())
    values = torch.tensor([float(value.detach()) for value, _ in pairs], dtype=torch.float64)
    return MultitaskBias(flatness, conflict, values, gramian, lr)


def lie_bracket(
    loss_a: Loss,
    loss_b: Loss,
    model: nn.Module | LoadedModel,
    *,
    method: Method = "double_backward",
    batch_norm: BatchNorm = "refuse",
) -> LieBracket:
    """The Lie bracket of two tasks: how their order matters, to second order.

        [g_a, g_b] = H_b g_a - H_a g_b,   theta_ab - theta_ba = h^2 [g_a, g_b] + O(h^3)

    for one step of size h on each, a before b and b before a; training a before b adds
    h_a h_b/2 [g_a, g_b] to the flow of both. Antisymmetric; zero for quadratics that commute and
    share their minimiser. It is in general no gradient, so no loss stands for it. Cost: two
    gradients with their graphs and two Hessian-vector products.

    Source: Dherin (2023), arXiv 2311.00235, continual learning.

    Args:
        loss_a: the first task's, from the module to a 0-d tensor.
        loss_b: the second task's.
        model: the module that they share; each may have parameters of its own.
        method: of the products; see ``hessian_vector_product``.
        batch_norm: see ``landscape``.

    Raises:
        ValueError: losses that share no parameter; see ``gradient``.
        RuntimeError: batch normalisation in training mode.
        NotImplementedError: an operation without the derivatives that the method takes.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> found = lie_bracket(lambda m: m.weight.sum(), lambda m: m.weight.square().sum(), model)
        >>> found.field["weight"]  # H_b g_a - H_a g_b = 2 * 1 - 0
        tensor([[2.]], dtype=torch.float64)
    """
    with _pair(loss_a, loss_b, model, batch_norm) as (a, b):
        return _bracket(_crossing(a, b, method))


def crossing_of(
    loss_a: Loss,
    loss_b: Loss,
    model: nn.Module | LoadedModel,
    *,
    method: Method = "double_backward",
    batch_norm: BatchNorm = "refuse",
) -> Crossing:
    """The gradients of two tasks and their products with each other's Hessian, which costs most.

    Computed once, it serves ``order_effect`` at the same parameters for any rate and number of
    steps. Cost, args and errors as of ``lie_bracket``.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> linear, square = lambda m: m.weight.sum(), lambda m: m.weight.square().sum()
        >>> at = crossing_of(linear, square, model)
        >>> found = [order_effect(linear, square, model, n_steps=m, crossing=at) for m in (1, 2)]
        >>> round(found[1].predicted_norm / found[0].predicted_norm, 6)
        4.0
    """
    with _pair(loss_a, loss_b, model, batch_norm) as (a, b):
        return _crossing(a, b, method)


def order_effect(
    loss_a: Loss,
    loss_b: Loss,
    model: nn.Module | LoadedModel,
    lr: float = 0.01,
    n_steps: int = 1,
    *,
    method: Method = "double_backward",
    batch_norm: BatchNorm = "refuse",
    crossing: Crossing | None = None,
) -> OrderEffect:
    """The effect of the order of two tasks, measured by two runs beside its prediction.

        theta_ab - theta_ba = (m h)^2 [g_a, g_b] + O((m h)^3)

    theta_ab: m steps of gradient descent on a, then m on b; theta_ba the other way round. The
    measurement needs no Hessian, but float64 at small rates. With it comes what each task loses
    while the other is trained; see ``Forgetting``. Cost: 4 m gradients, the bracket, and 8 forward
    passes.

    Source: Dherin (2023), arXiv 2311.00235, continual learning.

    Args:
        loss_a: the one task's, from the module to a 0-d tensor.
        loss_b: the other task's.
        model: the module that they share; its parameters stay as they are.
        lr: h.
        n_steps: m.
        method: of the bracket's products; see ``hessian_vector_product``.
        batch_norm: see ``landscape``.
        crossing: ``crossing_of`` these losses at these parameters; None to compute it.

    Raises:
        ValueError: ``lr`` that is not positive, ``n_steps`` that is no count, losses that share no
            parameter, a run that diverges; see ``gradient``.
        TypeError: half precision of the parameters or by autocast, or TF32.
        RuntimeError: batch normalisation in training mode.

    Warns:
        GeocollapseWarning: the rounding of the parameters hides the difference.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> square = lambda m: m.weight.square().sum()
        >>> found = order_effect(lambda m: m.weight.sum(), square, model, lr=0.1)
        >>> round(found.norm, 6), round(found.predicted_norm, 6)
        (0.02, 0.02)
        >>> abs(found.a.rise - found.a.second_order) < 1e-12  # exact for these two
        True
    """
    check_lr(lr)
    if not is_count(n_steps):
        raise ValueError(
            f"n_steps: expected a whole number of at least 1, got {n_steps}; do n_steps=1"
        )
    with _pair(loss_a, loss_b, model, batch_norm) as (a, b):
        for task in (a, b):
            check_full_precision(task)
        at = _crossing(a, b, method) if crossing is None else crossing
        after_a = _descended(a, a.point, lr, n_steps)
        after_b = _descended(b, b.point, lr, n_steps)
        ab = _descended(b, after_a, lr, n_steps)
        ba = _descended(a, after_b, lr, n_steps)
        time = _time(lr, n_steps)
        of_a = forgetting(a, Ends(after_a, ab, ba), at, lr=lr, n_steps=n_steps)
        of_b = forgetting(b, Ends(after_b, ba, ab), at.swapped(), lr=lr, n_steps=n_steps)
    difference = minus(ab, ba)
    predicted = scaled(_bracket(at).field, time**2)
    size = norm(predicted)
    if not at.commutes():
        warn_of_rounding(difference, ab, n_steps)
    return OrderEffect(
        difference=difference,
        predicted=predicted,
        norm=norm(difference),
        predicted_norm=size,
        cosine=cosine(difference, predicted),
        relative_error=norm(minus(difference, predicted)) / size if size > 0.0 else math.nan,
        a=of_a,
        b=of_b,
    )


@contextmanager
def _pair(
    loss_a: Loss, loss_b: Loss, model: nn.Module | LoadedModel, batch_norm: BatchNorm
) -> Iterator[tuple[Landscape, Landscape]]:
    """Two losses of one model."""
    with landscapes(model, [loss_a, loss_b], batch_norm=batch_norm) as (a, b):
        yield a, b


def _time(lr: float, n_steps: int) -> float:
    """m h, which is refused where its square overflows."""
    time = n_steps * lr
    if not math.isfinite(time * time):
        raise NonFiniteError(
            f"lr: expected {n_steps} steps of a finite squared length, got {lr!r}; do lr=0.01"
        )
    return time


def _crossing(a: Landscape, b: Landscape, method: Method) -> Crossing:
    near_a = a.expand(method=method, partial=True)
    near_b = b.expand(method=method, partial=True)
    _check_shared([near_a.touched, near_b.touched])
    return Crossing(
        gradient=near_a.gradient,
        other=near_b.gradient,
        bent=near_b.product(near_a.gradient),
        other_bent=near_a.product(near_b.gradient),
    )


def _bracket(at: Crossing) -> LieBracket:
    found = minus(at.bent, at.other_bent)
    total = plus(at.gradient, at.other)
    alignments = Alignments(
        cosine(found, at.gradient), cosine(found, at.other), cosine(found, total)
    )
    return LieBracket(found, norm(found), alignments)


def _descended(task: Landscape, at: Tree, lr: float, n_steps: int) -> Tree:
    for _ in range(n_steps):
        at = plus(at, task.gradient(at, partial=True), -lr)
    return at


def _check_shared(names: Sequence[frozenset[str]]) -> None:
    """Refuse a loss that depends on no parameter of another one."""
    for place, own in enumerate(names):
        others = frozenset().union(*names[:place], *names[place + 1 :])
        if len(names) > 1 and not own & others:
            raise ValueError(
                f"losses: expected losses that share a parameter, got {min(own)!r} of number "
                f"{place} and {min(others)!r} of another, and none of both; do pass the module "
                f"that the tasks share"
            )
