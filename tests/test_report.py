"""The report of a sweep folder: one page that needs nothing else, and says what is missing."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from browser import CHROMIUM, assert_drawn
from geocollapse.cli import main
from geocollapse.cli.report import report_text
from geocollapse.experiments.recipe import load_recipe
from geocollapse.experiments.results.folders import SweepFolder
from geocollapse.experiments.results.tables import read_sweep
from geocollapse.papers import registry
from geocollapse.papers.claims import Claim, Paper
from geocollapse.papers.collapse_transfer.claims import CLAIMS
from geocollapse.papers.collapse_transfer.judge import judge
from geocollapse.papers.registry import benchmark_papers, claims_of, papers, papers_of
from geocollapse.papers.verdict import Verdict
from geocollapse.reports import sweep_report
from geocollapse.reports.sweep_charts import charts
from geocollapse.reports.sweep_report import read_report
from geocollapse.reports.verdict_grid import VerdictGrid, verdict_table
from geocollapse.reports.wording import count_sentence, effect_size, number
from geocollapse.reports.writing import write_report
from synthetic_sweep import VALUES, write_sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return write_sweep(
        folder,
        effect="opposed",
        failed=[9],
        unconverged=[0],
        sampling=5,
        name="synthetic <script>alert(1)</script>",
    )


@pytest.fixture(scope="module")
def page(sweep):
    return write_report(sweep).path.read_text(encoding="utf-8")


def words(page):
    """The text of the page without scripts and tags."""
    text = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_the_page_shows_every_verdict_with_its_effect(sweep, page):
    text = words(page)
    verdicts = judge(read_sweep(sweep))
    assert count_sentence(verdicts) in text
    assert all(claim.statement in text for claim in CLAIMS)
    for verdict in verdicts:
        assert effect_size(verdict) in text
        assert verdict.note in html.unescape(page)
    shown = len(re.findall(r'<span class="chip ', page))
    assert shown == len(verdicts) + sum(v.view == "main" for v in verdicts)


def test_the_page_needs_no_network_and_holds_plotly_once(page):
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", without_scripts)
    assert "<link rel=" in without_scripts
    assert page.count("plotly.js v") == 1


def test_every_panel_of_the_page_has_its_data(page):
    panels = json.loads(re.search(r'id="panels">(.*?)</script>', page, flags=re.S)[1])
    places = re.findall(r'data-chart="([^"]+)" data-panel="(\d+)"', page)
    assert len(places) == sum(len(chart) for chart in panels.values())
    assert all(panels[name][int(i)]["data"] for name, i in places)


def test_failed_runs_are_listed_with_their_step(page):
    assert "at step 60: training loss: expected a finite number, got nan" in words(page)


def test_what_can_mislead_stands_beside_each_claim(page):
    assert page.count("Read with care") == len(CLAIMS)


def test_provenance_names_versions_device_seeds_and_the_command(page):
    text = words(page)
    for expected in (
        "torch 2.6.0",
        "device cpu",
        "seed 0, 1",
        "geocollapse sweep recipe.yaml",
        "preprocessing, mean.0 0.5",
    ):
        assert expected in text


def test_the_command_names_a_shipped_recipe_with_its_preset(tmp_path):
    recipe = load_recipe("demo").with_preset("smoke")
    SweepFolder(tmp_path).write_recipe(recipe, recipe.planned_runs())
    assert "geocollapse sweep demo --preset smoke" in words(
        write_report(tmp_path).path.read_text(encoding="utf-8")
    )


def test_figures_and_the_table_lie_beside_the_page(sweep, page):
    linked = set(re.findall(r'href="(figures/[^"]+|table\.csv)"', page))
    assert linked
    assert all((sweep / path).is_file() for path in linked)


def test_text_of_a_recipe_cannot_become_markup(page):
    assert "<script>alert" not in page


def test_text_that_opens_a_comment_and_a_script_leaves_the_charts_alone(tmp_path, monkeypatch):
    """A browser once took the rest of the page for a comment."""
    name = "<!--<script> & \u2028"
    monkeypatch.setitem(VALUES, "schedule", ("training.schedule", ["constant", "cosine", "step"]))
    write_sweep(tmp_path, sweeps=("schedule",), n_seeds=1)
    path = tmp_path / "sweep.yaml"
    recipe = yaml.safe_load(path.read_text())
    for run in recipe["runs"]:
        run["sweeps"] = {"schedule": {"training.schedule": f"{name} {run['run_id']}$"}}
    path.write_text(yaml.safe_dump(recipe))
    page = write_report(tmp_path).path.read_text(encoding="utf-8")
    block = re.search(r'id="panels">(.*?)</script>', page, flags=re.S)[1]
    assert not set("<>&\u2028") & set(block)
    assert name in json.dumps(json.loads(block), ensure_ascii=False)


def test_a_grid_of_two_keys_shows_both(tmp_path):
    write_sweep(tmp_path, n_settings=4, n_seeds=1)
    path = tmp_path / "sweep.yaml"
    recipe = yaml.safe_load(path.read_text())
    for place, run in enumerate(recipe["runs"]):
        rate, size = divmod(place, 2)
        values = {"training.learning_rate": 0.1 * (1 + rate), "training.batch_size": 8 * (1 + size)}
        run["sweeps"] = {"both": values}
    path.write_text(yaml.safe_dump(recipe))
    report = read_report(tmp_path)
    pairs = [row.pair for row in VerdictGrid.of(report.verdicts, claims_of(report.papers)).rows]
    assert {"learning rate, GC", "batch size, GC"} <= set(pairs)
    assert "swept value, GC" not in pairs


def test_claims_without_data_are_one_line(tmp_path):
    report = write_report(write_sweep(tmp_path, target=False))
    text = words(report.path.read_text(encoding="utf-8"))
    assert "Claims without data" in text
    assert "5-shot target accuracy" not in text
    assert 'id="claim-transfer"' not in report.path.read_text(encoding="utf-8")
    shown = report_text(report)
    assert "claim 3 (transfer): Not recorded: target.cdnv." in shown
    assert "source GC, target NC" not in shown


def test_a_sweep_without_any_verdict_prints_no_table(tmp_path):
    sweep = write_sweep(tmp_path, n_settings=1, n_seeds=1, failed=[0])
    shown = report_text(write_report(sweep))
    assert "Verdicts on" not in shown
    assert shown.startswith("without data: claim 1")


def test_a_sweep_without_claims_shows_its_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_sweep(tmp_path)
    path = tmp_path / "sweep.yaml"
    recipe = yaml.safe_load(path.read_text())
    del recipe["claims"]
    path.write_text(yaml.safe_dump(recipe))
    report = write_report(tmp_path)
    shown = " ".join(report_text(report).split())
    assert "undecided -1.00 [-1.00, -1.00], two-sided p 0.017" in shown
    assert "has no expected sign in the recipe (claims.expected_signs)" in shown
    assert "0.017, two-sided" in words(report.path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda recipe: recipe.pop("title"), "expected a title, got none"),
        (lambda recipe: recipe.pop("name"), "expected a name, got none"),
        (lambda recipe: recipe.pop("runs"), "expected an expanded recipe with its runs, got none"),
        (lambda recipe: recipe["runs"][0].pop("run_id"), "expected a run_id, a seed and sweeps"),
        (lambda recipe: recipe["runs"][0].update(run_id="../x"), "expected a run_id, a seed and"),
        (lambda recipe: recipe["runs"].insert(0, "run"), "expected a run_id, a seed and sweeps"),
    ],
)
def test_a_sweep_yaml_without_what_a_report_needs_is_refused_in_one_line(
    tmp_path, change, told, capsys
):
    write_sweep(tmp_path, n_settings=1, n_seeds=1)
    path = tmp_path / "sweep.yaml"
    recipe = yaml.safe_load(path.read_text())
    change(recipe)
    path.write_text(yaml.safe_dump(recipe))
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: {told}")
    assert error.count("\n") == 1


def test_figures_appear_when_they_are_complete(tmp_path, monkeypatch):
    """A figure that was being written over was once half a file."""
    folder = write_sweep(tmp_path, n_settings=2, n_seeds=1)
    before = {path: path.read_bytes() for path in write_report(folder).figures}

    write_bytes = Path.write_bytes

    def fill_the_disk(path, content):
        if "figures" not in path.parts:
            return write_bytes(path, content)
        write_bytes(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*figures/.*png'"):
        write_report(folder)
    assert {path: path.read_bytes() for path in (folder / "figures").iterdir()} == before


@pytest.mark.parametrize(
    "case",
    [
        {"n_settings": 1, "n_seeds": 1},
        {"target": False, "n_settings": 2},
        {"n_settings": 1, "failed": [0, 1]},
    ],
)
def test_a_poor_sweep_gives_a_page_that_says_what_is_missing(tmp_path, case):
    write_sweep(tmp_path, **case)
    text = words(write_report(tmp_path).path.read_text(encoding="utf-8"))
    assert "0 do not hold" in text
    assert "No run has a sampling study." in text


def test_a_sweep_over_words_has_its_figures_and_no_verdict_on_their_order(tmp_path, monkeypatch):
    monkeypatch.setitem(VALUES, "schedule", ("training.schedule", ["constant", "cosine", "step"]))
    write_sweep(tmp_path, sweeps=("schedule",), n_seeds=1)
    results = read_sweep(tmp_path)
    assert all(
        (v.note, v.verdict, v.n_runs)
        == ("No numbers, so no order: swept.training.schedule.", "undecided", 0)
        for v in judge(results)
        if v.claim == "training-choices"
    )
    assert (
        next(chart for chart in charts(results) if chart.name == "settings-schedule")
        .panels[0]
        .ticks[1]
        == "cosine"
    )


def test_a_recipe_without_sweeps_is_reported_on_its_thresholds(tmp_path):
    write_sweep(tmp_path, n_settings=1, n_seeds=3, sampling=5)
    recipe = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    runs = [run | {"sweeps": {}, "overrides": {}} for run in recipe["runs"]]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(recipe | {"runs": runs, "sweeps": {}}))
    results = read_sweep(tmp_path)
    assert {verdict.claim for verdict in judge(results)} == {"poincare-bound", "sampling"}
    assert [chart.name for chart in charts(results)] == [
        "poincare-ratio",
        "bound",
        "sampling",
        "bounds-through-training",
    ]
    assert "No sweep of this folder has settings to compare." in words(
        write_report(tmp_path).path.read_text(encoding="utf-8")
    )


def test_quantities_that_are_null_everywhere_are_missing_and_nothing_breaks(tmp_path):
    write_sweep(tmp_path, n_settings=2, n_seeds=1)
    for path in [*tmp_path.rglob("history.jsonl"), *tmp_path.rglob("result.json")]:
        text = re.sub(
            r'"(max|cdnv|best|vacuous|gc_per_variance)": [^,}]+', r'"\1": null', path.read_text()
        )
        path.write_text(text)
    text = words(write_report(tmp_path).path.read_text(encoding="utf-8"))
    assert "Not recorded: source.cdnv." in text
    assert "No run recorded a bound with its error." in text


def test_a_sweep_that_has_only_begun_names_its_unfinished_runs(tmp_path):
    write_sweep(tmp_path, n_settings=2, n_seeds=1)
    for run in (tmp_path / "runs").iterdir():
        shutil.rmtree(run)
    text = words(write_report(tmp_path).path.read_text(encoding="utf-8"))
    assert "2 runs: 0 converged, 2 unfinished." in text
    assert "2 of 2 runs are not begun; do geocollapse sweep with the same recipe and --out" in text
    assert "no config.yaml" not in text


def test_the_verdict_table_has_a_column_for_each_sweep(tmp_path):
    write_sweep(tmp_path, sweeps=("learning_rate", "batch_size"))
    table = verdict_table(read_report(tmp_path))
    assert [column.header for column in table.columns] == [
        "claim",
        "pair",
        "learning rate",
        "batch size",
        "all runs",
    ]
    console = Console(width=140, file=open("/dev/null", "w"), record=True)  # noqa: SIM115
    console.print(table)
    text = console.export_text()
    assert "holds +1.00" in text
    assert "vacuous" in text


def test_a_report_reads_its_folder_once_and_judges_once(tmp_path, monkeypatch, capsys):
    calls = []
    for name in ("read_sweep", "judge"):
        called = getattr(sweep_report, name)

        def counted(*args, name=name, called=called, **settings):
            calls.append(name)
            return called(*args, **settings)

        monkeypatch.setattr(sweep_report, name, counted)
    assert main(["report", str(write_sweep(tmp_path / "a"))]) == 0
    assert calls == ["read_sweep", "judge"]
    calls.clear()
    settings = ("seeds=1", "training.max_steps=2", "transfer.n_episodes=5", "measuring.points=1")
    arguments = [part for setting in settings for part in ("--set", setting)]
    arguments += ["--set", "sweeps={}", "--out", str(tmp_path / "b"), "--workers", "1", "--quiet"]
    assert main(["sweep", "demo", *arguments]) == 0
    assert calls == ["read_sweep", "judge"]


def test_verdicts_are_on_registered_claims_and_names_are_unique(sweep):
    every = (*papers().values(), *benchmark_papers().values())
    claims = [claim.name for paper in every for claim in paper.claims]
    assert len(set(claims)) == len(claims)
    assert [claim.name for claim in CLAIMS] == [
        "complexity-collapse",
        "training-choices",
        "transfer",
        "poincare-bound",
        "sampling",
    ]
    report = read_report(sweep)
    assert report.papers == (papers()["collapse-transfer"],)
    assert {verdict.claim for verdict in report.verdicts} == set(claims_of(report.papers))


def test_a_folder_is_all_that_a_paper_needs(tmp_path, monkeypatch):
    claim = Claim("known", "It is known.", "threshold", "a number", (), ("Nothing.",), {"x": "x"})
    verdict = Verdict("known", "it is", "all runs", "x", "y", "holds", 1, "", effect=0.5)
    other = Paper("other", "Somebody (2025)", (claim,), lambda results, *, seed=0: (verdict,))
    monkeypatch.setattr(registry, "papers", lambda: papers() | {"other": other})
    write_sweep(tmp_path)
    recipe = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    recipe["claims"]["papers"] = ["other"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(recipe))
    report = write_report(tmp_path)
    assert report.verdicts == (verdict,)
    assert "Claim 1. It is known." in words(report.path.read_text(encoding="utf-8"))
    recipe["claims"]["papers"] = ["othr"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ValueError, match="claims.papers: expected names among collapse-transfer"):
        read_report(tmp_path)


def test_the_grid_keeps_only_main_verdicts(sweep):
    results = read_sweep(sweep)
    verdicts = judge(results)
    grid = VerdictGrid.of(verdicts, claims_of(papers_of(results.recipe)))
    assert sum(cell is not None for *_, cells in grid.rows for cell in cells) == sum(
        v.view == "main" for v in verdicts
    )


def test_numbers_have_three_digits_and_missing_ones_a_dash():
    assert [number(x) for x in (0.123456, 3.0, 7, None, float("nan"), "done")] == [
        "0.123",
        "3",
        "7",
        "—",
        "—",
        "done",
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_every_panel_within_the_width_and_without_a_console_message(
    page, tmp_path, width
):
    assert_drawn(page, tmp_path, width)
