"""Settings on how training moves: optimizers that choose their rate, gradient norm, records.

A new key needs a default and a line in `geocollapse.experiments.recipe.identity.LATER`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)  # no unknown key, no other type

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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
    """Settings of `geocollapse.optimizers.DAL`: the rate is 2/||H g^||^power, at most the largest.

    The curvature ||H g^|| is taken at every ``every``-th step.
    """

    model_config = STRICT

    power: NotNegative = 1.0
    max_learning_rate: Rate | None = 5.0
    every: Count = 1


class GradientPenaltyConfig(BaseModel):
    """Arguments of `geocollapse.regularizers.GradientNorm`; weight 0: no penalty.

    The penalty is on the loss of the batch without other penalties and weight decay. Together with
    ``gc_penalty`` a step takes two forward passes, and batch normalisation counts the batch twice.
    """

    model_config = STRICT

    weight: NotNegative = 0.0
    n_micro_batches: Count = 1
    batch_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    every: Count = 1
    batch_norm: Literal["refuse", "running", "batch"] = "refuse"


class DynamicsConfig(BaseModel):
    """How training moves, at each record: curvature, straightness, mini-batch gradients.

    Taken in evaluation mode on ``subset`` fixed training examples, balanced over classes. The
    gradient norm of mini-batches is over ``n_batches`` fixed ones of ``batch_size`` examples. Cost
    of a record: about 5 gradients and, with ``sharpness``, about 30 Hessian-vector products of two
    gradients each, on the subset; and a gradient for each mini-batch.
    """

    model_config = STRICT

    subset: Count = 500
    sharpness: bool = True
    n_batches: Count = 8
