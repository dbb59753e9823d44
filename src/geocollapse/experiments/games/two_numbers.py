"""Games of two numbers with their equilibrium at 0: the bilinear game and the Dirac GAN."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geocollapse.dynamics import Convention, NonFiniteError, flow, game
from geocollapse.dynamics.trees import Field, Tree
from geocollapse.experiments.games.turns import Losses, Players, turn_of

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import GameRunConfig
    from geocollapse.experiments.results.records import GameEnd, GameLine, NumbersRecord

DAMPING = 0.09  # e of the bilinear game
_CONVENTIONS: tuple[Convention, ...] = ("joint", "per_player")


class Number(nn.Module):
    """A player of one number, (1,) in float64."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value], dtype=torch.float64))

    def forward(self) -> Tensor:
        """The number."""
        return self.value


class TwoNumbers:
    """A game of two numbers, and the flows that start where it starts.

        bilinear:   L1 = e x^2/2 - x y,          L2 = e y^2/2 + x y,   so that
                    x' = -e x + y,               y' = -x - e y
        dirac-gan:  L1 = softplus(-x y),         L2 = -L1, with the slope x of the discriminator
                    and the point y of the generator

    The flow of the game and, unless drift is cancelled, the modified flow in both conventions are
    followed with one Runge-Kutta step a turn; where a flow diverges, its distances are NaN.

    Source: Rosca, Wu, Dherin, Barrett (2021), arXiv 2105.13922; Mescheder, Geiger, Nowozin (2018)
    for the Dirac GAN.

    Attributes:
        players: two `Number`.
    """

    def __init__(self, config: GameRunConfig, device: torch.device | str) -> None:
        x, y = _start(config)
        self.players: Players = (Number(x).to(device), Number(y).to(device))
        self._losses = _LOSSES[config.game]
        self._turn = turn_of(config)
        self._is_plain = config.cancel == "none" or config.cancel_weight == 0.0
        self._led: dict[str, Tree] = {}
        self._time = 0

    def next_losses(self) -> Losses:
        """The losses of a turn, which are those of every turn."""
        return self._losses

    def record(self, step: int) -> NumbersRecord:
        """Distances of the game and of its flows after ``step`` turns."""
        with game(*self.players, *self._losses) as duel:
            here = {name: value.clone() for name, value in duel.point.items()}
            fields: dict[str, Field] = {"flow": duel.field(self._turn)}
            for convention in _CONVENTIONS if self._is_plain else ():
                fields[convention] = duel.modified_field(self._turn, convention)
            self._follow(fields, here, step)
        found = {"distance": _size(here)}
        for name, at in self._led.items():
            away = _size(at)
            found[f"{name}_distance"] = away
            if step:  # at the start all are in one place
                gap = _size({key: here[key] - at[key] for key in here})
                found[f"{name}_gap"] = gap if math.isfinite(away) else math.nan
        return found  # type: ignore[return-value]  # its keys are made above

    def end(self, lines: Sequence[GameLine]) -> GameEnd:
        """The game has diverged if it ends farther from its equilibrium than it began."""
        first = lines[0]["distance"]
        last = lines[-1]["distance"]
        return {"diverged": first is None or last is None or last > first}

    def _follow(self, fields: Mapping[str, Field], start: Tree, step: int) -> None:
        """Follow each flow up to the time ``step``; one turn is the time 1."""
        elapsed = step - self._time
        for name, field in fields.items():
            at = self._led.setdefault(name, start)
            if elapsed:
                self._led[name] = _followed(field, at, elapsed)
        self._time = step


def _followed(field: Field, start: Tree, time: int) -> Tree:
    """The end of a flow, with one step a unit of time; NaN where it diverges."""
    try:
        return flow(field, start, time, n_steps=time)
    except NonFiniteError:
        return {name: torch.full_like(value, math.nan) for name, value in start.items()}


def _start(config: GameRunConfig) -> tuple[float, float]:
    """(1, 1) of the Dirac GAN; a point of the unit circle, drawn by the seed, of the other."""
    if config.game == "dirac-gan":
        return 1.0, 1.0
    draws = torch.Generator().manual_seed(config.seed)
    angle = 2.0 * math.pi * float(torch.rand((), generator=draws))
    return math.cos(angle), math.sin(angle)


def _size(at: Tree) -> float:
    return float(torch.cat([value.reshape(-1) for value in at.values()]).norm())


def _bilinear_1(x: nn.Module, y: nn.Module) -> Tensor:
    loss: Tensor = (0.5 * DAMPING * x().square() - x() * y()).sum()
    return loss


def _bilinear_2(x: nn.Module, y: nn.Module) -> Tensor:
    loss: Tensor = (0.5 * DAMPING * y().square() + x() * y()).sum()
    return loss


def _dirac_1(x: nn.Module, y: nn.Module) -> Tensor:
    return F.softplus(-x() * y()).sum()


def _dirac_2(x: nn.Module, y: nn.Module) -> Tensor:
    return -_dirac_1(x, y)


_LOSSES: Mapping[str, Losses] = {
    "bilinear": (_bilinear_1, _bilinear_2),
    "dirac-gan": (_dirac_1, _dirac_2),
}
