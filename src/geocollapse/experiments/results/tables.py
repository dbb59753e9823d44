"""A sweep on disk read back as tables: one row a run, one row a record of its history.

Weights are not needed, and nothing is invented: a run without a result is `unfinished`, a value
that was not recorded is NaN, and a file that cannot be read is named in `problems`. Reading changes
nothing: what is damaged stays where it is until `sweep` sets it aside and computes it anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

GC = "source.geometric_complexity.value"
GC_PER_VARIANCE = "source.gc_per_variance"
GCOL = "source.geometric_collapse.value"
NC = "source.cdnv"
TARGET_NC = "target.cdnv"
ACCURACY = "target.accuracy.nearest_mean.5.value"

# of table.csv; the configuration and the last line follow
FIRST_COLUMNS = ("run_id", "status", "converged", "seed")
_SAMPLING = ("run_id", "method", "n_samples", "n_probes", "full", "value", "low", "high")


@dataclass(frozen=True)
class SweepResults:
    """What a sweep folder holds.

    Attributes:
        folder: where it lies.
        recipe: the expanded recipe, with the planned runs.
        runs: one row a planned run: `FIRST_COLUMNS`, its configuration and its last line, with
            dotted names.
        history: one row a record of training, with dotted names and the run's `run_id`.
        settings: one row for each sweep that a run belongs to: sweep, position of the setting,
            label, swept values.
        sampling: one row a repeated estimate on few examples, few outputs or a masked Jacobian.
        provenance: run_id -> what the run says about its machine and versions.
        problems: what is missing or unreadable, one sentence each.
    """

    folder: Path
    recipe: dict[str, Any]
    runs: pd.DataFrame
    history: pd.DataFrame
    settings: pd.DataFrame
    sampling: pd.DataFrame
    provenance: dict[str, dict[str, Any]]
    problems: tuple[str, ...]

    @property
    def sweeps(self) -> list[str]:
        """Names of the sweeps, in the order of the recipe."""
        return list(dict.fromkeys(self.settings["sweep"]))

    def of_sweep(self, sweep: str) -> pd.DataFrame:
        """The runs of one sweep with the columns `position`, `setting` and `swept.<key>` of their
        setting.
        """
        members = self.settings[self.settings["sweep"] == sweep].dropna(axis="columns", how="all")
        return members.merge(self.runs, on="run_id", how="left")


def read_sweep(folder: str | Path) -> SweepResults:
    """Read a sweep folder, with or without its weights.

    Raises:
        FileNotFoundError: there is no sweep.yaml in ``folder``.
        ValueError: sweep.yaml cannot be read as a recipe with its runs.
    """
    import pandas as pd

    folder = Path(folder)
    recipe = _read_recipe(folder)
    rows: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    estimates: list[dict[str, Any]] = []
    provenance: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for plan in recipe["runs"]:
        run = _Run.read(folder / "runs" / plan["run_id"], plan, problems)
        rows.append(run.row())
        records.extend(run.records())
        estimates.extend(run.estimates())
        provenance[run.run_id] = run.result.get("provenance") or {}
    runs = _table(rows)
    return SweepResults(
        folder=folder,
        recipe=recipe,
        runs=runs[[*FIRST_COLUMNS, *(name for name in runs.columns if name not in FIRST_COLUMNS)]],
        history=_table(records) if records else pd.DataFrame(columns=["run_id", "step"]),
        settings=_settings(recipe["runs"]),
        sampling=pd.DataFrame(estimates, columns=list(_SAMPLING)),
        provenance=provenance,
        problems=tuple(problems),
    )


def write_table(results: SweepResults) -> Path:
    """Write table.csv, one row a run, into the sweep folder."""
    from geocollapse.runtime.files import write_whole

    path = results.folder / "table.csv"
    write_whole({path: results.runs.to_csv(index=False).encode("utf-8")})
    return path


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names; numbers of a list get its index, other lists
    become JSON text.

    Examples:
        >>> flatten({"source": {"cdnv": 0.5, "ci95": [0.4, 0.6]}})
        {'source.cdnv': 0.5, 'source.ci95.0': 0.4, 'source.ci95.1': 0.6}
    """
    flat: dict[str, Any] = {}
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


