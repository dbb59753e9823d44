"""Points of a Morse network: the gradient flow down to its modes, and Langevin samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geocollapse.arrays import Array
from geocollapse.estimate import GeocollapseWarning

if TYPE_CHECKING:
    from geocollapse.morse.network import MorseNetwork

AT_MODE = 0.99  # a density from which on a point counts as a mode
_MOST_STARTS = 10
_OTHER_SEED = 1_000_003  # between the seeds of starts, so that those of near seeds differ
_SMALLEST_STEP = 1e-6  # of the flow, as a share of the first one
_ACCEPTANCE = 0.574  # the best for Langevin proposals in many dimensions
_FIRST_STEP = 0.1  # of Langevin, as a share of the side of the box


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """How points are drawn.

    Attributes:
        n_steps: steps at most of the flow; steps of each chain of Langevin, of which the first half
            adapts the step size.
        tolerance: the flow ends where phi(x) is this near to the target.
    """

    n_steps: int = 500
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if self.n_steps < 1 or not self.tolerance > 0.0:
            raise ValueError(
                f"n_steps: expected at least 1, and a positive tolerance, got {self.n_steps} and "
                f"{self.tolerance}; do SampleSettings()"
            )


def starts_of(network: MorseNetwork, n: int, start: Array | None, seed: int) -> Tensor:
    """Points to start from (n, ...): those given, or uniform ones in the box of the fit.

    Raises:
        ValueError: no box to draw them from, or another number of points.
    """
    if start is not None:
        points = network.enter(start).detach()
        if n != len(points):
            raise ValueError(
                f"start: expected {n} points, got {len(points)}; do sample({len(points)})"
            )
        return points
    box = network.box
    if box is None:
        raise ValueError(
            "start: expected points, got None before the fit, which gives the box to start from; "
            "do fit first, or start=torch.randn(n, p)"
        )
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}; do sample(100)")
    return box.draw(n, torch.Generator(box.low.device).manual_seed(seed))


def potential(network: MorseNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
    """V = -log mu (n,) and its gradient (n, ...)."""
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        value = -network.log_density(points)
        (gradient,) = torch.autograd.grad(value.sum(), points)
    return value.detach(), gradient


def _half_square(network: MorseNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
    """U = ||phi(x) - a||^2/2 (n,) and its gradient (n, ...)."""
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        value = 0.5 * network.difference(points).square().sum(dim=1)
        (gradient,) = torch.autograd.grad(value.sum(), points)
    return value.detach(), gradient


def flow_to_modes(network: MorseNetwork, x: Tensor, settings: SampleSettings) -> Tensor:
    """Follow the gradient flow of V = -log mu down to its modes, from points (n, ...).

    V grows with the distance d of phi(x) to the target alone, so its flow has the path of that of
    U = d^2/2, which is followed here: x' = -grad U U/||grad U||^2, by which U falls as exp(-t). All
    kernels and scales take the same steps. Each point has its own step, halved until U falls.
    """
    step = torch.ones(len(x), dtype=x.dtype, device=x.device)
    value, gradient = _half_square(network, x)
    for _ in range(settings.n_steps):
        squared = gradient.flatten(1).square().sum(dim=1)
        is_far = value > 0.5 * settings.tolerance**2
        is_left = is_far & (squared > 0.0) & (step > _SMALLEST_STEP)
        if not bool(is_left.any()):
            break
        rate = torch.where(is_left, step * value / squared, 0.0)
        proposed = x - _as_rows(rate, x) * gradient
        new_value, new_gradient = _half_square(network, proposed)
        is_down = is_left & (new_value < value)
        x = torch.where(_as_rows(is_down, x), proposed, x)
        gradient = torch.where(_as_rows(is_down, x), new_gradient, gradient)
        value = torch.where(is_down, new_value, value)
        step = torch.where(is_left & ~is_down, step / 2.0, (2.0 * step).clamp(max=1.0))
    return x


def modes_from_box(network: MorseNetwork, n: int, settings: SampleSettings, seed: int) -> Tensor:
    """Mode points (n, ...) from uniform starts; those that end elsewhere start anew."""
    found = starts_of(network, n, None, seed)
    left = torch.ones(n, dtype=torch.bool, device=found.device)
    for again in range(_MOST_STARTS):
        if again:
            found[left] = starts_of(network, int(left.sum()), None, seed + _OTHER_SEED * again)
        found[left] = flow_to_modes(network, found[left], settings)
        left = is_away(network, found)
        if not bool(left.any()):
            break
    return found


@torch.no_grad()
def is_away(network: MorseNetwork, x: Tensor) -> Tensor:
    """True for each point that is at no mode: mu below 0.99, (n,)."""
    return network.density(x) < AT_MODE


def langevin(network: MorseNetwork, x: Tensor, settings: SampleSettings, seed: int) -> Tensor:
    """Sample mu by Metropolis-adjusted Langevin steps, one chain a point.

    Proposal x - h^2/2 grad V + h xi. Outside the box of the fit mu counts as 0. The step size h
    adapts in the first half of the steps to an acceptance of 0.574. Source: Roberts and Tweedie
    (1996); Roberts and Rosenthal (1998) for the acceptance.
    """
    generator = torch.Generator(x.device).manual_seed(seed + 1)
    box = network.box
    width = torch.ones_like(x[0]) if box is None else (box.high - box.low).to(x)
    log_step = 0.0
    value, gradient = potential(network, x)
    for number in range(settings.n_steps):
        h = _FIRST_STEP * width * 2.0**log_step
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        proposed = x - 0.5 * h.square() * gradient + h * noise
        new_value, new_gradient = potential(network, proposed)
        back = (x - proposed + 0.5 * h.square() * new_gradient) / h
        kinetic = 0.5 * (noise.square() - back.square()).flatten(1).sum(dim=1)
        log_ratio = value - new_value + kinetic
        if box is not None:
            log_ratio = torch.where(box.contains(proposed), log_ratio, -torch.inf)
        uniform = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
        is_taken = uniform.log() < log_ratio
        x = torch.where(_as_rows(is_taken, x), proposed, x)
        gradient = torch.where(_as_rows(is_taken, x), new_gradient, gradient)
        value = torch.where(is_taken, new_value, value)
        if number < settings.n_steps // 2:
            accepted = float(log_ratio.exp().clamp(max=1.0).nan_to_num().mean())
            log_step += 2.0 * (accepted - _ACCEPTANCE) / (1.0 + number) ** 0.5
    return x


def _as_rows(values: Tensor, x: Tensor) -> Tensor:
    """Values (n,) that broadcast over the rows of x (n, ...)."""
    return values.view(-1, *[1] * (x.ndim - 1))


def warn_of_far_ones(network: MorseNetwork, x: Tensor) -> None:
    """Say how many points ended away from a mode."""
    n_far = int(is_away(network, x).sum())
    if n_far:
        warnings.warn(
            f"sample: {n_far} of {len(x)} points ended where the density is below {AT_MODE}, not "
            f"at a mode; do more steps, or other starts",
            GeocollapseWarning,
            stacklevel=3,
        )
