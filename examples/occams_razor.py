"""Geometric Occam's razor: does a large learning rate find the shorter curve through some points?

    python examples/occams_razor.py --figure occams_razor.png

Gradient descent fits ten points with a small and with a large learning rate, both to the same
training loss. Arc length and Dirichlet energy of the curves on [0, 1] are printed, and drawn.

Source: Dherin, Munn, Barrett (2021), arXiv 2111.15090; the network and the points are this
project's.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import geocollapse as geo

GRID = torch.linspace(0.0, 1.0, 2001).double()[:, None]
POINTS = torch.linspace(0.0, 1.0, 10).double()[:, None]


@dataclass(frozen=True)
class Fit:
    """One curve through the points.

    Attributes:
        rate: learning rate.
        steps: of gradient descent.
        loss: mean squared error on the points.
        energy: Dirichlet energy, the integral of f'^2: its geometric complexity.
        length: arc length of the graph, at most 1 + energy/2.
        curve: values of f on the grid.
    """

    rate: float
    steps: int
    loss: float
    energy: float
    length: float
    curve: Tensor


def targets(seed: int) -> Tensor:
    """Ten noisy values of a sine (10, 1)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(POINTS.shape, generator=generator, dtype=torch.float64)
    return torch.sin(2.0 * math.pi * POINTS) + 0.3 * noise


def network(seed: int) -> nn.Module:
    """A network of one variable, whose first layer has kinks all over [0, 1]."""
    torch.manual_seed(seed)
    first = nn.Linear(1, 200)
    nn.init.normal_(first.weight, std=8.0)
    nn.init.uniform_(first.bias, -8.0, 8.0)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(200, 1)).double()


def fit(rate: float, *, seed: int = 0, loss_at_end: float = 1e-3, most_steps: int = 200_000) -> Fit:
    """Gradient descent of one rate until the loss is reached."""
    f = network(seed)
    y = targets(seed)
    optimizer = torch.optim.SGD(f.parameters(), lr=rate)
    steps = 0
    loss = (f(POINTS) - y).square().mean()
    while float(loss.detach()) > loss_at_end and steps < most_steps:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        loss = (f(POINTS) - y).square().mean()
    energy = geo.geometric_complexity(f, GRID, layer="", estimator="exact").value
    curve = f(GRID).detach()
    length = float((GRID.diff(dim=0) ** 2 + curve.diff(dim=0) ** 2).sqrt().sum())
    return Fit(rate, steps, float(loss.detach()), energy, length, curve[:, 0])


def draw(fits: list[Fit], y: Tensor, path: str) -> None:
    """The curves through their points, with energy and length in the legend."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 4.0), layout="constrained")
    for one, style in zip(fits, ("-", "--"), strict=True):
        label = f"rate {one.rate:g}: energy {one.energy:.2f}, length {one.length:.3f}"
        axes.plot(GRID[:, 0], one.curve, style, label=label)
    axes.plot(POINTS[:, 0], y[:, 0], "ko", label="training points")
    axes.set_xlabel("x [input unit]")
    axes.set_ylabel("f(x) [output unit]")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Fit with both rates for each seed, print a row each, and draw the first seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs=2, default=(0.002, 0.008))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", default="")
    given = parser.parse_args()
    print("seed    rate    steps       loss   energy   length  1 + energy/2")
    for seed in range(given.seeds):
        fits = [fit(rate, seed=seed) for rate in given.rates]
        for one in fits:
            print(
                f"{seed:4d} {one.rate:7.4f} {one.steps:8d} {one.loss:10.6f} {one.energy:8.3f} "
                f"{one.length:8.4f} {1.0 + one.energy / 2.0:13.3f}"
            )
        if seed == 0 and given.figure:
            draw(fits, targets(seed), given.figure)


if __name__ == "__main__":
    main()
