"""Checks of a Morse network: is its set of modes a submanifold, seen by the Hessian?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.morse.network import MorseNetwork
from geocollapse.morse.sampler import SampleSettings, flow_to_modes

_FLAT = 1e-6  # eigenvalues below this share of the largest are 0
_AT_MODE = 1e-8  # of V
_STAYS = 0.9  # of a small step that a tangent direction keeps
_SETTLED = SampleSettings(n_steps=2000, tolerance=1e-12)


@dataclass(frozen=True, eq=False)
class MorseBott:
    """The Hessian of V = -log mu at a mode.

    Attributes:
        eigenvalues: of the Hessian, ascending (p,).
        n_kernel: directions in which it is 0.
        n_tangent: of these, directions in which the modes go on.
    """

    eigenvalues: Tensor
    n_kernel: int
    n_tangent: int

    @property
    def is_morse_bott(self) -> bool:
        """True where the kernel of the Hessian is the tangent space of the modes."""
        return self.n_kernel == self.n_tangent


def morse_bott(network: MorseNetwork, x: Tensor, *, step: float = 1e-2) -> MorseBott:
    """Check the Morse-Bott condition at a mode: ker Hess V = tangent space of the modes.

    At a mode Hess V = c J^T J, with J the Jacobian of phi and c the curvature of the kernel (lambda
    for ``gauss``). For each direction u of its kernel the point x + step u is brought back to the
    modes; u is tangent where it keeps nine tenths of the step. phi(x) = ||x|| - 1 passes, with
    eigenvalues (0, lambda) in the plane; phi(x) = x^2 does not: its Hessian is 0 at the one mode.
    Float64. Cost: p Hessian-vector products, p^3, and one flow of at most p points.

    Source: Bott (1954); Dherin et al. (2023).

    Args:
        network: with a kernel that is smooth at 0, not ``laplace``; its map must be twice
            differentiable, so no ReLUs, and take float64.
        x: a mode, one example (...), for instance of ``network.sample``.
        step: length of the test steps, in the unit of x.

    Raises:
        ValueError: the Laplace kernel, or a point that is no mode.

    Examples:
        >>> sphere = MorseNetwork(lambda x: x.norm(dim=1, keepdim=True) - 1.0, scale=3.0)
        >>> found = morse_bott(sphere, torch.tensor([0.6, 0.8]))
        >>> found.eigenvalues.round(decimals=6).abs(), found.is_morse_bott
        (tensor([0., 3.], dtype=torch.float64), True)
    """
    if network.kernel_function.curvature is None:
        raise ValueError(
            f"kernel: expected one that is smooth at its maximum, got {network.kernel!r}; do "
            f"kernel='gauss'"
        )
    point = x.detach().double()
    if network.enter(point).dtype != torch.float64:
        raise ValueError(
            "map: expected parameters in float64, got float32; do network.double() before"
        )
    value = -float(network.log_density(point[None]))
    if not value <= _AT_MODE:
        raise ValueError(
            f"x: expected a mode, where -log mu is 0, got -log mu = {value:.3g}; do x = "
            f"network.sample(1)[0]"
        )
    hessian = torch.autograd.functional.hessian(
        lambda flat: -network.log_density(flat.view(1, *point.shape)).sum(), point.flatten()
    )
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    scale = float(eigenvalues.abs().max())
    is_flat = eigenvalues.abs() <= _FLAT * max(scale, _FLAT)
    directions = vectors.T[is_flat]
    n_kernel = len(directions)
    n_tangent = _n_tangent(network, point, directions, step) if n_kernel else 0
    return MorseBott(eigenvalues, n_kernel, n_tangent)


def _n_tangent(network: MorseNetwork, point: Tensor, directions: Tensor, step: float) -> int:
    """How many directions (q, p) keep their step when it is brought back to the modes."""
    moved = point.flatten() + step * directions
    back = flow_to_modes(network, moved.view(-1, *point.shape), _SETTLED).flatten(1)
    kept = ((back - point.flatten()) * directions).sum(dim=1) / step
    return int((kept >= _STAYS).sum())
