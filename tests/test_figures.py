"""The figures of a sweep: the same points on paper and on the page, under labels with units."""

import io
import json
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rc_context
from PIL import Image

from geocollapse.charts.chart import MARKS, Chart, Panel, Series, level_limits, log_ticks, mark
from geocollapse.charts.labels import LABELS, axis_label, short_name
from geocollapse.charts.page import plotly_panels
from geocollapse.charts.paper import STYLE, draw, png, save
from geocollapse.experiments.results.tables import GC, read_sweep
from geocollapse.reports.bound_charts import bounds_through_training
from geocollapse.reports.panels import ordinal
from geocollapse.reports.run_table import RUN_COLUMNS
from geocollapse.reports.sweep_charts import charts
from synthetic_sweep import write_sweep


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = write_sweep(tmp_path_factory.mktemp("sweep"), sampling=5, unconverged=[0], failed=[9])
    return {chart.name: chart for chart in charts(read_sweep(folder))}


def test_every_claim_and_every_history_has_its_figure(drawn):
    sweep = ["gc-and-collapse", "settings", "transfer", "target", "curves", "training"]
    assert list(drawn) == [f"{name}-learning_rate" for name in sweep] + [
        "poincare-ratio",
        "bound",
        "sampling",
    ]


def test_labels_carry_quantity_and_unit(drawn):
    for chart in drawn.values():
        for panel in chart.panels:
            assert re.fullmatch(r".+ \[.+\]", panel.x_label), panel.x_label
            assert re.fullmatch(r".+ \[.+\]", panel.y_label), panel.y_label


def test_an_unknown_quantity_is_called_by_its_column():
    assert axis_label("swept.model.args.width") == "model.args.width"
    assert axis_label(GC) == "geometric complexity [(feature unit / input unit)²]"


def test_settings_differ_in_colour_and_in_shape():
    assert (
        len({m.colour for m in MARKS})
        == len({m.plotly for m in MARKS})
        == len({m.matplotlib for m in MARKS})
        == 9
    )
    assert mark(0) == MARKS[0]
    assert len({mark(i) for i in range(64)}) == 64


def test_runs_that_did_not_converge_are_hollow_and_failed_ones_are_not_drawn(drawn):
    series = drawn["gc-and-collapse-learning_rate"].panels[0].series
    assert [list(s.hollow) for s in series] == [
        [True, False],
        [False] * 2,
        [False] * 2,
        [False] * 2,
        [False],
    ]


def test_the_band_spans_the_seeds(drawn):
    for series in drawn["curves-learning_rate"].panels[0].series[:-1]:
        assert (series.low <= series.y).all()
        assert (series.y <= series.high).all()
        assert (series.low < series.high).any()
    assert [s.dashed for s in drawn["curves-learning_rate"].panels[0].series] == [True] + [
        False
    ] * 4


def test_swept_values_are_in_their_order(drawn):
    panel = drawn["settings-learning_rate"].panels[0]
    assert panel.ticks == ("0.01", "0.02", "0.05", "0.1", "0.2")
    assert sorted({float(x) for s in panel.series for x in s.x}) == [0, 1, 2, 3, 4]


def test_settings_are_a_line_of_converged_means_with_the_band_of_the_seeds(tmp_path):
    folder = write_sweep(tmp_path, n_seeds=3, unconverged=[0, 3, 4, 5])
    results = read_sweep(folder)
    chart = next(c for c in charts(results) if c.name == "settings-learning_rate")
    line, points = chart.panels[0].series
    runs = results.of_sweep("learning_rate").sort_values(["position", "seed"], kind="stable")
    values = runs[GC].to_numpy().reshape(5, 3)
    of_first = values[0, 1:]  # its first seed did not converge
    assert line.line
    assert list(line.x) == [0, 1, 2, 3, 4]
    assert line.y == pytest.approx([of_first.mean(), *values[1:].mean(axis=1)])
    assert line.low == pytest.approx([of_first.min(), *values[1:].min(axis=1)])
    assert line.high == pytest.approx([of_first.max(), *values[1:].max(axis=1)])
    assert len(points.x) == 15
    assert points.hollow.sum() == 4
    assert chart.legend == []
    draw(chart)


def test_settings_that_share_a_value_are_points_with_a_legend(tmp_path):
    results = read_sweep(write_sweep(tmp_path))
    runs = results.of_sweep("learning_rate")
    runs["swept.training.learning_rate"] = runs["swept.training.learning_rate"].clip(0.02)
    (panel,) = ordinal(runs, "swept.training.learning_rate", GC)
    assert not any(series.line for series in panel.series)
    assert [s.label for s in panel.series if s.listed][:2] == [
        "learning rate 0.01",
        "learning rate 0.02",
    ]


