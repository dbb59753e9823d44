"""Terms that cancel the drift of a two-player game."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from geocollapse.dynamics import BatchNorm, Convention, GameLoss, Turn, game
from geocollapse.models import LoadedModel, module_of
from geocollapse.modules.borrow import cuda_devices
from geocollapse.modules.second_derivatives import twice_differentiable
from geocollapse.modules.wrapped import Wrapping
from geocollapse.regularizers.call import (
    check_batch_settings,
    check_gradients_are_on,
    uncompiled,
)
from geocollapse.regularizers.gradients import (
    apart,
    check_loss,
    check_modules,
    gradients_of,
    inner_product,
    naming_the_loss,
    trained_parameters,
)
from geocollapse.regularizers.known import CheckedModels
from geocollapse.regularizers.penalty import Penalty

DriftTerm = Literal["interaction", "self"]


class DriftCancellation(Penalty):
    """The terms of a player's loss that cancel the drift which turns of a game add to it.

        loss = L_i - weight sum_j c_j <grad_j L_i, stop(grad_j L_j)>

    for player i, with j the other player for the ``interaction`` term and j = i for the ``self``
    term; c_j are the coefficients of ``Turn.drift``. In simultaneous turns the interaction
    coefficient is half of the other player's rate, not of the own one. With all four terms
    cancelled the turns follow the flow of the game itself to second order. The gradient counts in
    the own player alone: do ``(loss + term).backward(inputs=list(player.parameters()))``, so that
    the other one receives nothing. Unit of the weight: none, 1 cancels the whole drift. Cost: about
    two more gradients of the own loss and one of the other.

    Source: Rosca, Wu, Dherin, Barrett (2021), arXiv 2105.13922, explicit regularisation; the
    coefficients are those of the joint flow, see ``Turn.drift``.

    Args:
        turn: how the game is played.
        player: 1 or 2, whose loss gets the terms.
        terms: of ``interaction`` and ``self``.
        weight: the share of the drift to cancel, at least 0; at 0 nothing is added.
        every: the terms are added at every m-th call, with ``every`` times the weight.
        convention: of the coefficients; see ``Turn.drift``.
        batch_norm: ``refuse`` batch normalisation in training mode, take its ``running``
            statistics in the terms, or those of the ``batch``, as the losses do. The running
            statistics are updated by the own loss alone.

    Attributes:
        coefficients: c_j by term, without the weight.

    Raises:
        ValueError: an argument outside its range, players that share a trained parameter, a loss
            that is not 0-d or not finite, a parameter that its player's loss does not depend on, a
            loss without interaction.
        TypeError: a player that is no module, or inside DistributedDataParallel.
        RuntimeError: batch normalisation in training mode, a compiled module inside, sparse
            gradients, gradients switched off.
        NotImplementedError: an operation without a second derivative.

    Examples:
        >>> x, y = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> def duel(x, y):
        ...     return (x.weight * y.weight).sum()
        >>> cancel = DriftCancellation(Turn(lr=(0.1, 0.1)), player=1)
        >>> loss, term = cancel(x, y, duel, lambda x, y: -duel(x, y))
        >>> (loss + term).backward(inputs=list(x.parameters()))
        >>> bool(term.isclose(0.05 * x.weight**2)), y.weight.grad is None
        (True, True)
    """

    def __init__(
        self,
        turn: Turn,
        player: Literal[1, 2],
        *,
        terms: Sequence[DriftTerm] = ("interaction",),
        weight: float = 1.0,
        every: int = 1,
        convention: Convention = "joint",
        batch_norm: BatchNorm = "refuse",
    ) -> None:
        super().__init__(weight, every=every)
        check_batch_settings(1.0, batch_norm, get_args(BatchNorm))
        _check_player(player)
        _check_terms(terms)
        drift = turn.drift(convention)
        of_player: dict[DriftTerm, float] = (
            {"interaction": drift.interaction_1, "self": drift.self_1}
            if player == 1
            else {"interaction": drift.interaction_2, "self": drift.self_2}
        )
        self.player = player
        self.coefficients = {term: of_player[term] for term in terms}
        self.batch_norm: BatchNorm = batch_norm
        self._checked = CheckedModels()
        self._products: dict[DriftTerm, Tensor] = {}

    @property
    def last(self) -> dict[DriftTerm, float]:
        """<grad_j L_i, grad_j L_j> by term at the last step with terms; empty before it."""
        return {term: float(product) for term, product in self._products.items()}

    def forward(
        self,
        player1: nn.Module | LoadedModel,
        player2: nn.Module | LoadedModel,
        loss_1: GameLoss,
        loss_2: GameLoss,
    ) -> tuple[Tensor, Tensor]:
        """The player's own loss (0-d) and the weighted terms (0-d) to add; counts one step.

        Args:
            player1: phi, the module that descends L1.
            player2: theta, the module that descends L2.
            loss_1: L1, from both modules to a 0-d tensor, on the batch of this step.
            loss_2: L2.
        """
        return self._call((module_of(player1), module_of(player2)), (loss_1, loss_2))

    @uncompiled
    def _call(
        self, players: tuple[nn.Module, nn.Module], losses: tuple[GameLoss, GameLoss]
    ) -> tuple[Tensor, Tensor]:
        check_gradients_are_on("loss(player1, player2) there")
        return self.counted(
            lambda _step: self._cancel(players, losses), lambda: self._plain(players, losses)
        )

    def _plain(
        self, players: tuple[nn.Module, nn.Module], losses: tuple[GameLoss, GameLoss]
    ) -> tuple[Tensor, Tensor]:
        """The loss of a step without terms."""
        value = check_loss(losses[self.player - 1](*players))
        return value, value.new_zeros(())

    def _cancel(
        self, players: tuple[nn.Module, nn.Module], losses: tuple[GameLoss, GameLoss]
    ) -> tuple[Tensor, Tensor]:
        plain = (_unwrapped(1, players[0]), _unwrapped(2, players[1]))
        self._checked.check(plain, lambda: self._look(plain, losses))
        own, other = losses if self.player == 1 else losses[::-1]
        if self.weight == 0.0 or self.batch_norm == "running":
            value = check_loss(own(*plain))
            with self._apart(plain), twice_differentiable():
                products = self._interactions(own(*plain), other, plain)
        else:
            with twice_differentiable():
                value = own(*plain)
                products = self._interactions(value, other, plain)
        self._products = {term: product.detach() for term, product in products.items()}
        drift = [self.coefficients[term] * product for term, product in products.items()]
        return value, self.weighted(-torch.stack(drift).sum())

    def _interactions(
        self, value: Tensor, other: GameLoss, players: tuple[nn.Module, nn.Module]
    ) -> dict[DriftTerm, Tensor]:
        """<grad_j L_i, stop(grad_j L_j)> (0-d) of each term, with a graph through grad_j L_i."""
        mine, theirs = map(trained_parameters, players if self.player == 1 else players[::-1])
        found: dict[DriftTerm, Tensor | None] = {}
        gradients = gradients_of(value, [*theirs, *mine], keeps_graph=True)
        across, along = gradients[: len(theirs)], gradients[len(theirs) :]
        if "interaction" in self.coefficients:
            with self._apart(players):
                stopped = gradients_of(other(*players), theirs, keeps_graph=False)
            found["interaction"] = inner_product(across, stopped)
        if "self" in self.coefficients:
            stopped = [None if z is None else z.detach() for z in along]
            found["self"] = inner_product(along, stopped)
        return {term: _on_a_path(self.player, product) for term, product in found.items()}

    @contextmanager
    def _apart(self, players: Sequence[nn.Module]) -> Iterator[None]:
        """Evaluate a loss once more: random state and buffers stay as they are."""
        devices = sorted({device for player in players for device in cuda_devices(player)})
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            for player in players:
                stack.enter_context(apart(player, self.batch_norm))
            yield

    def _look(
        self, players: tuple[nn.Module, nn.Module], losses: tuple[GameLoss, GameLoss]
    ) -> None:
        """Refuse a game whose terms cannot be differentiated, by all its terms at this point."""
        for player in players:
            check_modules(player)
        with naming_the_loss(), game(*players, *losses, batch_norm=self.batch_norm) as found:
            found.drift_terms()


def _unwrapped(number: int, player: nn.Module) -> nn.Module:
    wrapped = Wrapping.of(player)
    if wrapped.parallel is not None:
        raise TypeError(
            f"player{number}: expected a module of one process, as the terms are no mean over "
            f"processes, got DistributedDataParallel; do pass player{number}.module"
        )
    return wrapped.plain


def _on_a_path(player: int, product: Tensor | None) -> Tensor:
    if product is None or not product.requires_grad:
        raise ValueError(
            f"loss_{player}: expected a loss that depends on both players together, got no "
            f"gradient path; do train player {player} without the term"
        )
    return product


def _check_player(player: int) -> None:
    if player not in (1, 2):
        raise ValueError(f"player: expected 1 or 2, got {player!r}; do player=1")


def _check_terms(terms: Sequence[DriftTerm]) -> None:
    known = get_args(DriftTerm)
    if isinstance(terms, str) or not terms or not set(terms) <= set(known):
        raise ValueError(
            f"terms: expected some of 'interaction' and 'self', got {terms!r}; do "
            f"terms=('interaction',)"
        )
