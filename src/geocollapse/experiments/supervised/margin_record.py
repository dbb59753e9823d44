"""Margins in a record: geometric complexity over the squared margin beside the errors it bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from geocollapse.bounds import (
    MarginQuantile,
    empirical_margin_risk,
    margins,
    transfer_inequality,
)
from geocollapse.complexity.setup import Request
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.data import LabelledData
from geocollapse.estimate import strict_json
from geocollapse.measurement import measure_margins

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import MeasuringConfig, RunConfig
    from geocollapse.experiments.results.records import MarginRecord, MarginRecords
    from geocollapse.experiments.supervised.recording import HeldOut


def margin_records(
    model: nn.Module, source: LabelledData, test: HeldOut | None, config: RunConfig
) -> MarginRecords:
    """The margins and the transfer inequality, each where the recipe asks for it."""
    found: MarginRecords = {}
    margin = margin_record(model, source, test, config)
    ratio = transfer_inequality_ratio(model, source, config.measuring)
    if margin is not None:
        found["margin"] = margin
    if ratio is not None:
        found["transfer_inequality_ratio"] = ratio
    return found


def margin_record(
    model: nn.Module, source: LabelledData, test: HeldOut | None, config: RunConfig
) -> MarginRecord | None:
    """Margins of the source, complexity of the logits, and the errors on the test examples.

    None where the recipe has no `measuring.margin`.

    Source: Munn, Dherin, Gonzalvo (2024), arXiv 2405.18590.
    """
    measuring = config.measuring
    if measuring.margin is None:
        return None
    request = Request(
        estimator=measuring.estimator,
        n_probes=measuring.n_probes,
        rule=StoppingRule(max_samples=measuring.max_samples),
        batch_size=measuring.evaluation_batch_size,
        seed=config.seed,
    )
    reading = measure_margins(model, source, measuring.margin, request)
    if reading.complexity.interrupted:  # a Ctrl-C: a history has no half records
        raise KeyboardInterrupt
    gamma = MarginQuantile.of(reading.margins, measuring.margin)
    error = _error(reading.margins)
    risk = float(empirical_margin_risk(reading.margins, gamma.value)) if gamma.value > 0 else None
    test_error = None if test is None else _error(margins(test.logits, test.labels))
    record = {
        "quantile": measuring.margin,
        "gamma": gamma.value,
        "median": MarginQuantile.of(reading.margins, 0.5).value,
        "train_error": error,
        "train_risk": risk,
        "test_error": test_error,
        "gap": None if test_error is None else test_error - error,
        "excess_risk": None if test_error is None or risk is None else test_error - risk,
        "geometric_complexity": reading.complexity,
        "margin_complexity": reading.normalised,
        "warnings": list(reading.normalised.warnings),
    }
    return cast("MarginRecord", strict_json(record))


def transfer_inequality_ratio(
    model: nn.Module, source: LabelledData, measuring: MeasuringConfig
) -> float | None:
    """Mean ratio of both sides of the transfer inequality of the label's logit.

    None where the recipe has no `measuring.transfer_inequality`. The examples are a balanced
    subset, the same at every record.

    Raises:
        ValueError: the network is not dense.
    """
    if measuring.transfer_inequality is None:
        return None
    chosen = source.select(subset=measuring.transfer_inequality)
    return _ratio(model, chosen.inputs, chosen.targets)


def check_transfer_inequality(
    model: nn.Module, source: LabelledData, measuring: MeasuringConfig
) -> None:
    """Refuse a network or a number of examples without a ratio; looks at two examples.

    Raises:
        ValueError: the network is not dense, or the number is not between that of the classes and
            that of the examples.
    """
    if measuring.transfer_inequality is None:
        return
    try:
        chosen = source.select(subset=measuring.transfer_inequality)
        _ratio(model, chosen.inputs[:2], chosen.targets[:2])
    except ValueError as error:
        raise ValueError(f"measuring.transfer_inequality: {error}") from error


def _ratio(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    labels = targets[:, None]
    return transfer_inequality(model, inputs, lambda z: z.gather(1, labels)[:, 0]).ratio


def _error(margin: Tensor) -> float:
    """The share of errors; a tie is one."""
    return float((margin <= 0.0).double().mean())