@dataclass(frozen=True)
class _Run:
    run_id: str
    plan: Mapping[str, Any]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    result: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, plan: Mapping[str, Any], problems: list[str]) -> _Run:
        config = _read_yaml(folder / "config.yaml", problems)
        result = _read_json(folder / "result.json", problems)
        return cls(
            folder.name,
            plan,
            config,
            list(_read_history(folder / "history.jsonl", problems)),
            result,
        )

    def row(self) -> dict[str, Any]:
        """One row of table.csv: what became of the run, its configuration, its last line."""
        last = self.result.get("final") or (self.history[-1] if self.history else {})
        row = {
            "run_id": self.run_id,
            "status": self.result.get("status", "unfinished"),
            "converged": bool(self.result.get("converged", False)),
            "seed": self.plan.get("seed"),
            **flatten(self.config),
        }
        row |= {key: self.result.get(key) for key in ("stop_step", "steps", "error", "failed_step")}
        return row | flatten(last)

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines of the history; the final measurement stands in for the last one (same step,
        fresh batch norm).
        """
        final = self.result.get("final")
        lines = [line for line in self.history if not final or line["step"] < final["step"]]
        for line in [*lines, *([final] if final else [])]:
            yield {"run_id": self.run_id, **flatten(line)}

    def estimates(self) -> Iterator[dict[str, Any]]:
        """One row for each repeated estimate of the sampling study."""
        for method, study in (self.result.get("sampling") or {}).items():
            shared = {key: study.get(key) for key in ("n_samples", "n_probes", "full")}
            for estimate in study.get("estimates") or []:
                low, high = estimate.get("ci95") or (None, None)
                yield {
                    "run_id": self.run_id,
                    "method": method,
                    **shared,
                    "value": estimate.get("value"),
                } | {
                    "low": low,
                    "high": high,
                }


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table in which every null is NaN, so that a quantity that was never defined is a
    column of numbers.
    """
    import pandas as pd

    return pd.DataFrame(
        [{key: math.nan if value is None else value for key, value in row.items()} for row in rows]
    )


def _settings(plans: list[Mapping[str, Any]]) -> pd.DataFrame:
    """Which setting of which sweep every run is: runs of equal swept values differ in their seed
    alone.
    """
    import pandas as pd

    rows = []
    for sweep in dict.fromkeys(name for plan in plans for name in plan.get("sweeps") or {}):
        swept = {plan["run_id"]: (plan.get("sweeps") or {}).get(sweep) for plan in plans}
        members = {
            run_id: flatten(values) for run_id, values in swept.items() if values is not None
        }
        order = _in_order(members.values())
        for run_id, values in members.items():
            label = ", ".join(f"{key} = {value}" for key, value in values.items())
            row = {
                "sweep": sweep,
                "position": order.index(values),
                "setting": label,
                "run_id": run_id,
            }
            rows.append(row | {f"swept.{key}": value for key, value in values.items()})
    return pd.DataFrame(rows, columns=None if rows else ["sweep", "position", "setting", "run_id"])


def _in_order(settings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The different settings of a sweep by their swept values, or as the recipe has them where
    these do not compare.
    """
    different: list[dict[str, Any]] = []
    for setting in settings:
        if setting not in different:
            different.append(setting)
    try:
        return sorted(different, key=lambda setting: tuple(setting.values()))
    except TypeError:
        return different


def _read_recipe(folder: Path) -> dict[str, Any]:
    import yaml

    path = folder / "sweep.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"DIR: expected a sweep folder with sweep.yaml, got {folder}; do geocollapse sweep "
            f"RECIPE --out {folder}"
        )
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(recipe, dict) or not recipe.get("runs"):
        raise ValueError(
            f"{path}: expected an expanded recipe with its runs, got none; do the sweep again"
        )
    return recipe


def _read_yaml(path: Path, problems: list[str]) -> dict[str, Any]:
    import yaml

    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        problems.append(f"run {path.parent.name}: no {path.name}")
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
        problems.append(
            f"run {path.parent.name}: {path.name} cannot be read ({type(error).__name__})"
        )
    return {}


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        problems.append(f"run {path.parent.name}: no {path.name}, the run is not finished")
    except (UnicodeDecodeError, TypeError, ValueError) as error:
        problems.append(
            f"run {path.parent.name}: {path.name} cannot be read ({type(error).__name__})"
        )
    return {}


def _read_history(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The complete lines; what follows a line that cannot be read is left out, and said."""
    if not path.is_file():
        problems.append(f"run {path.parent.name}: no {path.name}")
        return
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
    ):
        try:
            yield dict(json.loads(line))
        except (TypeError, ValueError):
            problems.append(
                f"run {path.parent.name}: {path.name} ends at line {number}, which is incomplete"
            )
            return
