"""A sweep on this machine: done runs are skipped, a failed one is recorded and the others go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from geocollapse.experiments import sweep
from geocollapse.experiments.cost import estimate_cost
from geocollapse.experiments.engines import local
from geocollapse.experiments.recipe import Recipe
from geocollapse.experiments.results.folders import SweepFolder
from geocollapse.experiments.results.tables import read_sweep, write_table
from geocollapse.experiments.sweep import run_sweep
from geocollapse.reports.writing import write_report

TINY: dict[str, Any] = {
    "name": "tiny",
    "title": "Three learning rates, one of which diverges, and a batch larger than the data",
    "data": {"name": "digits", "source_classes": [0, 1, 2], "subset": 60},
    "model": {"name": "mlp", "args": {"hidden": [8]}},
    "training": {"learning_rate": 0.05, "batch_size": 16, "max_steps": 6},
    "measuring": {"every": 3, "points": None},
    "sweeps": {
        "learning_rate": {"training.learning_rate": [0.05, 1e18, 0.1]},
        "batch_size": {"training.batch_size": [61]},
    },
}


DEADLY_RATE = 0.1


def work_or_die(job: Any) -> str:
    """A run, or the end of the whole process."""
    if job.run.config.training.learning_rate == DEADLY_RATE:
        os._exit(9)
    return WORK(job)


WORK = local._work


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The sweep, done once by two worker processes."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    return out, run_sweep(Recipe.of(TINY), out, workers=2, progress=False)


def results(out: Path) -> dict[tuple[float, int], dict[str, Any]]:
    """Result of each run by its learning rate and batch size."""
    found = {}
    for path in out.glob("runs/*/result.json"):
        training = yaml.safe_load((path.parent / "config.yaml").read_text())["training"]
        found[training["learning_rate"], training["batch_size"]] = json.loads(path.read_text())
    return found


def test_failed_runs_do_not_stop_the_sweep(swept: tuple[Path, Any]) -> None:
    out, summary = swept
    assert (summary.n_runs, summary.n_done, summary.n_skipped, summary.n_failed) == (4, 2, 0, 2)
    found = results(out)
    assert found[0.05, 16]["status"] == found[0.1, 16]["status"] == "done"
    assert found[1e18, 16]["failed_step"] >= 1
    assert (
        "batch_size: expected at most the 60 training examples, got 61" in found[0.05, 61]["error"]
    )
    assert {result["provenance"]["threads"] for result in found.values()} == {1}


def test_table_has_a_row_a_run(swept: tuple[Path, Any]) -> None:
    table = pd.read_csv(write_table(read_sweep(swept[0]))).set_index("status")
    assert sorted(table.index) == ["done", "done", "failed", "failed"]
    assert table.loc["done", "source.geometric_complexity.value"].gt(0).all()


def test_a_sweep_done_twice_has_the_same_table(swept: tuple[Path, Any], tmp_path: Path) -> None:
    run_sweep(Recipe.of(TINY), tmp_path, workers=1, progress=False)
    one, two = (read_sweep(folder).runs for folder in (swept[0], tmp_path))
    numbers = [name for name in one.columns if not name.startswith("seconds")]
    assert set(one.columns) == set(two.columns)
    assert len(numbers) > 50
    assert one[numbers].equals(two[numbers])


def test_done_runs_are_skipped_and_failed_ones_tried_again(swept: tuple[Path, Any]) -> None:
    out, _ = swept
    before = results(out)
    summary = run_sweep(Recipe.of(TINY), out, workers=1, progress=False)
    assert (summary.n_done, summary.n_skipped, summary.n_failed) == (0, 2, 2)
    assert all(
        results(out)[key] == result for key, result in before.items() if result["status"] == "done"
    )


VERSION_1 = Path(__file__).parent / "fixtures" / "sweep-version-1"


def test_sweep_of_version_1_is_reported_and_gone_on_with(tmp_path: Path) -> None:
    """Two runs of three were done, the third was killed after its checkpoint at step 3."""
    out = Path(shutil.copytree(VERSION_1, tmp_path / "out"))
    report = write_report(out)
    assert list(report.results.runs["status"]) == ["done", "done", "unfinished"]
    assert "schema_version" not in report.results.runs.columns
    assert report.results.runs["source.geometric_complexity.value"].gt(0).all()
    assert report.path.is_file()

    done = {path: path.read_bytes() for path in out.glob("runs/*/result.json")}
    (killed,) = {path.name for path in out.glob("runs/*")} - {path.parent.name for path in done}
    lines = (out / "runs" / killed / "history.jsonl").read_bytes()
    summary = run_sweep(SweepFolder(out).recipe(), out, workers=1, progress=False)
    assert (summary.n_runs, summary.n_skipped, summary.n_done) == (3, 2, 1)
    assert {path: path.read_bytes() for path in done} == done
    assert (out / "runs" / killed / "history.jsonl").read_bytes().startswith(lines)
    assert not list(out.rglob("*.corrupt"))
    assert list(read_sweep(out).runs["steps"]) == [6, 6, 6]


def test_killed_worker_costs_its_own_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_work", work_or_die)
    recipe = Recipe.of(
        TINY | {"sweeps": {"learning_rate": {"training.learning_rate": [DEADLY_RATE]}}}
    )
    summary = run_sweep(recipe, tmp_path / "out", workers=2, progress=False)
    assert (summary.n_done, summary.n_failed) == (1, 1)
    assert results(tmp_path / "out")[DEADLY_RATE, 16]["error"].startswith(
        "worker: expected to end by itself, got killed"
    )


def test_missing_data_are_said_before_any_run(tmp_path: Path) -> None:
    recipe = Recipe.of(TINY).with_values({"data.name": "digitz"})
    with pytest.raises(ValueError, match="digitz"):
        run_sweep(recipe, tmp_path / "out", workers=1, progress=False)
    assert not list(tmp_path.glob("out/runs/*"))


def test_script_that_cannot_be_imported_is_no_failed_run(tmp_path: Path) -> None:
    script = "from geocollapse.experiments.recipe import Recipe\n"
    script += "from geocollapse.experiments.sweep import run_sweep\n"
    script += (
        f"run_sweep(Recipe.of({TINY!r}), {str(tmp_path / 'out')!r}, workers=1, progress=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, check=False
    )
    assert "workers: expected processes that start, got none" in done.stderr
    assert not list(tmp_path.glob("out/runs/*"))


def test_environment_is_as_before(swept: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with local._pool(1, 1):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


def test_workers_are_cores_over_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_n_cores", lambda: 8)
    assert [sweep.n_workers_of(None, threads) for threads in (1, 3, 16)] == [8, 2, 1]
    assert sweep.n_workers_of(5, 4) == 5
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0; do leave it out"):
        sweep.n_workers_of(0, 1)


def test_cost_is_estimated_without_writing() -> None:
    threads = torch.get_num_threads()
    cost = estimate_cost(Recipe.of(TINY), workers=2)
    assert cost.n_runs == 4
    assert cost.workers == 2
    assert torch.get_num_threads() == threads
    assert cost.seconds_per_step > 0
    assert cost.seconds_per_record > 0
    assert cost.seconds == pytest.approx(2 * cost.seconds_per_run)


def test_interruption_ends_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(Recipe.of(TINY), tmp_path / "out", workers=1, progress=False)
    assert not multiprocessing.active_children()
    assert not list(tmp_path.glob("out/runs/*/result.json"))


def n_of_group(group: int) -> int:
    """The living processes of a process group."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group, *_ = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += int(of_group) == group and state not in "ZX"
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGKILL", -9)])
def test_a_signal_to_the_command_ends_its_workers(tmp_path: Path, name: str, status: int) -> None:
    """They once trained on, then waited for ever."""
    out = tmp_path / "out"
    recipe = tmp_path / "long.yaml"
    endless = {"max_steps": 10**6, "stop_accuracy": 1.0, "extra_factor": 1e6}
    recipe.write_text(yaml.safe_dump(TINY | {"training": TINY["training"] | endless}))
    command = [sys.executable, "-m", "geocollapse", "sweep", str(recipe), "--out", str(out)]
    with subprocess.Popen(
        [*command, "--workers", "2", "--quiet"], start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("runs/*/state.json")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        again = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
        process.send_signal(getattr(signal, name))
        assert process.wait(60) == status
        while n_of_group(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert again.returncode == 1
    assert f"expected no other process at work, got process {process.pid} on " in again.stderr
    assert (out / "sweep.lock").exists() == (name == "SIGKILL")


def test_a_run_that_another_process_holds_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("geocollapse.experiments.results.run_folder._PATIENCE", 0.0)
    recipe = Recipe.of(TINY | {"sweeps": {}})
    (run,) = recipe.planned_runs()
    with SweepFolder(tmp_path).run(run.run_id).held():
        summary = run_sweep(recipe, tmp_path, workers=1, progress=False)
    assert (summary.n_done, summary.n_failed) == (0, 1)
    assert f"run {run.run_id}: expected no other process at work, got process" in caplog.text
    assert not list(tmp_path.glob("runs/*/result.json"))


def grown(**changes: Any) -> Recipe:
    return Recipe.of(TINY).with_values({key.replace("__", "."): v for key, v in changes.items()})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sweeps": {}}, "sweeps.learning_rate is over nothing, and was over training.learning"),
        ({"sweeps__batch_size": {"training.batch_size": [16]}}, "without 61"),
        ({"training__batch_size": 8}, "training.batch_size is 8, and was 16"),
        ({"data__subset": None}, "data.subset is None, and was 60"),
        ({"claims__coverage": 0.5}, "claims.coverage is 0.5, and was 0.93"),
        ({"threads": 2}, "threads is 2, and was 1"),
    ],
)
def test_a_folder_of_another_recipe_is_refused(
    swept: tuple[Path, Any], changes: dict[str, Any], told: str
) -> None:
    """Once sweep.yaml and the table were replaced without a word."""
    out, _ = swept
    before = (out / "sweep.yaml").read_bytes()
    with pytest.raises(ValueError, match=r"out: expected the recipe of .*sweep.yaml") as caught:
        run_sweep(grown(**changes), out, workers=1, progress=False)
    assert told in str(caught.value)
    assert (out / "sweep.yaml").read_bytes() == before


