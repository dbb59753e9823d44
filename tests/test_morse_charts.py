"""The figures of a detector's scores and of a classifier's reliability, as data."""

import numpy as np
import pytest
import torch

from geocollapse import morse
from geocollapse.charts import reliability_chart, save_as, score_chart


def test_histograms_hold_all_examples_and_name_the_threshold(tmp_path):
    rng = np.random.default_rng(0)
    scores = {"in": rng.exponential(size=500), "far": 50.0 + rng.exponential(size=300)}
    scores["in"][0] = -0.01  # a density above 1, of a classifier
    chart = score_chart(scores, 3.0, title="Scores against in")
    (panel,) = chart.panels
    assert [series.label for series in panel.series] == ["in", "far"]
    assert [float(series.y.sum()) for series in panel.series] == pytest.approx([1.0, 1.0])
    x, _, name = panel.curve
    assert (x.tolist(), name) == ([3.0, 3.0], "accepts 95 % of in")
    middle = panel.series[0].x
    assert float(panel.series[0].y[middle > 40.0].sum()) == 0.0
    save_as(chart, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").stat().st_size > 1000


def test_equal_scores_have_a_histogram_too():
    chart = score_chart({"in": np.ones(5), "out": np.ones(5)}, 1.0, title="equal")
    assert all(np.isfinite(series.y).all() for series in chart.panels[0].series)


def test_a_temperature_is_seen_in_the_reliability(tmp_path):
    generator = torch.Generator().manual_seed(0)
    logits = 2.0 * torch.randn(2000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    sure = 3.0 * logits
    tempered = morse.tempered_logits(sure, torch.full((2000,), 1.0 / 3.0).log())
    found = {
        "plain": morse.reliability(sure.softmax(dim=1), labels),
        "with temperature": morse.reliability(tempered.softmax(dim=1), labels),
    }
    assert found["with temperature"].ece < 0.03 < 0.1 < found["plain"].ece
    chart = reliability_chart(found)
    assert chart.legend[0][0] == f"plain (ECE {found['plain'].ece:.3f})"
    save_as(chart, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 1000
