"""How a two-player game is played: rates, order, updates a turn, and the drift that they cause."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, get_args

from geocollapse.numerics import is_count, is_number

PlayOrder = Literal["simultaneous", "alternating"]
Convention = Literal["joint", "per_player"]


@dataclass(frozen=True)
class DriftCoefficients:
    """The coefficients of the drift that turns add to the gradient fields f and g of two players.

        f~ = f - self_1 f_phi f - interaction_1 f_theta g
        g~ = g - self_2 g_theta g - interaction_2 g_phi f

    Attributes:
        self_1: of f_phi f = grad_phi ||grad_phi L1||^2/2.
        interaction_1: of f_theta g = grad_phi <grad_theta L1, stop(grad_theta L2)>.
        self_2: of g_theta g.
        interaction_2: of g_phi f.
    """

    self_1: float
    interaction_1: float
    self_2: float
    interaction_2: float


@dataclass(frozen=True)
class Turn:
    """One turn of a two-player game: both players take steps of gradient descent on their losses.

        simultaneous:  phi <- phi + a f(phi, theta),  theta <- theta + b g(phi, theta)
        alternating:   phi first, then theta with the new phi

    Attributes:
        lr: a and b, the rates of one update of player 1 and of player 2.
        order: ``simultaneous`` or ``alternating``, in which player 1 moves first.
        n_updates: m and k, the updates of each player in a turn; in a simultaneous turn each player
            sees the other as it was at the start.

    Raises:
        ValueError: a rate that is not positive, updates that are no counts, an unknown order.

    Examples:
        >>> Turn(lr=(0.2, 0.1)).drift()
        DriftCoefficients(self_1=0.1, interaction_1=0.05, self_2=0.05, interaction_2=0.1)
        >>> Turn(lr=(0.2, 0.1), order="alternating").drift().interaction_2
        -0.1
    """

    lr: tuple[float, float] = (0.1, 0.1)
    order: PlayOrder = "simultaneous"
    n_updates: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if not _are_two(self.lr, lambda rate: is_number(rate) and rate > 0.0):
            raise ValueError(
                f"lr: expected a positive rate for each of two players, got {self.lr}; do "
                f"lr=(0.1, 0.1)"
            )
        if self.order not in get_args(PlayOrder):
            raise ValueError(
                f"order: expected 'simultaneous' or 'alternating', got {self.order!r}; do "
                f"order='alternating'"
            )
        if not _are_two(self.n_updates, is_count):
            raise ValueError(
                f"n_updates: expected a whole number of at least 1 for each of two players, got "
                f"{self.n_updates}; do n_updates=(1, 1)"
            )

    @property
    def total_lr(self) -> tuple[float, float]:
        """A = m a and B = k b, the rates of each player over a whole turn."""
        return self.lr[0] * self.n_updates[0], self.lr[1] * self.n_updates[1]

    def drift(self, convention: Convention = "joint") -> DriftCoefficients:
        """The drift coefficients of these turns, found by backward error analysis.

            joint:       self_1 = a/2,  interaction_1 = B/2,  self_2 = b/2,  interaction_2 = s A/2
            per player:  self_1 = a/2,  interaction_1 = A/2,  self_2 = b/2,  interaction_2 = c B/2

        with A = m a, B = k b, s = 1 in simultaneous turns and -1 in alternating ones, and c = 1
        or 1 - 2 A/B. ``joint`` expands the flow of both players together: the turns follow it to
        second order at a fixed time. In a zero-sum game a positive interaction coefficient makes
        that player raise the gradient norm of the other. ``per_player`` expands each player's flow
        in time units of its own, as the paper does, and is only first order where A != B; where
        A = B, both are the same.

        Source: Rosca, Wu, Dherin, Barrett (2021), arXiv 2105.13922, for the per-player form; the
        joint one follows from the same expansion.

        Args:
            convention: ``joint`` or ``per_player``.

        Raises:
            ValueError: another convention.
        """
        if convention not in get_args(Convention):
            raise ValueError(
                f"convention: expected 'joint' or 'per_player', got {convention!r}; do "
                f"convention='joint'"
            )
        a, b = self.lr
        total_1, total_2 = self.total_lr
        alternates = self.order == "alternating"
        if convention == "joint":
            sign = -1.0 if alternates else 1.0
            return DriftCoefficients(a / 2.0, total_2 / 2.0, b / 2.0, sign * total_1 / 2.0)
        seen = total_2 - 2.0 * total_1 if alternates else total_2
        return DriftCoefficients(a / 2.0, total_1 / 2.0, b / 2.0, seen / 2.0)


def _are_two(values: object, fits: Callable[[object], bool]) -> bool:
    """True for two values that fit, one for each player."""
    return isinstance(values, Collection) and len(values) == 2 and all(map(fits, values))
