"""The reproduction page: made from stored sweeps, and what the stored sweeps say is still true."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from markupsafe import escape

from geocollapse.cli import main
from geocollapse.experiments.recipe import load_recipe
from geocollapse.experiments.results.tables import ACCURACY, GC, GCOL, NC, TARGET_NC, read_sweep
from geocollapse.papers.collapse_transfer.claims import CLAIMS
from geocollapse.papers.collapse_transfer.experiments import BUILT_ONLY, EXPERIMENTS
from geocollapse.papers.collapse_transfer.poincare import RATIO
from geocollapse.papers.registry import judge
from geocollapse.papers.verdict import to_json
from geocollapse.reports.reproduction import read_reproduction
from geocollapse.reports.reproduction_answer import answer, details
from geocollapse.reports.reproduction_lessons import Lesson, Rho, conclusions, lessons
from geocollapse.reports.reproduction_page import ReproductionPage
from geocollapse.reports.reproduction_table import Tables, given_loss
from geocollapse.reports.writing import write_report
from synthetic_sweep import run_folders, write_sweep

ROOT = Path(__file__).parents[1]
STORED = sorted(path.parent for path in ROOT.glob("results/*/*/sweep.yaml"))
RATES = "cifar-fs-resnet18-learning-rate"
BATCHES = "cifar10-vgg13-batch-size"
DECAYS = "cifar10-vgg13-weight-decay"
TEXTS = "banking77-text"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_sweep(folder / RATES / "reduced", effect="opposed", n_seeds=3, name=RATES)
    write_sweep(folder / BATCHES / "reduced", sweeps=("batch_size",), target=False, name=BATCHES)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A question of this project with two sweeps, one of them over a key without a sign, and a
    sweep of the paper where one run collapsed and another has a tenfold Poincaré ratio.
    """
    folder = tmp_path_factory.mktemp("texts")
    sweeps = ("learning_rate", "gc_penalty")
    write_sweep(folder / TEXTS / "reduced", sweeps=sweeps, n_seeds=3, name=TEXTS)
    change(folder / TEXTS / "reduced" / "sweep.yaml", yaml, without_sign)
    decays = folder / DECAYS / "reduced"
    write_sweep(decays, sweeps=("weight_decay",), n_seeds=3, name=DECAYS)
    first, second, *_ = run_folders(decays)
    change(first / "result.json", json, lambda r: r["final"].update(train_accuracy=0.2))
    ratio = {"poincare_ratio": {"max": 1.2}}
    change(second / "result.json", json, lambda r: r["final"]["source"].update(ratio))
    return folder


def change(path, form, edit):
    """Change a JSON or YAML file in place."""
    read, write = (form.safe_load, form.safe_dump) if form is yaml else (form.loads, form.dumps)
    content = read(path.read_text())
    edit(content)
    path.write_text(write(content))


def without_sign(recipe):
    del recipe["claims"]["expected_signs"]["training.gc_penalty.weight"]


def test_every_experiment_has_a_recipe_with_the_preset_and_known_claims():
    names = {claim.name for claim in CLAIMS}
    for experiment in EXPERIMENTS:
        recipe = load_recipe(experiment.recipe)
        assert "reduced" in recipe.presets
        assert set(experiment.claims) <= names
        reduced = recipe.with_preset("reduced")
        for grid in reduced.sweeps.values():
            assert experiment.recipe.endswith("sampling") or len(next(iter(grid.values()))) >= 7


def test_recipes_without_stored_results_are_shipped():
    for name in BUILT_ONLY:
        assert load_recipe(name).name == name
        assert not (ROOT / "results" / name).exists()
        assert name not in {experiment.recipe for experiment in EXPERIMENTS}


def test_the_answer_counts_the_sweeps_of_the_paper_and_names_those_against_it(results):
    found = read_reproduction(results)
    assert [row.experiment.recipe for row in found.stored] == [BATCHES, RATES]
    first, *_ = sentences = answer(found)
    assert first == (
        "On small networks and few images, the paper's account of training repeats in part, its "
        "account of transfer mostly does not repeat and its one Poincaré constant for all runs "
        "repeats."
    )
    text = " ".join(sentences)
    assert (
        "GC falls with a larger learning rate and a smaller batch in 2 of 2 sweeps of the paper; "
        f"with it geometric collapse falls in 1 of 2 (the other way in {RATES}) and NC in 1 of 2"
    ) in text
    assert f"higher 5-shot accuracy in 0 of 1 (the other way in {RATES})" in text
    assert "serves the runs in 2 of 2 experiments of the paper." in text
    assert re.search(r"Of the 6 correlations that hold, \d also hold at matched", text)
    said = " ".join(details(found))
    assert "lower geometric collapse in 1 of 2 sweeps of the paper (the other way in" in said
    assert "No measured error lies above the nearest-mean bound in 2 of 2 experiments" in said


def test_own_experiments_are_counted_apart(texts):
    found = read_reproduction(texts)
    text = " ".join(answer(found))
    assert "GC falls with stronger L2 in 1 of 1 sweep of the paper" in text
    assert "learning rate" not in text
    assert (
        "One Poincaré constant serves the runs in 0 of 1 experiment of the paper; elsewhere the "
        "Poincaré ratio differs between runs by a factor of 10."
    ) in text
    said = " ".join(details(found))
    assert "GC falls with a larger learning rate in 1 of 1 sweep of this project's own" in said
    assert "lower geometric collapse in 2 of 2 sweeps of this project's own" in said


