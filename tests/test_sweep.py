"""A sweep on this machine: done runs are skipped, a failed one is recorded and the others go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from geocollapse.experiments import sweep
from geocollapse.experiments.recipe import Recipe
from geocollapse.experiments.sweep import estimate_cost, run_sweep

TINY: dict[str, Any] = {
    "name": "tiny",
    "title": "Three learning rates, one of which diverges",
    "data": {"name": "digits", "source_classes": [0, 1, 2], "subset": 60},
    "model": {"name": "mlp", "args": {"hidden": [8]}},
    "training": {"learning_rate": 0.05, "batch_size": 16, "max_steps": 6},
    "measuring": {"every": 3, "points": None},
    "sweeps": {"learning_rate": {"training.learning_rate": [0.05, 1e18, 0.1]}},
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The sweep, done once by two worker processes."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    return out, run_sweep(Recipe.of(TINY), out, workers=2, progress=False)


def test_failed_run_does_not_stop_the_sweep(swept: tuple[Path, Any]) -> None:
    out, summary = swept
    assert (summary.n_runs, summary.n_done, summary.n_skipped, summary.n_failed) == (3, 2, 0, 1)
    table = pd.read_csv(out / "table.csv")
    failed = table[table["status"] == "failed"]
    assert failed["training.learning_rate"].tolist() == [1e18]
    assert failed["failed_step"].iloc[0] >= 1
    done = table[table["status"] == "done"]
    assert len(done) == 2
    assert done["source.geometric_complexity.value"].gt(0).all()


def test_done_runs_are_skipped_and_failed_ones_tried_again(swept: tuple[Path, Any]) -> None:
    out, _ = swept
    results = {path: path.read_bytes() for path in out.glob("runs/*/result.json")}
    summary = run_sweep(Recipe.of(TINY), out, workers=1, progress=False)
    assert (summary.n_done, summary.n_skipped, summary.n_failed) == (0, 2, 1)
    done = [path for path, content in results.items() if json.loads(content)["status"] == "done"]
    assert len(done) == 2
    assert all(path.read_bytes() == results[path] for path in done)


def test_runs_have_the_threads_of_the_recipe(swept: tuple[Path, Any]) -> None:
    out, _ = swept
    results = [json.loads(path.read_text()) for path in out.glob("runs/*/result.json")]
    assert {result["provenance"]["threads"] for result in results} == {1}


def test_run_that_raises_is_recorded_as_failed(tmp_path: Path) -> None:
    recipe = Recipe.of(TINY | {"sweeps": {}}).with_values({"training.batch_size": 61})
    summary = run_sweep(recipe, tmp_path / "out", workers=1, progress=False)
    assert (summary.n_done, summary.n_failed) == (0, 1)
    (path,) = (tmp_path / "out").glob("runs/*/result.json")
    assert "batch_size: expected at most the 60 training examples" in json.loads(path.read_text())["error"]


def test_environment_is_as_before(swept: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with sweep._pool(1, 1):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


def test_workers_are_cores_over_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_n_cores", lambda: 8)
    assert [sweep._workers(None, threads) for threads in (1, 3, 16)] == [8, 2, 1]
    assert sweep._workers(5, 4) == 5
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0; do leave it out"):
        sweep._workers(0, 1)


def test_cost_is_estimated_without_writing() -> None:
    threads = torch.get_num_threads()
    cost = estimate_cost(Recipe.of(TINY), workers=2)
    assert cost.n_runs == 3
    assert cost.workers == 2
    assert torch.get_num_threads() == threads
    assert cost.seconds_per_step > 0
    assert cost.seconds_per_record > 0
    assert cost.seconds == pytest.approx(2 * cost.seconds_per_run)


def test_interruption_ends_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(Recipe.of(TINY), tmp_path / "out", workers=1, progress=False)
    monkeypatch.undo()
    summary = run_sweep(Recipe.of(TINY), tmp_path / "out", workers=2, progress=False)
    assert summary.n_done + summary.n_skipped == 2
    assert summary.n_failed == 1
