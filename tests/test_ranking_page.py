"""The page of a ranking: made from plain data alone, readable at once, whatever the names are."""

import copy
import csv
import html
import io
import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from matplotlib import rc_context

from browser import CHROMIUM, assert_drawn
from geocollapse.charts.page import plotly_panels
from geocollapse.charts.paper import STYLE, draw
from geocollapse.reports.ranking_charts import ranking_charts
from geocollapse.reports.ranking_page import render_ranking
from geocollapse.reports.ranking_reading import RankingPage, chart_labels, shortened
from geocollapse.reports.ranking_report import read_ranking, write_ranking
from geocollapse.reports.ranking_tables import agreement_table, ranking_table, tie_table
from synthetic_ranking import NAMES, SCORES, synthetic_ranking

FAILED = [("vit_base", "weights: expected a file, got none at vit_base.pt; do download it")]
STEPS = ["3000", "2500", "2000", "4000", "1000", "500", "0"]
HOSTILE = [
    "<!--<script>alert(1)</script>",
    "x" * 300,
    "modèle \u2028 é & co",
    "_a$b$",
    "very long label " * 20,
    "\"'><img src=x onerror=alert(1)>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranking")
    write_ranking(folder, synthetic_ranking(failed=FAILED), scores=SCORES)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def rendered(ranking, scores=SCORES):
    content = RankingPage(ranking, scores)
    return render_ranking(content, ranking_charts(content))


def words(page):
    """The text of the page without scripts and tags."""
    text = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def charts_of(ranking):
    return {chart.name: chart for chart in ranking_charts(RankingPage(ranking, SCORES))}


def test_the_answer_comes_first_and_then_the_table_best_first(page):
    text = words(page)
    advice = synthetic_ranking()["advice"]
    assert text.index(advice) < text.index("Best first") < text.index("63.0% 60.8 to 65.2%")
    assert sorted(NAMES, key=lambda name: text.index(f"{name} ")) == list(NAMES)
    for expected in (
        "5 models ranked on cifar-fs, test",
        "The same 600 episodes for every model: 5 classes, 5 labelled examples of each",
        "vit_base: weights: expected a file, got none",
        "resnet44, resnet20: few effective dimensions",
        "other examples like these 1,000, of these classes",
        "corrected for 10 pairs (Holm)",
    ):
        assert expected in text


def test_a_row_has_what_ranks_the_model_the_best_scores_and_its_cost():
    table = ranking_table(RankingPage(synthetic_ranking(), SCORES))
    assert [cell.text for cell in table.headings] == [
        "model",
        "5-shot accuracy",
        "predicted",
        "VCI",
        "NC",
        "TransRate",
        "GC",
        "parameters",
        "time an example",
        "tied with",
    ]
    last = table.rows[-1]
    assert [cell.text for cell in last][-3:] == ["7.14M", "1.16 ms", "mobilenetv3_small_100"]
    bars = [row[1].bar for row in table.rows]
    assert all(0 <= bar.left <= bar.dot <= bar.left + bar.width <= 100 for bar in bars)
    assert [bar.dot for bar in bars] == sorted((bar.dot for bar in bars), reverse=True)


def test_each_pair_stands_once_and_a_tie_is_said_in_words():
    ranking = synthetic_ranking()
    cells = [cell for row in tie_table(RankingPage(ranking, SCORES)).rows for cell in row[1:]]
    shown = [cell for cell in cells if cell.text]
    assert len(shown) == len(ranking["pairs"])
    assert [cell.is_tie for cell in shown] == [pair["tied"] for pair in ranking["pairs"]]
    assert [cell.text for cell in shown if cell.is_tie] == ["+0.4, tied"]
    assert shown[0].note == "+1.4 to +4.6\np\u00a0<\u00a00.001"


def test_a_pair_stored_the_other_way_round_shows_the_same_difference():
    ranking = synthetic_ranking()
    turned = copy.deepcopy(ranking)
    for pair in turned["pairs"]:
        pair["first"], pair["second"] = pair["second"], pair["first"]
        value, (low, high) = pair["difference"]["value"], pair["difference"]["ci95"]
        pair["difference"].update(value=-value, ci95=[-high, -low])
    assert tie_table(RankingPage(turned, SCORES)) == tie_table(RankingPage(ranking, SCORES))


def test_agreement_names_what_each_score_would_pick_and_what_that_costs():
    ranking = synthetic_ranking()
    for name in ("vci", "transrate", "rank"):
        for model, value in zip(ranking["models"], (0.3, 0.1, 0.2, 0.4, 0.5), strict=True):
            score = copy.deepcopy(model["scores"]["vci"]) | {"value": value}
            model["scores"][name] = score
    ranking["agreement"]["rank"] = {"tau": 1.0, "ci95": [0.8, 1.0], "n_models": 4}
    rows = {row[0].text: row for row in agreement_table(RankingPage(ranking, SCORES)).rows}
    assert [cell.text for cell in rows["VCI"][1:]] == [
        "lower",
        "1.00",
        "5",
        "efficientnet_lite1",
        "3.0",
    ]
    assert [cell.text for cell in rows["TransRate"][4:]] == ["resnet20", "9.4"]
    assert rows["rank"][1].text == rows["rank"][4].text == "—"  # of an unknown direction
    taus = [float(row[2].text) for row in rows.values() if row[3].text == "5"]
    assert taus == sorted(taus, reverse=True)
    assert list(rows)[-1] == "rank"  # which not all models have


