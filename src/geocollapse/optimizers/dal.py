"""Gradient descent whose rate follows from the curvature along the gradient."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from geocollapse.estimate import GeocollapseWarning
from geocollapse.modules.second_derivatives import is_cut, twice_differentiable
from geocollapse.optimizers.corridor import check_loss, check_squares
from geocollapse.optimizers.groups import (
    Closure,
    Parameters,
    check_gradients,
    check_setting,
    descend,
    number_of,
    squared_norm,
    trained,
    uses_foreach,
)


class DAL(torch.optim.Optimizer):
    """Gradient descent with a rate from the curvature along the gradient (drift-adjusted learning).

        theta <- theta - h g,  h = min(2/||H g^||^p, max_lr),  g = grad E, g^ = g/||g||

    At p = 1, h is at least 2/|lambda|_max, the edge of stability: on a quadratic of one dimension
    x -> -x for ever. p < 1 raises the rate further where ||H g^|| > 1, and can diverge; ``max_lr``
    then holds it. At p = 1 the step does not change with E -> c E; otherwise it does. Cost: a
    gradient with its graph and one Hessian-vector product at every m-th step, about three
    gradients; SGD's step otherwise, at the rate of the last product.

    Source: Rosca, Wu, Qin, Dherin (2023), arXiv 2302.01952, the drift adjusted
    learning rate (DAL, DAL-p).

    Args:
        params: parameters, named parameters, or groups of them with settings of their own.
        p: the power of ||H g^||.
        max_lr: the largest rate; None for no limit.
        every: Hessian-vector products at every m-th step.
        foreach: update all tensors at once; None: on a GPU.

    Attributes:
        param_groups: ``lr`` of each is the rate of its last step and ``curvature`` the last
            ||H g^||; they are read, not set.

    Raises:
        ValueError: a setting outside its range; a loss that is not 0-d, NaN or infinite, before any
            parameter has changed.
        RuntimeError: a closure that frees the graph, a sparse gradient, none at a parameter that
            requires one (freeze what the loss does not depend on), gradients that are NaN or
            infinite, no curvature and no ``max_lr``.
        NotImplementedError: an operation without a second derivative.

    Warns:
        GeocollapseWarning: no step, since the gradient is zero; once.

    Examples:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, 0.0]))
        >>> optimizer = DAL([x])
        >>> _ = optimizer.step(lambda: 2.0 * x.square().sum())
        >>> x.tolist(), optimizer.param_groups[0]["lr"]
        ([-3.0, 0.0], 0.5)
    """

    def __init__(
        self,
        params: Parameters,
        *,
        p: float = 1.0,
        max_lr: float | None = 5.0,
        every: int = 1,
        foreach: bool | None = None,
    ) -> None:
        check_setting("p", p, default="1.0")
        check_setting("max_lr", max_lr, default="5.0")
        if every < 1:
            raise ValueError(
                f"every: expected a number of steps of at least 1, got {every}; do every=1"
            )
        defaults = {"lr": 0.0, "p": p, "max_lr": max_lr, "every": every, "foreach": foreach}
        super().__init__(params, {**defaults, "curvature": None, "n_steps": 0})
        self._has_said = False

    @torch.no_grad()
    def step(self, closure: Closure) -> Tensor:  # type: ignore[override]
        """Move the parameters, and return the loss.

        Args:
            closure: computes the loss and returns it with its graph: it does not call ``backward``.
                The gradients are written to ``.grad``.
        """
        first = self.param_groups[0]
        named = trained(self.param_groups)
        foreach = uses_foreach(self.param_groups)
        is_due = first["curvature"] is None or first["n_steps"] % first["every"] == 0
        with torch.enable_grad():
            loss, squares, curvature = _differentiated(closure, named, is_due, foreach)
        curvature = first["curvature"] if curvature is None else curvature
        n_steps = first["n_steps"] + 1
        rates = []
        for group in self.param_groups:
            rates.append(self._rate(squares, curvature, group))  # before any parameter moves
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["curvature"] = curvature
            group["n_steps"] = n_steps
            group["lr"] = rate
            if rate > 0.0:
                descend(group["params"], rate, foreach=foreach)
        return loss

    def _rate(self, squares: float, curvature: float | None, group: dict[str, object]) -> float:
        """h of a group; 0 at a stationary point."""
        if squares == 0.0 or curvature is None:
            if not self._has_said:
                self._has_said = True
                note = "DAL: no step, as the gradient is zero; do stop, or look at the loss"
                warnings.warn(note, GeocollapseWarning, stacklevel=5)
            return 0.0
        largest = number_of(group, "max_lr")
        power = curvature ** number_of(group, "p")
        if power == 0.0 and math.isinf(largest):
            raise RuntimeError(
                "max_lr: expected a limit where the loss has no curvature along its gradient, got "
                "None; do max_lr=5.0"
            )
        return largest if power == 0.0 else min(2.0 / power, largest)


def _differentiated(
    closure: Closure, named: Sequence[tuple[str, Tensor]], is_due: bool, foreach: bool
) -> tuple[Tensor, float, float | None]:
    """The loss, ||g||^2 and, where it is due, ||H g^||; g is written to the parameters."""
    parameters = [parameter for _, parameter in named if parameter.requires_grad]
    if is_due:
        with twice_differentiable():
            loss = closure()
            gradients = _gradients(loss, parameters, keeps_graph=True)
    else:
        loss = closure()
        gradients = _gradients(loss, parameters, keeps_graph=False)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.detach()
    check_gradients(named, "freeze what the loss does not depend on, or leave it out")
    found = [gradient for gradient in gradients if gradient is not None]
    squares = float(squared_norm([g.detach() for g in found], foreach=foreach))
    check_squares(squares)
    if not is_due or squares == 0.0:
        return loss.detach(), squares, None
    direction = [g.detach() / math.sqrt(squares) for g in found]
    curved = _along(found, parameters, direction)
    curvature = math.sqrt(float(squared_norm(curved, foreach=foreach))) if curved else 0.0
    check_squares(curvature)
    return loss.detach(), squares, curvature


def _gradients(
    loss: object, parameters: Sequence[Tensor], *, keeps_graph: bool
) -> Sequence[Tensor | None]:
    check_loss(loss)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise RuntimeError(
            "closure: expected a loss with its graph, got one without; do return the loss itself, "
            "without detach() or item()"
        )
    one = torch.ones_like(loss, requires_grad=keeps_graph)
    try:
        return torch.autograd.grad(
            loss, list(parameters), one, create_graph=keeps_graph, allow_unused=True
        )
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise RuntimeError(
            "closure: expected a loss whose graph is kept, got one that backward() has freed; do "
            "return the loss without loss.backward()"
        ) from error


def _along(
    gradients: Sequence[Tensor], parameters: Sequence[Tensor], direction: Sequence[Tensor]
) -> list[Tensor]:
    """H v for a direction v of the parameters that have gradients."""
    if is_cut(*gradients):
        raise NotImplementedError(
            "closure: expected a loss with second derivatives, got an operation that is "
            "once_differentiable; do use Corridor or torch.optim.SGD"
        )
    rows = torch.autograd.grad(
        list(gradients), list(parameters), list(direction), allow_unused=True
    )
    return [row for row in rows if row is not None]
