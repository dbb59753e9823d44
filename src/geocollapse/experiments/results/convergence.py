"""Convergence of a supervised run: it reached its training accuracy and still has it at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

CONVERGED = "converged"
NOT_CONVERGED = "not converged"
LOST = "lost its accuracy"

_ROUNDING = 1e-6  # of a stored share: far less than one example


def keeps_accuracy(accuracy: object, goal: object) -> bool:
    """True if a training accuracy is not below the goal of the stopping rule, up to rounding.

    There is no other tolerance: one example short of the goal is below it. True where either was
    not recorded.

    Args:
        accuracy: of the last measurement, a share.
        goal: ``training.stop_accuracy``, a share.
    """
    if not isinstance(accuracy, int | float) or not isinstance(goal, int | float):
        return True
    return not accuracy < goal - _ROUNDING


def endings(runs: pd.DataFrame) -> pd.Series:
    """How each run ended, in words: its status, and of runs that are done if they converged.

    A run that reached its training accuracy and ended below it `lost its accuracy`. It has not
    converged: the claims speak of the terminal phase of training.

    Source: definitions 5, training progress.
    """
    ended = runs["status"].astype(object).copy()
    done = runs["status"] == "done"
    reached = runs["converged"].astype(bool)
    ended[done & reached] = CONVERGED
    ended[done & ~reached] = NOT_CONVERGED
    wanted = ("stop_step", "train_accuracy", "training.stop_accuracy")
    if set(wanted) <= set(runs.columns):
        first, accuracy, goal = (runs[name].astype(float) for name in wanted)
        ended[done & first.notna() & (accuracy < goal - _ROUNDING)] = LOST
    return ended
