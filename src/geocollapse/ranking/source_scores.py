"""The scores that only the record of a model's training has."""

from __future__ import annotations

import math

from geocollapse.estimate import Estimate
from geocollapse.measures import FROM_TRAINING
from geocollapse.models import TrainingRecord
from geocollapse.ranking.scores import Score


def source_scores(record: TrainingRecord | None, layer: str) -> dict[str, Score]:
    """Source CDNV and learning-path flatness, each with the reason where it cannot be had.

    Source CDNV is that of the recorded layer; flatness is of the whole model.

    Args:
        record: of the training; None for a model without one.
        layer: of the features that are ranked.
    """
    return {name: _score(name, record, layer) for name in FROM_TRAINING}


def _score(name: str, record: TrainingRecord | None, layer: str) -> Score:
    reason = _missing(name, record, layer)
    if record is None or reason:
        none = Estimate(math.nan, math.nan, 0, scale="linear")
        return Score(name, none, valid=False, reason=reason)
    return Score(name, record.scores[name])


def _missing(name: str, record: TrainingRecord | None, layer: str) -> str:
    """The reason why a score cannot be had; empty where it can."""
    if record is None:
        return (
            f"{name}: expected a record of the training, got a model without one; do rank a run "
            f"folder of geocollapse train or sweep"
        )
    if name not in record.scores:
        return f"{name}: expected a value at step {record.step} of the training, got none"
    if name == "source.cdnv" and record.layer != layer:
        return (
            f"{name}: expected features of {record.layer!r}, where the training recorded it, got "
            f"those of {layer!r}; do rank that layer"
        )
    return ""
