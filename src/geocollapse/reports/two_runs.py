"""Two run folders side by side, by what each recorded of its own data."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from geocollapse.estimate import Estimate
from geocollapse.experiments.results.folders import RunFolder, supervised_config
from geocollapse.experiments.results.records import HistoryLine, RunResult
from geocollapse.experiments.results.tables import flatten
from geocollapse.measures import MEASURES, Measure, incomparable
from geocollapse.measures.measure import EVERY_CHANGE, Direction
from geocollapse.ranking.comparable import DECIDING, EXAMPLES, Circumstances, differences
from geocollapse.ranking.comparison import Compared, Comparison

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import RunConfig

_SHOWN = (("geometric_complexity",), ("accuracy",))
_INDEPENDENT = (
    "each run by its own record, so the intervals of the differences are those of independent "
    "values; for a paired comparison do geocollapse compare DIR DIR DATA"
)
_OVER_EPISODES = (
    "few-shot accuracy decides nothing here: the runs recorded its error over other episodes of "
    "the same examples, not over other examples; do geocollapse compare DIR DIR DATA"
)
_ON_THE_SAME = "for a comparison on the same examples do geocollapse compare DIR DIR DATA"


def compare_runs(
    first: str | Path, second: str | Path, labels: tuple[str, str] | None = None
) -> Comparison:
    """Compare the final records of two runs: source, target, and few-shot accuracy.

    What they recorded of different examples is shown and marked as not comparable; so are measures
    that depend on a scale in which the runs differ.

    Raises:
        FileNotFoundError, ValueError: a folder that is no run, or of a run that is not done.
    """
    folders = RunFolder(first), RunFolder(second)
    finals = _final(folders[0]), _final(folders[1])
    configs = supervised_config(folders[0]), supervised_config(folders[1])
    parts = [_Part.of(name, finals, configs) for name in ("source", "target")]
    few_shot = list(_few_shot(finals, configs, parts[1].differing))
    deciding = [*few_shot, *(row for part in parts for row in part.rows(DECIDING))]
    shown = [row for part in parts for row in part.rows(_SHOWN)]
    source = finals[0]["source"]
    other = finals[1]["source"]
    rows = (*deciding, *shown)
    is_compared = any(row.difference is not None for row in rows)
    about_episodes = (_OVER_EPISODES,) if any(not row.note for row in few_shot) else ()
    about = (_INDEPENDENT if is_compared else _ON_THE_SAME, *about_episodes)
    notes = (*about, *_changes(*configs))
    return Comparison(
        labels=labels or (folders[0].run_id, folders[1].run_id),
        layers=("" if source is None else source["layer"], "" if other is None else other["layer"]),
        n_samples=0 if source is None else source["n_samples"],
        split=None,
        rows=rows,
        n_deciding=len(deciding),
        notes=notes,
        warnings=notes,
        is_paired=False,
        provenance=dict(cast("RunResult", folders[0].result())["provenance"]),
    )


@dataclass(frozen=True)
class _Part:
    """Source or target of both runs.

    Attributes:
        name: ``source`` or ``target``.
        estimates: the ranked measures of each run.
        differing: the changes between the runs that some measures are not invariant to.
    """

    name: str
    estimates: tuple[Mapping[str, Mapping[str, float]], Mapping[str, Mapping[str, float]]]
    differing: Mapping[str, str]

    @classmethod
    def of(
        cls,
        name: str,
        finals: tuple[HistoryLine, HistoryLine],
        configs: tuple[RunConfig, RunConfig],
    ) -> _Part:
        """The part called ``name`` of the final records."""
        records = tuple(cast("Mapping[str, object]", final.get(name) or {}) for final in finals)
        one, other = (
            _circumstances(name, record, config)
            for record, config in zip(records, configs, strict=True)
        )
        return cls(name, (_estimates(records[0]), _estimates(records[1])), differences(one, other))

    def rows(self, lines: Sequence[Sequence[str]]) -> Iterator[Compared]:
        """A row for the first measure of each line that both runs recorded with its error."""
        for names in lines:
            for name in names:
                a, b = (_estimate(estimates.get(name)) for estimates in self.estimates)
                if a is not None and b is not None:
                    yield self._row(MEASURES[name], a, b)
                    break

    def _row(self, measure: Measure, a: Estimate, b: Estimate) -> Compared:
        label = f"{self.name} {measure.full_name}"
        found = _row(f"{self.name}.{measure.name}", label, a, b, measure.better)
        return _noted(found, self.differing, measure.invariant_to)


def _circumstances(part: str, record: Mapping[str, object], config: RunConfig) -> Circumstances:
    """What a run's record of its source or target depends on beside its training."""
    data, model = config.data, config.model
    preprocessing = cast("Mapping[str, object]", record.get("preprocessing") or {})
    examples = {
        "data set": data.name,
        "split": record.get("split"),
        "classes": frozenset(map(str, cast("Sequence[object]", record.get("classes") or ()))),
    }
    if part == "source":
        examples["labels"] = f"{data.random_labels:.0%} random"
    settings = ", ".join(f"{key}={value}" for key, value in sorted(model.args.items()))
    return Circumstances(
        n_features=cast("int", record.get("n_features", 0)),
        preprocessing={
            "pad_to": data.pad_to,
            "image_size": data.image_size,
            "text_model": data.text_model,
            **preprocessing,
        },
        network=f"{model.name or model.factory}({settings})",
        examples=examples,
    )


def _changes(one: RunConfig, other: RunConfig) -> Iterator[str]:
    """A note on each setting in which two runs differ."""
    first, second = (flatten(config.model_dump(mode="json")) for config in (one, other))
    for key in dict.fromkeys((*first, *second)):
        if first.get(key) != second.get(key):
            yield f"{key}: {first.get(key)} against {second.get(key)}"


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


def _estimates(record: Mapping[str, object]) -> Mapping[str, Mapping[str, float]]:
    """The ranked measures of source or target; none in records of earlier releases."""
    return cast("Mapping[str, Mapping[str, float]]", record.get("estimates", {}))


def _few_shot(
    finals: tuple[HistoryLine, HistoryLine],
    configs: tuple[RunConfig, RunConfig],
    differing: Mapping[str, str],
) -> Iterator[Compared]:
    """Few-shot accuracy of the nearest mean by number of shots, without an error of its difference.

    The error that runs record takes the target's examples as given.
    """
    n_ways = [config.transfer.n_way for config in configs]
    if n_ways[0] != n_ways[1]:
        differing = {**differing, EXAMPLES: f"{n_ways[0]} classes an episode against {n_ways[1]}"}
    found = [_accuracy(final).get("nearest_mean", {}) for final in finals]
    for k_shot in found[0]:
        a, b = (_estimate(by_shots.get(k_shot)) for by_shots in found)
        if a is not None and b is not None:
            name, label = f"target.accuracy.{k_shot}", f"{k_shot}-shot accuracy"
            note = incomparable(differing, EVERY_CHANGE)
            yield Compared(name, label, label, a.value, b.value, None, "higher", note)


def _noted(row: Compared, differing: Mapping[str, str], invariant_to: Collection[str]) -> Compared:
    """The row with the reason why it cannot be compared; no difference of other examples."""
    difference = None if EXAMPLES in differing else row.difference
    return replace(row, difference=difference, note=incomparable(differing, invariant_to))


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
