"""Runs compared at one training loss instead of at their ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def at_matched_loss(runs: pd.DataFrame, history: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The runs with ``columns`` as they were when every run had the same training loss L.

        L = max over runs of min over training of the loss

    L is the lowest loss that all runs reach, so nothing is extrapolated; columns are interpolated
    as powers of the loss around its first crossing. The runs then no longer differ in their
    progress.

    Source: definitions 5 (training progress confounds correlations over settings).
    """
    present = [name for name in columns if name in history]
    if runs.empty or "train_loss" not in history:
        return runs.drop(columns=columns, errors="ignore")
    records = history[history["run_id"].isin(runs["run_id"])].dropna(subset=["train_loss"])
    level = records.groupby("run_id")["train_loss"].min().max()
    rows = {run_id: at_loss(run, level, present) for run_id, run in records.groupby("run_id")}
    matched = runs.drop(columns=columns, errors="ignore").copy()
    for number, name in enumerate(present):
        matched[name] = [
            rows[run_id][number] if run_id in rows else np.nan for run_id in matched["run_id"]
        ]
    return matched


def at_loss(run: pd.DataFrame, level: float, columns: list[str]) -> np.ndarray:
    """Values of ``columns`` where the loss first falls to ``level``, between two records.

    They are interpolated as powers of the loss, value = a loss^b, which is exact for measures that
    fall with it over decades, such as gradient norms; linearly in log loss where one of the two
    values is not positive. Those of the first record where the loss starts at or below ``level``,
    or never falls to it.

    Args:
        run: the records of one run, with `step` and `train_loss`.
        level: a training loss.
        columns: what to interpolate.
    """
    run = run.sort_values("step")
    losses = np.log(np.maximum(run["train_loss"].to_numpy(dtype=float), 1e-12))
    values = run[columns].to_numpy(dtype=float)
    target = float(np.log(max(level, 1e-12)))
    after = int(np.argmax(losses <= target))
    if after == 0:
        return values[0]
    share = (losses[after - 1] - target) / (losses[after - 1] - losses[after])
    start, end = values[after - 1], values[after]
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = np.exp((1 - share) * np.log(start) + share * np.log(end))
    return np.where((start > 0) & (end > 0), powers, (1 - share) * start + share * end)
