"""The files of a sweep read without changing them: the plan, and what each run left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from geocollapse.experiments.results import stored
from geocollapse.experiments.results.checks import (
    config_fault,
    history_fault,
    order_fault,
    result_fault,
)
from geocollapse.experiments.results.convergence import keeps_accuracy
from geocollapse.experiments.results.text import json_object, read_yaml
from geocollapse.experiments.results.versions import check_version, unversioned

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import PlanEntry
    from geocollapse.experiments.results.records import Line, RunResult
    from geocollapse.runtime.provenance import Provenance

Row = dict[str, object]

_OF_THE_RESULT = (
    *("stop_step", "steps", "error", "failed_step"),
    *("seconds_training", "seconds_history", "seconds_final", "seconds_sampling"),
)


@dataclass(frozen=True)
class ReadRun:
    """The files of a planned run; empty where one is missing or unreadable."""

    plan: PlanEntry
    config: dict[str, object]
    history: list[Line]
    result: RunResult | None

    @classmethod
    def read(cls, folder: Path, plan: PlanEntry, problems: list[str]) -> ReadRun:
        """Read a run folder and add a sentence to ``problems`` for each file at fault.

        A run without a folder is not begun, which is no fault of a file.
        """
        if not folder.is_dir():
            return cls(plan, {}, [], None)
        result = _read_result(folder / "result.json", problems)
        return cls(
            plan,
            _read_config(folder / "config.yaml", problems),
            _read_history(folder / "history.jsonl", result, problems),
            result,
        )

    @property
    def run_id(self) -> str:
        """The name of its folder."""
        return self.plan["run_id"]

    @property
    def provenance(self) -> Provenance | None:
        """Versions, machine and seed as the run recorded them."""
        return self.result.get("provenance") if self.result else None

    @property
    def final(self) -> Line | None:
        """The line of its end: the measurement behind the last step, or the end of the game."""
        return self.result.get("final") if self.result else None

    def row(self) -> Row:
        """One row of table.csv: what became of the run, its configuration, its last line."""
        result: Mapping[str, object] = self.result or {}
        config = flatten(self.config)
        last = _columns(self.final or (self.history[-1] if self.history else None))
        keeps = keeps_accuracy(last.get("train_accuracy"), config.get("training.stop_accuracy"))
        row = {
            "run_id": self.run_id,
            "status": result.get("status", "unfinished"),
            "converged": bool(result.get("converged", False)) and keeps,
            "seed": self.plan.get("seed"),
            **config,
        }
        row |= {key: result.get(key) for key in _OF_THE_RESULT}
        return row | last

    def records(self) -> Iterator[Row]:
        """The lines of the history; the final measurement replaces the last one of the same step.

        It is the same model, with fresh batch-norm statistics.
        """
        final = self.final
        lines = [line for line in self.history if not final or line["step"] < final["step"]]
        for line in [*lines, *([final] if final else [])]:
            yield {"run_id": self.run_id, **_columns(line)}

    def estimates(self) -> Iterator[Row]:
        """One row for each repeated estimate of the sampling study."""
        studies = (self.result.get("sampling") if self.result else None) or {}
        for method, study in studies.items():
            for estimate in study.get("estimates") or []:
                low, high = estimate.get("ci95") or (None, None)
                yield {
                    "run_id": self.run_id,
                    "method": method,
                    "n_samples": study.get("n_samples"),
                    "n_probes": study.get("n_probes"),
                    "full": study.get("full"),
                    "value": estimate.get("value"),
                    "low": low,
                    "high": high,
                }


def read_plan(folder: Path) -> tuple[dict[str, object], list[PlanEntry]]:
    """The expanded recipe in sweep.yaml, and the runs that it plans.

    Raises:
        FileNotFoundError: there is no sweep.yaml in ``folder``.
        ValueError: it cannot be read as a recipe with its runs, or is of a newer version.
    """
    path = folder / "sweep.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"DIR: expected a sweep folder with sweep.yaml, got {folder}; "
            f"do geocollapse sweep RECIPE --out {folder}"
        )
    content = read_yaml(path)
    check_version(content, path)
    recipe = unversioned(content)
    for key in ("name", "title"):
        if not isinstance(recipe.get(key), str):
            raise ValueError(f"{path}: expected a {key}, got none; do the sweep again")
    runs = recipe.pop("runs", None)
    if not isinstance(runs, list) or not runs:
        raise ValueError(
            f"{path}: expected an expanded recipe with its runs, got none; do the sweep again"
        )
    for number, run in enumerate(runs, start=1):
        if not _is_planned(run):
            raise ValueError(
                f"{path}: expected a run_id, a seed and sweeps of each run, got {run!r} as run "
                f"{number}; do the sweep again"
            )
    return recipe, cast("list[PlanEntry]", runs)


def _is_planned(run: object) -> bool:
    """True for an entry whose parts have their types, and whose run has a plain folder name."""
    if not isinstance(run, Mapping):
        return False
    name = run.get("run_id")
    sweeps = run.get("sweeps") or {}
    return (
        isinstance(name, str)
        and re.fullmatch(r"\w[\w.-]*", name) is not None
        and isinstance(run.get("seed"), int)
        and isinstance(sweeps, Mapping)
        and all(isinstance(values, Mapping) for values in sweeps.values())
    )


def flatten(value: Mapping[str, object], prefix: str = "") -> Row:
    """Nested mappings as one level with dotted names.

    Numbers of a list get their index; other lists become JSON text.

    Examples:
        >>> flatten({"source": {"cdnv": 0.5, "ci95": [0.4, 0.6]}})
        {'source.cdnv': 0.5, 'source.ci95.0': 0.4, 'source.ci95.1': 0.6}
    """
    flat: Row = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{name}.")
        elif (
            isinstance(item, list) and item and all(isinstance(part, int | float) for part in item)
        ):
            flat |= {f"{name}.{i}": part for i, part in enumerate(item)}
        else:
            flat[name] = json.dumps(item) if isinstance(item, list) else item
    return flat


def _columns(line: Line | None) -> Row:
    """A record as dotted columns."""
    return flatten(unversioned(line)) if line else {}


def _read_config(path: Path, problems: list[str]) -> dict[str, object]:
    """The configuration of a run, or {} and a problem: the folder's name tells if it is its own."""
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        problems.append(f"run {path.parent.name}: no {path.name}")
        return {}
    except ValueError as error:
        problems.append(_not_used(path, str(error)))
        return {}
    check_version(content, path)
    fault = config_fault(content, path.parent.name)
    if fault is not None:
        problems.append(_not_used(path, fault))
        return {}
    return unversioned(content)


