"""The settings of an experiment, and the resolved configuration of one run of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geocollapse.experiments.recipe.problems import describe

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Classes = list[int] | str | None
Setting = dict[str, Any]


class Part(BaseModel):
    """A part of a recipe: no unknown keys, no silent conversion, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The same from plain data.

        Raises:
            ValueError: in one line: an unknown key (with the nearest known one), a missing one, a
                value of another type or out of its range.
        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ValueError(describe(error, known_keys(cls))) from None


class DataConfig(Part):
    """Images of source classes (trained on) and of target classes (never trained on).

    There is a target where ``target_classes`` or ``target_split`` is given; with the split alone it
    is that split of the source classes. A split of None is `train` for the source and `test` for
    the target.
    """

    name: str
    source_classes: Classes = None
    target_classes: Classes = None
    source_split: str | None = None
    target_split: str | None = None
    subset: Positive | None = None
    target_subset: Positive | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    pad_to: Positive | None = None
    augmentation: Literal["none", "crop_flip"] = "none"

    @property
    def has_target(self) -> bool:
        """Whether a target population is measured beside the source."""
        return self.target_classes is not None or self.target_split is not None


class ModelConfig(Part):
    """A network of `geocollapse.models` and the arguments of its factory."""

    name: str
    args: dict[str, Any] = {}


class PenaltyConfig(Part):
    """The arguments of `geocollapse.regularizers.GeometricComplexityPenalty`; weight 0 is no
    penalty.
    """

    weight: NotNegative = 0.0
    n_probes: Positive = 1
    batch_fraction: Share = 1.0
    every: Positive = 1
    batch_norm: Literal["refuse", "running"] = "refuse"


class TrainingConfig(Part):
    """SGD until ``stop_accuracy`` in evaluation mode, then ``extra_factor`` times as many steps
    again.

    A run whose steps end at ``max_steps`` first is `not converged`. ``milestones`` are the steps at
    which the schedule `step` divides the learning rate by ten. Source: definitions 8.
    """

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    batch_size: Positive
    weight_decay: NotNegative = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: list[Positive] = []
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gc_penalty: PenaltyConfig = PenaltyConfig()
    max_steps: Positive
    stop_accuracy: Share = 0.99
    extra_factor: NotNegative = 1.0
    recalibrate_batch_norm: bool = True


class SamplingConfig(Part):
    """The study of claim 5: ``repeats`` estimates from ``n_samples`` examples, ``n_outputs``
    outputs, ``n_probes``.

    ``kept_shares`` are shares of the Jacobian's entries that a mask keeps.
    """

    repeats: Positive
    n_samples: list[Positive] = []
    n_outputs: list[Positive] = []
    n_probes: list[Positive] = []
    kept_shares: list[Share] = []


class MeasuringConfig(Part):
    """When and how a run is measured: at ``points`` roughly geometric steps, or ``every`` so many
    steps.
    """

    points: Positive | None = None
    every: Positive | None = None
    estimator: Literal["rademacher", "aligned", "gaussian", "orthogonal", "input", "exact"] = (
        "rademacher"
    )
    n_probes: Positive | Literal["auto"] = "auto"
    max_samples: Positive | None = None
    evaluation_batch_size: Positive = 500
    sampling: SamplingConfig | None = None

    @model_validator(mode="after")
    def _one_schedule(self) -> MeasuringConfig:
        if (self.points is None) == (self.every is None):
            raise ValueError(
                f"expected one of points and every, got points={self.points}, every={self.every}; "
                f"do set one, "
                "and the other to null"
            )
        return self


class TransferConfig(Part):
    """Few-shot episodes on the target classes."""

    n_way: Annotated[int, Field(ge=2)] = 5
    k_shots: list[Positive] = [1, 5]
    n_query: Positive = 15
    n_episodes: Positive = 600


class RunConfig(Part):
    """The resolved configuration of one run; its `run_id` names the run's folder."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    measuring: MeasuringConfig
    transfer: TransferConfig = TransferConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Positive = 1
    keep_checkpoints: Literal["last", "schedule"] = "last"


class PlannedRun(Part):
    """One run of a plan.

    Attributes:
        run_id: name of its folder.
        config: its resolved configuration.
        sweeps: sweep name -> its setting there, dotted keys and values; one run may belong to
            several sweeps.
        overrides: how it differs from the base setting, dotted keys and values.
    """

    run_id: str
    config: RunConfig
    sweeps: dict[str, Setting] = {}
    overrides: Setting = {}

    def entry(self) -> dict[str, Any]:
        """Its line in sweep.yaml."""
        return {
            "run_id": self.run_id,
            "seed": self.config.seed,
            "sweeps": self.sweeps,
            "overrides": self.overrides,
        }


class ClaimsConfig(Part):
    """What is fixed before the run: signs expected of the correlations, thresholds of claims 4 and
    5 (definitions 5).

    ``expected_signs`` maps `gc_gcol`, `gc_nc`, `gc_target_nc`, `gc_accuracy` or a swept key to +1
    or -1; 0, or nothing, expects no sign.
    """

    expected_signs: dict[str, Literal[-1, 0, 1]] = {}
    poincare_factor: Annotated[float, Field(ge=1)] = 3.0
    coverage: Share = 0.93
    relative_error: Annotated[float, Field(gt=0)] = 0.05


def run_id(config: RunConfig) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the canonical JSON of a run's resolved
    configuration.

    Device, paths, workers and version are no part of it, so a run has the same name on every
    machine.
    """
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def value_at(config: BaseModel, key: str) -> Any:
    """The value of a dotted key of a configuration; None where an argument of the model is not
    given.
    """
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a configuration class, its parts before their fields."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        parts = getattr(field.annotation, "__args__", None) or (field.annotation,)
        for part in parts:
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys += known_keys(part, f"{prefix}{name}.")
    return keys
