"""A Morse network as a detector on features: built, fitted, and applied in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels, as_features, as_labels
from geocollapse.modules.borrow import in_mode
from geocollapse.morse.classifier import MorseClassifier
from geocollapse.morse.density import Density
from geocollapse.morse.kernels import KernelName
from geocollapse.morse.maps import dense_map
from geocollapse.morse.network import MorseNetwork
from geocollapse.morse.noise import NoiseName
from geocollapse.morse.training import FitSettings
from geocollapse.numerics import check_finite

_AT_A_TIME = 1 << 22  # numbers of the differences to all targets that are held together


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """The network that is fitted on features.

    Attributes:
        kernel: of ``kernel_exponent``.
        scale: lambda; the default keeps the kernels of up to about 100 one-hot targets apart.
        hidden: widths of the hidden layers of the map; none is a linear map.
        n_outputs: k of a detector without labels.
        noise: ``uniform``, ``gaussian`` or examples.
        weight: w of the noise.
        seed: of weights, batches and noise.
        fit: steps, batch size and learning rate.
    """

    kernel: KernelName = "gauss"
    scale: float = 10.0
    hidden: Sequence[int] = ()
    n_outputs: int = 16
    noise: NoiseName | Array = "uniform"
    weight: float = 1.0
    seed: int = 0
    fit: FitSettings = field(default_factory=FitSettings)


def fit_detector(
    features: Array, labels: Labels | None = None, settings: DetectorSettings | None = None
) -> MorseNetwork | MorseClassifier:
    """Fit a Morse network on features, on top of a dense map that standardises them.

    With labels it is a ``MorseClassifier``, which on the embedding of a trained classifier detects
    other data far better than a ``MorseNetwork``: collapsed classes are what tells them apart.

    Args:
        features: (n, p).
        labels: (n,) classes, any integers or names, numbered in their order; None for none.
        settings: kernel, map, noise and fit; None for ``DetectorSettings()``.

    Raises:
        TypeError, ValueError: as ``MorseNetwork.fit`` and ``MorseClassifier.fit``.

    Examples:
        >>> x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
        >>> found = fit_detector(x + 5.0, (x[:, 0] > 0).long())
        >>> bool(outlier_scores(found, x - 5.0).min() > outlier_scores(found, x + 5.0).median())
        True
    """
    settings = DetectorSettings() if settings is None else settings
    x = as_features(features).float()
    check_finite("features", x)
    classes = None if labels is None else as_labels(labels, len(x)).unique(return_inverse=True)
    n_outputs = settings.n_outputs if classes is None else max(2, len(classes[0]))
    map = dense_map(x.shape[1], n_outputs, hidden=settings.hidden, like=x, seed=settings.seed).to(
        x.device
    )
    if classes is None:
        network = MorseNetwork(map, settings.kernel, scale=settings.scale)
        return network.fit(
            x,
            noise=settings.noise,
            weight=settings.weight,
            seed=settings.seed,
            settings=settings.fit,
        ).eval()
    classifier = MorseClassifier(map, n_outputs, settings.kernel, scale=settings.scale)
    return (
        classifier.to(x.device)
        .fit(
            x,
            classes[1],
            noise=settings.noise,
            weight=settings.weight,
            seed=settings.seed,
            settings=settings.fit,
        )
        .eval()
    )


@torch.no_grad()
def outlier_scores(network: Density, x: Array) -> Tensor:
    """-log mu(x) of any number of examples, in pieces and without gradients, (n,) in float64.

    It orders examples as the score 1 - mu, which rounds to 1 far from the data.

    Raises:
        ValueError: NaN among the examples, or features of another width.
    """
    inputs = network.enter(x)
    check_finite("x", inputs)
    targets = network.targets.numel() if isinstance(network, MorseClassifier) else 1
    size = max(1, min(4096, _AT_A_TIME // targets))
    with in_mode(network, training=False):
        found = [-network.log_density(part).double() for part in inputs.split(size)]
    return torch.cat(found)
