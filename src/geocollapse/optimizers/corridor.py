"""Gradient descent with the corridor learning rate."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from geocollapse.estimate import GeocollapseWarning
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


class Corridor(torch.optim.Optimizer):
    """Gradient descent with the corridor learning rate, which needs no tuning.

        theta <- theta - h g,  h = min((E - f*)_+ / (||g||^2 + eps), max_lr),  g = grad E

    Where the loss falls linearly along the gradient flow (a corridor, H g = 0), one step reaches
    f*. On c |x|^k each step multiplies x by 1 - 1/k. The step does not change with E -> c E (f* and
    eps 0). Without momentum it is Polyak's step on a batch: SPS with c = 1 and no smoothing, and
    ALI-G. With f* below the reachable loss it does not converge but cycles: give ``max_lr`` or
    ``f_star``. The norm runs over all groups. Cost: SGD's step, the norm of the gradient, and one
    wait for an accelerator. In several processes, pass the loss averaged over them, as the
    gradients are.

    Source: Dherin, Rosca (2024), arXiv 2402.08818, the corridor learning rate; Loizou et al.
    (2021), arXiv 2002.10542 (SPS); Berrada et al. (2020), arXiv 1906.05661 (ALI-G).

    Args:
        params: parameters, named parameters, or groups of them with settings of their own.
        f_star: the smallest loss that can be reached.
        max_lr: the largest rate; None for no limit.
        eps: added to ||g||^2.
        foreach: update all tensors at once; None: on a GPU.

    Attributes:
        param_groups: ``lr`` of each is the rate of its last step; it is read, not set, so that
            schedulers change nothing.

    Raises:
        ValueError: a negative setting; a loss that is missing, not 0-d, NaN or infinite, before any
            parameter has changed.
        RuntimeError: a sparse gradient, none at a parameter that requires one (freeze what the loss
            does not depend on), or gradients that are NaN or infinite.

    Warns:
        GeocollapseWarning: no step, since the gradient is zero or the loss is below ``f_star``;
            once for each of them.

    Examples:
        >>> x = torch.nn.Parameter(torch.tensor([4.0]))
        >>> optimizer = Corridor([x])
        >>> loss = x.square().sum()
        >>> loss.backward()
        >>> _ = optimizer.step(loss=loss)
        >>> x.item(), optimizer.param_groups[0]["lr"]
        (2.0, 0.25)
    """

    def __init__(
        self,
        params: Parameters,
        *,
        f_star: float = 0.0,
        max_lr: float | None = None,
        eps: float = 0.0,
        foreach: bool | None = None,
    ) -> None:
        if not math.isfinite(f_star):
            raise ValueError(f"f_star: expected a finite loss, got {f_star}; do f_star=0.0")
        check_setting("max_lr", max_lr, default="1.0")
        check_setting("eps", eps, default="0.0")
        defaults = {"lr": 0.0, "f_star": f_star, "max_lr": max_lr, "eps": eps, "foreach": foreach}
        super().__init__(params, defaults)
        self._said: set[str] = set()

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Closure | None = None, *, loss: Tensor | float | None = None
    ) -> Tensor | float:
        """Move the parameters, and return the loss.

        Args:
            closure: clears the gradients, computes the loss, calls ``backward`` and returns the
                loss.
            loss: instead of a closure, the loss whose gradients the parameters hold.
        """
        if (closure is None) == (loss is None):
            raise ValueError(
                f"loss: expected either a closure or a loss, got "
                f"{'none' if closure is None else 'both'}; do loss.backward(), then "
                f"optimizer.step(loss=loss)"
            )
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        value = check_loss(loss)
        named = trained(self.param_groups)
        check_gradients(
            named, "loss.backward() before the step, and freeze what the loss does not depend on"
        )
        foreach = uses_foreach(self.param_groups)
        gradients = [p.grad for _, p in named if p.grad is not None]
        squares = float(squared_norm(gradients, foreach=foreach))
        check_squares(squares)
        for group in self.param_groups:
            group["lr"] = self._rate(value, squares, group)
            if group["lr"] > 0.0:
                descend(group["params"], group["lr"], foreach=foreach)
        return value if loss is None else loss

    def _rate(self, value: float, squares: float, group: dict[str, object]) -> float:
        """h of a group; 0 where there is nothing to follow or to gain."""
        above = value - number_of(group, "f_star")
        if squares == 0.0:
            self._say("the gradient is zero", "look at the loss, which no parameter changes here")
            return 0.0
        if above < 0.0:
            self._say(
                f"the loss {value:.4g} is below f_star = {number_of(group, 'f_star'):.4g}",
                "set f_star to the smallest loss that can be reached",
            )
            return 0.0
        return min(above / (squares + number_of(group, "eps")), number_of(group, "max_lr"))

    def _say(self, reason: str, remedy: str) -> None:
        """Warn of a step that is not taken, once for each remedy."""
        if remedy in self._said:
            return
        self._said.add(remedy)
        note = f"Corridor: no step, as {reason}; do {remedy}"
        warnings.warn(note, GeocollapseWarning, stacklevel=6)


def check_loss(loss: object) -> float:
    """Return the loss of a step as a number.

    Raises:
        TypeError: no number.
        ValueError: not 0-d, NaN or infinite.
    """
    if not isinstance(loss, Tensor | float | int):
        raise TypeError(
            f"loss: expected the loss of the batch, got {type(loss).__name__}; do return loss from "
            f"the closure"
        )
    if isinstance(loss, Tensor) and loss.ndim != 0:
        raise ValueError(
            f"loss: expected a 0-d tensor, got shape {tuple(loss.shape)}; do loss.mean()"
        )
    value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
    if not math.isfinite(value):
        raise ValueError(
            f"loss: expected a finite number, got {value}; do look for NaN in the batch and the "
            f"parameters, which are as before this step"
        )
    return value


class NonFiniteGradientError(RuntimeError):
    """A gradient with NaN or infinity; no parameter has changed."""


def check_squares(squares: float) -> None:
    """Refuse gradients with NaN or infinity.

    Raises:
        NonFiniteGradientError: with the remedy.
    """
    if not math.isfinite(squares):
        raise NonFiniteGradientError(
            f"parameters: expected finite gradients, got a squared norm of {squares}; do look for "
            f"overflow, or skip this batch; the parameters are as before this step"
        )
