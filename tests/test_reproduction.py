"""The reproduction page: made from stored sweeps, and what the stored sweeps say is still true."""

import json
import re
from pathlib import Path

import pytest

from geocollapse.cli import main
from geocollapse.experiments.recipe import load_recipe
from geocollapse.experiments.results.tables import read_sweep
from geocollapse.papers.collapse_transfer.claims import CLAIMS
from geocollapse.papers.collapse_transfer.experiments import EXPERIMENTS
from geocollapse.papers.registry import judge
from geocollapse.papers.verdict import to_json
from geocollapse.reports.reproduction import read_reproduction
from geocollapse.reports.reproduction_answer import answer, lessons
from geocollapse.reports.reproduction_page import ReproductionPage
from geocollapse.reports.writing import write_report
from synthetic_sweep import write_sweep

ROOT = Path(__file__).parents[1]
STORED = sorted(path.parent for path in ROOT.glob("results/*/*/sweep.yaml"))
RATES = "cifar-fs-resnet18-learning-rate"
BATCHES = "cifar10-vgg13-batch-size"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_sweep(folder / RATES / "reduced", effect="opposed", n_seeds=3, name=RATES)
    write_sweep(folder / BATCHES / "reduced", sweeps=("batch_size",), target=False, name=BATCHES)
    return folder


def test_every_experiment_has_a_recipe_with_the_preset_and_known_claims():
    names = {claim.name for claim in CLAIMS}
    for experiment in EXPERIMENTS:
        recipe = load_recipe(experiment.recipe)
        assert "reduced" in recipe.presets
        assert set(experiment.claims) <= names
        reduced = recipe.with_preset("reduced")
        for grid in reduced.sweeps.values():
            assert experiment.recipe.endswith("sampling") or len(next(iter(grid.values()))) >= 7


def test_the_answer_counts_sweeps_claim_by_claim(results):
    found = read_reproduction(results)
    assert [row.experiment.recipe for row in found.stored] == [BATCHES, RATES]
    text = " ".join(answer(found))
    assert "A larger learning rate lowers GC in 1 of 1 sweep, geometric collapse in 0 of 1" in text
    assert "(1 the other way)" in text
    assert "A smaller batch lowers GC in 1 of 1 sweep" in text
    assert "geometric collapse in 1 of 2 sweeps (1 the other way)" in text
    assert "higher 5-shot accuracy in 0 of 1 sweep (1 the other way)" in text


def test_lessons_are_given_for_sweeps_with_target_classes(results):
    said = lessons(read_reproduction(results))
    assert len(said) == 1
    assert re.match(rf"{RATES}, learning rate: source NC with target NC rho = [+-]\d", said[0])


def test_a_sweep_with_runs_to_be_done_is_not_stored(results, tmp_path):
    write_sweep(tmp_path / RATES / "reduced", name=RATES)
    next((tmp_path / RATES / "reduced").glob("runs/*/result.json")).unlink()
    with pytest.raises(FileNotFoundError, match=r"results: expected sweeps .*--from-scratch"):
        read_reproduction(tmp_path)


def test_the_page_holds_all_it_needs(results, tmp_path):
    found = read_reproduction(results)
    ReproductionPage.of(found).write_html(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert 'src="data:image/png;base64,' in html
    assert not re.search(r"(src|href)=\"https?:", html)
    assert html.count("Not stored yet.") == len(EXPERIMENTS) - 2
    assert answer(found)[0] in html


def test_the_markdown_names_its_figures(results, tmp_path):
    page = ReproductionPage.of(read_reproduction(results))
    page.write_markdown(tmp_path / "page.md", tmp_path / "figures" / "page")
    text = (tmp_path / "page.md").read_text()
    figures = re.findall(r"!\[.*\]\((.+)\)", text)
    assert len(figures) == 2
    assert all((tmp_path / name).is_file() for name in figures)
    assert "&lt;" not in text
    assert f"geocollapse sweep {BATCHES} --preset reduced --seeds 3" in text


def test_the_command_prints_the_answer_first(results, tmp_path, capsys):
    arguments = ["reproduce", "--results", str(results), "--out", str(tmp_path)]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["experiments"][1]["stored"]
    assert (tmp_path / "reproduction.html").is_file()
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("A larger learning rate lowers GC")


def test_an_unknown_experiment_is_refused_by_name(results, capsys):
    assert main(["reproduce", "--results", str(results), "--only", "cifar11"]) == 2
    assert "--only: expected recipes among" in capsys.readouterr().err


def test_without_results_the_remedy_is_said(tmp_path, capsys):
    assert main(["reproduce", "--results", str(tmp_path)]) == 2
    assert "do it in a checkout" in capsys.readouterr().err


def test_from_scratch_trains_and_is_not_done_twice(tmp_path, capsys):
    arguments = ["reproduce", "--from-scratch", "--preset", "smoke", "--only", BATCHES, "--quiet"]
    places = ["--results", str(tmp_path / "results"), "--out", str(tmp_path)]
    if not (Path(__file__).parents[1] / ".data" / "cifar-10-batches-py").exists():
        pytest.skip("CIFAR-10 is not on this machine")
    data = ["--data-root", str(ROOT / ".data"), "--workers", "1"]
    assert main([*arguments, *places, *data]) == 0
    runs = sorted((tmp_path / "results").glob("*/smoke/runs/*/result.json"))
    times = [run.stat().st_mtime_ns for run in runs]
    assert len(runs) == 3
    assert main([*arguments, *places, *data]) == 0
    assert [run.stat().st_mtime_ns for run in runs] == times
    assert "1 of 1 experiments are stored" in capsys.readouterr().out


def near(one, two):
    """Whether two JSON forms are equal, numbers up to rounding."""
    if isinstance(one, float) and isinstance(two, float):
        return one == pytest.approx(two, rel=1e-9, abs=1e-12)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(near(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(near, one, two))
    return one == two


@pytest.mark.parametrize("folder", STORED, ids=lambda path: "/".join(path.parts[-2:]))
def test_stored_verdicts_are_those_of_the_stored_runs(folder):
    stored = json.loads((folder / "verdicts.json").read_text())["verdicts"]
    assert near(json.loads(json.dumps([to_json(v) for v in judge(read_sweep(folder))])), stored)


@pytest.mark.parametrize("folder", STORED, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_stored_sweep_is_whole(folder):
    results = read_sweep(folder)
    assert not results.problems
    assert set(results.runs["status"]) == {"done"}
    text = (folder / "sweep.yaml").read_text()
    assert "/home/" not in text


@pytest.mark.skipif(not STORED, reason="no stored sweeps in this checkout")
def test_the_page_of_the_docs_is_that_of_the_stored_sweeps(tmp_path):
    found = ReproductionPage.of(read_reproduction(ROOT / "results"))
    found.write_markdown(tmp_path / "x.md", tmp_path / "figures" / "reproduction")
    page = (ROOT / "docs" / "reproduction.md").read_text()
    assert (tmp_path / "x.md").read_text() == page
    for name in re.findall(r"!\[.*\]\((.+)\)", page):
        assert (ROOT / "docs" / name).is_file()


def test_a_report_writes_its_verdicts(tmp_path):
    write_sweep(tmp_path)
    written = write_report(tmp_path)
    stored = json.loads((tmp_path / "verdicts.json").read_text())
    assert stored["schema_version"] == 1
    assert len(stored["verdicts"]) == len(written.verdicts)
