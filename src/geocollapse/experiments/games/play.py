"""One run of a game: played to its last turn or out of all bounds, recorded on a schedule.

A run is short: one that was killed starts anew. Everything random in it is a function of the seed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import torch

from geocollapse.estimate import strict_json
from geocollapse.experiments.games.digits_gan import DigitsGan
from geocollapse.experiments.games.turns import Losses, Moves, Players
from geocollapse.experiments.games.two_numbers import TwoNumbers
from geocollapse.experiments.pace import Pace, timed
from geocollapse.experiments.recipe import GameRunConfig, run_id
from geocollapse.experiments.results.versions import VERSIONS
from geocollapse.runtime.provenance import provenance

if TYPE_CHECKING:
    from pathlib import Path

    from geocollapse.experiments.results.records import (
        GameEnd,
        GameLine,
        GanRecord,
        NumbersRecord,
        RunResult,
    )
    from geocollapse.experiments.results.run_folder import RunFolder

OnProgress = Callable[[int, int], None]  # (turns taken, turns to take)


class Arena(Protocol):
    """A game that is set up: its players, the losses of each turn, and what is recorded.

    Attributes:
        players: whose parameters the turns write.
    """

    players: Players

    def next_losses(self) -> Losses:
        """The losses of the next turn."""

    def record(self, step: int) -> NumbersRecord | GanRecord:
        """The measured part of a line after ``step`` turns."""

    def end(self, lines: Sequence[GameLine]) -> GameEnd:
        """The part of the final line that says how the game ended."""


def arena_of(config: GameRunConfig, device: torch.device | str = "cpu") -> Arena:
    """The game of a configuration, at its start."""
    if config.game == "digits-gan":
        return DigitsGan(config, device)
    return TwoNumbers(config, device)


def check_games(configs: Sequence[GameRunConfig], *, data_root: str | Path | None = None) -> None:
    """Set games up, which refuses what could not be played.

    Args:
        configs: of runs.
        data_root: unused, as the digits come with scikit-learn.
    """
    del data_root
    for config in configs:
        arena = arena_of(config)
        Moves(arena.players, config)


def play_run(
    config: GameRunConfig,
    folder: RunFolder,
    *,
    device: torch.device | str = "cpu",
    data_root: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> RunResult:
    """Play one run to its end and write its result.

    A game that diverges is a result, not a failure: it ends where a parameter leaves all bounds, or
    after its last turn. On one device with one thread count, a run that was killed and is played
    again ends bit for bit like one that was not. A run that is done is not played again.

    Args:
        config: the resolved configuration of the run.
        folder: where it is written.
        device: where the players and the data lie.
        data_root: unused, as the digits come with scikit-learn.
        on_progress: called with (turns taken, turns to take) at each record.

    Returns:
        The content of result.json; ``converged`` is true for a game that did not diverge.

    Raises:
        ValueError: files of a newer version.
        InUseError: another process works on this run.
    """
    del data_root

    def work() -> RunResult:
        folder.cut_history(-1)
        final = _play(config, folder, device, on_progress)
        return _result(config, folder, final, device)

    return folder.carried_out(config, work)


def pace_of_game(config: GameRunConfig, device: str, data_root: str | Path | None) -> Pace:
    """Time a few turns and one record."""
    del data_root
    arena = arena_of(config, device)
    moves = Moves(arena.players, config)
    steps = itertools.count(config.record_every, config.record_every)
    return timed(
        lambda: moves.take_turn(arena.next_losses()),
        lambda: arena.record(next(steps)),
        n_steps=config.n_turns,
        n_records=config.n_turns // config.record_every + 2,
    )


def _play(
    config: GameRunConfig,
    folder: RunFolder,
    device: torch.device | str,
    on_progress: OnProgress | None,
) -> GameLine:
    """The turns and their records; returns the final line."""
    arena = arena_of(config, device)
    moves = Moves(arena.players, config)
    started = time.perf_counter()
    lines: list[GameLine] = []

    def record(step: int) -> None:
        line = _line(step, time.perf_counter() - started, arena.record(step))
        folder.append_history(line)
        lines.append(line)

    record(0)
    is_within = True
    step = 0
    while step < config.n_turns and is_within:
        is_within = moves.take_turn(arena.next_losses())
        step += 1
        if step % config.record_every == 0 or step == config.n_turns or not is_within:
            record(step)
            if on_progress is not None:
                on_progress(step, config.n_turns)
    end = arena.end(lines)
    end["diverged"] = end["diverged"] or not is_within
    return cast("GameLine", strict_json({**lines[-1], **end}))


def _line(step: int, seconds: float, values: NumbersRecord | GanRecord) -> GameLine:
    line = {
        "schema_version": VERSIONS["history.jsonl"],
        "step": step,
        "seconds": seconds,
        **values,
    }
    return cast("GameLine", strict_json(line))


def _result(
    config: GameRunConfig, folder: RunFolder, final: GameLine, device: torch.device | str
) -> RunResult:
    return {
        "schema_version": VERSIONS["result.json"],
        "run_id": run_id(config),
        "status": "done",
        "converged": not final["diverged"],
        "stop_step": None,
        "steps": final["step"],
        "error": None,
        "failed_step": None,
        "seconds": final["seconds"],
        "final": final,
        "history_sha256": folder.history_digest(),
        "sampling": {},
        "provenance": provenance(seed=config.seed, device=device),
    }
