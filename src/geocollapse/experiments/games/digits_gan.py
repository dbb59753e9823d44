"""A small GAN on the 8 x 8 digits of scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from geocollapse.experiments.games.turns import Losses, Players

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import GameRunConfig
    from geocollapse.experiments.results.records import GameEnd, GameLine, GanRecord

BATCH = 128  # images of a turn
LATE = 5  # records at the end whose mean squared distance is judged
WORSE = 2.0  # times the lowest squared distance
_N_PIXELS = 64
_N_NOISE = 16
_WIDTH = 64
_N_LOOKED = 2000  # images generated for a distance


class DigitsGan:
    """The zero-sum game of a discriminator and a generator, both of two hidden layers of 64 units.

        L1 = mean softplus(-D(images)) + mean softplus(D(G(noise))),  L2 = -L1

    Initial networks, images and noise are functions of the seed alone, so that games of one seed
    are paired.

    Source: Goodfellow et al. (2014) for the game; Miyato et al. (2018) for spectral normalisation;
    the networks are this project's.

    Attributes:
        players: the discriminator and the generator.
    """

    def __init__(self, config: GameRunConfig, device: torch.device | str) -> None:
        self._images = digits().to(device)
        first, second = networks(config.seed, is_spectral=config.spectral_norm)
        self.players: Players = (first.to(device), second.to(device))
        self._draws = torch.Generator().manual_seed(config.seed)
        looking = torch.Generator().manual_seed(-config.seed - 1)
        self._looked = torch.randn(_N_LOOKED, _N_NOISE, generator=looking).to(device)

    def next_losses(self) -> Losses:
        """The losses on the images and the noise of the next turn."""
        rows = torch.randint(len(self._images), (BATCH,), generator=self._draws)
        real = self._images[rows.to(self._images.device)]
        noise = torch.randn(BATCH, _N_NOISE, generator=self._draws).to(real.device)

        def of_discriminator(d: nn.Module, g: nn.Module) -> Tensor:
            value: Tensor = (F.softplus(-d(real)) + F.softplus(d(g(noise)))).mean()
            return value

        return of_discriminator, lambda d, g: -of_discriminator(d, g)

    def record(self, step: int) -> GanRecord:
        """The squared Fréchet distance of generated images, from one noise at all records."""
        del step
        with torch.no_grad():
            generated = self.players[1](self._looked)
        return {"frechet_distance": squared_frechet_distance(self._images, generated)}

    def end(self, lines: Sequence[GameLine]) -> GameEnd:
        """Diverged if the late distance is above the first, or above twice the lowest."""
        return ending([_distance(line) for line in lines])


def digits() -> Tensor:
    """The 1,797 digits of scikit-learn (n, 64), scaled to [-1, 1]."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().data).float() / 8.0 - 1.0


def networks(seed: int, *, is_spectral: bool) -> Players:
    """The discriminator and the generator, initialised from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        discriminator = nn.Sequential(*_layers(_N_PIXELS, 1))
        for layer in discriminator:
            if is_spectral and isinstance(layer, nn.Linear):
                spectral_norm(layer)
        return discriminator, nn.Sequential(*_layers(_N_NOISE, _N_PIXELS), nn.Tanh())


def _layers(n_in: int, n_out: int) -> list[nn.Module]:
    """Smooth layers, as drift takes second derivatives."""
    inner = (nn.Linear(n_in, _WIDTH), nn.Softplus(), nn.Linear(_WIDTH, _WIDTH), nn.Softplus())
    return [*inner, nn.Linear(_WIDTH, n_out)]


def squared_frechet_distance(one: Tensor, other: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians of two samples, (n, d) and (m, d).

        |m - m'|^2 + tr(C + C' - 2 (C C')^1/2)

    Infinite where a sample is not finite.

    Source: Dowson and Landau (1982).
    """
    if not bool(torch.isfinite(one).all() and torch.isfinite(other).all()):
        return math.inf
    one = one.double()
    other = other.double()
    gap = (one.mean(dim=0) - other.mean(dim=0)).square().sum()
    a = one.T.cov()
    b = other.T.cov()
    roots = torch.linalg.eigvals(a @ b).real.clamp(min=0.0).sqrt().sum()
    return float(gap + a.trace() + b.trace() - 2.0 * roots)


def ending(distances: Sequence[float]) -> GameEnd:
    """Lowest distance, late distance (the mean of the last records), and if the game diverged.

    All distances are squared.
    """
    last = distances[-LATE:]
    late = sum(last) / len(last)
    lowest = min(distances)
    return {
        "diverged": not late <= min(distances[0], WORSE * lowest),
        "lowest_frechet_distance": lowest,
        "late_frechet_distance": late,
    }


def _distance(line: GameLine) -> float:
    distance = line["frechet_distance"]
    return math.inf if distance is None else distance