def _read_result(path: Path, problems: list[str]) -> RunResult | None:
    place = stored.found(path)
    if place is None:
        problems.append(f"run {path.parent.name}: no {path.name}, the run is not finished")
        return None
    content = json_object(stored.read(place))
    if content is not None:
        check_version(content, path)
    fault = result_fault(content, path.parent.name)
    if fault is not None:
        problems.append(_not_used(path, fault))
        return None
    return cast("RunResult", content)


def _read_history(path: Path, result: RunResult | None, problems: list[str]) -> list[Line]:
    """The lines before the first that cannot be read; that one is named in ``problems``.

    None of a history that is not the one of the result.
    """
    place = stored.found(path)
    if place is None:
        problems.append(f"run {path.parent.name}: no {path.name}")
        return []
    complete, end, incomplete = stored.read(place).rpartition(b"\n")
    lines: list[Mapping[str, object]] = []
    for line in complete.splitlines():
        content = json_object(line)
        if content is None:
            break
        check_version(content, path)
        lines.append(content)
    if incomplete or len(lines) < complete.count(b"\n") + len(end):
        number = len(lines) + 1
        problems.append(
            f"run {path.parent.name}: {path.name} ends at line {number}, which is incomplete"
        )
    fault = order_fault([line.get("step") for line in lines])
    if fault is None and result is not None and result["status"] == "done":
        fault = history_fault(lines, complete + end, result)
    if fault is not None:
        problems.append(_not_used(path, fault))
        return []
    return cast("list[Line]", lines)


def _not_used(path: Path, fault: str) -> str:
    return f"run {path.parent.name}: {path.name} is not used: {fault}"