def test_a_collapsed_run_is_said_in_its_row(texts):
    row = read_reproduction(texts).stored[0]
    assert row.convergence == (
        "14 of 15 runs converged (5 of 5 settings), ending at a training accuracy of at least "
        "100.0 %; 1 run reached its accuracy and lost it (ending at 20.0 %)"
    )
    assert "With the runs that did not converge: no verdict changes." in Tables.of(row).notes


def test_a_table_has_what_a_verdict_withstands_and_its_size(results):
    found = read_reproduction(results)
    batches = Tables.of(found.stored[0])
    lines = {(line.verdict.x, line.verdict.y): line for line in batches.lines}
    falls = lines["swept.training.batch_size", GC]
    assert falls.outcome == "holds"
    name, factor = falls.size.split(" x ")
    assert name == "GC"
    assert float(factor) == pytest.approx(math.exp(-0.3 * 4), abs=0.02)
    assert falls.matched == "holds, +1.00"
    assert falls.per_variance == "holds, +1.00"
    assert lines["swept.training.batch_size", NC].per_variance == "—"
    assert batches.summary.startswith("5 of 5 hold, ")
    assert not batches.has_sweeps
    assert [verdict.y for verdict in batches.thresholds] == [RATIO, "nearest-mean error"]
    rates = Tables.of(found.stored[1])
    assert {line.outcome for line in rates.lines} == {"holds", "does not hold"}
    assert "the other way" in rates.summary


def test_rho_given_the_loss_is_missing_where_the_loss_has_the_same_order(results):
    line = Tables.of(read_reproduction(results).stored[0]).lines[0]
    same = replace(line.verdict, partial=math.nan)
    assert given_loss(same) == "—: the loss has the same order"
    assert given_loss(replace(same, partial=0.25)) == "+0.25"
    assert given_loss(replace(same, n_settings=3)) == "—"


def test_open_keys_are_tied_to_transfer_and_not_judged(texts):
    row = read_reproduction(texts).stored[1]
    tables = Tables.of(row)
    open_key = "swept.training.gc_penalty.weight"
    tied = {line.verdict.y: line for line in tables.lines if line.verdict.x == open_key}
    assert set(tied) == {GC, GCOL, NC, TARGET_NC, ACCURACY}
    assert {line.outcome for line in tied.values()} == {"not judged"}
    assert tied[TARGET_NC].verdict.claim == "transfer"
    others = [line for line in tables.lines if line.verdict.x.endswith("learning_rate")]
    assert {line.verdict.y for line in others} == {GC, GCOL, NC}
    assert tables.has_sweeps


def test_lessons_say_where_lower_source_nc_goes_with_worse_transfer(results):
    learned = lessons(read_reproduction(results))
    assert [lesson.name for lesson in learned] == [RATES]
    assert re.fullmatch(r"[+-]\d\.\d\d \[.*\]", learned[0].cells[0])
    assert learned[0].of_setting[TARGET_NC].value > 0
    better = {TARGET_NC: (0.2, 1.0), ACCURACY: (-1.0, -0.2)}
    worse = {y: (-high, -low) for y, (low, high) in better.items()}
    unclear = dict.fromkeys(better, (-0.5, 0.5))
    cases = {"a": ("worse", worse), "b": ("better", better), "c": ("better", better)}
    cases["d"] = ("undecided", unclear)
    of_accuracy = []
    for name, (outcome, intervals) in cases.items():
        lesson = Lesson(name, {y: Rho(0.0, bounds) for y, bounds in intervals.items()}, {})
        assert {lesson.transfer(y) for y in better} == {outcome}
        of_accuracy.append(replace(lesson, of_source_nc={ACCURACY: lesson.of_source_nc[ACCURACY]}))
    assert conclusions(of_accuracy) == [
        "By 5-shot accuracy, lower source NC goes with worse transfer in a; with better in b and "
        "c; undecided in d."
    ]


def test_one_machine_has_one_spelling(results):
    found = read_reproduction(results)
    spelled = {BATCHES: "Linux x86_64", RATES: "Linux x86_64, AMD EPYC, 2 cores"}
    for row in found.stored:
        for origin in row.report.results.provenance.values():
            origin["machine"] = spelled[row.experiment.recipe]
    assert found.machines == ["Linux x86_64, AMD EPYC, 2 cores"]
    assert found.made(found.stored[0]).endswith(
        "hours on Linux x86_64, AMD EPYC, 2 cores, one thread a run"
    )


def test_the_sampling_study_is_shown_with_all_runs_and_its_number_of_images(tmp_path):
    name = "cifar10-vgg13-sampling"
    folder = tmp_path / name / "reduced"
    write_sweep(folder, sampling=30, unconverged=[0, 1, 2, 3], name=name)
    row = read_reproduction(tmp_path).stored[0]
    report = row.report
    sized = report.results.runs.assign(**{"measuring.max_samples": 100.0})
    results = replace(report.results, runs=sized)
    tables = Tables.of(replace(row, report=replace(report, results=results)))
    assert [verdict.view for verdict in tables.methods] == ["main", "with non-converged runs"]
    assert [verdict.n_runs for verdict in tables.methods] == [6, 10]
    assert "The full value is that of 100 images." in tables.notes


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
    for sentence in (*answer(found), *details(found)):
        assert escape(sentence) in html
    assert "cifar10-vgg13-squared-loss" in html


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
    assert capsys.readouterr().out.startswith("On small networks and few images, the paper's")


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


DIVERGED = {"cifar10-implicit-sgd": 2}  # runs with a gradient penalty that end in NaN


@pytest.mark.parametrize("folder", STORED, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_stored_sweep_is_whole(folder):
    results = read_sweep(folder)
    assert not results.problems
    assert set(results.runs["status"]) <= {"done", "failed"}
    assert (results.runs["status"] == "failed").sum() == DIVERGED.get(folder.parent.name, 0)
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
