"""The types of what `--json` prints, and the JSON Schemas generated from them.

The types of measurements lie beside the results themselves; those here belong to the command line.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from geocollapse.cli.catalogue_types import (
    CacheDict,
    DataDict,
    ModelsDict,
    RecipesDict,
    RecipeTextDict,
)
from geocollapse.cli.ood_types import OodDict
from geocollapse.experiments.results.records import GameLine
from geocollapse.measurement import LayersDict, MeasurementDict
from geocollapse.papers.verdict import VerdictDict
from geocollapse.ranking.comparison import ComparisonDict
from geocollapse.ranking.json_form import RankingDict
from geocollapse.runtime.provenance import Provenance
from geocollapse.transfer import TransferDict


class ReportDict(TypedDict):
    """``report --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        report: path of the page.
        table: path of the table of all runs.
        figures: paths of the figures.
        verdicts: the judgement on each claim.
        problems: files that could not be read, and runs left out.
    """

    schema_version: int
    report: str
    table: str
    figures: list[str]
    verdicts: list[VerdictDict]
    problems: list[str]


class ExperimentDict(TypedDict):
    """One experiment of ``reproduce --json``.

    Attributes:
        recipe: that repeats it.
        question: that it answers.
        published: what the paper shows.
        command: that makes the sweep.
        stored: false if there is no sweep yet.
        convergence: runs and settings that reached the stopping rule, in words.
        verdicts: the main ones on its claims.
        hours: of all runs, one worker; null without a sweep.
        history_share: time of records during training over that of the steps.
    """

    recipe: str
    question: str
    published: str
    command: str
    stored: bool
    convergence: str
    verdicts: list[VerdictDict]
    hours: float | None
    history_share: float | None


class ReproductionDict(TypedDict):
    """``reproduce --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        answer: sentences on the claims.
        lessons: a sentence for each measure of transfer, on where lower source NC goes with it.
        experiments: one for each figure of the paper, and the questions beside it.
        hours: of all stored runs.
        machines: that ran them.
        page: path of the page.
    """

    schema_version: int
    answer: list[str]
    lessons: list[str]
    experiments: list[ExperimentDict]
    hours: float
    machines: list[str]
    page: str


class FailureDict(TypedDict):
    """One run that failed.

    Attributes:
        run_id: of the run.
        failed_step: the step at which it failed; null if it had none.
        error: the reason, in one line.
    """

    run_id: str
    failed_step: int | None
    error: str | None


class SweepDict(TypedDict):
    """``sweep --json`` and ``demo --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        folder: of the sweep.
        n_runs: runs of the recipe.
        n_done: runs that are done.
        n_skipped: runs that an earlier call had done.
        n_failed: runs that failed.
        seconds: that this call took.
        failures: each run that failed.
        report: the page, table and figures of the sweep.
    """

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
    """One run of ``sweep --dry-run --json``.

    Attributes:
        run_id: of the run.
        seed: of the run.
        sweeps: its setting in each of its sweeps, by the name of the sweep.
        overrides: keys of the recipe that it changes.
    """

    run_id: str
    seed: int
    sweeps: dict[str, dict[str, Any]]
    overrides: dict[str, Any]


class PlanDict(TypedDict):
    """``sweep --dry-run --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        folder: of the sweep.
        n_runs: runs to do.
        workers: runs at a time.
        seconds_per_step: of training, on this machine.
        seconds_per_record: of measuring, on this machine.
        seconds_per_run: at most, on this machine.
        seconds: for all runs, at most, on this machine.
        runs: each run.
    """

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
    """One line of history.jsonl.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        step: number of training steps before it.
        epoch: examples seen over examples of the training set.
        examples_seen: number of examples trained on, with repetition.
        seconds: of training so far.
        seconds_measuring: of measuring so far.
        batch_norm_recalibrated: true if batch statistics were computed anew before measuring.
        train_loss: mean loss over the training examples, in evaluation mode.
        train_accuracy: share of the training examples that are classified correctly, in evaluation
            mode.
        learning_path_flatness: squared norm of the gradient of the training loss.
        source: the measurement on the training classes.
        target: the measurement on the target classes, with the keys of both measure and transfer;
            null without a target.
    """

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
    """``train --json``: result.json of the run, and its folder.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        folder: of the run.
        run_id: a hash of its configuration.
        status: `done` or `failed`.
        converged: true if it reached its training accuracy and ended with it; of a game, if it did
            not diverge.
        stop_step: the step at which it did; null if it did not.
        steps: number of steps, or of turns of a game.
        error: the reason of a failure, in one line; null without one.
        failed_step: the step at which it failed; null if it did not.
        seconds: of training and measuring, without the sampling study.
        seconds_training: of these, for the steps and the stopping rule.
        seconds_history: of these, for the records on the way.
        seconds_final: of these, for the records behind the last step.
        seconds_sampling: for the sampling study.
        final: the last line of its history.
        history_sha256: checksum of its history.
        sampling: the study of sampled estimates; empty without one.
        provenance: where the numbers come from.
    """

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
    seconds_training: NotRequired[float | None]  # results of old runs have none
    seconds_history: NotRequired[float | None]
    seconds_final: NotRequired[float | None]
    seconds_sampling: NotRequired[float | None]
    final: LineDict | GameLine | None
    history_sha256: NotRequired[str]  # of a run that is done
    sampling: dict[str, Any]
    provenance: Provenance


class SeveralLayersDict(LayersDict):
    """``measure --json`` with several layers.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
    """

    schema_version: int


class FewShotDict(TransferDict):
    """``transfer --json``: the accuracies, and the data that they were measured on.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        classes: name of class 0, 1, ...
        layer: whose features were classified; empty for the output.
        n_features: width of the layer.
        n_samples: number of examples.
        split: the part of the data set; null where it has none.
        provenance: where the numbers come from.
    """

    schema_version: int
    classes: list[str]
    layer: str
    n_features: int
    n_samples: int
    split: str | None
    provenance: dict[str, Any]


RecipesOrTextDict = RecipesDict | RecipeTextDict

RESULTS: dict[str, Any] = {
    "measure": MeasurementDict | SeveralLayersDict,
    "train": TrainDict,
    "sweep": SweepOrPlanDict,
    "transfer": FewShotDict,
    "rank": RankingDict,
    "ood": OodDict,
    "report": ReportDict,
    "reproduce": ReproductionDict,
    "demo": SweepDict,
    "compare": ComparisonDict,
    "cache": CacheDict,
    "recipes": RecipesOrTextDict,
    "data": DataDict,
    "models": ModelsDict,
}


def schema(command: str) -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of ``geocollapse COMMAND --json``."""
    from pydantic import TypeAdapter

    from geocollapse.cli.descriptions import Described

    head: dict[str, object] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return (
        head
        | TypeAdapter(RESULTS[command]).json_schema(
            mode="serialization", schema_generator=Described
        )
        | {"title": f"geocollapse {command} --json"}
    )


def schema_text(command: str) -> str:
    """``schema`` as text."""
    return json.dumps(schema(command), indent=2)