def test_files_are_beside_the_page_and_complete(folder, page):
    linked = set(re.findall(r'href="((?:figures/|ranking\.)[^"]+)"', page))
    assert {"ranking.csv", "ranking.json", "figures/scores.png", "figures/scores.pdf"} <= linked
    assert all((folder / path).stat().st_size > 0 for path in linked)
    names = {path.name for path in folder.iterdir()}
    assert names == {"report.html", "ranking.json", "ranking.csv", "figures"}
    assert not list(folder.rglob("*.part"))


def test_a_page_made_again_from_its_json_is_the_same(folder, tmp_path):
    write_ranking(tmp_path, read_ranking(folder), scores=SCORES)
    for path in sorted(folder.rglob("*.*")):
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


def test_the_table_has_one_row_a_model_and_then_those_that_failed(folder):
    rows = list(csv.DictReader(io.StringIO((folder / "ranking.csv").read_text(encoding="utf-8"))))
    assert [row["label"] for row in rows] == [*NAMES, "vit_base"]
    assert float(rows[0]["accuracy.value"]) == pytest.approx(0.63)
    assert float(rows[0]["scores.vci.ci95.0"]) < float(rows[0]["scores.vci.value"])
    assert (rows[-1]["place"], rows[-1]["error"]) == ("", FAILED[0][1])


def test_the_page_needs_no_network(page):
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", without_scripts)
    assert page.count("plotly.js v") == 1


def test_names_cannot_become_markup():
    page = rendered(synthetic_ranking(HOSTILE, failed=[(HOSTILE[0], HOSTILE[-1])]))
    assert "<script>alert" not in page
    assert "<img" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    block = re.search(r'id="panels">(.*?)</script>', page, flags=re.S)[1]
    assert not set("<>&\u2028") & set(block)
    assert HOSTILE[0] in json.dumps(json.loads(block))
    text = words(page)
    assert all(" ".join(name.split()) in text for name in HOSTILE)


def test_names_in_figures_are_short_and_stay_apart():
    labels = chart_labels(RankingPage(synthetic_ranking(["a" * 99, "a" * 98, "b"]), SCORES))
    assert len(set(labels)) == 3
    assert max(map(len, labels)) <= 44
    assert shortened("a\nb\u2028c") == "a b c"


CASES = {
    "one": synthetic_ranking(["resnet20"]),
    "two": synthetic_ranking(["resnet20", "resnet56"]),
    "twelve": synthetic_ranking([f"model_{i}" for i in range(12)]),
    "all failed but one": synthetic_ranking(["resnet20"], failed=FAILED * 3),
    "no score is defined": synthetic_ranking(scores="none"),
    "no scores": synthetic_ranking(scores=""),
    "predicted": synthetic_ranking(ranked_by="predicted_accuracy"),
    "by a score": synthetic_ranking() | {"ranked_by": "vci"},
    "checkpoints": synthetic_ranking(STEPS),
    "hostile": synthetic_ranking(HOSTILE),
}


@pytest.mark.parametrize("case", CASES)
def test_every_ranking_has_a_page_and_figures(case):
    ranking = CASES[case]
    text = words(rendered(ranking))
    assert " ".join(ranking["advice"].split()) in text
    assert "nan" not in text.lower().split()
    for chart in charts_of(ranking).values():
        for panel in plotly_panels(chart):
            go.Figure(panel)
            json.dumps(panel, allow_nan=False)
        with rc_context(STYLE):
            draw(chart)


def test_nothing_known_of_a_model_leaves_gaps():
    ranking = synthetic_ranking(["a", "b", "c"])
    unknown = {"value": None, "stderr": None, "ci95": [None, None]}
    ranking["models"][1].update(
        model=None,
        weights=None,
        n_parameters=None,
        seconds_per_example=None,
        accuracy=unknown,
        predicted_accuracy=None,
        geometric_complexity=None,
        learning_curve={},
    )
    for pair in ranking["pairs"]:
        pair.update(difference=unknown, p=None, p_holm=None, tied=True)
    row = ranking_table(RankingPage(ranking, SCORES)).rows[1]
    assert [row[i].text for i in (1, 2, 6, 7, 8)] == ["—"] * 5
    assert "—, tied p — " in words(rendered(ranking)).replace("p\u00a0", "p ")


