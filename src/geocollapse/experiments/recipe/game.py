"""The settings of a two-player game, and the resolved configuration of one run of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geocollapse.experiments.recipe.moving import NotNegative, Positive, Rate, Threads
from geocollapse.experiments.recipe.settings import Part

Cancelled = Literal["none", "interaction", "self", "both"]


class GameSettings(Part):
    """A game of `geocollapse.experiments.games`, and how it is played.

    ``game`` is `bilinear`, the game of two numbers x' = -e x + y, y' = -x - e y with e = 0.09 from
    a point of the unit circle that the seed draws; `dirac-gan` from (1, 1), whatever the seed; or
    `digits-gan`, a small GAN on the 8 x 8 digits. Player 1 of a GAN is its discriminator, to which
    alone ``spectral_norm`` applies. A game has ``n_turns`` turns.

    ``learning_rates``, ``order`` and ``n_updates`` are those of `geocollapse.dynamics.Turn`.
    ``cancel`` names the drift that both players cancel, and ``cancel_weight`` how much of it:
    `geocollapse.regularizers.DriftCancellation`. Records are at the start, after every
    ``record_every`` turns and at the end.

    Source: Rosca, Wu, Dherin, Barrett (2021), arXiv 2105.13922; Mescheder, Geiger, Nowozin (2018)
    for the Dirac GAN.
    """

    kind: Literal["game"] = "game"
    game: Literal["bilinear", "dirac-gan", "digits-gan"]
    learning_rates: Annotated[list[Rate], Field(min_length=2, max_length=2)]
    order: Literal["simultaneous", "alternating"] = "simultaneous"
    n_updates: Annotated[list[Positive], Field(default=[1, 1], min_length=2, max_length=2)]
    cancel: Cancelled = "none"
    cancel_weight: NotNegative = 1.0
    spectral_norm: bool = False
    n_turns: Positive
    record_every: Positive = 1

    @model_validator(mode="after")
    def _spectral_norm_belongs_to_networks(self) -> GameSettings:
        if self.spectral_norm and self.game != "digits-gan":
            raise ValueError(
                f"spectral_norm: expected false with the game {self.game}, which has no networks, "
                "got true; do spectral_norm=false"
            )
        return self


class GameRunConfig(GameSettings):
    """The resolved configuration of one run of a game; its `run_id` names the run's folder."""

    seed: Annotated[int, Field(ge=0)] = 0
    threads: Threads = 1
