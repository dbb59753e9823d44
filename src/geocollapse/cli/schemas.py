"""The types of what `--json` prints, and the JSON Schemas generated from them.

The types of measurements lie beside the results themselves; those here belong to the command line.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from geocollapse.measurement import LayersDict, MeasurementDict
from geocollapse.runtime.provenance import Provenance
from geocollapse.transfer import TransferDict


class VerdictDict(TypedDict):
    """One verdict with the numbers behind it; see ``geocollapse.papers.verdict.Verdict``."""

    claim: str
    statement: str
    sweep: str
    x: str
    y: str
    view: str
    verdict: str
    n_runs: int
    n_settings: int | None
    effect_name: str
    effect: float | None
    interval: tuple[float | None, float | None]
    p: float | None
    p_holm: float | None
    p_opposite: float | None
    p_two_sided: float | None
    remark: str
    note: str
    figure: str


class ReportDict(TypedDict):
    """``report --json``."""

    schema_version: int
    report: str
    table: str
    figures: list[str]
    verdicts: list[VerdictDict]
    problems: list[str]


class FailureDict(TypedDict):
    """One run that failed."""

    run_id: str
    failed_step: int | None
    error: str | None


class SweepDict(TypedDict):
    """``sweep --json`` and ``demo --json``; `n_skipped` counts runs done by an earlier call."""

    schema_version: int
    folder: str
    n_runs: int
    n_done: int
    n_skipped: int
    n_failed: int
    seconds: float
    failures: list[FailureDict]
    report: ReportDict


class PlannedRunDict(TypedDict):
    """One run of ``sweep --dry-run --json``, with its setting in each of its sweeps."""

    run_id: str
    seed: int
    sweeps: dict[str, dict[str, Any]]
    overrides: dict[str, Any]


class PlanDict(TypedDict):
    """``sweep --dry-run --json``; `seconds` is an upper limit for this machine."""

    schema_version: int
    folder: str
    n_runs: int
    workers: int
    seconds_per_step: float
    seconds_per_record: float
    seconds_per_run: float
    seconds: float
    runs: list[PlannedRunDict]


SweepOrPlanDict = SweepDict | PlanDict


class LineDict(TypedDict):
    """One line of history.jsonl; the target has the keys of both measure and transfer."""

    schema_version: NotRequired[int]  # lines of old runs have none
    step: int
    epoch: float
    examples_seen: int
    seconds: float
    seconds_measuring: float
    batch_norm_recalibrated: bool
    train_loss: float
    train_accuracy: float
    learning_path_flatness: float
    source: MeasurementDict
    target: dict[str, Any] | None


class TrainDict(TypedDict):
    """``train --json``: result.json of the run, and its folder."""

    schema_version: int
    folder: str
    run_id: str
    status: Literal["done", "failed"]
    converged: bool
    stop_step: int | None
    steps: int | None
    error: str | None
    failed_step: int | None
    seconds: float | None
    final: LineDict | None
    history_sha256: NotRequired[str]  # of a run that is done
    sampling: dict[str, Any]
    provenance: Provenance


class SeveralLayersDict(LayersDict):
    """``measure --json`` with several layers."""

    schema_version: int


class FewShotDict(TransferDict):
    """``transfer --json``: the accuracies, and the data that they were measured on."""

    schema_version: int
    classes: list[str]
    layer: str
    n_features: int
    n_samples: int
    split: str | None
    provenance: dict[str, Any]


class RecipeDict(TypedDict):
    """One recipe of ``recipes --json``; `sweeps` maps the name of each to the keys it varies."""

    name: str
    title: str
    paper: str
    source: str
    cost: str
    data: str
    model: str
    sweeps: dict[str, list[str]]
    presets: list[str]
    n_runs: int


class RecipesDict(TypedDict):
    """``recipes --json``."""

    schema_version: int
    recipes: list[RecipeDict]


class SourceDict(TypedDict):
    """One data set of ``data --json``; `is_here` if its files lie in the data folder."""

    name: str
    description: str
    splits: list[str]
    n_classes: int
    shape: list[int]
    size_mb: int
    is_here: bool
    source: str
    licence: str
    citation: str


class DataDict(TypedDict):
    """``data --json``."""

    schema_version: int
    data: list[SourceDict]
    data_root: str


class ModelDict(TypedDict):
    """One model of ``models --json``; `n_parameters` is for 10 classes and default settings."""

    name: str
    model: str
    description: str
    n_parameters: int
    source: str


class FormDict(TypedDict):
    """One form of MODEL; `source` is where its weights come from."""

    form: str
    description: str
    source: str


class ModelsDict(TypedDict):
    """``models --json``."""

    schema_version: int
    models: list[ModelDict]
    forms: list[FormDict]


RESULTS: dict[str, Any] = {
    "measure": MeasurementDict | SeveralLayersDict,
    "train": TrainDict,
    "sweep": SweepOrPlanDict,
    "transfer": FewShotDict,
    "report": ReportDict,
    "demo": SweepDict,
    "recipes": RecipesDict,
    "data": DataDict,
    "models": ModelsDict,
}


def schema(command: str) -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of ``geocollapse COMMAND --json``."""
    from pydantic import TypeAdapter

    head: dict[str, object] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return (
        head
        | TypeAdapter(RESULTS[command]).json_schema(mode="serialization")
        | {"title": f"geocollapse {command} --json"}
    )


def schema_text(command: str) -> str:
    """``schema`` as text."""
    return json.dumps(schema(command), indent=2)
