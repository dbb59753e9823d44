"""Few-shot accuracy against the number of labelled examples, as a chart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geocollapse.charts.chart import Chart, Mark, Panel, Series, mark
from geocollapse.transfer import FewShotAccuracy, LearningCurve


def learning_curve_chart(curves: LearningCurve | Mapping[str, LearningCurve]) -> Chart:
    """Accuracy against shots, a line for each classifier, with its 95 % interval over episodes.

    Args:
        curves: one learning curve, or several by the name of their model.

    Raises:
        ValueError: curves of different numbers of ways, whose accuracies do not compare.
    """
    by_model = {"": curves} if isinstance(curves, LearningCurve) else curves
    ways = sorted({curve.n_way for curve in by_model.values()})
    if len(ways) != 1:
        raise ValueError(
            f"curves: expected curves of one number of ways, got {ways}; do one chart for each"
        )
    lines = [
        (" ".join(part for part in (model, name.replace("_", " ")) if part), by_shots)
        for model, curve in by_model.items()
        for name, by_shots in curve.accuracy.items()
    ]
    series = tuple(_line(label, mark(i), by_shots) for i, (label, by_shots) in enumerate(lines))
    n_episodes = next(iter(by_model.values())).n_episodes
    return Chart(
        "learning-curve",
        f"{ways[0]}-way accuracy by labelled examples",
        f"Line: mean over {n_episodes} episodes; band: 95 % interval over episodes.",
        (Panel("labelled examples of each class", "accuracy", series, x_scale="log"),),
    )


def _line(label: str, look: Mark, by_shots: Mapping[int, FewShotAccuracy]) -> Series:
    shots = sorted(by_shots)
    ends = np.array([by_shots[k].interval() for k in shots])
    return Series(
        label,
        look,
        np.array(shots, dtype=np.float64),
        np.array([by_shots[k].value for k in shots]),
        low=ends[:, 0],
        high=ends[:, 1],
        line=True,
    )
