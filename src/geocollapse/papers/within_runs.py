"""Rank correlations over the records of each run, for claims about training as it goes on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.papers.statistics import Array, spearman

if TYPE_CHECKING:
    import pandas as pd

MIN_RECORDS = 4  # of a run, for a correlation


def record_correlations(runs: pd.DataFrame, history: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Spearman's rho of two columns over the records of each run.

    A run counts with at least 4 records that have both, and where neither is constant.

    Args:
        runs: with `run_id` and `seed`.
        history: their records.
        x: the one column.
        y: the other.

    Returns:
        The runs that count, with the column `rho`; empty where a column was not recorded.
    """
    rhos = [math.nan] * len(runs)
    if {x, y} <= set(history.columns):
        records = history[["run_id", x, y]].dropna()
        of_run = dict(list(records.groupby("run_id")))
        for place, run_id in enumerate(runs["run_id"]):
            record = of_run.get(run_id)
            if record is not None and len(record) >= MIN_RECORDS:
                values = (record[name].to_numpy(dtype=float) for name in (x, y))
                rhos[place] = spearman(*values)
    return runs.assign(rho=rhos).dropna(subset=["rho"])


def seed_means(runs: pd.DataFrame, column: str = "rho") -> Array:
    """The mean of a column over the runs of each seed, (n_seeds,)."""
    return np.asarray(runs.groupby("seed")[column].mean(), dtype=np.float64)
