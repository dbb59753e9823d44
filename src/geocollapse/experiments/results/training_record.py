"""The scores that a run recorded on its own data, at the step of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

from geocollapse.estimate import Estimate
from geocollapse.experiments.results.checkpoints import State
from geocollapse.experiments.results.run_folder import RunFolder
from geocollapse.experiments.results.text import json_object
from geocollapse.models.loaded import TrainingRecord


def training_record(run: RunFolder, step: int | None) -> TrainingRecord | None:
    """The record of a run at a step; None where there is none.

    Files are read as they are, and none is set aside.

    Args:
        run: its folder.
        step: of a checkpoint; None for the last weights, whose record is that of result.json, or
            for a run that goes on, the line of its history at the step of its state.
    """
    line = _line_at(run, step) if step is not None else _final(run) or _line_at(run, _at(run))
    if line is None:
        return None
    source = _mapping(line.get("source"))
    layer = source.get("layer")
    found = {"source.cdnv": _cdnv(source), "learning_path_flatness": _flatness(line)}
    return TrainingRecord(
        step=int(_number(line.get("step"))),
        layer=layer if isinstance(layer, str) else None,
        scores={name: score for name, score in found.items() if math.isfinite(score.value)},
    )


def _final(run: RunFolder) -> Mapping[str, object] | None:
    """The measurement behind the last step, which result.json holds."""
    final = (run.result_as_it_is() or {}).get("final")
    return final if isinstance(final, dict) else None


def _at(run: RunFolder) -> int | None:
    """The step of the last weights."""
    state = State.read(run.path)
    return None if state is None else state.info["step"]


def _line_at(run: RunFolder, step: int | None) -> Mapping[str, object] | None:
    """The line of the history at a step."""
    lines = map(json_object, run.history_text().splitlines())
    return next((line for line in lines if line is not None and line.get("step") == step), None)


def _cdnv(source: Mapping[str, object]) -> Estimate:
    """CDNV of the source classes, with the error for examples drawn within them."""
    estimate = _mapping(_mapping(source.get("estimates")).get("cdnv"))
    return Estimate(
        _number(source.get("cdnv")),
        _number(estimate.get("stderr")),
        n_samples=_count(source.get("n_samples")),
        population="distribution",
        scale="linear",
    )


def _flatness(line: Mapping[str, object]) -> Estimate:
    n_samples = _count(_mapping(line.get("source")).get("n_samples"))
    return Estimate(
        _number(line.get("learning_path_flatness")), math.nan, n_samples, scale="linear"
    )


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
