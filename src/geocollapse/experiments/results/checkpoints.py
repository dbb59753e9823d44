"""The checkpoint of a run on disk: one generation of files that replaces the last as a whole.

The files of a new generation are written beside the last ones, as `*.next`. Then state.json is
replaced, which holds their SHA-256 and that of the history: from then on they are the checkpoint.
At the end they take the names of the last ones. A run that is killed at any moment has one whole
checkpoint, the last or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from geocollapse.experiments.results.records import StateInfo
from geocollapse.experiments.results.tensors import (
    Tensors,
    digest,
    pack,
    pack_weights,
    unpack,
)
from geocollapse.experiments.results.text import json_object, to_json
from geocollapse.experiments.results.versions import check_version, versioned
from geocollapse.runtime.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from geocollapse.experiments.results.records import HistoryLine

WEIGHTS = "checkpoint.safetensors"
_TENSORS = "state.safetensors"
_STATE = "state.json"


class DamagedFileError(ValueError):
    """A file that cannot be what it should be; the message says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path


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


@dataclass(frozen=True)
class State:
    """The content of state.json.

    Attributes:
        history_lines: records up to the checkpoint.
        history_sha256: digest of their lines; None in files of older versions.
        sha256: digest of each file of the checkpoint.
        info: progress and the rest of the optimizer's state.
    """

    history_lines: int
    history_sha256: str | None
    sha256: Mapping[str, str]
    info: StateInfo

    @classmethod
    def read(cls, folder: Path) -> State | None:
        """The state in a run folder; None if there is no state.json.

        Raises:
            DamagedFileError: it is not the state of a run.
            ValueError: it is of a newer version.
        """
        path = folder / _STATE
        if not path.is_file():
            return None
        about = json_object(path.read_bytes())
        if about is None:
            raise DamagedFileError(path, "it is not the state of a run")
        check_version(about, path)
        lines = about.get("history_lines")
        digests = about.get("sha256")
        history_sha256 = about.get("history_sha256")
        if not (
            isinstance(lines, int)
            and isinstance(digests, Mapping)
            and isinstance(history_sha256, str | None)
        ):
            raise DamagedFileError(path, "it is not the state of a run")
        return cls(lines, history_sha256, digests, _checked_info(about.get("info"), path))


def save(folder: Path, history: bytes, weights: Tensors, tensors: Tensors, info: StateInfo) -> None:
    """Write a checkpoint in place of the last one.

    Args:
        folder: of the run.
        history: the lines of history.jsonl up to this moment.
        weights: the model's state dict.
        tensors: those of the optimizer's state.
        info: progress and the rest of the optimizer's state.
    """
    settle(folder)
    files = {folder / WEIGHTS: pack_weights(weights), folder / _TENSORS: pack(tensors)}
    about = {
        "history_lines": history.count(b"\n"),
        "history_sha256": digest(history),
        "sha256": {path.name: digest(content) for path, content in files.items()},
        "info": info,
    }
    write_whole({_next(path): content for path, content in files.items()})
    write_whole({folder / _STATE: to_json(versioned(_STATE, about), indent=1)})
    for path in files:
        _next(path).replace(path)


def settle(folder: Path) -> None:
    """Finish what a killed run left: files that state.json describes take their names.

    Those that it does not describe yet are removed.
    """
    waiting = [path for path in map(folder.joinpath, (WEIGHTS, _TENSORS)) if _next(path).is_file()]
    if not waiting:
        return
    about = json_object((folder / _STATE).read_bytes()) if (folder / _STATE).is_file() else None
    digests = (about or {}).get("sha256")
    for path in waiting:
        described = digests.get(path.name) if isinstance(digests, Mapping) else None
        if digest(_next(path).read_bytes()) == described:
            _next(path).replace(path)
        else:
            _next(path).unlink()


def load(folder: Path, state: State, history: Sequence[HistoryLine], lines: bytes) -> Checkpoint:
    """The checkpoint that a state describes.

    Args:
        folder: of the run.
        state: what state.json says.
        history: the records of history.jsonl.
        lines: their text.

    Raises:
        DamagedFileError: a file that is missing, damaged or of another moment.
    """
    weights = unpack(part(folder, WEIGHTS, state))[0]
    tensors = unpack(part(folder, _TENSORS, state))[0]
    step = state.info["step"]
    if sum(line["step"] <= step for line in history) != state.history_lines:
        raise DamagedFileError(folder / _STATE, f"the history does not reach its step {step}")
    kept = b"".join(lines.splitlines(keepends=True)[: state.history_lines])
    if state.history_sha256 not in (None, digest(kept)):
        raise DamagedFileError(
            folder / "history.jsonl", "it was changed, or is of another run than state.json"
        )
    return Checkpoint(weights, tensors, state.info)


def part(folder: Path, name: str, state: State) -> bytes:
    """The content of a file of the checkpoint, whether or not it has taken its name already.

    Raises:
        DamagedFileError: it is missing, damaged or of another moment than the state.
    """
    path = folder / name
    for place in (path, _next(path)):
        content = place.read_bytes() if place.is_file() else None
        if content is not None and digest(content) == state.sha256.get(name):
            return content
    if not path.is_file():
        raise DamagedFileError(folder / _STATE, f"{name} is missing")
    raise DamagedFileError(path, "it is damaged or of another moment than state.json")


def _next(path: Path) -> Path:
    return path.with_name(path.name + ".next")


def _checked_info(info: object, path: Path) -> StateInfo:
    """The progress in state.json, with every key in its type."""
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(StateInfo).validate_python(info, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, ("info", *problem["loc"])))
        raise DamagedFileError(path, f"{key}: {problem['msg'].lower()}") from None
    return cast("StateInfo", info)
