"""The supervised Morse network: a joint density of inputs and classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from geocollapse.arrays import Array, as_labels, as_tensor, check_no_negative, refuse_names
from geocollapse.estimate import GeocollapseWarning
from geocollapse.morse.density import Density, Map
from geocollapse.morse.kernels import KernelName
from geocollapse.morse.network import MorseNetwork
from geocollapse.morse.noise import Box, NoiseName
from geocollapse.morse.training import FitRecord, FitSettings, fit

LARGEST_KERNEL = 0.99  # between two targets: above it the kernel hardly tells them apart


class MorseClassifier(Density):
    """A joint density mu(x, y) = K(phi(x), t_y) of inputs and C classes.

        joint       log mu(x, y) = log K(phi(x), t_y)
        posterior   p(y|x) = mu(x, y) / sum_y' mu(x, y')
        unlabelled  mu(x) = sum_y mu(x, y)

    With the Gauss kernel p(y|x) = softmax_y(-lambda/2 ||phi(x) - t_y||^2). The posterior says which
    class, the unlabelled density whether x is like the data at all; ``ood_score`` and
    ``temperature`` take the latter, which may pass 1 by what the kernel gives other classes.
    The noise term of ``loss`` takes it too, so w means the same as in ``MorseNetwork``.

    Special case. Entropic out-of-distribution detection (Macedo et al. 2021): the Laplace kernel
    with targets as prototypes has the posterior softmax(-E_s ||phi(x) - t_y||), lambda the entropic
    scale E_s, and ``entropic_score`` is its score.

    Source: Dherin et al. (2023), "Morse Neural Networks for Uncertainty Quantification".

    Args:
        map: phi, a module or a function from inputs (n, ...) to features (n, k).
        n_classes: C, at least 2; None with ``targets``.
        kernel: ``gauss``, ``laplace``, ``cauchy`` or ``student``; see ``kernel_exponent``.
        targets: (C, k); None for the one-hot vectors e_0, ..., e_(C-1), with k = C.
        scale: lambda of the kernel, positive. At a small one the kernels of many classes overlap,
            and the unlabelled density is largest between the targets instead of at them.

    Attributes:
        targets: (C, k), a part of the ``state_dict``.
        record: how the fit went; None before.

    Raises:
        ValueError: fewer than two classes, targets that the kernel cannot tell apart (K above 0.99
            between two of them), an unknown kernel, a scale that is not positive.

    Warns:
        GeocollapseWarning: the unlabelled density is larger at the mean of the targets than at one
            of them.

    Examples:
        >>> net = MorseClassifier(torch.nn.Identity(), n_classes=2, scale=3.0)
        >>> net.posterior(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).round(decimals=2)
        tensor([[0.9500, 0.0500],
                [0.5000, 0.5000]])
    """

    targets: Tensor

    def __init__(
        self,
        map: Map,
        n_classes: int | None = None,
        kernel: KernelName = "gauss",
        targets: Array | None = None,
        scale: float = 10.0,
    ) -> None:
        super().__init__(map, kernel, scale)
        self.record: FitRecord | None = None
        found = _targets(n_classes, targets)
        self._check_apart(found)
        self.register_buffer("targets", found)
        self._warn_of_overlap()

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.targets)

    def log_density_at(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """log mu(x), or log mu(x, y) with labels, of features (n, k); (n,)."""
        if labels is None:
            return self.joint_at(features).logsumexp(dim=1)
        return -self.exponent(features - self.targets.to(features).index_select(0, labels))

    def density_at(self, features: Tensor) -> Tensor:
        """sum_y mu(x, y) of features (n, k), (n,)."""
        return self.joint_at(features).exp().sum(dim=1)

    def joint_at(self, features: Tensor) -> Tensor:
        """log mu(x, y) of features (n, k) for all classes, (n, C)."""
        return -self.exponent(features[:, None] - self.targets.to(features))

    def joint_log_density(self, x: Array) -> Tensor:
        """log mu(x, y) for all classes y, (n, C)."""
        return self.joint_at(self.features(x))

    def posterior(self, x: Array) -> Tensor:
        """p(y|x), (n, C)."""
        return self.joint_log_density(x).softmax(dim=1)

    def log_posterior(self, x: Array) -> Tensor:
        """log p(y|x), (n, C)."""
        return self.joint_log_density(x).log_softmax(dim=1)

    def entropic_score(self, x: Array) -> Tensor:
        """sum_y p(y|x) log p(y|x), the negative entropy: larger where the class is clear, (n,)."""
        log_posterior = self.log_posterior(x)
        return (log_posterior.exp() * log_posterior).sum(dim=1)

    def of_class(self, label: int) -> MorseNetwork:
        """The density mu(x, y) of one class as a network with the same map, to draw samples of."""
        network = MorseNetwork(self.map, self.kernel, self.targets[label], self.scale)
        network.low = self.low
        network.high = self.high
        return network

    def check_width(self, width: int) -> None:
        """Raise a ValueError where the map has not as many features as the targets."""
        if width != self.targets.shape[1]:
            raise ValueError(
                f"map: expected {self.targets.shape[1]} features, as the targets have, got "
                f"{width}; do a map to {self.targets.shape[1]} features"
            )

    def fit(
        self,
        x: Array,
        y: Array,
        *,
        noise: NoiseName | Array | None = "uniform",
        box: Box | Sequence[Array] | None = None,
        weight: float = 1.0,
        seed: int = 0,
        settings: FitSettings | None = None,
    ) -> Self:
        """Fit the map to labelled data by minimising ``loss``; see ``MorseNetwork.fit``.

        Args:
            x: data (n, ...).
            y: classes 0, ..., C-1, (n,).
            noise: as for ``MorseNetwork.fit``.
            box: as there.
            weight: as there.
            seed: as there.
            settings: as there.

        Raises:
            ValueError: labels outside 0..C-1 or of one class alone, and as ``MorseNetwork.fit``.

        Examples:
            >>> x = torch.tensor([[0.0], [1.0]]).repeat(100, 1)
            >>> y = torch.tensor([0, 1]).repeat(100)
            >>> net = MorseClassifier(torch.nn.Linear(1, 2), n_classes=2, scale=10.0).fit(x, y)
            >>> net.posterior(x[:2]).argmax(dim=1)
            tensor([0, 1])
        """
        self.record = fit(
            self,
            x,
            self._checked(y, len(x)),
            noise=noise,
            box=box,
            weight=weight,
            seed=seed,
            settings=settings,
        )
        return self

    def _checked(self, y: Array, n: int) -> Tensor:
        refuse_names(y, f"the numbers 0 to {self.n_classes - 1} of the targets")
        labels = as_labels(y, n)
        check_no_negative(labels, "drop the examples of class {value}")
        seen = labels.unique()
        if len(seen) < 2 or int(seen[-1]) >= self.n_classes:
            raise ValueError(
                f"y: expected at least two of the classes 0 to {self.n_classes - 1}, got "
                f"{seen.tolist()[-3:]}; do MorseNetwork for one class"
            )
        return labels

    def _check_apart(self, targets: Tensor) -> None:
        """Refuse targets between which the kernel is near 1."""
        double = targets.double()
        exponent = self.exponent(double[:, None] - double)
        exponent.fill_diagonal_(torch.inf)
        largest = float((-exponent.min()).exp())
        if largest > LARGEST_KERNEL:
            first, second = divmod(int(exponent.argmin()), len(targets))
            raise ValueError(
                f"targets: expected targets with a kernel of at most {LARGEST_KERNEL} between "
                f"them, got {largest:.4f} between classes {first} and {second}; do move them "
                f"apart, or take a scale above {self.scale:g}"
            )

    @torch.no_grad()
    def _warn_of_overlap(self) -> None:
        """Say if the unlabelled density is larger between the targets than at one of them."""
        points = torch.cat([self.targets, self.targets.mean(dim=0, keepdim=True)]).double()
        found = self.log_density_at(points)
        if bool(found[-1] >= found[:-1].min()):
            warnings.warn(
                f"scale: the kernels of {self.n_classes} classes overlap at {self.scale:g}: the "
                f"unlabelled density is larger between the targets than at them, and of no use as "
                f"an OOD score; do a larger scale",
                GeocollapseWarning,
                stacklevel=3,
            )


def _targets(n_classes: int | None, targets: Array | None) -> Tensor:
    """Targets as given, or one-hot."""
    if targets is None:
        if n_classes is None or n_classes < 2:
            raise ValueError(
                f"n_classes: expected at least 2, got {n_classes}; do MorseNetwork for one class"
            )
        return torch.eye(n_classes)
    found = as_tensor("targets", targets).clone()
    if found.ndim != 2 or not found.is_floating_point() or not bool(found.isfinite().all()):
        raise ValueError(
            f"targets: expected finite floating point numbers (C, k), got {found.dtype} of shape "
            f"{tuple(found.shape)}; do targets=torch.eye(C)"
        )
    if len(found) < 2 or n_classes not in (None, len(found)):
        raise ValueError(
            f"targets: expected one for each of at least 2 classes, got {len(found)} for "
            f"n_classes={n_classes}; do MorseNetwork for one class"
        )
    return found
