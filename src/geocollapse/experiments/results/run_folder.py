"""The folder of one run, read and written.

Files are written whole (temporary file, fsync, rename), so a reader sees the old content or the
new. A file that cannot be read, or that is of another run, is set aside as `*.corrupt`, named in
`problems`, and never used. A file of a newer version of this package is refused and stays where it
is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from geocollapse.experiments.results import checkpoints, stored
from geocollapse.experiments.results.checkpoints import Checkpoint, DamagedFileError, State
from geocollapse.experiments.results.checks import (
    config_fault,
    history_fault,
    order_fault,
    result_fault,
)
from geocollapse.experiments.results.tensors import Tensors, digest, pack_kept
from geocollapse.experiments.results.text import json_object, read_yaml, to_json, to_yaml
from geocollapse.experiments.results.versions import check_version, unversioned, versioned
from geocollapse.runtime.files import append, remove_partial, write_whole
from geocollapse.runtime.locks import locked

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import AnyRunConfig
    from geocollapse.experiments.results.records import HistoryLine, Line, RunResult, StateInfo

_PATIENCE = 5.0  # seconds: a worker whose sweep was killed is about to end
_log = logging.getLogger("geocollapse")


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

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from working on this run; what a killed one left is cleared.

        Raises:
            InUseError: another process works on it.
        """
        lock = self.file("run.lock")
        with locked(lock, what=f"run {self.run_id}", patience=_PATIENCE):
            remove_partial(self.path, self.file("checkpoints"))
            checkpoints.settle(self.path)
            yield

    def write_config(self, config: AnyRunConfig) -> None:
        """Write config.yaml."""
        content = versioned("config.yaml", config.model_dump(mode="json"))
        write_whole({self.file("config.yaml"): to_yaml(content)})

    def config(self) -> AnyRunConfig:
        """The configuration in config.yaml.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it cannot be read as the configuration of a run, or is of a newer version.
        """
        from geocollapse.experiments.recipe import parse_run_config

        path = self.file("config.yaml")
        content = read_yaml(path)
        check_version(content, path)
        return parse_run_config(unversioned(content))

    def result(self, run_id: str | None = None) -> RunResult | None:
        """The content of result.json; None without one, and for one that was set aside.

        Args:
            run_id: the run that it must be of; that of the folder's name by default.

        Raises:
            ValueError: it is of a newer version.
        """
        path = stored.found(self.file("result.json"))
        if path is None:
            return None
        result = json_object(stored.read(path))
        if result is not None:
            check_version(result, path)
        fault = result_fault(result, run_id or self.run_id)
        if fault is not None:
            self._set_aside(path, fault)
            return None
        return cast("RunResult", result)

    def result_as_it_is(self) -> dict[str, object] | None:
        """The content of result.json, neither checked nor set aside; None if there is none."""
        path = stored.found(self.file("result.json"))
        return None if path is None else json_object(stored.read(path))

    def finished(self, config: AnyRunConfig) -> RunResult | None:
        """The result of a run that is done; None if there is work left.

        A run is done if its result and its whole history are there. What is damaged or of another
        run is set aside; config.yaml is then written anew, for a result and a history the run is
        computed anew.

        Raises:
            ValueError: a file is of a newer version.
        """
        from geocollapse.experiments.recipe import run_id

        own = run_id(config)
        result = self.result(own)
        if result is None or result["status"] != "done":
            return None
        fault = history_fault(self.history(), self.history_text(), result)
        if fault is not None:
            for name, reason in (("history.jsonl", fault), ("result.json", "its history is lost")):
                self._set_aside(stored.found(self.file(name)) or self.file(name), reason)
            return None
        self._mend_config(config, own)
        return result

    def carried_out(self, config: AnyRunConfig, work: Callable[[], RunResult]) -> RunResult:
        """The result of this run: the one that is there if it is done, else that of ``work``.

        Raises:
            ValueError: a file is of a newer version.
            InUseError: another process works on it.
        """
        done = self.finished(config)
        if done is not None:
            return done
        with self.held():
            done = self.finished(config)  # another process may just have ended it
            if done is not None:
                return done
            self.write_config(config)
            result = work()
            self.write_result(result)
        return result

    def write_result(self, result: RunResult) -> None:
        """Write result.json, the last file of a run: its presence means that the run is over."""
        write_whole({self.file("result.json"): to_json(result, indent=1)})

    def append_history(self, line: Line) -> None:
        """Add one line to history.jsonl; undefined numbers become null."""
        append(self.file("history.jsonl"), to_json(line))

    def history_text(self) -> bytes:
        """The content of history.jsonl without an incomplete last line."""
        path = stored.found(self.file("history.jsonl"))
        if path is None:
            return b""
        complete, end, _ = stored.read(path).rpartition(b"\n")
        return complete + end

    def history_digest(self) -> str:
        """The SHA-256 of the history, by which a result refers to it."""
        return digest(self.history_text())

    def history(self) -> list[HistoryLine]:
        """The lines of history.jsonl without an incomplete last one; none if one is unreadable.

        Raises:
            ValueError: a line is of a newer version.
        """
        path = self.file("history.jsonl")
        lines = [json_object(line) or {} for line in self.history_text().splitlines()]
        for line in lines:
            check_version(line, path)
        fault = order_fault([line.get("step") for line in lines])
        if fault is not None:
            self._set_aside(path, fault)
            return []
        return cast("list[HistoryLine]", lines)

    def cut_history(self, step: int) -> list[HistoryLine]:
        """Drop the lines after ``step`` from history.jsonl and return those kept."""
        kept = [line for line in self.history() if line["step"] <= step]
        lines = self.history_text().splitlines(keepends=True)[: len(kept)]
        write_whole({self.file("history.jsonl"): b"".join(lines)})
        return kept

    def save_checkpoint(self, weights: Tensors, tensors: Tensors, info: StateInfo) -> None:
        """Write checkpoint.safetensors, state.safetensors and state.json, after the history.

        The three are replaced as one: at any moment there is one whole checkpoint.

        Args:
            weights: the model's state dict.
            tensors: those of the optimizer's state.
            info: progress and the rest of the optimizer's state.
        """
        n_lines = sum(line["step"] <= info["step"] for line in self.history())
        lines = self.history_text().splitlines(keepends=True)[:n_lines]
        checkpoints.save(self.path, b"".join(lines), weights, tensors, info)

    def keep_checkpoint(self, step: int, weights: Tensors, run_id: str) -> Path:
        """Write checkpoints/<step>.safetensors."""
        path = self.kept_checkpoint(step)
        write_whole({path: pack_kept(weights, run_id)})
        return path

    def kept_checkpoint(self, step: int) -> Path:
        """The path of the checkpoint of a step, whether or not there is one."""
        return self.file("checkpoints") / f"{step}.safetensors"

    def kept_steps(self) -> list[int]:
        """The steps of the checkpoints that were kept, ascending."""
        paths = self.file("checkpoints").glob("*.safetensors")
        return sorted(int(path.stem) for path in paths if path.stem.isdecimal())

    def load_checkpoint(self, run_id: str | None = None) -> Checkpoint | None:
        """The last checkpoint saved; None if the run has to start anew.

        It starts anew where nothing was saved, and where the parts do not belong together: one is
        missing, damaged, of another moment or of another run. The part at fault is set aside.

        Args:
            run_id: the run that it must be of, where it says so.

        Raises:
            ValueError: a file is of a newer version.
        """
        history = self.history()
        try:
            state = State.read(self.path)
            if state is None:
                return None
            of_run = state.info.get("run_id")
            if run_id is not None and of_run not in (None, run_id):
                raise DamagedFileError(self.file("state.json"), f"it is of run {of_run}")
            return checkpoints.load(self.path, state, history, self.history_text())
        except DamagedFileError as error:
            self._set_aside(error.path, str(error))
            self.drop_checkpoint(f"{error.path.name} does not belong to it")
            return None

    def drop_checkpoint(self, reason: str) -> None:
        """Set state.json aside, if it is there, so that the run starts anew."""
        self._set_aside(self.file("state.json"), reason)

    def _mend_config(self, config: AnyRunConfig, run_id: str) -> None:
        """Write config.yaml of a run that is done anew if it is missing or not its own."""
        path = self.file("config.yaml")
        try:
            content = read_yaml(path)
        except FileNotFoundError:
            fault: str | None = "it is missing"
        except ValueError as error:
            fault = str(error)
        else:
            check_version(content, path)
            fault = config_fault(content, run_id)
        if fault is not None:
            self._set_aside(path, fault)
            self.write_config(config)

    def _set_aside(self, path: Path, reason: str) -> None:
        if not path.is_file():
            return
        aside = path.with_name(path.name + ".corrupt")
        path.replace(aside)
        problem = (
            f"run {self.run_id}: {path.name} set aside as {aside.name}, to be computed anew: "
            f"{reason}"
        )
        self.problems.append(problem)
        _log.warning(problem)
