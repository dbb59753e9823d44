"""The kinds of experiments, each with what a sweep has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import torch

from geocollapse.experiments.games.play import check_games, pace_of_game, play_run
from geocollapse.experiments.pace import Pace
from geocollapse.experiments.recipe import AnyRunConfig, GameRunConfig, RunConfig
from geocollapse.experiments.results.records import RunResult
from geocollapse.experiments.results.run_folder import RunFolder
from geocollapse.experiments.supervised.pace import pace_of_training
from geocollapse.experiments.supervised.state import check_runs
from geocollapse.experiments.supervised.train import train_run

OnProgress = Callable[[int, int], None]  # (steps taken, steps to take as far as is known)
DataRoot = str | Path | None

_Config = TypeVar("_Config", RunConfig, GameRunConfig, AnyRunConfig)
_Taken = TypeVar("_Taken", contravariant=True)


class Check(Protocol[_Taken]):
    """Refuses configurations that could not be carried out, before anything is written."""

    def __call__(self, configs: Sequence[_Taken], *, data_root: DataRoot = None) -> None: ...


class CarryOut(Protocol[_Taken]):
    """Carries out one run, from where it was left off or anew, and writes its folder."""

    def __call__(
        self,
        config: _Taken,
        folder: RunFolder,
        *,
        device: torch.device | str = "cpu",
        data_root: DataRoot = None,
        on_progress: OnProgress | None = None,
    ) -> RunResult: ...


@dataclass(frozen=True)
class Kind(Generic[_Config]):
    """One kind of experiment.

    Attributes:
        check: looks at the settings of a sweep before it begins.
        carry_out: does one run.
        pace: times a few steps and one record of a run, on a device, with a folder of data sets.
    """

    check: Check[_Config]
    carry_out: CarryOut[_Config]
    pace: Callable[[_Config, str, DataRoot], Pace]


KINDS: Mapping[str, Kind[RunConfig] | Kind[GameRunConfig]] = {
    "supervised": Kind(check_runs, train_run, pace_of_training),
    "game": Kind(check_games, play_run, pace_of_game),
}


def kind_of(config: AnyRunConfig) -> Kind[AnyRunConfig]:
    """The kind of experiment that a configuration is of."""
    return cast("Kind[AnyRunConfig]", KINDS[config.kind])