def test_a_recipe_may_grow_and_not_shrink(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.write_recipe(Recipe.of(TINY), Recipe.of(TINY).planned_runs())
    more = grown(seeds=2, title="More", sweeps__batch_size={"training.batch_size": [61, 8]})
    folder.write_recipe(more, more.planned_runs())
    assert len(folder.entries()) == 2 * len(Recipe.of(TINY).planned_runs()) + 2
    with pytest.raises(ValueError, match="seeds is 1, and was 2"):
        folder.write_recipe(more, more.planned_runs(1))


def test_a_sweep_yaml_that_is_damaged_is_set_aside(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    (tmp_path / "sweep.yaml").write_text("name: tiny\ntitle: [")
    folder.write_recipe(Recipe.of(TINY), Recipe.of(TINY).planned_runs())
    assert (tmp_path / "sweep.yaml.corrupt").is_file()
    assert folder.recipe() == Recipe.of(TINY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"sweeps": {"hidden": {"model.args.hidden": [[8], [0]]}}},
            "hidden: expected widths of at least 1, got \\[0\\]",
        ),
        (
            {"sweeps": {"subset": {"data.subset": [60, 2]}}},
            "data.subset: expected 3 to .* got 2; do data.subset=",
        ),
        (
            {"sweeps": {"split": {"data.test_split": ["nope"]}}},
            "data.test_split: expected one of train, test .* got 'nope'; do data.test_split=",
        ),
        ({"model": {"name": "vgg13"}}, "x: expected images of at least 32 x 32, got .* do pad"),
    ],
)
def test_a_setting_that_cannot_run_ends_a_sweep_before_it_writes(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        run_sweep(Recipe.of(TINY | change), tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "sweep.yaml").exists()
