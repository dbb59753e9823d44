"""Turns of two players that descend their losses, with or without their drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geocollapse.dynamics import GameLoss, NonFiniteError, Turn
from geocollapse.regularizers import DriftCancellation
from geocollapse.regularizers.games import DriftTerm

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import GameSettings

Players = tuple[nn.Module, nn.Module]
Losses = tuple[GameLoss, GameLoss]

_BOUND = 1e6  # of a parameter: no player of a game that is played here has one of this size
_TERMS: Mapping[str, Sequence[DriftTerm]] = {
    "none": (),
    "interaction": ("interaction",),
    "self": ("self",),
    "both": ("interaction", "self"),
}


def turn_of(config: GameSettings) -> Turn:
    """The turn that a game is played by."""
    first, second = config.learning_rates
    updates = config.n_updates
    return Turn((first, second), config.order, (updates[0], updates[1]))


class Moves:
    """Plain gradient descent of two players, whose parameters each turn writes.

    Args:
        players: phi and theta.
        config: rates, order, updates a turn, and the drift that is cancelled.
    """

    def __init__(self, players: Players, config: GameSettings) -> None:
        self._players = players
        self._turn = turn_of(config)
        self._cancel: dict[int, DriftCancellation] = {}
        terms = _TERMS[config.cancel]
        if terms and config.cancel_weight > 0.0:
            weight = config.cancel_weight
            self._cancel[0] = DriftCancellation(self._turn, 1, terms=terms, weight=weight)
            self._cancel[1] = DriftCancellation(self._turn, 2, terms=terms, weight=weight)

    def take_turn(self, losses: Losses) -> bool:
        """One turn of both players; False if a parameter has left all bounds."""
        try:
            self._take(losses)
        except NonFiniteError:  # of the drift, where an update of this turn has left them
            return False
        return all(_is_within(player) for player in self._players)

    def _take(self, losses: Losses) -> None:
        before = _parameters(self._players[0])
        self._move(0, losses)
        if self._turn.order == "simultaneous":
            after = _parameters(self._players[0])
            _write(self._players[0], before)
            self._move(1, losses)
            _write(self._players[0], after)
        else:
            self._move(1, losses)

    def _move(self, number: int, losses: Losses) -> None:
        """The updates of one player in a turn."""
        player = self._players[number]
        trained = list(player.parameters())
        for _ in range(self._turn.n_updates[number]):
            gradients = torch.autograd.grad(self._objective(number, losses), trained)
            with torch.no_grad():
                for parameter, gradient in zip(trained, gradients, strict=True):
                    largest = torch.finfo(parameter.dtype).max  # torch refuses a larger rate
                    parameter.sub_(gradient, alpha=min(self._turn.lr[number], largest))

    def _objective(self, number: int, losses: Losses) -> Tensor:
        """The player's loss, with the terms that cancel its drift."""
        if number not in self._cancel:
            return losses[number](*self._players)
        loss, term = self._cancel[number](*self._players, *losses)
        return loss + term


def _parameters(player: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in player.parameters()]


@torch.no_grad()
def _write(player: nn.Module, values: Sequence[Tensor]) -> None:
    for parameter, value in zip(player.parameters(), values, strict=True):
        parameter.copy_(value)


def _is_within(player: nn.Module) -> bool:
    """False also for a parameter that is not a number."""
    return all(float(parameter.detach().abs().max()) <= _BOUND for parameter in player.parameters())