def test_a_ranking_without_measurements_says_so_and_has_no_scatter():
    ranking = CASES["predicted"]
    text = words(rendered(ranking))
    assert "Nothing was measured" in text
    assert "No accuracy was measured, so no score can be checked against it." in text
    assert "as if their errors were independent" in text
    assert charts_of(ranking) == {}


def test_reasons_of_undefined_scores_are_given():
    text = words(rendered(CASES["no score is defined"]))
    assert "5 examples of 5 classes have rank 4: H-score is C - 1 for any labels" in text
    assert "No score has an order to compare." in text


def test_unknown_scores_are_called_by_their_key():
    text = words(rendered(synthetic_ranking(), scores={}))
    assert "loo knn accuracy" in text


def test_preprocessing_is_a_table_only_where_it_differs():
    ranking = synthetic_ranking()
    text = words(rendered(ranking))
    assert "Preprocessing that differs" in text
    assert "mean 0.485, 0.456, 0.406 0.5, 0.5, 0.5" in text
    assert "preprocessing, batch norm evaluation" in text
    for model in ranking["models"]:
        model["preprocessing"] = ranking["models"][0]["preprocessing"]
    assert "Preprocessing that differs" not in words(rendered(ranking))


def test_scores_have_error_bars_in_both_directions():
    chart = charts_of(synthetic_ranking())["scores"]
    series = chart.panels[0].series[0]
    trace = plotly_panels(chart)[0]["data"][0]
    for axis in ("x", "y"):
        below, above = series.error_bar(axis)
        assert below > 0
        assert trace[f"error_{axis}"]["array"] == pytest.approx(list(above))
    with rc_context(STYLE):
        lines = draw(chart).axes[0].collections
    spans = [line.get_segments() for line in lines if hasattr(line, "get_segments")]
    ends = np.array([series.x_low[0], series.y[0]])
    assert any(np.allclose(segment[0], ends) for parts in spans for segment in parts)


def test_the_best_agreeing_scores_come_first_and_none_is_left_out():
    ranking = synthetic_ranking()
    charts = charts_of(ranking)
    titles = [p.title for name in ("scores", "more-scores") for p in charts[name].panels]
    taus = [float(re.search(r"τ = (\S+)", title)[1]) for title in titles]
    assert len(taus) == len(SCORES)
    assert taus == sorted(taus, reverse=True)


@pytest.mark.parametrize(
    ("labels", "steps"),
    [
        (["3000", "0"], [3000, 0]),
        (["step 20", "step 3"], [20, 3]),
        (["checkpoint-20.pt", "checkpoint-3.pt"], [20, 3]),
        (["resnet56", "resnet20"], []),
        (["3000", "resnet20"], []),
        (["7"], []),
    ],
)
def test_labels_that_are_steps_are_checkpoints_of_one_run(labels, steps):
    assert RankingPage(synthetic_ranking(labels), SCORES).steps == steps


def test_the_peak_of_training_is_marked_and_said():
    ranking = CASES["checkpoints"]
    panel = charts_of(ranking)["training"].panels[0]
    line, star = panel.series
    assert list(line.x) == sorted(map(float, STEPS))
    assert (star.x[0], star.y[0]) == (3000, line.y.max())
    assert panel.curve[0].tolist() == [3000, 3000]
    text = words(rendered(ranking))
    assert "7 checkpoints ranked on" in text
    assert "5-shot accuracy is best at step 3,000 of 4,000: 63%, tied with none." in text
    assert "training" not in charts_of(synthetic_ranking())


def test_labels_carry_quantity_and_unit():
    for ranking in (synthetic_ranking(), CASES["checkpoints"]):
        for chart in charts_of(ranking).values():
            for panel in chart.panels:
                assert re.fullmatch(r".+ \[.+\]", panel.x_label), panel.x_label
                assert re.fullmatch(r".+ \[.+\]", panel.y_label), panel.y_label


@pytest.mark.parametrize("case", ["twelve", "checkpoints", "hostile"])
def test_nothing_on_paper_is_cut_off(case):
    for chart in charts_of(CASES[case]).values():
        with rc_context(STYLE):
            figure = draw(chart)
            figure.draw_without_rendering()
        texts = [figure.legends[0], *(ax.title for ax in figure.axes if ax.get_visible())]
        texts += [label for ax in figure.axes for label in (ax.xaxis.label, ax.yaxis.label)]
        for text in texts:
            box = text.get_window_extent()
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, chart.name
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, chart.name


def test_a_folder_without_a_ranking_is_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder: expected a folder with ranking.json, got"):
        read_ranking(tmp_path)
    for content, told in (
        ("{}", "expected a ranking, got none"),
        ('{"models": [], "schema_version": 2}', "expected schema_version 1 or older, got 2"),
    ):
        (tmp_path / "ranking.json").write_text(content)
        with pytest.raises(ValueError, match=told):
            read_ranking(tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("case", ["twelve", "hostile", "checkpoints"])
def test_a_browser_draws_every_panel_within_the_width(case, tmp_path, width):
    assert_drawn(rendered(CASES[case]), tmp_path, width)
