"""A sweep folder and its run folders, read and written: the only file I/O of runs.

Files are written whole (temporary file, fsync, rename), so a reader sees the old one or the new
one. A file that cannot be read is set aside as `*.corrupt`, named in `problems`, and never used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocollapse.data import Normalisation
from geocollapse.estimate import strict_json
from geocollapse.models import LoadedModel, build
from geocollapse.runtime.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from geocollapse.experiments.recipe import PlannedRun, Recipe, RunConfig

Weights = Mapping[str, "Tensor"]

_STATUS = ("done", "failed")
_log = logging.getLogger("geocollapse")


@dataclass(frozen=True)
class LoadedRun(LoadedModel):
    """The model of a run folder, with the configuration it was trained by."""

    config: RunConfig | None = None


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
        write_whole({self.file("config.yaml"): _yaml(config.model_dump(mode="json"))})

    def config(self) -> RunConfig:
        """The configuration in config.yaml.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it cannot be read as the configuration of a run.
        """
        from geocollapse.experiments.recipe import RunConfig

        return RunConfig.of(_read_yaml(self.file("config.yaml")))

    def result(self) -> dict[str, Any] | None:
        """The content of result.json; None without one, and for one that was set aside."""
        path = self.file("result.json")
        if not path.is_file():
            return None
        result = _json_object(path.read_bytes())
        if result is None or result.get("status") not in _STATUS:
            self._set_aside(path, "it is not a result")
            return None
        return result

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json, the last file of a run: its presence means that the run is over."""
        write_whole({self.file("result.json"): _json(result, indent=1)})

    def append_history(self, line: Mapping[str, Any]) -> None:
        """Add one line to history.jsonl; undefined numbers become null."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.file("history.jsonl").open("ab") as file:
            file.write(_json(line))
            file.flush()
            os.fsync(file.fileno())

    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl without an incomplete last one; none if a line before it
        cannot be read.
        """
        path = self.file("history.jsonl")
        if not path.is_file():
            return []
        complete, _, _ = path.read_bytes().rpartition(b"\n")
        lines = [_json_object(line) for line in complete.split(b"\n")] if complete else []
        readable = [
            line for line in lines if line is not None and isinstance(line.get("step"), int)
        ]
        if len(readable) < len(lines):
            self._set_aside(path, "a line of it cannot be read")
            return []
        return readable

    def cut_history(self, step: int) -> list[dict[str, Any]]:
        """Drop the lines after ``step`` from history.jsonl; the lines kept."""
        kept = [line for line in self.history() if line["step"] <= step]
        write_whole({self.file("history.jsonl"): b"".join(_json(line) for line in kept)})
        return kept

    def save_checkpoint(self, weights: Weights, tensors: Weights, info: Mapping[str, Any]) -> None:
        """Write checkpoint.safetensors, state.safetensors and state.json; history up to the step
        comes before.

        The three are replaced together, and state.json holds the SHA-256 of the other two: parts of
        different moments are never taken for one.

        Args:
            weights: the model's state dict.
            tensors: optimizer and random state.
            info: what else resuming needs, as JSON; ``step`` among it.
        """
        files = {
            self.file("checkpoint.safetensors"): _packed(weights),
            self.file("state.safetensors"): _tensors(tensors),
        }
        about = {
            "history_lines": sum(line["step"] <= info["step"] for line in self.history()),
            "sha256": {path.name: _digest(content) for path, content in files.items()},
            "info": info,
        }
        write_whole(files | {self.file("state.json"): _json(about, indent=1)})

    def keep_checkpoint(self, step: int, weights: Weights) -> Path:
        """Write checkpoints/<step>.safetensors."""
        path = self.file("checkpoints") / f"{step}.safetensors"
        write_whole({path: _packed(weights)})
        return path

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]] | None:
        """What `save_checkpoint` wrote: weights, tensors, info; None if the run has to start anew.

        That is: nothing was saved, or its parts do not belong together (one is missing, damaged, of
        another moment, or the history does not reach it). What is at fault is set aside.
        """
        path = self.file("state.json")
        if not path.is_file():
            return None
        try:
            return self._read_checkpoint(path)
        except ValueError as error:
            self._set_aside(path, str(error))
            return None

    def _read_checkpoint(
        self, path: Path
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        about = _json_object(path.read_bytes())
        if about is None or not {"history_lines", "sha256", "info"} <= about.keys():
            raise ValueError("it is not the state of a run")
        weights = self._read_part("checkpoint.safetensors", about["sha256"])
        tensors = self._read_part("state.safetensors", about["sha256"])
        step = about["info"]["step"]
        if sum(line["step"] <= step for line in self.history()) != about["history_lines"]:
            raise ValueError(f"the history does not reach its step {step}")
        return weights, tensors, about["info"]

    def _read_part(self, name: str, digests: Mapping[str, str]) -> dict[str, Tensor]:
        """The tensors of a file that state.json speaks of."""
        path = self.file(name)
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        content = path.read_bytes()
        if _digest(content) != digests.get(name):
            self._set_aside(path, "it is damaged or of another moment than state.json")
            raise ValueError(f"{name} does not belong to it")
        return _read_tensors(content)[0]

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = path.with_name(path.name + ".corrupt")
        path.replace(aside)
        problem = f"run {self.run_id}: {path.name} set aside as {aside.name}, to be computed anew: {reason}"
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
        """Write sweep.yaml: the expanded recipe and the list of its runs."""
        content = recipe.to_dict() | {"runs": [run.entry() for run in runs]}
        write_whole({self.path / "sweep.yaml": _yaml(content)})

    def recipe(self) -> Recipe:
        """The recipe in sweep.yaml.

        Raises:
            FileNotFoundError: there is no sweep.yaml.
            ValueError: it cannot be read as a recipe.
        """
        from geocollapse.experiments.recipe import Recipe

        content = _read_yaml(self.path / "sweep.yaml")
        return Recipe.of({key: value for key, value in content.items() if key != "runs"})

    def entries(self) -> list[dict[str, Any]]:
        """The runs that sweep.yaml lists: run_id, seed, sweeps, overrides."""
        return list(_read_yaml(self.path / "sweep.yaml").get("runs") or [])


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
        weights, shape = _unpacked(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"MODEL: expected weights at {path}, got a file where {error}; do train it again"
        ) from None
    model = build(config.model.name, **shape, **config.model.args)
    model.load_state_dict(weights)
    own = Normalisation(config.data.mean, config.data.std, config.data.pad_to)
    return LoadedRun(model.eval(), str(folder), str(path), normalisation=own, config=config)


def _json(value: Any, *, indent: int | None = None) -> bytes:
    return (json.dumps(strict_json(value), allow_nan=False, indent=indent) + "\n").encode("utf-8")


def _json_object(content: bytes) -> dict[str, Any] | None:
    """The object that a JSON text holds; None for anything else."""
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _yaml(content: Mapping[str, Any]) -> bytes:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, _data: Any) -> bool:
            return True  # equal lists are written out, not referred to

    return yaml.dump(
        dict(content), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120
    ).encode("utf-8")


def _read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file."""
    from geocollapse.experiments.recipe import parse_yaml

    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name}: expected a file at {path}, got none; do check the folder"
        )
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), where=str(path))
    except UnicodeDecodeError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys with values, got none; do compute it anew")
    return content


def _packed(weights: Weights) -> bytes:
    """Weights with the sizes that the model was built for: outputs of the last layer, inputs of the
    first.
    """
    matrices = [tensor for tensor in weights.values() if tensor.ndim > 1]
    sizes = (
        {"num_classes": len(matrices[-1]), "input_shape": [matrices[0].shape[1]]}
        if matrices
        else {}
    )
    return _tensors(weights, {"geocollapse": json.dumps(sizes)})


def _unpacked(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    weights, metadata = _read_tensors(content)
    sizes = _json_object(metadata.get("geocollapse", "").encode("utf-8"))
    if not sizes:
        raise ValueError("the sizes of the model are not stated")
    return weights, sizes


def _tensors(tensors: Weights, metadata: dict[str, str] | None = None) -> bytes:
    from safetensors.torch import save

    return save(
        {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, metadata
    )


def _read_tensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: it is not one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"it is not a safetensors file ({error})") from None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__") or {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
