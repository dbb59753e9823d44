"""A sweep folder read back: one row a run, one row a record, nothing invented."""

import json
from pathlib import Path

import pandas as pd
import pytest

from geocollapse.experiments.results.convergence import endings, keeps_accuracy
from geocollapse.experiments.results.tables import (
    FIRST_COLUMNS,
    GC,
    GCOL,
    NC,
    converged,
    flatten,
    read_sweep,
    write_table,
)
from synthetic_sweep import STEPS, run_folders, write_sweep


def test_table_has_one_row_a_run_with_its_configuration_and_its_last_line(tmp_path):
    write_sweep(tmp_path, n_settings=3)
    table = pd.read_csv(write_table(read_sweep(tmp_path)))
    assert len(table) == 6
    assert tuple(table.columns[:4]) == FIRST_COLUMNS
    assert {"training.learning_rate", "data.name", "train_loss", GC, GCOL, NC} <= set(table.columns)
    assert "source.geometric_complexity.ci95.1" in table.columns
    assert (table["step"] == STEPS[-1]).all()


def test_history_ends_with_the_final_measurement_once(tmp_path):
    write_sweep(tmp_path, n_settings=1, n_seeds=1)
    history = read_sweep(tmp_path).history
    assert list(history["step"]) == STEPS
    assert list(history["batch_norm_recalibrated"]) == [False] * 5 + [True]


def test_a_failed_run_keeps_its_last_line_and_the_step_it_failed_at(tmp_path):
    write_sweep(tmp_path, n_settings=2, n_seeds=1, failed=[1])
    runs = read_sweep(tmp_path).runs.set_index("status")
    assert runs.loc["failed", "failed_step"] == 60
    assert runs.loc["failed", "step"] == STEPS[2]


def test_what_is_missing_or_broken_is_named_and_the_rest_is_read(tmp_path):
    write_sweep(tmp_path, n_settings=3, n_seeds=1)
    first, second, third = run_folders(tmp_path)
    (first / "result.json").unlink()
    (second / "result.json").write_text("{not json")
    with (third / "history.jsonl").open("a") as file:
        file.write('{"step": 500, "train_')
    results = read_sweep(tmp_path)
    assert list(results.runs["status"]) == ["unfinished", "unfinished", "done"]
    assert len(results.problems) == 3
    assert all(
        run.name in problem for run, problem in zip((first, second, third), results.problems)
    )


def test_a_run_of_the_base_setting_belongs_to_several_sweeps(tmp_path):
    write_sweep(tmp_path, sweeps=("learning_rate", "batch_size"), n_settings=2, n_seeds=1)
    results = read_sweep(tmp_path)
    assert results.sweeps == ["learning_rate", "batch_size"]
    members = results.of_sweep("batch_size")
    assert list(members["swept.training.batch_size"]) == [128, 64]
    assert list(members["position"]) == [1, 0]
    assert "swept.training.learning_rate" not in members


def test_seeds_of_a_setting_share_its_position(tmp_path):
    write_sweep(tmp_path, n_settings=2, n_seeds=3)
    assert list(read_sweep(tmp_path).of_sweep("learning_rate")["position"]) == [0, 0, 0, 1, 1, 1]


def test_null_is_a_missing_number_and_not_zero(tmp_path):
    write_sweep(tmp_path, n_settings=2, n_seeds=1)
    result = run_folders(tmp_path)[0] / "result.json"
    content = json.loads(result.read_text())
    content["final"]["source"]["cdnv"] = None
    result.write_text(json.dumps(content))
    assert list(read_sweep(tmp_path).runs[NC].isna()) == [True, False]


def test_a_folder_without_sweep_yaml_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected a sweep folder with sweep.yaml.*do geocollapse sweep"
    ):
        read_sweep(tmp_path)


def test_flatten_names_numbers_by_index_and_keeps_other_lists_as_text():
    assert flatten({"a": {"b": [1, 2], "c": ["x"], "d": []}}) == {
        "a.b.0": 1,
        "a.b.1": 2,
        "a.c": '["x"]',
        "a.d": "[]",
    }


def end_at(folder, accuracy):
    """Change the training accuracy at the end of a run."""
    path = folder / "result.json"
    result = json.loads(path.read_text())
    result["final"]["train_accuracy"] = accuracy
    path.write_text(json.dumps(result))


def test_a_run_that_lost_its_accuracy_has_not_converged(tmp_path):
    """Its result says that it converged: the accuracy was seen once."""
    write_sweep(tmp_path, n_settings=2, unconverged=[3])
    end_at(run_folders(tmp_path)[0], 0.146)
    end_at(run_folders(tmp_path)[1], 0.99)
    runs = read_sweep(tmp_path).runs
    assert list(endings(runs)) == ["lost its accuracy", "converged", "converged", "not converged"]
    assert list(runs["converged"]) == [False, True, True, False]
    assert list(runs["status"]) == ["done"] * 4
    assert set(converged(runs)["seed"]) == {0, 1}


@pytest.mark.parametrize(
    ("accuracy", "goal", "keeps"),
    [
        (0.99, 0.99, True),
        (0.99 - 1e-7, 0.99, True),
        (1979 / 2000, 0.99, False),
        (999_999 / 1e6 - 1e-6, 1.0, False),
        (None, 0.99, True),
        (0.5, None, True),
    ],
)
def test_only_rounding_is_tolerated_below_the_goal(accuracy, goal, keeps):
    assert keeps_accuracy(accuracy, goal) == keeps


@pytest.mark.parametrize(
    ("folder", "n_lost"),
    [
        ("cifar10-vgg13-gc-penalty", 1),
        ("mnist-vgg11-weight-decay", 1),
        ("cifar10-vgg13-weight-decay", 1),
        ("cifar10-vgg13-batch-size", 0),
    ],
)
def test_stored_runs_that_collapsed_do_not_count(folder, n_lost):
    runs = read_sweep(Path(__file__).parents[1] / "results" / folder / "reduced").runs
    assert list(endings(runs)).count("lost its accuracy") == n_lost
    assert converged(runs)["train_accuracy"].min() >= 0.99
