"""The pace of a supervised run."""

from __future__ import annotations

from pathlib import Path

from geocollapse.experiments.pace import Pace, timed
from geocollapse.experiments.recipe import RunConfig
from geocollapse.experiments.supervised.state import prepare
from geocollapse.experiments.supervised.train import measured_values, record_steps, take_step


def pace_of_training(config: RunConfig, device: str, data_root: str | Path | None) -> Pace:
    """Time a few updates and one record, up to ``max_steps``."""
    training = prepare(config, device=device, data_root=data_root)
    max_steps = config.training.max_steps
    return timed(
        lambda: take_step(training),
        lambda: measured_values(training),
        n_steps=max_steps,
        n_records=len(record_steps(config.measuring, max_steps)) + 2,
        wait=training.losses.look,
    )
