"""The settings of an experiment, and the resolved configuration of one run of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from geocollapse.experiments.recipe.moving import (
    STRICT,
    Classes,
    CorridorConfig,
    DALConfig,
    DynamicsConfig,
    GradientPenaltyConfig,
    NotNegative,
    OrderEffectConfig,
    Positive,
    Rate,
    Threads,
)
from geocollapse.experiments.recipe.problems import describe

Share = Annotated[float, Field(gt=0, le=1)]
Setting = dict[str, object]  # dotted keys and their values

MAIN_PAPER = "collapse-transfer"
GAME_PAPER = "games"
OWN_DATA = ("folder", "csv", "parquet")  # kinds of data of one's own


class Part(BaseModel):
    """A part of a recipe: it refuses unknown keys, converts no types, and is immutable."""

    model_config = STRICT

    @classmethod
    def of(cls, data: Mapping[str, object]) -> Self:
        """Validate plain data.

        Raises:
            ValueError: in one line: an unknown key (with the nearest known one), a missing key, or
                a value of another type or out of range.
        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ValueError(describe(error, known_keys(cls))) from None


class DataConfig(Part):
    """Images of source classes (trained on) and of target classes (never trained on).

    ``name`` is a data set. ``source_classes`` of the ``source_split`` are trained on, by default
    all classes of `train`. A run has a target if ``target_classes`` or ``target_split`` is given;
    the split alone means that split of the source classes, and defaults to `test`. Classes are
    numbers or names, in a list or as `0-4,7` and `cat,dog`.

    ``folder``, ``csv`` and ``parquet`` name data of your own, in place of ``name``: `folder: PATH`
    is `name: folder:PATH`. Texts need a ``text_model``, such as
    `hf:sentence-transformers/all-MiniLM-L6-v2`: an example is then the mean of its tokens in the
    last layer, scaled to a root mean square of 1.

    ``mean`` and ``std`` replace the normalisation of the channels. ``pad_to`` and ``image_size``
    pad images, or resize and crop them, to so many pixels a side. The ``augmentation`` `crop_flip`
    crops and flips training images at random. ``n_classes`` keeps the first ones of the source
    classes; a ``subset`` is balanced over those, and a ``target_subset`` over the target classes.

    With a ``test_split`` each record has the loss and accuracy on that split of the source classes,
    or on a ``test_subset`` of it, and nothing else of it: one forward pass.

    ``random_labels`` is the share of the source examples whose label is drawn anew, uniformly from
    all classes; which ones and which labels depends on ``random_labels_seed`` alone.
    """

    name: str
    source_classes: Classes = None
    target_classes: Classes = None
    n_classes: Annotated[int, Field(ge=2)] | None = None
    source_split: str | None = None
    target_split: str | None = None
    subset: Positive | None = None
    target_subset: Positive | None = None
    test_split: str | None = None
    test_subset: Positive | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    pad_to: Positive | None = None
    image_size: Positive | None = None
    text_model: str | None = None
    augmentation: Literal["none", "crop_flip"] = "none"
    random_labels: Annotated[float, Field(ge=0, le=1)] = 0.0
    random_labels_seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _name_of_own_data(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        kinds = [kind for kind in OWN_DATA if data.get(kind) is not None]
        if len(kinds) + (data.get("name") is not None) > 1:
            raise ValueError(
                f"expected one of name, {', '.join(OWN_DATA)}, got "
                f"{', '.join(filter(data.get, ('name', *OWN_DATA)))}; do set the others to null"
            )
        rest = {key: value for key, value in data.items() if key not in OWN_DATA}
        return rest | ({"name": f"{kinds[0]}:{data[kinds[0]]}"} if kinds else {})

    @property
    def has_target(self) -> bool:
        """True if the run measures target classes beside the source."""
        return self.target_classes is not None or self.target_split is not None


class ModelConfig(Part):
    """A network of `geocollapse.models` by ``name``, or one of your own by ``factory``.

    ``factory`` is `FILE.py:FUNCTION`, with a path from the current folder, or
    `package.module:FUNCTION`. ``sha256`` is the digest of the file, filled in for each run.
    ``args`` are the arguments of the network. ``initial_scale`` multiplies the initial weights of
    all linear layers and convolutions.
    """

    name: str = ""
    factory: str | None = None
    sha256: str | None = None
    args: dict[str, Any] = {}  # whatever the factory takes
    initial_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _one_of_name_and_factory(self) -> ModelConfig:
        if bool(self.name) == bool(self.factory):
            raise ValueError(
                f"expected one of name and factory, got name={self.name or None}, "
                f"factory={self.factory}; do set one, and the other to null"
            )
        return self


class PenaltyConfig(Part):
    """The penalty on geometric complexity; a ``weight`` of 0 is no penalty.

    The arguments of `geocollapse.regularizers.GeometricComplexityPenalty`: ``n_probes`` probes an
    example, on a ``batch_fraction`` of the batch at every ``every``-th step. ``batch_norm`` is
    refused, or takes its `running` statistics in another forward pass.
    """

    weight: NotNegative = 0.0
    n_probes: Positive = 1
    batch_fraction: Share = 1.0
    every: Positive = 1
    batch_norm: Literal["refuse", "running"] = "refuse"


class TrainingConfig(Part):
    """Training until ``stop_accuracy`` in evaluation mode, then ``extra_factor`` as many steps.

    A run that reaches ``max_steps`` first has `not converged`, nor has one that ends below
    ``stop_accuracy``. ``milestones`` are the steps at which the schedule `step` divides the
    learning rate by ten. ``batch_size`` examples make a step; ``label_smoothing`` is that of
    cross-entropy. With ``recalibrate_batch_norm`` the statistics of
    batch normalisation are those of the final weights before the last record.

    The optimizer `sgd` adds ``weight_decay`` times the parameters to the gradient (L2). `adamw`
    takes no ``momentum``, has PyTorch's default betas and eps, and decouples the weight decay: each
    step shrinks the parameters by ``learning_rate * weight_decay``, apart from the gradient.

    `corridor` and `dal` are `geocollapse.optimizers.Corridor` and `DAL`: their rate follows from
    the loss that is descended, E = loss + penalties + ``weight_decay``/2 ||parameters||^2. They
    read neither ``learning_rate`` nor ``schedule``, which must be `constant`, and take no
    ``momentum``.

    ``loss`` is `cross_entropy`, or `squared`: half the squared distance of the logits from the unit
    vector of the label. ``memory_format`` `channels_last` stores images and convolutions with the
    channels side by side, which many processors compute faster, with other rounding.

    ``l2_penalty`` l adds l/2 times the squared norm of all parameters to the loss, and
    ``spectral_norm_penalty`` l/2 times the squared spectral norm of each weight matrix:
    `geocollapse.regularizers.L2Penalty` and `SpectralNormPenalty`. ``input_noise`` is the standard
    deviation of Gaussian noise on the training inputs, in units of the normalised inputs.

    Source: definitions 8; Loshchilov and Hutter (2019) for `adamw`; Hui and Belkin (2021) for
    `squared`; Yoshida and Miyato (2017) for the spectral norm; Bishop (1995) for input noise.
    """

    loss: Literal["cross_entropy", "squared"] = "cross_entropy"

    optimizer: Literal["sgd", "adamw", "corridor", "dal"] = "sgd"
    corridor: CorridorConfig = CorridorConfig()
    dal: DALConfig = DALConfig()
    learning_rate: Rate
    batch_size: Positive
    weight_decay: NotNegative = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: list[Positive] = []
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gc_penalty: PenaltyConfig = PenaltyConfig()
    gradient_penalty: GradientPenaltyConfig = GradientPenaltyConfig()
    l2_penalty: NotNegative = 0.0
    spectral_norm_penalty: NotNegative = 0.0
    input_noise: NotNegative = 0.0
    max_steps: Positive
    stop_accuracy: Share = 0.99
    extra_factor: NotNegative = 1.0
    recalibrate_batch_norm: bool = True
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"

    @model_validator(mode="after")
    def _smoothing_belongs_to_cross_entropy(self) -> TrainingConfig:
        if self.loss != "cross_entropy" and self.label_smoothing != 0.0:
            raise ValueError(
                f"label_smoothing: expected 0 with the loss {self.loss}, got "
                f"{self.label_smoothing:g}; do training.label_smoothing=0"
            )
        return self

    @model_validator(mode="after")
    def _momentum_belongs_to_sgd(self) -> TrainingConfig:
        if self.optimizer != "sgd" and self.momentum != 0.0:
            raise ValueError(
                f"momentum: expected 0 with the optimizer {self.optimizer}, got {self.momentum:g}; "
                "do training.momentum=0"
            )
        return self

    @model_validator(mode="after")
    def _schedule_belongs_to_a_given_rate(self) -> TrainingConfig:
        if self.optimizer in ("corridor", "dal") and self.schedule != "constant":
            raise ValueError(
                f"schedule: expected constant with the optimizer {self.optimizer}, which sets its "
                f"own rate, got {self.schedule}; do training.schedule=constant"
            )
        return self


class SamplingConfig(Part):
    """The study of sampled estimates of GC: ``repeats`` of them for each entry of the lists.

    ``n_samples`` are numbers of examples, ``n_outputs`` of output coordinates, ``n_probes`` of
    probes, and ``kept_shares`` the shares of the Jacobian's entries that a mask keeps.
    """

    repeats: Positive
    n_samples: list[Positive] = []
    n_outputs: list[Positive] = []
    n_probes: list[Positive] = []
    kept_shares: list[Share] = []


class MeasuringConfig(Part):
    """When and how a run is measured: at ``points`` geometric steps, or ``every`` n steps.

    The geometric steps lead from ``first`` to the limit of steps. With a ``history_subset``, the
    records before the last step use so many examples, balanced over classes, of the source and of
    the target; the stopping rule and the final record use all. Without ``per_class`` the values of
    single classes are left out, which are most of a record of many classes.

    ``estimator``, ``n_probes`` and ``max_samples`` are those of `geocollapse.measure`;
    ``evaluation_batch_size`` changes memory and speed alone. ``sampling`` adds the study of sampled
    estimates.

    With ``dynamics``, which is off by default, each record also says how training moves, and with
    ``order_effect`` what steps on the source and on another task do in either order.

    ``margin`` is the level of a quantile: each record then has the margins of the source, geometric
    complexity of the logits, and the same over the squared margin at that quantile; with a
    ``data.test_split``, the errors there. It takes another pass over the source, with a
    vector-Jacobian product an example, and no further pass over the test split.
    ``transfer_inequality`` is the number of source examples on which the transfer inequality of a
    dense network is checked.
    """

    points: Positive | None = None
    first: Positive = 1
    every: Positive | None = None
    estimator: Literal["rademacher", "aligned", "gaussian", "orthogonal", "input", "exact"] = (
        "rademacher"
    )
    n_probes: Positive | Literal["auto"] = "auto"
    max_samples: Positive | None = None
    history_subset: Positive | None = None
    per_class: bool = True
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None
    transfer_inequality: Positive | None = None
    evaluation_batch_size: Positive = 500
    sampling: SamplingConfig | None = None
    dynamics: DynamicsConfig | None = None
    order_effect: OrderEffectConfig | None = None

    @model_validator(mode="after")
    def _one_schedule(self) -> MeasuringConfig:
        if (self.points is None) == (self.every is None):
            raise ValueError(
                f"expected one of points and every, got points={self.points}, every={self.every}; "
                "do set one, and the other to null"
            )
        return self


class TransferConfig(Part):
    """Few-shot episodes on the target classes: ``n_episodes`` of ``n_way`` classes.

    ``k_shots`` are the numbers of labelled examples of a class, beside ``n_query`` to classify.
    """

    n_way: Annotated[int, Field(ge=2)] = 5
    k_shots: list[Positive] = [1, 5]
    n_query: Positive = 15
    n_episodes: Positive = 600


class RunConfig(Part):
    """The resolved configuration of one supervised run; its `run_id` names the run's folder."""

    kind: ClassVar[Literal["supervised"]] = "supervised"  # in no file: the default of a recipe

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    measuring: MeasuringConfig
    transfer: TransferConfig = TransferConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Threads = 1
    keep_checkpoints: Literal["last", "schedule"] = "last"


class ClaimsConfig(Part):
    """The verdicts that a sweep is for, fixed before it runs: papers, expected signs, thresholds.

    ``papers`` are names of `geocollapse.papers`. ``expected_signs`` maps a pair of measures
    (`geocollapse.experiments.recipe.names.PAIRS`) or a swept key to +1 or -1; 0, or no entry,
    expects no sign. The others are the thresholds of definitions 5: ``poincare_factor`` is how far
    the largest Poincare ratio may vary over the runs, ``coverage`` the least share of intervals
    that hold the full value, ``relative_error`` the largest median error of sampled estimates.
    """

    papers: list[str] = [MAIN_PAPER]
    expected_signs: dict[str, Literal[-1, 0, 1]] = {}
    poincare_factor: Annotated[float, Field(ge=1)] = 3.0
    coverage: Share = 0.93
    relative_error: Annotated[float, Field(gt=0)] = 0.05


class GameClaims(ClaimsConfig):
    """The verdicts that a sweep over games is for.

    The claims on games have signs of their own, so that ``expected_signs`` stays empty. ``papers``
    are names of `geocollapse.papers`; ``poincare_factor``, ``coverage`` and ``relative_error`` are
    of no use here.
    """

    papers: list[str] = [GAME_PAPER]

    @field_validator("expected_signs")
    @classmethod
    def _signs_are_those_of_the_claims(cls, signs: dict[str, int]) -> dict[str, int]:
        if signs:
            raise ValueError(
                "expected none in a recipe of games, whose claims have signs of their own, got "
                f"{', '.join(signs)}; do leave claims.expected_signs out"
            )
        return signs


def value_at(config: BaseModel, key: str) -> object:
    """The value of a dotted key of a configuration; None for a model argument that is not given."""
    value: object = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a configuration class, each part before its fields."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        parts = getattr(field.annotation, "__args__", None) or (field.annotation,)
        for part in parts:
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys += known_keys(part, f"{prefix}{name}.")
    return keys
