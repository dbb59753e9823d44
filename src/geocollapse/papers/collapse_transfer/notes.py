"""Notes beside two of the correlations, without which they mislead."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import GC, GCOL, NC, TARGET_NC
from geocollapse.papers.correlations import setting_means
from geocollapse.papers.statistics import permutations, spearman, spearman_rows

if TYPE_CHECKING:
    import pandas as pd


def part_whole_note(runs: pd.DataFrame, *, seed: int = 0) -> str:
    """A note on the part of the correlation of GC and GCol that is arithmetic.

    GC is the numerator of GCol = GC/d^2, which defines the distance d^2 of a run. The note has
    rho(log GC, log d^2), and as the null rho(GC, GC/d^2_pi) over permutations pi of the settings'
    distances.
    """
    if not {GC, GCOL} <= set(runs.columns):
        return ""
    (gc, distance), _ = setting_means(runs.assign(distance=runs[GC] / runs[GCOL]), GC, "distance")
    if len(gc) < 3 or not (gc > 0).all() or not (distance > 0).all():
        return ""
    alone = spearman(np.log(gc), np.log(distance))
    orders = permutations(len(gc), seed=seed)
    null = spearman_rows(np.broadcast_to(gc, orders.shape), gc / distance[orders])
    if np.isnan(alone) or np.isnan(null).all():
        return ""
    low, high = np.nanquantile(null, [0.025, 0.975])
    return (
        f"GC is the numerator of GCol: rho of log GC with log distance^2 alone {alone:+.2f}; "
        f"of GC with GCol under permuted distances {np.nanmean(null):+.2f} on average, "
        f"95 % in [{low:+.2f}, {high:+.2f}]."
    )


def opposite_sign_note(runs: pd.DataFrame) -> str:
    """A note with rho of source NC with source GC and with target NC: their signs can differ."""
    pairs = {"source GC with source NC": (GC, NC), "source NC with target NC": (NC, TARGET_NC)}
    values = {
        name: spearman(*setting_means(runs, *pair)[0])
        for name, pair in pairs.items()
        if _enough(runs, *pair)
    }
    text = ", ".join(f"{name} {rho:+.2f}" for name, rho in values.items() if not math.isnan(rho))
    return f"For comparison, rho of {text}." if text else ""


def _enough(runs: pd.DataFrame, x: str, y: str) -> bool:
    return len(setting_means(runs, x, y)[0][0]) > 1
