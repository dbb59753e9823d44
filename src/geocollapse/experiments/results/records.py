"""The records of a run: a line of its history, its sampling study, its result, its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NotRequired

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from geocollapse.estimate import EstimateDict
    from geocollapse.measurement import MeasurementDict
    from geocollapse.runtime.provenance import Provenance

Status = Literal["done", "failed"]


class HeldOutRecord(TypedDict):
    """Loss and accuracy on the test split, where the recipe names one.

    Attributes:
        test_loss: mean loss of the kind that is trained on.
        test_accuracy: share of examples.
    """

    test_loss: NotRequired[float]
    test_accuracy: NotRequired[float]


class DynamicsRecord(TypedDict):
    """How training moves, of the training loss on fixed examples in evaluation mode.

    Norms are Euclidean, over all trained parameters. Null where the rate h is not known, or where a
    warning says why.

    Attributes:
        n_samples: examples of the subset.
        learning_rate: h of the next step; of the last one where the optimizer chooses it.
        gradient_norm: ||g||.
        corridor_rate: E/||g||^2, the corridor learning rate with f* = 0.
        curvature: ||H g^|| along the gradient, with g^ = g/||g||.
        drift_ratio: h ||H g||/(2 ||g||), 0 in a corridor.
        linearity_defect: |E(theta - h g) - (E - h ||g||^2)|/(h ||g||^2), 0 in a corridor.
        straightness: cos(g(theta), g(theta - h g)).
        sharpness: lambda_max of the Hessian H.
        sharpness_residual: ||H u - lambda_max u||, a bound on its error.
        edge: 2 (1 + momentum)/h, above which a step is unstable; null for AdamW.
        edge_ratio: sharpness/edge, 1 at the edge of stability.
        mini_batch_norm: 1/m sum_k ||g_k||^2 over m mini-batches: the two following together.
        mean_gradient_norm: ||1/m sum_k g_k||^2.
        mini_batch_variance: 1/m sum_k ||g_k - mean||^2.
        n_batches: m.
        batch_size: examples of a mini-batch.
        warnings: what a reader must know.
    """

    n_samples: int
    learning_rate: float | None
    gradient_norm: float
    corridor_rate: float | None
    curvature: float | None
    drift_ratio: float | None
    linearity_defect: float | None
    straightness: float | None
    sharpness: float | None
    sharpness_residual: float | None
    edge: float | None
    edge_ratio: float | None
    mini_batch_norm: float
    mean_gradient_norm: float
    mini_batch_variance: float
    n_batches: int
    batch_size: int
    warnings: list[str]


class OrderRecord(TypedDict):
    """Steps on two tasks in either order, measured and predicted by their Lie bracket.

    With tau = m h and B = [g_1, g_2] = H_2 g_1 - H_1 g_2 at the record. All null where the steps
    diverge, a cosine where a vector is zero.

    Attributes:
        norm: ||theta_12 - theta_21||.
        predicted_norm: tau^2 ||B||.
        cosine: of both vectors.
        relative_error: ||theta_12 - theta_21 - tau^2 B||/(tau^2 ||B||).
        gap: L_1(theta_12) - L_1(theta_21): what task 1 loses by coming first.
        predicted_gap: tau^2 <g_1, B>.
        total_gap: the gap of L_1 + L_2.
        predicted_total_gap: tau^2 <g_1 + g_2, B>.
        forgetting: L_1(theta_12) - L_1(theta_1): what task 1 loses while the other is trained.
        forgetting_first_order: -tau <g_1, g_2>.
        forgetting_second_order: its prediction to second order, of which half of ``predicted_gap``
            is the part of the bracket.
    """

    norm: float | None
    predicted_norm: float | None
    cosine: float | None
    relative_error: float | None
    gap: float | None
    predicted_gap: float | None
    total_gap: float | None
    predicted_total_gap: float | None
    forgetting: float | None
    forgetting_first_order: float | None
    forgetting_second_order: float | None


class OrderEffectRecord(TypedDict):
    """Task 1, the source, and another task, one after the other from the parameters of a record.

    Full-batch gradient descent on fixed examples, in float64 where the device has it.

    Attributes:
        n_samples: examples of task 1.
        n_other_samples: examples of the other task.
        learning_rate: h of the steps.
        loss: L_1, null where it is not finite; so are the following.
        other_loss: L_2.
        gradient_norm: ||g_1||.
        other_gradient_norm: ||g_2||.
        gradient_cosine: of g_1 and g_2; negative where the tasks pull apart.
        steps: by m, the number of steps on each task.
        warnings: what a reader must know.
    """

    n_samples: int
    n_other_samples: int
    learning_rate: float
    loss: float | None
    other_loss: float | None
    gradient_norm: float | None
    other_gradient_norm: float | None
    gradient_cosine: float | None
    steps: dict[str, OrderRecord]
    warnings: list[str]


class OrderRecords(TypedDict, total=False):
    """The study of two tasks in a record, where the recipe asks for it.

    Attributes:
        order_effect: with `measuring.order_effect`.
    """

    order_effect: OrderEffectRecord


class MarginRecord(TypedDict):
    """Margins of the training examples, and what a margin bound compares.

    Attributes:
        quantile: the level of the quantile.
        gamma: the margin at that quantile.
        median: the median margin.
        train_error: share of errors on the training labels; a tie is an error.
        train_risk: mean ramp loss at gamma; null where gamma is not positive.
        test_error: share of errors on the test split; null without one.
        gap: test error - training error.
        excess_risk: test error - ramp risk.
        geometric_complexity: of the logits.
        margin_complexity: of the logits over gamma^2.
        warnings: caveats of both.
    """

    quantile: float
    gamma: float
    median: float
    train_error: float
    train_risk: float | None
    test_error: float | None
    gap: float | None
    excess_risk: float | None
    geometric_complexity: EstimateDict
    margin_complexity: EstimateDict
    warnings: list[str]


class MarginRecords(TypedDict, total=False):
    """Margins in a record, and the transfer inequality, where the recipe asks for them.

    Attributes:
        margin: with `measuring.margin`.
        transfer_inequality_ratio: mean ratio of the sides of the transfer inequality, with
            `measuring.transfer_inequality`.
    """

    margin: MarginRecord
    transfer_inequality_ratio: float


class Measured(HeldOutRecord, MarginRecords, OrderRecords):
    """The measured part of a record.

    ``source`` is None where the loss is not finite, ``target`` where the run has no target classes;
    a target has the keys of `measure --json` and those of `transfer --json`. ``dynamics`` is there
    where the recipe has `measuring.dynamics`.
    """

    train_loss: float
    train_accuracy: float
    learning_path_flatness: float
    source: MeasurementDict | None
    target: dict[str, object] | None
    dynamics: NotRequired[DynamicsRecord]


class Line(TypedDict):
    """What a line of history.jsonl has in every kind of experiment.

    Attributes:
        schema_version: of the line; none in version 1.
        step: training steps, or turns of a game, before it.
        seconds: spent on the run so far.
    """

    schema_version: NotRequired[int]
    step: int
    seconds: float


class HistoryLine(Line, Measured):
    """One line of history.jsonl of a supervised run, or its final measurement."""

    epoch: float
    examples_seen: int
    seconds_measuring: float
    batch_norm_recalibrated: bool


class NumbersRecord(TypedDict, total=False):
    """Where a game of two numbers is, with its equilibrium at 0; flows start where it started.

    The modified flow is that of turns whose drift is not cancelled, and is not followed otherwise.

    Attributes:
        distance: from the equilibrium.
        flow_distance: of the flow of the game from the equilibrium, at the same time.
        joint_distance: of the modified flow in the joint convention.
        per_player_distance: of the modified flow in the per-player convention.
        flow_gap: from the point played to that of the flow; none of the gaps at the start.
        joint_gap: from the point played to that of the modified flow, joint convention.
        per_player_gap: from the point played to that of the modified flow, per-player convention.
    """

    distance: float | None
    flow_distance: float
    joint_distance: float
    per_player_distance: float
    flow_gap: float | None
    joint_gap: float | None
    per_player_gap: float | None


class GanRecord(TypedDict, total=False):
    """What a GAN generates beside the images it is trained on.

    Attributes:
        frechet_distance: squared, of two Gaussians in pixels, from images to generated ones; null
            where those are not finite.
    """

    frechet_distance: float | None


class GameEnd(TypedDict, total=False):
    """The end of a game, in its final line alone.

    Attributes:
        diverged: true if a player left all bounds, or the distance says so by the rule of the game.
        lowest_frechet_distance: the lowest squared distance over all records.
        late_frechet_distance: mean of the squared distance over the last records; null where one
            is not finite.
    """

    diverged: bool
    lowest_frechet_distance: float
    late_frechet_distance: float | None


class GameLine(Line, NumbersRecord, GanRecord, GameEnd):
    """One line of history.jsonl of a game, or its final line."""


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

    ``converged``: a supervised run reached its goal, went on as it should and ended at its goal; a
    game did not diverge. Results of earlier releases are true for a run that ended below its goal;
    the tables of a sweep correct them.

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
    final: HistoryLine | GameLine | None
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
