"""Noise that a Morse network is fitted against: a box, a Gaussian, or other examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from geocollapse.arrays import Array, as_tensor
from geocollapse.numerics import check_finite

NoiseName = Literal["uniform", "gaussian"]
MARGIN = 0.1  # by which the default box is wider than the data, as a share of their range


class Noise(Protocol):
    """A distribution of inputs (n, ...) that are no data."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n examples (n, ...) on the device of ``generator``."""


@dataclass(frozen=True, eq=False)
class Box:
    """A box of inputs, with uniform noise inside it.

    Attributes:
        low: the smallest value of each coordinate (...).
        high: the largest.

    Examples:
        >>> box = Box(torch.zeros(2), torch.ones(2))
        >>> box.contains(torch.tensor([[0.5, 0.5], [0.5, 1.5]]))
        tensor([ True, False])
    """

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        if self.low.shape != self.high.shape or not bool((self.low < self.high).all()):
            raise ValueError(
                f"box: expected low below high in every coordinate, got shapes "
                f"{tuple(self.low.shape)} and {tuple(self.high.shape)} with "
                f"{_not_below(self.low, self.high)}; do box=(x.amin(0) - 1, x.amax(0) + 1)"
            )

    @classmethod
    def around(cls, x: Tensor, margin: float = MARGIN) -> Box:
        """The box of the data (n, ...), wider by a share of their range on either side.

        A coordinate that is the same in all data gets the mean range of the others.
        """
        low = x.amin(dim=0)
        high = x.amax(dim=0)
        width = high - low
        varies = width > 0.0
        mean = width[varies].mean() if bool(varies.any()) else width.new_ones(())
        extra = margin * torch.where(varies, width, mean)
        return cls(low - extra, high + extra)

    def contains(self, x: Tensor) -> Tensor:
        """True for each example (n, ...) inside the box, (n,)."""
        inside = (x >= self.low) & (x <= self.high)
        return inside.flatten(1).all(dim=1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n examples (n, ...), uniform in the box."""
        shape = (n, *self.low.shape)
        uniform = torch.rand(
            shape, generator=generator, dtype=self.low.dtype, device=generator.device
        )
        return torch.lerp(self.low, self.high, uniform)

    def to(self, like: Tensor) -> Box:
        """This box in the dtype and on the device of ``like``."""
        return Box(self.low.to(like), self.high.to(like))


@dataclass(frozen=True, eq=False)
class GaussianNoise:
    """Gaussian noise with independent coordinates.

    Attributes:
        mean: of each coordinate (...).
        std: the standard deviation of each.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def like(cls, x: Tensor) -> GaussianNoise:
        """Gaussian noise with the mean and standard deviation of each coordinate of the data."""
        return cls(x.mean(dim=0), x.std(dim=0))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n examples (n, ...)."""
        shape = (n, *self.mean.shape)
        normal = torch.randn(
            shape, generator=generator, dtype=self.mean.dtype, device=generator.device
        )
        return torch.addcmul(self.mean, self.std, normal)


@dataclass(frozen=True, eq=False)
class ExampleNoise:
    """Examples of another data set as noise, drawn with replacement.

    Attributes:
        examples: (m, ...).
    """

    examples: Tensor

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n of the examples."""
        rows = torch.randint(len(self.examples), (n,), generator=generator, device=generator.device)
        return self.examples[rows.to(self.examples.device)]


def as_box(box: Box | Sequence[Array], x: Tensor) -> Box:
    """Return ``box``, a ``Box`` or a pair (low, high) of the shape of one example of ``x``.

    Raises:
        ValueError: another shape, or a low end that is not below the high end.
    """
    if not isinstance(box, Box):
        low, high = (as_tensor("box", end) for end in box)
        box = Box(low, high)
    if box.low.shape != x.shape[1:]:
        raise ValueError(
            f"box: expected ends of shape {tuple(x.shape[1:])}, that of one example, got "
            f"{tuple(box.low.shape)}; do box=(x.amin(0), x.amax(0))"
        )
    return box.to(x)


def as_noise(noise: NoiseName | Array, x: Tensor, box: Box) -> Noise:
    """Return the noise that ``noise`` asks for beside the data x (n, ...).

    Raises:
        ValueError: an unknown name; examples of another shape, with NaN, or outside the box.
    """
    if isinstance(noise, str):
        if noise == "uniform":
            return box
        if noise == "gaussian":
            return GaussianNoise.like(x)
        raise ValueError(
            f"noise: expected 'uniform', 'gaussian' or examples (m, ...), got {noise!r}; do "
            f"noise='uniform'"
        )
    examples = as_tensor("noise", noise).to(x)
    if examples.shape[1:] != x.shape[1:] or len(examples) == 0:
        raise ValueError(
            f"noise: expected examples of shape (m, {', '.join(map(str, x.shape[1:]))}), got "
            f"{tuple(examples.shape)}; do take noise of the shape of the data"
        )
    check_finite("noise", examples)
    return ExampleNoise(examples)


def check_inside(noise: Noise, box: Box) -> None:
    """Refuse noise that leaves a box that was given.

    Raises:
        ValueError: Gaussian noise, which leaves any box, or counts the examples outside.
    """
    if isinstance(noise, GaussianNoise):
        raise ValueError(
            "noise: expected 'uniform' or examples beside a box, got 'gaussian', which is drawn "
            "outside of it too; do leave the box out"
        )
    if not isinstance(noise, ExampleNoise):
        return
    outside = int((~box.contains(noise.examples)).sum())
    if outside:
        raise ValueError(
            f"noise: expected examples inside the box, got {outside} of {len(noise.examples)} "
            f"outside; do drop them, or make the box wider"
        )


def _not_below(low: Tensor, high: Tensor) -> str:
    if low.shape != high.shape:
        return "different shapes"
    count = int((~(low < high)).sum())
    return f"low not below high in {count} of {math.prod(low.shape)} coordinates"
