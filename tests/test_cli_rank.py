"""`geocollapse rank`, `compare` and `cache` as a user runs them."""

import json
from pathlib import Path
from typing import get_args, get_type_hints

import jsonschema
import pytest
import torch
from safetensors.torch import save_file

from geocollapse.cli import main
from geocollapse.cli.rank import RankOptions
from geocollapse.cli.schemas import schema
from geocollapse.transfer.few_shot import Classifier

NETWORKS = """
import torch
from torch import nn


def _net(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def wide():
    return _net(64)


def narrow():
    return _net(6)
"""
DIGITS = ("--data", "digits:test", "--n-episodes", "50", "--quiet")


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """A file of two networks, in a folder of its own with a cache of its own."""
    monkeypatch.setenv("GEOCOLLAPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "nets.py"
    path.write_text(NETWORKS)
    return path.name


def run(capsys, *arguments, status=0):
    found = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert found == status, err
    return out, err


def test_rank_prints_the_answer_first_and_the_best_model_before_the_others(networks, capsys):
    out, _ = run(capsys, "rank", f"narrow={networks}:narrow", f"wide={networks}:wide", *DIGITS)
    lines = out.splitlines()
    assert lines[0].startswith("wide is best, and told apart from all others")
    assert [line.split()[0] for line in lines if line.startswith(("wide ", "narrow "))][1:] == [
        "wide",
        "narrow",
    ]


def test_the_json_follows_its_schema_and_says_what_came_from_the_cache(networks, capsys):
    arguments = ("rank", f"{networks}:wide", f"{networks}:narrow", *DIGITS, "--json")
    first = json.loads(run(capsys, *arguments)[0])
    jsonschema.validate(first, schema("rank"))
    assert [model["label"] for model in first["models"]] == [
        f"{networks}:wide",
        f"{networks}:narrow",
    ]
    assert [model["from_cache"] for model in first["models"]] == [False, False]
    second = json.loads(run(capsys, *arguments)[0])
    assert [model["from_cache"] for model in second["models"]] == [True, True]
    assert second["models"][0]["accuracy"] == first["models"][0]["accuracy"]
    third = json.loads(run(capsys, *arguments, "--no-cache")[0])
    assert [model["from_cache"] for model in third["models"]] == [False, False]


def test_a_model_that_fails_is_a_row_and_the_exit_is_1(networks, capsys):
    out, _ = run(capsys, "rank", f"{networks}:wide", f"{networks}:nothing", *DIGITS, status=1)
    assert f"{networks}:nothing" in out
    assert "failed" in out
    assert "expected a factory in nets.py, got 'nothing'" in out


def test_models_come_from_a_file_too_and_the_same_one_twice_needs_labels(networks, capsys):
    Path("models.txt").write_text(f"# mine\n{networks}:wide\n\nsmall={networks}:narrow  # less\n")
    out, _ = run(capsys, "rank", "--models", "models.txt", *DIGITS)
    assert "small" in out
    _, err = run(capsys, "rank", f"{networks}:wide", f"{networks}:wide", *DIGITS, status=2)
    assert "expected models of different names" in err
    out, _ = run(capsys, "rank", f"a={networks}:wide", f"b={networks}:wide", *DIGITS)
    assert "a and b have the same features" in out


def test_wrong_arguments_are_told_before_any_work(networks, capsys):
    assert "at least one model" in run(capsys, "rank", *DIGITS, status=2)[1]
    missing = run(capsys, "rank", f"{networks}:wide", status=2)[1]
    assert "DATA: expected a data set" in missing
    size = run(capsys, "rank", f"{networks}:wide", *DIGITS, "--cache-size", "much", status=2)[1]
    assert "--cache-size: expected a size" in size
    Path("taken").write_text("")
    taken = run(capsys, "rank", f"{networks}:wide", *DIGITS, "--report", "taken", status=2)[1]
    assert "--report: expected a folder" in taken


def test_a_report_holds_page_data_table_and_figures(networks, capsys):
    run(
        capsys,
        "rank",
        f"wide={networks}:wide",
        f"narrow={networks}:narrow",
        *DIGITS,
        "--report",
        "r",
    )
    assert {path.name for path in Path("r").iterdir()} == {
        "report.html",
        "ranking.json",
        "ranking.csv",
        "figures",
    }
    assert "wide is best" in Path("r/report.html").read_text()
    assert list(Path("r/figures").glob("*.png"))


def test_weights_files_of_a_folder_are_checkpoints_in_their_order(networks, capsys, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    namespace: dict = {}
    exec(NETWORKS, namespace)
    for step, scale in ((2, 1.0), (10, 0.0)):
        state = namespace["wide"]().state_dict()
        state["1.weight"] = scale * state["1.weight"] + (1 - scale) * torch.ones_like(
            state["1.weight"]
        )
        save_file(state, folder / f"epoch {step}.safetensors")
    out, _ = run(capsys, "rank", f"{networks}:wide@{folder}", "--checkpoints", *DIGITS, "--json")
    found = json.loads(out)
    assert found["checkpoints"] == ["epoch 2", "epoch 10"]
    assert "Transfer peaks at epoch 2" in found["advice"]
    _, err = run(capsys, "rank", f"{networks}:wide", "--checkpoints", *DIGITS, status=2)
    assert "expected a run folder with checkpoints" in err


def test_compare_answers_first_and_pairs_each_measure(networks, capsys):
    arguments = ("compare", f"wide={networks}:wide", f"narrow={networks}:narrow", "digits:test")
    out, _ = run(capsys, *arguments, "--quiet")
    assert out.splitlines()[0].startswith("wide does better by 5-shot accuracy")
    assert "64 features against 6" in out
    found = json.loads(run(capsys, *arguments, "--quiet", "--json")[0])
    jsonschema.validate(found, schema("compare"))
    rows = {row["measure"]: row for row in found["measures"]}
    assert rows["few_shot_accuracy"]["better"] == "wide"
    assert rows["geometric_complexity"]["decision"] == "not comparable"
    low, high = rows["cdnv"]["difference"]["ci95"]
    assert low < rows["cdnv"]["first"] - rows["cdnv"]["second"] < high


def test_a_model_compared_with_itself_cannot_be_told_apart(networks, capsys):
    out, _ = run(capsys, "compare", f"{networks}:wide", f"{networks}:wide", "digits:test", "--json")
    found = json.loads(out)
    assert found["models"] == [f"{networks}:wide (1)", f"{networks}:wide (2)"]
    assert {row["decision"] for row in found["measures"]} == {"cannot be told apart"}
    assert "cannot be told apart" in found["answer"]


def test_the_cache_is_listed_and_cleared(networks, capsys):
    assert "0 files" in run(capsys, "cache", "list")[0]
    run(capsys, "rank", f"{networks}:wide", *DIGITS)
    found = json.loads(run(capsys, "cache", "list", "--json")[0])
    jsonschema.validate(found, schema("cache"))
    assert sorted(entry["holds"] for entry in found["files"]) == ["features", "results"]
    for entry in found["files"]:
        origin = (entry["model"], entry["data"], entry["split"])
        assert origin == (f"{networks}:wide", "digits", "test")
    assert "2 files" in run(capsys, "cache", "clear")[0]
    assert json.loads(run(capsys, "cache", "--json")[0])["files"] == []


def test_several_layers_are_ranked_each(networks, capsys):
    out, _ = run(
        capsys, "rank", f"net={networks}:wide", *DIGITS, "--layer", "0", "--layer", "2", "--json"
    )
    models = {model["label"]: model for model in json.loads(out)["models"]}
    assert {label: model["n_features"] for label, model in models.items()} == {
        "net 0": 64,
        "net 2": 64,
    }
    assert {model["layer"] for model in models.values()} == {"0", "2"}


def test_checkpoints_of_two_models_need_different_names(networks, capsys, tmp_path):
    weights = torch.nn.Linear(2, 2).state_dict()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_file(weights, tmp_path / folder / "last.safetensors")
    models = [f"{name}={networks}:wide@{tmp_path / name}" for name in ("a", "b")]
    _, err = run(capsys, "rank", *models, "--checkpoints", *DIGITS, status=2)
    assert "expected different labels, got 'last' twice" in err


def test_the_classifiers_of_rank_are_those_of_few_shot_accuracy():
    annotation = get_type_hints(RankOptions)["classifier"]
    assert get_args(annotation) == get_args(Classifier)


def test_the_report_of_a_ranking_is_made_again_from_its_json(networks, capsys):
    run(capsys, "rank", f"{networks}:wide", f"{networks}:narrow", *DIGITS, "--report", "r")
    page = Path("r/report.html").read_bytes()
    Path("r/report.html").unlink()
    out, _ = run(capsys, "report", "r")
    assert Path("r/report.html").read_bytes() == page
    assert "is best" in out
    found = json.loads(run(capsys, "report", "r", "--json")[0])
    jsonschema.validate(found, schema("report"))
