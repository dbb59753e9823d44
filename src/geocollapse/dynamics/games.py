"""Two-player games of gradient descent: turns, the flows that they follow, and their drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral

from torch import Tensor, nn

from geocollapse.dynamics.losses import BatchNorm, Landscape, landscapes
from geocollapse.dynamics.products import Expansion, filled
from geocollapse.dynamics.trees import Field, Tree, check_tree, plus, scaled
from geocollapse.dynamics.turns import Convention, Turn
from geocollapse.models import LoadedModel, module_of
from geocollapse.modules.wrapped import Wrapping

GameLoss = Callable[[nn.Module, nn.Module], Tensor]
Player = nn.Module | LoadedModel

_NAMES = ("player1", "player2")


@dataclass(frozen=True)
class DriftTerms:
    """The vector fields that turns add to the gradient fields of two players, without coefficients.

    Each is a tree of both players that is zero in the one it does not move.

    Attributes:
        self_1: f_phi f.
        interaction_1: f_theta g.
        self_2: g_theta g.
        interaction_2: g_phi f.
    """

    self_1: Tree
    interaction_1: Tree
    self_2: Tree
    interaction_2: Tree


class Game:
    """Two players phi and theta, each of which descends its own loss; made by ``game``.

        f = -grad_phi L1,  g = -grad_theta L2

    A point is one tree with the names ``player1.NAME`` and ``player2.NAME``. Every evaluation
    starts from the same random state and the same buffers.

    Attributes:
        point: the present parameters of both players, without their graph.
    """

    def __init__(self, first: Landscape, second: Landscape) -> None:
        self.point = first.point
        self._losses = (first, second)

    def values(self, at: Tree | None = None) -> tuple[float, float]:
        """L1 and L2 at the present parameters or at others."""
        first, second = self._losses
        here = self._checked(at)
        return float(first.value(here)), float(second.value(here))

    def play(self, turn: Turn, at: Tree | None = None, *, n_turns: int = 1) -> Tree:
        """The parameters after some turns.

        Args:
            turn: of both players.
            at: where to start; None for the present parameters.
            n_turns: at least 0.

        Raises:
            ValueError: ``n_turns`` that is no count; ``at`` of other names or shapes; a loss that
                is not 0-d or not finite, as when the game diverges; a parameter that its player's
                loss does not depend on.
        """
        if not (isinstance(n_turns, Integral) and int(n_turns) >= 0):
            raise ValueError(
                f"n_turns: expected a whole number of at least 0, got {n_turns!r}; do n_turns=1"
            )
        here = self._checked(at)
        for _ in range(n_turns):
            first = self._updated(0, here, turn)
            second = self._updated(1, first if turn.order == "alternating" else here, turn)
            here = {name: (first if _is_of(0, name) else second)[name] for name in here}
        return here

    def field(self, turn: Turn) -> Field:
        """The field (A f, B g) that turns follow to first order; one turn is the time 1."""

        def velocity(at: Tree) -> Tree:
            first, second = (self._descent(player, at) for player in (0, 1))
            return plus(scaled(first, turn.total_lr[0]), second, turn.total_lr[1])

        return velocity

    def modified_field(self, turn: Turn, convention: Convention = "joint") -> Field:
        """The field (A f~, B g~) that turns follow to second order; one turn is the time 1.

            f~ = f - self_1 f_phi f - interaction_1 f_theta g
            g~ = g - self_2 g_theta g - interaction_2 g_phi f

        with the coefficients of ``Turn.drift``. Cost of one evaluation: two gradients with their
        graphs and two Hessian-vector products.

        Source: Rosca, Wu, Dherin, Barrett (2021), arXiv 2105.13922.
        """
        drift = turn.drift(convention)
        rate_1, rate_2 = turn.total_lr

        def velocity(at: Tree) -> Tree:
            near_1, near_2 = self._expand(at)
            f = _own(0, near_1.gradient, -1.0)
            g = _own(1, near_2.gradient, -1.0)
            # f_phi f + f_theta g = -(H_1 (f, g))_phi
            bent_1 = near_1.product(plus(scaled(f, drift.self_1), g, drift.interaction_1))
            bent_2 = near_2.product(plus(scaled(g, drift.self_2), f, drift.interaction_2))
            first = plus(f, _own(0, bent_1))
            second = plus(g, _own(1, bent_2))
            return plus(scaled(first, rate_1), second, rate_2)

        return velocity

    def drift_terms(self, at: Tree | None = None) -> DriftTerms:
        """The four terms of the drift, from two gradients and four Hessian-vector products."""
        near_1, near_2 = self._expand(self._checked(at))
        f = _own(0, near_1.gradient, -1.0)
        g = _own(1, near_2.gradient, -1.0)
        return DriftTerms(
            self_1=_own(0, near_1.product(f), -1.0),
            interaction_1=_own(0, near_1.product(g), -1.0),
            self_2=_own(1, near_2.product(g), -1.0),
            interaction_2=_own(1, near_2.product(f), -1.0),
        )

    def _checked(self, at: Tree | None) -> Tree:
        """The present parameters, or others of the same names and shapes."""
        return self.point if at is None else check_tree("at", at, self.point)

    def _updated(self, player: int, at: Tree, turn: Turn) -> Tree:
        for _ in range(turn.n_updates[player]):
            at = plus(at, self._descent(player, at), turn.lr[player])
        return at

    def _descent(self, player: int, at: Tree) -> Tree:
        """f or g, zero in the other player."""
        loss = self._losses[player]
        _, found = loss.value_and_paths(at)
        loss.check_paths({name: found[name] for name in found if _is_of(player, name)})
        return _own(player, filled(found, at), -1.0)

    def _expand(self, at: Tree) -> tuple[Expansion, Expansion]:
        first, second = (loss.expand(at, partial=True) for loss in self._losses)
        for player, near in enumerate((first, second)):
            paths = {
                name: near.gradient[name] if name in near.touched else None
                for name in at
                if _is_of(player, name)
            }
            self._losses[player].check_paths(paths)
        return first, second


@contextmanager
def game(
    player1: Player,
    player2: Player,
    loss_1: GameLoss,
    loss_2: GameLoss,
    *,
    batch_norm: BatchNorm = "refuse",
) -> Iterator[Game]:
    """Lend two players and yield the game in which each descends its own loss.

    The players are handed back as they were; ``play`` returns parameters and writes none.

    Source: Rosca, Wu, Dherin, Barrett (2021), arXiv 2105.13922.

    Args:
        player1: phi, any module.
        player2: theta, any module; a frozen parameter may belong to both.
        loss_1: L1, from both modules to a 0-d tensor.
        loss_2: L2; ``lambda a, b: -loss_1(a, b)`` in a zero-sum game.
        batch_norm: see ``landscape``.

    Raises:
        ValueError: players that share a trained parameter, a player without trained parameters.
        RuntimeError: batch normalisation in training mode.
        TypeError: no module.

    Examples:
        >>> x, y = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
        >>> def duel(x, y):
        ...     return (x.weight * y.weight).sum()
        >>> with game(x, y, duel, lambda x, y: -duel(x, y)) as found:
        ...     end = found.play(Turn(lr=(0.1, 0.1)), n_turns=50)
        >>> bool(torch.hypot(*end.values()) > torch.hypot(x.weight, y.weight))  # it spirals out
        True
    """
    first = Wrapping.of(module_of(player1)).plain
    second = Wrapping.of(module_of(player2)).plain
    check_players(first, second)
    pair = nn.Module()
    for name, player in zip(_NAMES, (first, second), strict=True):
        pair.add_module(name, player)
    losses = [_of_pair(loss) for loss in (loss_1, loss_2)]
    with landscapes(pair, losses, batch_norm=batch_norm) as (of_first, of_second):
        yield Game(of_first, of_second)


def check_players(player1: nn.Module, player2: nn.Module) -> None:
    """Refuse players without trained parameters, or with one that both would move.

    Raises:
        ValueError: names the parameter.
    """
    owners: list[dict[object, str]] = []
    for number, player in enumerate((player1, player2), 1):
        trained = {name: p for name, p in player.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError(
                f"player{number}: expected trained parameters, got none that requires gradients; "
                f"do player{number}.requires_grad_(True)"
            )
        owners.append({_storage(p): name for name, p in trained.items()})
    shared = [key for key in owners[0] if key in owners[1]]
    if shared:
        raise ValueError(
            f"players: expected no trained parameter in common, got {owners[0][shared[0]]!r} of "
            f"player 1 that is {owners[1][shared[0]]!r} of player 2; do give each a copy, or "
            f"freeze it with requires_grad_(False)"
        )


def _storage(parameter: Tensor) -> object:
    """The key that two parameters share if a step of one moves the other."""
    is_real = parameter.device.type != "meta" and parameter.numel() > 0
    return (parameter.device, parameter.data_ptr()) if is_real else id(parameter)


def _of_pair(loss: GameLoss) -> Callable[[nn.Module], Tensor]:
    return lambda pair: loss(*(pair.get_submodule(name) for name in _NAMES))


def _is_of(player: int, name: str) -> bool:
    return name.startswith(f"{_NAMES[player]}.")


def _own(player: int, tree: Tree, factor: float = 1.0) -> Tree:
    """factor times a tree, zero in the other player."""
    return {
        name: factor * z if _is_of(player, name) else z.new_zeros(z.shape)
        for name, z in tree.items()
    }
