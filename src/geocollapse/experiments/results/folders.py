"""A sweep folder and its run folders, read and written: the only file I/O of runs.

Files are written whole (temporary file, fsync, rename), so a reader sees the old content or the
new. A file that cannot be read is set aside as `*.corrupt`, named in `problems`, and never used. A
file of a newer version of this package is refused and stays where it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from geocollapse.data import Normalisation
from geocollapse.experiments.results.tensors import (
    Tensors,
    digest,
    pack,
    pack_weights,
    unpack,
    unpack_weights,
)
from geocollapse.experiments.results.text import json_object, read_yaml, to_json, to_yaml
from geocollapse.experiments.results.versions import check_version, unversioned, versioned
from geocollapse.models import LoadedModel, build
from geocollapse.runtime.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from geocollapse.experiments.recipe import PlanEntry, PlannedRun, Recipe, RunConfig
    from geocollapse.experiments.results.records import HistoryLine, RunResult, StateInfo

_STATUS = ("done", "failed")
_STATE = frozenset({"history_lines", "sha256", "info"})
_log = logging.getLogger("geocollapse")


@dataclass(frozen=True)
class LoadedRun(LoadedModel):
    """The model of a run folder, with the configuration it was trained by."""

    config: RunConfig | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A saved moment of a run, to resume from.

    Attributes:
        weights: the model's state dict.
        tensors: those of the optimizer's state.
        info: progress and the rest of the optimizer's state.
    """

    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    info: StateInfo


