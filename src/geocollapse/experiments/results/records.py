"""The records of a run: a line of its history, its sampling study, its result, its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NotRequired

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from geocollapse.measurement import MeasurementDict
    from geocollapse.runtime.provenance import Provenance

Status = Literal["done", "failed"]


class Measured(TypedDict):
    """The measured part of a record.

    ``source`` is None where the loss is not finite, ``target`` where the run has no target classes;
    a target has the keys of `measure --json` and those of `transfer --json`.
    """

    train_loss: float
    train_accuracy: float
    learning_path_flatness: float
    source: MeasurementDict | None
    target: dict[str, object] | None


class HistoryLine(Measured):
    """One line of history.jsonl, or the final measurement of a run."""

    schema_version: NotRequired[int]
    step: int
    epoch: float
    examples_seen: int
    seconds: float
    seconds_measuring: float
    batch_norm_recalibrated: bool


class SampledEstimate(TypedDict):
    """One estimate of a sampling study with its 95 % interval."""

    value: float
    ci95: list[float]


class SamplingStudy(TypedDict):
    """Repeated estimates by one method, beside the full value."""

    n_samples: int
    n_probes: int
    full: float
    estimates: list[SampledEstimate]


class RunResult(TypedDict):
    """The content of result.json; ``history_sha256`` is of the text of history.jsonl.

    ``seconds`` is ``seconds_training`` (steps and the stopping rule) plus ``seconds_history``
    (records on the way) plus ``seconds_final`` (the records behind the last step). The sampling
    study comes on top. Results of earlier releases have ``seconds`` alone.
    """

    schema_version: NotRequired[int]
    run_id: str
    status: Status
    converged: bool
    stop_step: int | None
    steps: int | None
    error: str | None
    failed_step: int | None
    seconds: float | None
    seconds_training: NotRequired[float | None]
    seconds_history: NotRequired[float | None]
    seconds_final: NotRequired[float | None]
    seconds_sampling: NotRequired[float | None]
    final: HistoryLine | None
    history_sha256: NotRequired[str]
    sampling: dict[str, SamplingStudy]
    provenance: Provenance


class StateInfo(TypedDict):
    """The part of a saved state that is not tensors.

    ``optimizer`` is the state dict of the optimizer, with the names of tensors in their place.
    Version 1 has none: its tensors are SGD's momentum buffers under the names of the parameters.
    States of earlier releases do not have ``run_id``.
    """

    run_id: NotRequired[str]
    step: int
    stop_step: int | None
    seconds: float
    seconds_measuring: float
    seconds_final: NotRequired[float]
    penalty_step: int
    optimizer: NotRequired[dict[str, object]]
