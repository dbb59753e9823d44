"""Geometric Occam's razor: does a large learning rate find the shorter curve through some points?

    python examples/occams_razor.py --figure occams_razor.png
    python examples/occams_razor.py --json > docs/figures/occams_razor.json

Gradient descent fits ten points with a small and with a large learning rate, both to the same
training loss. Arc length and Dirichlet energy of the curves on [0, 1] are printed, and drawn; with
--json they are printed as one object. About a minute of one thread; --loss 0.05 takes seconds.

Source: Dherin, Munn, Barrett (2021), arXiv 2111.15090; the network and the points are this
project's.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

import geocollapse as geo

GRID = torch.linspace(0.0, 1.0, 2001).double()[:, None]
POINTS = torch.linspace(0.0, 1.0, 10).double()[:, None]


@dataclass(frozen=True)
class Fit:
    """One curve through the points.

    Attributes:
        seed: of the network and the noise of the points.
        rate: learning rate.
        steps: of gradient descent.
        loss: mean squared error on the points.
        energy: Dirichlet energy, the integral of f'^2: its geometric complexity.
        length: arc length of the graph, at most 1 + energy/2.
        curve: values of f on the grid.
    """

    seed: int
    rate: float
    steps: int
    loss: float
    energy: float
    length: float
    curve: Tensor

    def numbers(self) -> dict[str, float]:
        """All but the curve, by name."""
        return {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "curve"
        }


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
    """Gradient descent of one rate until the loss is reached.

    Raises:
        RuntimeError: it is not reached, so that curves of two rates could not be compared.
    """
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
    if not float(loss.detach()) <= loss_at_end:
        raise RuntimeError(
            f"loss: expected at most {loss_at_end:g} after {most_steps} steps of rate {rate:g}, "
            f"got {float(loss.detach()):g}; do --loss with a larger one, or another rate"
        )
    energy = geo.geometric_complexity(f, GRID, layer="", estimator="exact").value
    curve = f(GRID).detach()
    length = float((GRID.diff(dim=0) ** 2 + curve.diff(dim=0) ** 2).sqrt().sum())
    return Fit(seed, rate, steps, float(loss.detach()), energy, length, curve[:, 0])


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


def table(fits: list[Fit]) -> str:
    """A row for each fit, in columns."""
    rows = ["seed    rate    steps       loss   energy   length  1 + energy/2"]
    rows += [
        f"{one.seed:4d} {one.rate:7.4f} {one.steps:8d} {one.loss:10.6f} {one.energy:8.3f} "
        f"{one.length:8.4f} {1.0 + one.energy / 2.0:13.3f}"
        for one in fits
    ]
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> None:
    """Fit with both rates for each seed, print a row each, and draw the first seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs=2, default=(0.002, 0.008))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--loss", type=float, default=1e-3, help="at which every fit ends")
    parser.add_argument("--figure", default="")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds: expected at least 1, got {given.seeds}; do --seeds 3")
    fits = [
        fit(rate, seed=seed, loss_at_end=given.loss)
        for seed in range(given.seeds)
        for rate in given.rates
    ]
    if given.json:
        content = {"loss_at_end": given.loss, "fits": [one.numbers() for one in fits]}
        print(json.dumps(content, indent=1))
    else:
        print(table(fits))
    if given.figure:
        draw(fits[:2], targets(0), given.figure)


if __name__ == "__main__":
    main()
