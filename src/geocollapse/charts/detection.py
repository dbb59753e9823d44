"""Scores of a detector by data set, and the reliability of a classifier, as charts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from geocollapse.charts.chart import Array, Chart, Mark, Panel, Series, mark
from geocollapse.morse import Reliability

_N_BINS = 40
_SMALLEST = 1e-3  # a score on a log axis
_OUTER = 0.002  # share of the scores beyond either end of the axis


def score_chart(scores: Mapping[str, Array], threshold: float, *, title: str) -> Chart:
    """Histograms of -log density on a log axis, a line for each data set.

    Args:
        scores: of each data set by name, the data first.
        threshold: that accepts 95 % of the data.
        title: of the figure.
    """
    everything = np.maximum(np.concatenate([*scores.values()]), _SMALLEST)
    low, high = np.quantile(everything, [_OUTER, 1.0 - _OUTER])
    edges = np.geomspace(low, max(high, 1.1 * low), _N_BINS + 1)
    series = tuple(
        _histogram(name, mark(i), values, edges) for i, (name, values) in enumerate(scores.items())
    )
    top = max(float(line.y.max()) for line in series)
    at = max(threshold, _SMALLEST)
    first = next(iter(scores))
    panel = Panel(
        "-log density [nat]",
        "share of examples",
        series,
        x_scale="log",
        curve=(np.array([at, at]), np.array([0.0, top]), f"accepts 95 % of {first}"),
    )
    caption = (
        f"Share of the examples in {_N_BINS} bins; scores outside the axis are drawn at its ends."
    )
    return Chart("ood-scores", title, caption, (panel,))


def reliability_chart(found: Mapping[str, Reliability]) -> Chart:
    """Accuracy against confidence, a line for each entry, with its calibration error.

    Args:
        found: by name, for instance with and without the temperature of a Morse network.
    """
    series = tuple(
        Series(
            f"{name} (ECE {one.ece:.3f})",
            mark(i),
            np.asarray(one.confidence.cpu().numpy()),
            np.asarray(one.accuracy.cpu().numpy()),
            line=True,
        )
        for i, (name, one) in enumerate(found.items())
    )
    ends = np.array([0.0, 1.0])
    panel = Panel("confidence", "accuracy", series, curve=(ends, ends, "calibrated"))
    return Chart("reliability", "Accuracy by confidence", "A point for each bin.", (panel,))


def _histogram(name: str, look: Mark, values: Array, edges: Array) -> Series:
    inside = np.clip(values, edges[0], edges[-1])
    counts = np.histogram(inside, edges)[0]
    middles = np.array([np.sqrt(a * b) for a, b in pairwise(edges)])
    return Series(name, look, middles, counts / max(1, len(values)), line=True)
