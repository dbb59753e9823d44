"""The runs of a sweep on the page: a row for each, a summary, and their warnings."""

from __future__ import annotations

import json
from collections import Counter

from geocollapse.charts.labels import setting_label, short_name
from geocollapse.experiments.results.convergence import (
    CONVERGED,
    LOST,
    NOT_CONVERGED,
    endings,
)
from geocollapse.experiments.results.tables import (
    ACCURACY,
    GC,
    GC_PER_VARIANCE,
    GCOL,
    NC,
    TARGET_NC,
    SweepResults,
)

RUN_COLUMNS = (
    "train_loss",
    "train_accuracy",
    GC,
    "source.gc_pixel",
    GC_PER_VARIANCE,
    GCOL,
    NC,
    "source.cdnv_bias_corrected",
    TARGET_NC,
    "target.accuracy.nearest_mean.1.value",
    ACCURACY,
    "distance",
    "flow_distance",
    "joint_distance",
    "lowest_frechet_distance",
    "late_frechet_distance",
)


def run_table(results: SweepResults) -> tuple[list[str], list[list[object]]]:
    """Headings, and a row for each run: its setting, its status, its last measurements."""
    runs = results.runs
    shown = [name for name in RUN_COLUMNS if name in runs and runs[name].notna().any()]
    settings = results.settings.groupby("run_id", sort=False)["setting"].agg(
        lambda of_run: "; ".join(map(setting_label, of_run))
    )
    rows: list[list[object]] = []
    ended = endings(runs).replace(CONVERGED, "done")
    for (_, run), end in zip(runs.iterrows(), ended, strict=True):
        rows.append(
            [
                run["run_id"][:10],
                end,
                settings.get(run["run_id"], "base"),
                run["seed"],
                run.get("step"),
                *(run[name] for name in shown),
            ]
        )
    return ["run", "status", "setting", "seed", "step", *(short_name(name) for name in shown)], rows


def runs_sentence(results: SweepResults) -> str:
    """The number of runs by how they ended."""
    counts = Counter(endings(results.runs))
    others = (NOT_CONVERGED, LOST, "failed", "unfinished")
    parts = [f"{len(results.runs)} runs: {counts[CONVERGED]} converged"]
    return ", ".join([*parts, *(f"{counts[end]} {end}" for end in others if counts[end])]) + "."


def warnings(results: SweepResults) -> list[tuple[str, int]]:
    """The warnings of the last measurements, with the number of runs that gave each."""
    counts: Counter[str] = Counter()
    for column in ("source.warnings", "target.warnings"):
        for text in results.runs[column].dropna() if column in results.runs else ():
            counts.update(json.loads(text))
    return counts.most_common()
