"""Morse networks: an unnormalised density whose modes are the level set of a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor

from geocollapse.arrays import Array, as_tensor
from geocollapse.morse.density import Density, Map
from geocollapse.morse.kernels import KernelName
from geocollapse.morse.noise import Box, NoiseName
from geocollapse.morse.sampler import (
    SampleSettings,
    flow_to_modes,
    langevin,
    modes_from_box,
    starts_of,
    warn_of_far_ones,
)
from geocollapse.morse.training import FitRecord, FitSettings, fit


class MorseNetwork(Density):
    """An unnormalised density mu(x) = K(phi(x), a) that is 1 on the set where phi(x) = a.

    K is a kernel with K(a, a) = 1, so mu lies in (0, 1] and is largest on a submanifold, the modes,
    where a Gaussian has one point. phi may work on raw inputs, or on the embedding of a trained
    model. Fitting brings the data to the target and noise away from it; see ``loss``.

        log_density    log mu(x) = -V(x)          ood_score     1 - mu(x)
        density        mu(x)                      temperature   1/mu(x)

    Invariant to a rotation of phi and a together. Cost: one call of the map.

    Special cases. Deep SVDD (Ruff et al. 2018): the Gauss kernel, fitted with ``noise=None``, which
    leaves lambda/2 E||phi(x) - a||^2; it needs a map that cannot be constant.

    Source: Dherin et al. (2023), "Morse Neural Networks for Uncertainty Quantification".

    Args:
        map: phi, a module or a function from inputs (n, ...) to features (n, k).
        kernel: ``gauss``, ``laplace``, ``cauchy`` or ``student``; see ``kernel_exponent``.
        target: a, (k,); None for 0.
        scale: lambda of the kernel, positive.

    Attributes:
        target: (k,) or None, a part of the ``state_dict``.
        record: how the fit went; None before.

    Raises:
        ValueError: an unknown kernel, a scale that is not positive, a target that is not (k,).

    Examples:
        >>> sphere = MorseNetwork(lambda x: x.norm(dim=1, keepdim=True) - 1.0, scale=4.0)
        >>> sphere.density(torch.tensor([[0.0, 1.0], [0.6, 0.8], [0.0, 1.5]])).round(decimals=2)
        tensor([1.0000, 1.0000, 0.6100])
    """

    target: Tensor | None

    def __init__(
        self,
        map: Map,
        kernel: KernelName = "gauss",
        target: Array | Sequence[float] | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(map, kernel, scale)
        self.record: FitRecord | None = None
        self.register_buffer("target", None if target is None else self._as_target(target))

    def log_density_at(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """log mu of features (n, k), (n,); without classes there are no labels."""
        if labels is not None:
            raise ValueError(
                "labels: expected none for a MorseNetwork, got some; do MorseClassifier"
            )
        return -self.exponent(self._from_target(features))

    def difference(self, x: Array) -> Tensor:
        """phi(x) - a, (n, k)."""
        return self._from_target(self.features(x))

    def check_width(self, width: int) -> None:
        """Raise a ValueError where the map has not as many features as the target."""
        if self.target is not None and width != len(self.target):
            raise ValueError(
                f"target: expected shape ({width},), that of the features, got "
                f"({len(self.target)},); do target=torch.zeros({width})"
            )

    def fit(
        self,
        x: Array,
        *,
        noise: NoiseName | Array | None = "uniform",
        box: Box | Sequence[Array] | None = None,
        weight: float = 1.0,
        seed: int = 0,
        settings: FitSettings | None = None,
    ) -> Self:
        """Fit the map to data by minimising ``loss`` with Adam.

        A share of the data is held out; the parameters that do best on it are kept, and the fit
        stops early when they have not been beaten for a while. The global random state is left
        alone. Cost: ``n_steps`` forward and backward passes.

        Args:
            x: data (n, ...), on any device.
            noise: ``uniform`` in the box, ``gaussian`` with the data's mean and deviation in each
                coordinate, examples (m, ...) of another data set, or None for none, which lets a
                free map collapse.
            box: a pair (low, high) or a ``Box`` for uniform noise and for samples; None for the
                range of the data, a tenth wider on either side. Not with Gaussian noise, which
                leaves any box.
            weight: w of the noise. A larger one makes the density narrower.
            seed: of the held-out share, the batches and the noise.
            settings: steps, batch size, learning rate and the rest; None for ``FitSettings()``.

        Returns:
            The network itself, with its ``record`` set.

        Raises:
            ValueError: data that are empty or have NaN, noise outside a box that is given, Gaussian
                noise beside one, a weight that is not positive, a map without parameters.
            RuntimeError: the loss became infinite or NaN.

        Warns:
            GeocollapseWarning: the density is near 1 everywhere, or data lie outside the box.

        Examples:
            >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * 0.1
            >>> net = MorseNetwork(torch.nn.Linear(2, 2))
            >>> bool(net.fit(x, weight=5.0).density(torch.tensor([[5.0, 5.0]])) < 0.1)
            True
        """
        self.record = fit(
            self, x, None, noise=noise, box=box, weight=weight, seed=seed, settings=settings
        )
        return self

    def sample(
        self,
        n: int,
        method: Literal["flow", "langevin"] = "flow",
        *,
        start: Array | None = None,
        seed: int = 0,
        settings: SampleSettings | None = None,
    ) -> Tensor:
        """Draw points on the modes, or samples of mu.

        ``flow`` follows the gradient flow of V = -log mu down to mu = 1: it gives mode points, not
        samples of mu. ``langevin`` samples mu in the box of the fit (Metropolis-adjusted, one chain
        a sample); without a box mu must be integrable. Cost: two evaluations of mu and one of its
        gradient a step.

        Args:
            n: number of points.
            method: ``flow`` or ``langevin``.
            start: where to start, (n, ...); None for uniform points in the box of the fit, of which
                those that ``flow`` brings to no mode start again elsewhere, at most ten times.
            seed: of the starts and of Langevin's noise.
            settings: steps and tolerance; None for ``SampleSettings()``.

        Returns:
            Points (n, ...), detached.

        Raises:
            ValueError: neither a start nor a fitted network, or an unknown method.

        Warns:
            GeocollapseWarning: some points did not reach a mode.

        Examples:
            >>> sphere = MorseNetwork(lambda x: x.norm(dim=1, keepdim=True) - 1.0)
            >>> start = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
            >>> sphere.sample(1, start=start).round(decimals=6)
            tensor([[0.6000, 0.8000]], dtype=torch.float64)
        """
        settings = SampleSettings() if settings is None else settings
        if method == "langevin":
            return langevin(self, starts_of(self, n, start, seed), settings, seed)
        if method != "flow":
            raise ValueError(
                f"method: expected 'flow' or 'langevin', got {method!r}; do method='flow'"
            )
        if start is None:
            found = modes_from_box(self, n, settings, seed)
        else:
            found = flow_to_modes(self, starts_of(self, n, start, seed), settings)
        warn_of_far_ones(self, found)
        return found

    def _from_target(self, features: Tensor) -> Tensor:
        return features if self.target is None else features - self.target.to(features)

    @staticmethod
    def _as_target(target: Array | Sequence[float]) -> Tensor:
        given = target if not isinstance(target, Sequence) else torch.tensor(target)
        found = as_tensor("target", given).clone()
        if found.ndim != 1 or not found.is_floating_point() or not bool(found.isfinite().all()):
            raise ValueError(
                f"target: expected finite floating point numbers (k,), got {found.dtype} of shape "
                f"{tuple(found.shape)}; do target=torch.zeros(k)"
            )
        return found
