"""Two run folders side by side, by what each recorded of its own data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from geocollapse.estimate import Estimate
from geocollapse.experiments.results.folders import RunFolder, supervised_config
from geocollapse.experiments.results.records import HistoryLine, RunResult
from geocollapse.experiments.results.tables import flatten
from geocollapse.measures import MEASURES
from geocollapse.measures.measure import Direction
from geocollapse.ranking.comparison import Compared, Comparison

_DECIDING = ("per_pixel.gc_per_variance", "per_pixel.geometric_collapse", "cdnv", "nc1")
_SHOWN = ("geometric_complexity", "accuracy")
_INDEPENDENT = (
    "each run by its own record, so the intervals of the differences are those of independent "
    "values; for a paired comparison do geocollapse compare DIR DIR DATA"
)


def compare_runs(
    first: str | Path, second: str | Path, labels: tuple[str, str] | None = None
) -> Comparison:
    """Compare the final records of two runs: source, target, and few-shot accuracy.

    Raises:
        FileNotFoundError, ValueError: a folder that is no run, or of a run that is not done.
    """
    folders = RunFolder(first), RunFolder(second)
    finals = [_final(folder) for folder in folders]
    settings = [flatten(folder.config().model_dump(mode="json")) for folder in folders]
    changed = [key for key in settings[0] if settings[0][key] != settings[1].get(key)]
    deciding = [*_few_shot(*finals), *_rows(finals, _DECIDING)]
    source = finals[0]["source"]
    other = finals[1]["source"]
    notes = (
        _INDEPENDENT,
        *(f"{key}: {settings[0][key]} against {settings[1].get(key)}" for key in changed),
    )
    return Comparison(
        labels=labels or (folders[0].run_id, folders[1].run_id),
        layers=("" if source is None else source["layer"], "" if other is None else other["layer"]),
        n_samples=0 if source is None else source["n_samples"],
        split=None,
        rows=(*deciding, *_rows(finals, _SHOWN)),
        n_deciding=len(deciding),
        notes=notes,
        warnings=notes,
        is_paired=False,
        provenance=dict(cast("RunResult", folders[0].result())["provenance"]),
    )


def _final(folder: RunFolder) -> HistoryLine:
    if (folder.path / "sweep.yaml").exists():
        runs = folder.path / "runs"
        raise ValueError(
            f"MODEL: expected the folder of one run, got the sweep {folder.path}; do name one of "
            f"{runs}"
        )
    result = folder.result()
    if result is None or result["final"] is None:
        raise ValueError(
            f"MODEL: expected the folder of a run that is done, got {folder.path}; do geocollapse "
            f"train or sweep it to its end"
        )
    supervised_config(folder)
    return cast("HistoryLine", result["final"])


def _rows(finals: list[HistoryLine], names: tuple[str, ...]) -> Iterator[Compared]:
    """A row for each measure of source and target that both runs recorded with its error."""
    for part in ("source", "target"):
        found = [_estimates(final, part) for final in finals]
        for name in names:
            a, b = (_estimate(estimates.get(name)) for estimates in found)
            if a is not None and b is not None:
                measure = MEASURES[name]
                label = f"{part} {measure.full_name}"
                yield _row(f"{part}.{name}", label, a, b, measure.better)


def _estimates(final: HistoryLine, part: str) -> Mapping[str, Mapping[str, float]]:
    """The ranked measures of source or target; none in records of earlier releases."""
    record = cast("Mapping[str, object]", final.get(part) or {})
    return cast("Mapping[str, Mapping[str, float]]", record.get("estimates", {}))


def _few_shot(first: HistoryLine, second: HistoryLine) -> Iterator[Compared]:
    """Few-shot accuracy of the nearest mean by number of shots."""
    found = [_accuracy(final).get("nearest_mean", {}) for final in (first, second)]
    for k_shot in found[0]:
        a, b = (_estimate(by_shots.get(k_shot)) for by_shots in found)
        if a is not None and b is not None:
            yield _row(f"target.accuracy.{k_shot}", f"{k_shot}-shot accuracy", a, b, "higher")


def _accuracy(final: HistoryLine) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """The few-shot accuracies of the target; none in runs that have no classes apart."""
    accuracy = (final["target"] or {}).get("accuracy")
    if not isinstance(accuracy, Mapping):
        return {}
    return cast("Mapping[str, Mapping[str, Mapping[str, float]]]", accuracy)


def _row(name: str, label: str, a: Estimate, b: Estimate, better: Direction | None) -> Compared:
    difference = Estimate(
        a.value - b.value, math.hypot(a.stderr, b.stderr), n_samples=0, scale="linear"
    )
    return Compared(name, label, label, a.value, b.value, difference, better)


def _estimate(found: Mapping[str, float] | None) -> Estimate | None:
    """A recorded value with its error; None where either is missing."""
    if not found or found.get("value") is None or found.get("stderr") is None:
        return None
    return Estimate(found["value"], found["stderr"], n_samples=0, scale="linear")
