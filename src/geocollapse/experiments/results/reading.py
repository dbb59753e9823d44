"""The files of a sweep read without changing them: the plan, and what each run left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from geocollapse.experiments.results.versions import check_version, unversioned

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import PlanEntry
    from geocollapse.experiments.results.records import HistoryLine, RunResult
    from geocollapse.runtime.provenance import Provenance

Row = dict[str, object]


@dataclass(frozen=True)
class ReadRun:
    """The files of a planned run; empty where one is missing or unreadable."""

    plan: PlanEntry
    config: dict[str, object]
    history: list[HistoryLine]
    result: RunResult | None

    @classmethod
    def read(cls, folder: Path, plan: PlanEntry, problems: list[str]) -> ReadRun:
        """Read a run folder and add a sentence to ``problems`` for each file at fault."""
        return cls(
            plan,
            _read_config(folder / "config.yaml", problems),
            list(_read_history(folder / "history.jsonl", problems)),
            _read_result(folder / "result.json", problems),
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
    def final(self) -> HistoryLine | None:
        """The measurement at the end of training."""
        return self.result.get("final") if self.result else None

    def row(self) -> Row:
        """One row of table.csv: what became of the run, its configuration, its last line."""
        result: Mapping[str, object] = self.result or {}
        last = self.final or (self.history[-1] if self.history else None)
        row = {
            "run_id": self.run_id,
            "status": result.get("status", "unfinished"),
            "converged": bool(result.get("converged", False)),
            "seed": self.plan.get("seed"),
            **flatten(self.config),
        }
        row |= {key: result.get(key) for key in ("stop_step", "steps", "error", "failed_step")}
        return row | _columns(last)

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
    import yaml

    path = folder / "sweep.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"DIR: expected a sweep folder with sweep.yaml, got {folder}; "
            f"do geocollapse sweep RECIPE --out {folder}"
        )
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not content.get("runs"):
        raise ValueError(
            f"{path}: expected an expanded recipe with its runs, got none; do the sweep again"
        )
    check_version(content, path)
    recipe = unversioned(content)
    return recipe, cast("list[PlanEntry]", recipe.pop("runs"))


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


def _columns(line: HistoryLine | None) -> Row:
    """A record as dotted columns."""
    return flatten(unversioned(line)) if line else {}


def _read_config(path: Path, problems: list[str]) -> dict[str, object]:
    import yaml

    try:
        content = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        problems.append(f"run {path.parent.name}: no {path.name}")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
        problems.append(_unreadable(path, error))
        return {}
    check_version(content, path)
    return unversioned(content)


def _read_result(path: Path, problems: list[str]) -> RunResult | None:
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        problems.append(f"run {path.parent.name}: no {path.name}, the run is not finished")
        return None
    except (UnicodeDecodeError, TypeError, ValueError) as error:
        problems.append(_unreadable(path, error))
        return None
    check_version(content, path)
    return cast("RunResult", content)


def _read_history(path: Path, problems: list[str]) -> Iterator[HistoryLine]:
    """The lines before the first that cannot be read; that one is named in ``problems``."""
    if not path.is_file():
        problems.append(f"run {path.parent.name}: no {path.name}")
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            content = dict(json.loads(line))
        except (TypeError, ValueError):
            problems.append(
                f"run {path.parent.name}: {path.name} ends at line {number}, which is incomplete"
            )
            return
        check_version(content, path)
        yield cast("HistoryLine", content)


def _unreadable(path: Path, error: Exception) -> str:
    return f"run {path.parent.name}: {path.name} cannot be read ({type(error).__name__})"