@pytest.mark.parametrize("n_lines", [7, 8])
def test_the_colours_of_all_series_are_in_the_png(n_lines):
    steps = np.geomspace(1, 1000, 6)
    series = tuple(
        Series(f"{i}", mark(i), steps, y, y / 2, y * 2, line=True)
        for i in range(n_lines)
        for y in [steps ** (0.1 * i) + 0.1 * i]
    )
    panel = Panel("x [1]", "y [1]", series, x_scale="log", y_scale="log")
    image = Image.open(io.BytesIO(png(Chart("c", "c", "", (panel, panel, panel)))))
    assert image.mode == "P"
    counts = {colour: n for n, colour in image.convert("RGB").getcolors()}
    assert len(counts) <= 64
    for i in range(n_lines):
        colour = mark(i).colour
        drawn = tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))
        assert counts.get(drawn, 0) > 300, colour


def test_bounds_are_drawn_to_the_end_of_runs_of_different_length():
    history = pd.DataFrame(
        {
            "run_id": ["a"] * 4 + ["b"] * 4 + ["c"] * 3,
            "step": [0, 100, 300, 360, 0, 100, 300, 420, 0, 100, 310],
            "target.nearest_mean_error": [0.8, 0.5, 0.3, 0.2] * 2 + [0.8, 0.0, 0.1],
            "target.nearest_mean_bound.inf.general": [9.0, 5.0, 3.0, 2.0] * 2 + [9.0, 5.0, 0.7],
        }
    )
    chart = bounds_through_training(history[["run_id"]].drop_duplicates(), history)
    (panel,) = chart.panels
    error, general = panel.series
    assert panel.title == "test images, by their own class means"
    assert list(general.x) == [1, 101, 361]
    assert list(general.y) == [9.0, 5.0, 2.0]
    assert list(general.low) == [9.0, 5.0, 0.7]
    assert list(error.x) == [1, 361]  # at step 100 a seed makes no error
    assert "makes no error has no point" in chart.caption


def test_page_and_paper_are_written_from_the_same_panels(drawn, tmp_path):
    chart = drawn["transfer-learning_rate"]
    png, pdf = save(chart, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert len(plotly_panels(chart)) == len(chart.panels)


def test_nothing_on_paper_is_cut_off(drawn):
    for chart in drawn.values():
        with rc_context(STYLE):
            figure = draw(chart)
            figure.draw_without_rendering()
        for ax in figure.axes:
            for label in (ax.xaxis.label, ax.yaxis.label):
                box = label.get_window_extent()
                assert figure.bbox.x0 <= box.x0, label.get_text()
                assert box.x1 <= figure.bbox.x1, label.get_text()
                assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, label.get_text()


def test_the_same_chart_gives_the_same_files(drawn, tmp_path):
    first = [path.read_bytes() for path in save(drawn["bound"], tmp_path / "a")]
    assert first == [path.read_bytes() for path in save(drawn["bound"], tmp_path / "b")]


def test_plotly_accepts_every_panel_and_strict_json_holds_it(drawn):
    for chart in drawn.values():
        for panel in plotly_panels(chart):
            go.Figure(panel)
            json.dumps(panel, allow_nan=False)


def test_no_quantity_no_panel(tmp_path):
    write_sweep(tmp_path, target=False)
    names = [chart.name for chart in charts(read_sweep(tmp_path))]
    assert "transfer-learning_rate" not in names
    assert "sampling" not in names


@given(st.floats(-12, 12), st.floats(0, 12))
def test_a_log_axis_has_a_few_round_ticks_inside(exponent, decades):
    values = 10.0 ** np.array([exponent, exponent + decades])
    panel = Panel("x [1]", "y [1]", (Series("a", mark(0), values, values),))
    ticks = log_ticks(panel, "x")
    assert len(ticks) <= 9
    assert len(ticks) >= (3 if decades > 1e-3 else 1)
    assert all(values[0] * 0.99 <= tick <= values[1] * 1.01 for tick in ticks)


def test_short_names_are_unique_in_the_table():
    for names in (LABELS, RUN_COLUMNS):
        table = [short_name(name) for name in names]
        assert len(set(table)) == len(table)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_rounding_does_not_fill_an_axis(scale):
    steps = np.arange(1.0, 6.0)
    jitter = np.array([0.0, 1e-9, -1e-9, 2e-9, 0.0])
    series = Series("flow", mark(0), steps, 1.4 + jitter, line=True)
    assert level_limits(Panel("x", "y", (series,), y_scale=scale)) == pytest.approx((1.26, 1.54))
    moving = Series("turns", mark(1), steps, 1.4 + 1e-3 * steps, line=True)
    assert level_limits(Panel("x", "y", (series, moving), y_scale=scale)) is None
    zero = Series("zero", mark(0), steps, np.zeros(5), line=True)
    assert level_limits(Panel("x", "y", (zero,), y_scale=scale)) is None
