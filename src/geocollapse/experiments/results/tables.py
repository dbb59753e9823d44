"""A sweep on disk read back as tables: one row per run, one row per record of its history.

Weights are not needed, and nothing is invented: a run without a result is `unfinished`, a value
that was not recorded is NaN, and a file that cannot be read is named in `problems`. Reading changes
nothing: damaged files stay where they are until `sweep` sets them aside and computes them anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geocollapse.experiments.results.reading import ReadRun, Row, read_plan
from geocollapse.experiments.results.reading import flatten as flatten
from geocollapse.runtime.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

    from geocollapse.experiments.recipe import PlanEntry
    from geocollapse.runtime.provenance import Provenance

GC = "source.geometric_complexity.value"
GC_PER_VARIANCE = "source.gc_per_variance"
LOGITS_GC = "margin.geometric_complexity.value"
GCOL = "source.geometric_collapse.value"
NC = "source.cdnv"
TARGET_NC = "target.cdnv"
ACCURACY = "target.accuracy.nearest_mean.5.value"

# of table.csv; the configuration and the last line follow
FIRST_COLUMNS = ("run_id", "status", "converged", "seed")
_SAMPLING = ("run_id", "method", "n_samples", "n_probes", "full", "value", "low", "high")


@dataclass(frozen=True)
class SweepResults:
    """The content of a sweep folder.

    Attributes:
        folder: the sweep folder.
        recipe: the expanded recipe.
        runs: one row per planned run: `FIRST_COLUMNS`, its configuration and its last line, with
            dotted names.
        history: one row per record of training, with dotted names and the run's `run_id`.
        settings: one row for each sweep that a run belongs to: sweep, position of the setting,
            label, swept values.
        sampling: one row per repeated estimate on few examples, few outputs or a masked Jacobian.
        provenance: run_id -> machine and versions, as the run recorded them.
        problems: what is missing or unreadable, one sentence each.
    """

    folder: Path
    recipe: dict[str, object]
    runs: pd.DataFrame
    history: pd.DataFrame
    settings: pd.DataFrame
    sampling: pd.DataFrame
    provenance: dict[str, Provenance | None]
    problems: tuple[str, ...]

    @property
    def sweeps(self) -> list[str]:
        """Names of the sweeps, in the order of the recipe."""
        return list(dict.fromkeys(self.settings["sweep"]))

    def of_sweep(self, sweep: str) -> pd.DataFrame:
        """The runs of one sweep, with `position`, `setting` and `swept.<key>` of their setting."""
        members = self.settings[self.settings["sweep"] == sweep].dropna(axis="columns", how="all")
        return members.merge(self.runs, on="run_id", how="left")


def read_sweep(folder: str | Path) -> SweepResults:
    """Read a sweep folder, with or without its weights.

    Raises:
        FileNotFoundError: there is no sweep.yaml in ``folder``.
        ValueError: sweep.yaml cannot be read as a recipe with its runs, or a file is of a newer
            version of this package.
    """
    import pandas as pd

    folder = Path(folder)
    recipe, plans = read_plan(folder)
    problems: list[str] = []
    places = [folder / "runs" / plan["run_id"] for plan in plans]
    n_absent = sum(not place.is_dir() for place in places)
    if n_absent:
        problems.append(
            f"{n_absent} of {len(plans)} runs are not begun; do geocollapse sweep with the same "
            "recipe and --out"
        )
    read = [ReadRun.read(place, plan, problems) for place, plan in zip(places, plans, strict=True)]
    runs = _table([run.row() for run in read])
    records = [record for run in read for record in run.records()]
    estimates = [estimate for run in read for estimate in run.estimates()]
    return SweepResults(
        folder=folder,
        recipe=recipe,
        runs=runs[[*FIRST_COLUMNS, *(name for name in runs.columns if name not in FIRST_COLUMNS)]],
        history=_table(records) if records else pd.DataFrame(columns=["run_id", "step"]),
        settings=_settings(plans),
        sampling=pd.DataFrame(estimates, columns=list(_SAMPLING)),
        provenance={run.run_id: run.provenance for run in read},
        problems=tuple(problems),
    )


def write_table(results: SweepResults) -> Path:
    """Write table.csv, one row per run, into the sweep folder."""
    path = results.folder / "table.csv"
    write_whole({path: results.runs.to_csv(index=False, float_format="%.10g").encode("utf-8")})
    return path


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that are done, whether or not they converged."""
    return runs[runs["status"] == "done"]


def converged(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that are done, have reached the stopping rule and have kept their accuracy."""
    done = finished(runs)
    return done[done["converged"].astype(bool)]


def finite_rows(runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The columns of the runs that have finite numbers in all of them; none if one is missing."""
    import pandas as pd

    wanted = list(dict.fromkeys(columns))
    if not set(wanted) <= set(runs.columns):
        return pd.DataFrame(columns=wanted, dtype=float)
    values = runs[wanted].apply(pd.to_numeric, errors="coerce").astype(float)
    return values.replace([math.inf, -math.inf], math.nan).dropna()


def _table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table; null is NaN, so that a quantity never defined is a column of numbers."""
    import pandas as pd

    return pd.DataFrame(
        [{key: math.nan if value is None else value for key, value in row.items()} for row in rows]
    )


def _settings(plans: Sequence[PlanEntry]) -> pd.DataFrame:
    """The setting of every run in each of its sweeps; runs of one setting differ in their seed."""
    import pandas as pd

    rows = []
    for sweep in dict.fromkeys(name for plan in plans for name in plan.get("sweeps") or {}):
        swept = {plan["run_id"]: (plan.get("sweeps") or {}).get(sweep) for plan in plans}
        members = {
            run_id: flatten(values) for run_id, values in swept.items() if values is not None
        }
        order = _in_order(members.values())
        for run_id, values in members.items():
            row = {
                "sweep": sweep,
                "position": order.index(values),
                "setting": ", ".join(f"{key} = {value}" for key, value in values.items()),
                "run_id": run_id,
            }
            rows.append(row | {f"swept.{key}": value for key, value in values.items()})
    return pd.DataFrame(rows, columns=None if rows else ["sweep", "position", "setting", "run_id"])


def _in_order(settings: Iterable[Row]) -> list[Row]:
    """The different settings of a sweep by their values, or unsorted where these do not compare."""
    different: list[Row] = []
    for setting in settings:
        if setting not in different:
            different.append(setting)
    try:
        return sorted(different, key=_values)
    except TypeError:
        return different


def _values(setting: Row) -> tuple[object, ...]:
    return tuple(setting.values())
