"""Settings on how training moves: optimizers that choose their rate, gradient norm, records.

A new key needs a default and a line in `geocollapse.experiments.recipe.identity.LATER`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)  # no unknown key, no other type

Positive = Annotated[int, Field(ge=1)]
MAX_THREADS = 1024  # torch ends with a signal where the system cannot start as many
Threads = Annotated[int, Field(ge=1, le=MAX_THREADS)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Classes = list[int | str] | str | None  # numbers and names


class CorridorConfig(BaseModel):
    """Settings of `geocollapse.optimizers.Corridor`: the rate is (E - f*)/(||g||^2 + eps).

    ``smallest_loss`` is f*, the smallest value that E can reach. With label smoothing, weight decay
    or a penalty E stays above 0, and without f* or a ``max_learning_rate`` the loss then cycles.
    """

    model_config = STRICT

    smallest_loss: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    max_learning_rate: Rate | None = None
    eps: NotNegative = 0.0


class DALConfig(BaseModel):
    """Settings of `geocollapse.optimizers.DAL`: the rate is 2/||H g^||^power.

    It is at most ``max_learning_rate``. The curvature ||H g^|| is taken at every ``every``-th step.
    """

    model_config = STRICT

    power: NotNegative = 1.0
    max_learning_rate: Rate | None = 5.0
    every: Positive = 1


class GradientPenaltyConfig(BaseModel):
    """Arguments of `geocollapse.regularizers.GradientNorm`; weight 0: no penalty.

    It is the mean over ``n_micro_batches`` parts of a ``batch_fraction`` of the batch, at every
    ``every``-th step. ``batch_norm`` is refused, or takes its `running` statistics or those of the
    `batch`. The penalty is on the loss without other penalties and weight decay. Together with
    ``gc_penalty`` a step takes two forward passes, and batch normalisation counts the batch twice.
    """

    model_config = STRICT

    weight: NotNegative = 0.0
    n_micro_batches: Positive = 1
    batch_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    every: Positive = 1
    batch_norm: Literal["refuse", "running", "batch"] = "refuse"


class DynamicsConfig(BaseModel):
    """How training moves, at each record: curvature, straightness, mini-batch gradients.

    Taken in evaluation mode on ``subset`` fixed training examples, balanced over classes. The
    gradient norm of mini-batches is over ``n_batches`` fixed ones of ``batch_size`` examples. Cost
    of a record: about 5 gradients and, with ``sharpness``, about 30 Hessian-vector products of two
    gradients each, on the subset; and a gradient for each mini-batch.
    """

    model_config = STRICT

    subset: Positive = 500
    sharpness: bool = True
    n_batches: Positive = 8


class OrderEffectConfig(BaseModel):
    """The study of two tasks in turn, at each record: does their Lie bracket predict what happens?

    The source is task 1. The other task is named like data: ``name``, ``split`` (by default
    `train`) and ``classes``, which are numbered from 0 in their order, so that both tasks share the
    outputs of the network: `5-9` beside the source classes `0-4` is another domain of the same five
    labels. ``classes: 1-4,0`` gives labels that contradict those of `0-4`.

    From the parameters of a record, a copy of the network takes m full-batch steps of
    ``learning_rate`` on each task in both orders, for each m of ``n_steps``, in float64 and
    evaluation mode, on ``subset`` fixed examples of each task, balanced over classes. The run
    itself stays as it is. Cost of a record, on the subsets: 4 m gradients and six forward passes
    for each m, and once four gradients and two Hessian-vector products.
    """

    model_config = STRICT

    name: Annotated[str, Field(min_length=1)]
    split: str | None = None
    classes: Classes = None
    subset: Positive = 500
    learning_rate: Rate = 0.01
    n_steps: Annotated[list[Positive], Field(min_length=1)] = [1, 4, 16, 64]
