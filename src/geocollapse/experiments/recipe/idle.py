"""Keys that a run does not read, because of its other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geocollapse.experiments.recipe.settings import RunConfig


def check_effect(sweep: str, grid: Mapping[str, Sequence[object]], config: RunConfig) -> None:
    """Refuse a sweep over several values of a key that one of its settings does not read.

    Raises:
        ValueError: names the sweep, the key, and why it has no effect.
    """
    for key, values in grid.items():
        why = idle_reason(key, config) if len(values) > 1 else None
        if why is not None:
            raise ValueError(
                f"recipe: sweeps.{sweep}.{key}: expected a key that changes the run, got one "
                f"without effect, as {why}; do sweeps.{sweep}=null, which leaves the sweep out"
            )


def idle_reason(key: str, config: RunConfig) -> str | None:
    """Why a run with these settings does not read ``key``; None if it does."""
    training = config.training
    if key == "training.learning_rate" and training.optimizer in ("corridor", "dal"):
        return f"the optimizer {training.optimizer} sets its own rate"
    for optimizer in ("corridor", "dal"):
        if key.startswith(f"training.{optimizer}.") and training.optimizer != optimizer:
            return f"the optimizer is {training.optimizer}"
    if key == "training.milestones" and training.schedule != "step":
        return f"the schedule is {training.schedule}"
    if key == "data.random_labels_seed" and config.data.random_labels == 0.0:
        return "no label is random"
    return None
