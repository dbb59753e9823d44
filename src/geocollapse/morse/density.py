"""What Morse networks with and without classes share: a map, a kernel, densities and scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from geocollapse.arrays import Array, as_tensor
from geocollapse.morse.kernels import Kernel, KernelName, find_kernel
from geocollapse.morse.noise import Box

Map = nn.Module | Callable[[Tensor], Tensor]


class Density(nn.Module, ABC):
    """An unnormalised density mu(x) from a map phi and a kernel K; see ``MorseNetwork``.

    Attributes:
        map: phi, from inputs (n, ...) to features (n, k).
        kernel: the name of K.
        scale: lambda of the kernel.
        low: lower end of the box of the data (...), once fitted; a part of the ``state_dict``.
        high: its upper end.
    """

    low: Tensor | None
    high: Tensor | None

    def __init__(self, map: Map, kernel: KernelName, scale: float) -> None:
        super().__init__()
        find_kernel(kernel, scale)
        self.map = map
        self.kernel: KernelName = kernel
        self.scale = float(scale)
        self.register_buffer("low", None)
        self.register_buffer("high", None)

    @abstractmethod
    def log_density_at(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """log mu of features (n, k): jointly with ``labels`` (n,), where given and known; (n,)."""

    def density_at(self, features: Tensor) -> Tensor:
        """mu of features (n, k), (n,)."""
        return self.log_density_at(features).exp()

    def log_density(self, x: Array) -> Tensor:
        """log mu(x), at most 0 without classes, (n,); differentiable in tensors.

        Detectors should rank examples by it: 1 - mu rounds to 1 far from the data.
        """
        return self.log_density_at(self.features(x))

    def density(self, x: Array) -> Tensor:
        """mu(x), near 1 on the data, (n,)."""
        return self.log_density(x).exp()

    def ood_score(self, x: Array) -> Tensor:
        """1 - mu(x), near 1 far from the data, (n,)."""
        return -torch.expm1(self.log_density(x))

    def temperature(self, x: Array) -> Tensor:
        """1/mu(x), the temperature by which a classifier's logits at x are divided, (n,).

        At least 1 without classes, and infinite where mu underflows.
        """
        return (-self.log_density(x)).exp()

    def forward(self, x: Array) -> Tensor:
        """log mu(x), (n,)."""
        return self.log_density(x)

    def features(self, x: Array) -> Tensor:
        """phi(x), (n, k).

        Raises:
            ValueError: the map gives another shape.
        """
        return self._mapped(self.enter(x))

    def _mapped(self, inputs: Tensor) -> Tensor:
        """phi of inputs as the map takes them, (n, k), checked."""
        found = self.map(inputs)
        if found.ndim != 2 or len(found) != len(inputs):
            raise ValueError(
                f"map: expected features (n, k) of n = {len(inputs)} examples, got shape "
                f"{tuple(found.shape)}; do end it with flatten(1), or unsqueeze(1) for one feature"
            )
        self.check_width(found.shape[1])
        return found

    def check_width(self, width: int) -> None:
        """Raise a ValueError where features of this width do not fit the targets."""

    def enter(self, x: Array) -> Tensor:
        """Inputs as a tensor, in the dtype and on the device of the map's parameters."""
        tensor = x if isinstance(x, Tensor) else as_tensor("x", x)
        reference = self.reference()
        return tensor if reference is None else tensor.to(reference.device, reference.dtype)

    def reference(self) -> Tensor | None:
        """The first floating point parameter or buffer of the map, if it has one."""
        if not isinstance(self.map, nn.Module):
            return None
        tensors = (*self.map.parameters(), *self.map.buffers())
        return next((tensor for tensor in tensors if tensor.is_floating_point()), None)

    @property
    def box(self) -> Box | None:
        """The box of the data that the network was fitted on; None before."""
        return None if self.low is None or self.high is None else Box(self.low, self.high)

    def keep_box(self, box: Box) -> None:
        """Remember the box, from which samples start."""
        self.low = box.low.detach().clone()
        self.high = box.high.detach().clone()

    def exponent(self, difference: Tensor) -> Tensor:
        """-log K of differences (..., k) to a target, (...)."""
        return self.kernel_function.exponent(difference, self.scale)

    @property
    def kernel_function(self) -> Kernel:
        """The kernel K."""
        return find_kernel(self.kernel, self.scale)

    def loss(
        self,
        x: Array,
        noise: Array | None = None,
        *,
        labels: Tensor | None = None,
        weight: float = 1.0,
    ) -> Tensor:
        """The fitting loss of one batch, to be minimised over the map.

            E_data[-log mu(x)] + w E_noise[mu(z)]          with labels: E_data[-log mu(x, y)]

        The Kullback-Leibler divergence of unnormalised measures, from data of density p to mu
        weighted by w times the noise q, up to a constant. A map of unlimited capacity reaches
        mu = min(1, p/(w q)). One call of the map, on data and noise together.

        Source: Dherin et al. (2023).

        Args:
            x: data (n, ...).
            noise: (m, ...), or None for the first term alone, which is 0 for a map that is constant
                at the target: with the Gauss kernel it is Deep SVDD (Ruff et al. 2018), lambda/2
                E||phi(x) - a||^2.
            labels: (n,) classes of a ``MorseClassifier``.
            weight: w of the noise, positive.

        Returns:
            The loss, a differentiable 0-d tensor.
        """
        z = None if noise is None else self.enter(noise)
        return self.loss_at(self.enter(x), z, labels=labels, weight=weight)

    def loss_at(
        self, x: Tensor, noise: Tensor | None, *, labels: Tensor | None, weight: float
    ) -> Tensor:
        """``loss`` of tensors as the map takes them."""
        if noise is None:
            return -self.log_density_at(self._mapped(x), labels).mean()
        of_data, of_noise = self._mapped(torch.cat([x, noise])).split([len(x), len(noise)])
        penalty = self.density_at(of_noise).mean()
        return weight * penalty - self.log_density_at(of_data, labels).mean()

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *rest: object
    ) -> None:
        """Take the box also where there is none yet."""
        for name in ("low", "high"):
            found = state_dict.get(f"{prefix}{name}")
            setattr(self, name, None if found is None else found.detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *rest)
