"""The figures of a ranking; a quantity that no model has gives no panel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from geocollapse.charts.chart import MARKS, Array, Chart, Mark, Panel, Scale, Series, mark
from geocollapse.reports.ranking_reading import (
    ACCURACY,
    PREDICTED,
    SHARES,
    Interval,
    RankingPage,
    chart_labels,
    rounded,
)

N_BEST = 6  # scores in the first figure
_N_THROUGH_TRAINING = 5
_MOST_CURVES = 3  # of checkpoints
_LOG_FROM = 10.0  # ratio of the largest to the smallest value
_PEAK = Mark("#000000", "*", "star", "★")
_BARS = "Bars: 95 % intervals for other examples like these."


def ranking_charts(page: RankingPage) -> list[Chart]:
    """Every figure that the ranking has data for."""
    names = page.score_names
    found = [
        through_training(page),
        scores_against_accuracy(page, names[:N_BEST]),
        scores_against_accuracy(page, names[N_BEST:], is_rest=True),
        prediction(page),
        learning_curves(page),
    ]
    return [chart for chart in found if chart.panels]


def scores_against_accuracy(
    page: RankingPage, names: Sequence[str], *, is_rest: bool = False
) -> Chart:
    """Measured accuracy against each score, one point a model."""
    panels = [panel for name in names for panel in _against_accuracy(page, name)]
    return Chart(
        "more-scores" if is_rest else "scores",
        "The other scores" if is_rest else "The scores that agree best with the measured accuracy",
        f"One point a {page.what}. {_BARS} τ: Kendall's rank correlation with the "
        f"measured accuracy, in the better direction of the score, with its 95 % interval.",
        tuple(panels),
    )


def prediction(page: RankingPage) -> Chart:
    """Measured accuracy against that predicted from the geometry of the features."""
    panels = _against_accuracy(page, PREDICTED)
    return Chart(
        "prediction",
        "The accuracy that the geometry predicts",
        f"One point a {page.what}. {_BARS}",
        tuple(panels),
    )


def learning_curves(page: RankingPage) -> Chart:
    """Accuracy by number of labelled examples, a line for each model."""
    shown = _with_curves(page)
    series = tuple(
        _line(label, place, _shots(page, i), [float(k) for k in page.models[i]["learning_curve"]])
        for place, (i, label) in enumerate(shown)
    )
    panel = Panel(
        "labelled examples of each class [examples]",
        f"{page.ranking['n_way']}-way accuracy [%]",
        series,
        x_scale="log",
    )
    some = " The first, the best and the last checkpoint." if page.steps else ""
    return Chart(
        "learning-curves",
        "How far more labels help",
        f"Bands: 95 % intervals over further episodes of the same examples.{some}",
        (panel,) if series else (),
    )


def through_training(page: RankingPage) -> Chart:
    """Accuracy and the best scores of the checkpoints of one run against the training step."""
    names = [page.ranking["ranked_by"], *page.score_names[:_N_THROUGH_TRAINING]]
    steps = page.steps
    panels = [panel for name in dict.fromkeys(names) for panel in _by_step(page, name)]
    return Chart(
        "training",
        "Where transfer peaked, and what each score says",
        "One point a checkpoint. Bands: 95 % intervals for other examples like these. Star: the "
        "best by the measure of the panel; dashed line: the step of the best checkpoint.",
        tuple(panels) if steps else (),
    )


def _against_accuracy(page: RankingPage, name: str) -> list[Panel]:
    """One panel, or none where fewer than one model has both."""
    points = [(page.interval(m, name), page.interval(m, ACCURACY)) for m in page.models]
    known = [i for i, (x, y) in enumerate(points) if x.is_known and y.is_known]
    if not known:
        return []
    labels = chart_labels(page)
    if page.steps:
        series = [_points("checkpoint", MARKS[0], [points[i] for i in known])]
    else:
        series = [_points(labels[i], mark(i), [points[i]]) for i in known]
    return [
        Panel(
            page.named(name).axis,
            page.named(ACCURACY).axis,
            tuple(series),
            x_scale=_scale([points[i][0] for i in known]) if name != PREDICTED else "linear",
            curve=_diagonal([points[i] for i in known]) if name == PREDICTED else None,
            title=_title(page, name) if name != PREDICTED or page.tau(name).is_known else "",
        )
    ]


def _by_step(page: RankingPage, name: str) -> list[Panel]:
    """A measure against the training step, its best checkpoint and the step of the best of all."""
    if not page.steps:
        return []
    values = [page.interval(model, name) for model in page.models]
    known = sorted((s, i) for i, s in enumerate(page.steps) if values[i].is_known)
    if not known:
        return []
    steps = [float(step) for step, _ in known]
    line = _line("checkpoint", 0, [values[i] for _, i in known], steps)
    series = [line]
    best = page.picked_by(name)
    if best is not None:
        place = page.models.index(best)
        star = Interval(float(page.steps[place]), math.nan, math.nan)
        series.append(_points("best by this measure", _PEAK, [(star, values[place])], bars=False))
    span = np.array([_edge(line, np.nanmin), _edge(line, np.nanmax)])
    peak = np.full(2, float(page.steps[0]))
    named = page.named(name)
    return [
        Panel(
            "training step [steps]",
            named.axis,
            tuple(series),
            y_scale=_scale(values),
            curve=(peak, span, f"step {page.steps[0]:,}, the best by {page.ranked_by.full_name}"),
            title=_title(page, name),
        )
    ]


def _edge(series: Series, extreme: Callable[[Array], float]) -> float:
    """The lowest or highest value of a line and its band."""
    parts = [part for part in (series.y, series.low, series.high) if part is not None]
    return float(extreme(np.concatenate(parts)))


def _title(page: RankingPage, name: str) -> str:
    """The score with its agreement, and with the number of models where some have none."""
    tau = page.tau(name)
    named = page.named(name)
    short = named.full_name if name in SHARES else named.short
    if not tau.is_known:
        return short
    n_models = page.ranking["agreement"][name]["n_models"]
    some = "" if n_models == len(page.models) else f", {n_models} {page.what}s"
    bounds = f" [{rounded(tau.low)}, {rounded(tau.high)}]" if tau.has_range else ""
    return f"{short}: τ = {rounded(tau.value)}{bounds}{some}"


def _with_curves(page: RankingPage) -> list[tuple[int, str]]:
    """The models of the learning curves by place; of checkpoints the first, best and last."""
    labels = chart_labels(page)
    known = [i for i, model in enumerate(page.models) if model["learning_curve"]]
    if page.steps and len(known) > _MOST_CURVES:
        in_order = sorted(known, key=lambda i: page.steps[i])
        known = sorted({in_order[0], known[0], in_order[-1]}, key=lambda i: page.steps[i])
    if page.steps:
        return [(i, f"step {page.steps[i]:,}") for i in known]
    return [(i, labels[i]) for i in known]


def _shots(page: RankingPage, place: int) -> list[Interval]:
    curve = page.models[place]["learning_curve"]
    return [Interval.of(found, scale=100.0) for found in curve.values()]


def _line(label: str, place: int, values: Iterable[Interval], x: Sequence[float]) -> Series:
    y, low, high = _columns(values)
    return Series(label, mark(place), np.asarray(x, dtype=float), y, low, high, line=True)


def _points(
    label: str, look: Mark, points: Sequence[tuple[Interval, Interval]], *, bars: bool = True
) -> Series:
    """Points with error bars in both directions."""
    x, x_low, x_high = _columns(first for first, _ in points)
    y, low, high = _columns(second for _, second in points)
    if not bars:
        return Series(label, look, x, y)
    return Series(label, look, x, y, low, high, x_low, x_high)


def _columns(values: Iterable[Interval]) -> tuple[Array, Array, Array]:
    found = list(values)
    return (
        np.array([interval.value for interval in found]),
        np.array([interval.low for interval in found]),
        np.array([interval.high for interval in found]),
    )


def _scale(values: Iterable[Interval]) -> Scale:
    """Logarithmic where values and intervals are positive and span a decade or more."""
    known = [interval for interval in values if interval.is_known]
    ends = [interval.low if interval.has_range else interval.value for interval in known]
    if min(ends) <= 0.0:
        return "linear"
    sizes = [interval.value for interval in known]
    return "log" if max(sizes) >= _LOG_FROM * min(sizes) else "linear"


def _diagonal(points: Sequence[tuple[Interval, Interval]]) -> tuple[Array, Array, str]:
    """The line on which prediction and measurement are equal, as long as the points need it."""
    values = [interval.value for pair in points for interval in pair]
    ends = np.array([min(values), max(values)])
    return ends, ends, "prediction = measurement"