class RunFolder:
    """One run on disk.

    Attributes:
        path: its folder; its name is the run's id.
        problems: what was set aside and why, one sentence each.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.problems: list[str] = []

    @property
    def run_id(self) -> str:
        """The name of the folder."""
        return self.path.name

    def file(self, name: str) -> Path:
        """The path of one of its files."""
        return self.path / name

    def write_config(self, config: RunConfig) -> None:
        """Write config.yaml."""
        content = versioned("config.yaml", config.model_dump(mode="json"))
        write_whole({self.file("config.yaml"): to_yaml(content)})

    def config(self) -> RunConfig:
        """The configuration in config.yaml.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it cannot be read as the configuration of a run, or is of a newer version.
        """
        from geocollapse.experiments.recipe import RunConfig

        path = self.file("config.yaml")
        content = read_yaml(path)
        check_version(content, path)
        return RunConfig.of(unversioned(content))

    def result(self) -> RunResult | None:
        """The content of result.json; None without one, and for one that was set aside.

        Raises:
            ValueError: it is of a newer version.
        """
        path = self.file("result.json")
        if not path.is_file():
            return None
        result = json_object(path.read_bytes())
        if result is not None:
            check_version(result, path)
        if result is None or result.get("status") not in _STATUS:
            self._set_aside(path, "it is not a result")
            return None
        return cast("RunResult", result)

    def write_result(self, result: RunResult) -> None:
        """Write result.json, the last file of a run: its presence means that the run is over."""
        write_whole({self.file("result.json"): to_json(result, indent=1)})

    def append_history(self, line: HistoryLine) -> None:
        """Add one line to history.jsonl; undefined numbers become null."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.file("history.jsonl").open("ab") as file:
            file.write(to_json(line))
            file.flush()
            os.fsync(file.fileno())

    def history(self) -> list[HistoryLine]:
        """The lines of history.jsonl without an incomplete last one; none if one is unreadable.

        Raises:
            ValueError: a line is of a newer version.
        """
        path = self.file("history.jsonl")
        if not path.is_file():
            return []
        complete, _, _ = path.read_bytes().rpartition(b"\n")
        lines = [json_object(line) for line in complete.split(b"\n")] if complete else []
        readable = [
            line for line in lines if line is not None and isinstance(line.get("step"), int)
        ]
        for line in readable:
            check_version(line, path)
        if len(readable) < len(lines):
            self._set_aside(path, "a line of it cannot be read")
            return []
        return cast("list[HistoryLine]", readable)

    def cut_history(self, step: int) -> list[HistoryLine]:
        """Drop the lines after ``step`` from history.jsonl and return those kept."""
        kept = [line for line in self.history() if line["step"] <= step]
        write_whole({self.file("history.jsonl"): b"".join(to_json(line) for line in kept)})
        return kept

    def save_checkpoint(self, weights: Tensors, tensors: Tensors, info: StateInfo) -> None:
        """Write checkpoint.safetensors, state.safetensors and state.json, after the history.

        The three are replaced together, and state.json holds the SHA-256 of the other two: parts of
        different moments are never taken for one checkpoint.

        Args:
            weights: the model's state dict.
            tensors: those of the optimizer's state.
            info: progress and the rest of the optimizer's state.
        """
        files = {
            self.file("checkpoint.safetensors"): pack_weights(weights),
            self.file("state.safetensors"): pack(tensors),
        }
        about = {
            "history_lines": sum(line["step"] <= info["step"] for line in self.history()),
            "sha256": {path.name: digest(content) for path, content in files.items()},
            "info": info,
        }
        state = to_json(versioned("state.json", about), indent=1)
        write_whole(files | {self.file("state.json"): state})

    def keep_checkpoint(self, step: int, weights: Tensors) -> Path:
        """Write checkpoints/<step>.safetensors."""
        path = self.file("checkpoints") / f"{step}.safetensors"
        write_whole({path: pack_weights(weights)})
        return path

    def load_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint saved; None if the run has to start anew.

        It starts anew where nothing was saved, and where the parts do not belong together: one is
        missing, damaged, of another moment, or the history does not reach it. The part at fault is
        set aside.

        Raises:
            ValueError: a file is of a newer version.
        """
        path = self.file("state.json")
        if not path.is_file():
            return None
        about = json_object(path.read_bytes())
        if about is not None:
            check_version(about, path)
        history = self.history()
        try:
            return self._checkpoint(about, history)
        except ValueError as error:
            self._set_aside(path, str(error))
            return None

    def _checkpoint(
        self, about: Mapping[str, object] | None, history: list[HistoryLine]
    ) -> Checkpoint:
        """The checkpoint that the content of state.json describes."""
        if about is None or not about.keys() >= _STATE:
            raise ValueError("it is not the state of a run")
        digests = cast("dict[str, str]", about["sha256"])
        info = cast("StateInfo", about["info"])
        weights = self._part("checkpoint.safetensors", digests)
        tensors = self._part("state.safetensors", digests)
        step = info["step"]
        if sum(line["step"] <= step for line in history) != about["history_lines"]:
            raise ValueError(f"the history does not reach its step {step}")
        return Checkpoint(weights, tensors, info)

    def _part(self, name: str, digests: Mapping[str, str]) -> dict[str, Tensor]:
        """The tensors of a file whose digest state.json holds."""
        path = self.file(name)
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        content = path.read_bytes()
        if digest(content) != digests.get(name):
            self._set_aside(path, "it is damaged or of another moment than state.json")
            raise ValueError(f"{name} does not belong to it")
        return unpack(content)[0]

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = path.with_name(path.name + ".corrupt")
        path.replace(aside)
        problem = (
            f"run {self.run_id}: {path.name} set aside as {aside.name}, to be computed anew: "
            f"{reason}"
        )
        self.problems.append(problem)
        _log.warning(problem)


class SweepFolder:
    """A sweep on disk: the expanded recipe, its runs, and what the report makes of them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def run(self, run_id: str) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.path / "runs" / run_id)

    def write_recipe(self, recipe: Recipe, runs: Iterable[PlannedRun]) -> None:
        """Write sweep.yaml: the expanded recipe and the list of its runs.

        Raises:
            ValueError: there is one of a newer version.
        """
        self._refuse_newer()
        content = recipe.to_dict() | {"runs": [run.entry() for run in runs]}
        write_whole({self.path / "sweep.yaml": to_yaml(versioned("sweep.yaml", content))})

    def recipe(self) -> Recipe:
        """The recipe in sweep.yaml.

        Raises:
            FileNotFoundError: there is no sweep.yaml.
            ValueError: it cannot be read as a recipe, or is of a newer version.
        """
        from geocollapse.experiments.recipe import Recipe

        content = unversioned(self._content())
        return Recipe.of({key: value for key, value in content.items() if key != "runs"})

    def entries(self) -> list[PlanEntry]:
        """The runs that sweep.yaml lists."""
        return cast("list[PlanEntry]", self._content().get("runs") or [])

    def _refuse_newer(self) -> None:
        path = self.path / "sweep.yaml"
        try:
            content = read_yaml(path)
        except (FileNotFoundError, ValueError):
            return  # an unreadable one may be written over
        check_version(content, path)

    def _content(self) -> dict[str, object]:
        path = self.path / "sweep.yaml"
        content = read_yaml(path)
        check_version(content, path)
        return content


def load_model(folder: str | Path) -> LoadedRun:
    """The trained model of a run folder, in evaluation mode.

    Raises:
        FileNotFoundError: no configuration or no weights in ``folder``.
        ValueError: one of them cannot be read.
    """
    run = RunFolder(folder)
    config = run.config()
    path = run.file("checkpoint.safetensors")
    if not path.is_file():
        raise FileNotFoundError(
            f"MODEL: expected weights at {path}, got none; do geocollapse train for this run"
        )
    try:
        weights, sizes = unpack_weights(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"MODEL: expected weights at {path}, got a file where {error}; do train it again"
        ) from None
    model = build(config.model.name, **sizes, **config.model.args)
    model.load_state_dict(weights)
    own = Normalisation(config.data.mean, config.data.std, config.data.pad_to)
    return LoadedRun(model.eval(), str(folder), str(path), normalisation=own, config=config)
