"""Scores that a run folder has: source CDNV and learning-path flatness."""

import json

import pytest
import torch

import geocollapse as geo
from geocollapse.cli import main
from geocollapse.experiments.recipe import RunConfig
from geocollapse.experiments.results.folders import RunFolder, load_model
from geocollapse.experiments.supervised.train import train_run
from geocollapse.measures import FROM_TRAINING, SCORES
from geocollapse.models import LoadedModel, TrainingRecord
from geocollapse.ranking.source_scores import source_scores

CONFIG = {
    "data": {"name": "digits", "source_classes": [0, 1, 2], "subset": 60},
    "model": {"name": "mlp", "args": {"hidden": [8]}},
    "training": {"learning_rate": 0.1, "batch_size": 20, "max_steps": 12, "stop_accuracy": 1.0},
    "measuring": {"every": 4, "points": None},
    "keep_checkpoints": "schedule",
    "seed": 0,
}
TARGET = ("--data", "digits:test", "--classes", "5-9", "--n-episodes", "50", "--quiet", "--json")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run that keeps its checkpoints."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "mine")
    train_run(RunConfig.of(CONFIG), folder)
    return folder


def ranked(capsys, *arguments):
    """The models of a ranking by label."""
    assert main(["rank", *map(str, arguments), *TARGET, "--no-cache"]) == 0
    return {model["label"]: model for model in json.loads(capsys.readouterr().out)["models"]}


def values(scores):
    return {name: scores[name]["value"] for name in FROM_TRAINING}


def recorded(line):
    flatness = line["learning_path_flatness"]
    return {"source.cdnv": line["source"]["cdnv"], "learning_path_flatness": flatness}


def test_a_run_folder_has_the_scores_of_its_final_record(run, capsys):
    scores = ranked(capsys, run.path)["mine"]["scores"]
    final = json.loads((run.path / "result.json").read_text())["final"]
    assert values(scores) == recorded(final)
    stderr = final["source"]["estimates"]["cdnv"]["stderr"]
    assert scores["source.cdnv"]["stderr"] == stderr > 0
    assert scores["learning_path_flatness"]["ci95"] == [None, None]
    assert list(scores) == [name for name in SCORES if name in scores]


def test_a_checkpoint_has_those_of_the_history_at_its_step(run, capsys):
    models = ranked(capsys, run.path, "--checkpoints")
    lines = {f"step {line['step']}": line for line in run.history()}
    assert len(models) > 2
    for label, model in models.items():
        assert values(model["scores"]) == recorded(lines[label])


def test_a_run_that_goes_on_has_those_at_the_step_of_its_weights(run, tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    for path in run.path.iterdir():
        if path.is_file() and path.name != "result.json":
            (part / path.name).write_bytes(path.read_bytes())
    found = load_model(part).record
    line = next(line for line in run.history() if line["step"] == found.step)
    assert {name: score.value for name, score in found.scores.items()} == recorded(line)
    (part / "history.jsonl").unlink()
    assert load_model(part).record is None


def test_other_models_say_why_they_have_none():
    scores = source_scores(None, "classifier:in")
    assert [score.valid for score in scores.values()] == [False, False]
    assert scores["learning_path_flatness"].reason == (
        "learning_path_flatness: expected a record of the training, got a model without one; do "
        "rank a run folder of geocollapse train or sweep"
    )
    x, y = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    ranking = geo.rank({"a": torch.nn.Linear(8, 4)}, (x, y), layer="", n_episodes=20)
    assert not ranking.models[0].scores["source.cdnv"].valid
    assert not set(FROM_TRAINING) & set(ranking.agreement)


def test_source_cdnv_is_that_of_the_recorded_layer():
    flatness = geo.Estimate(0.5, float("nan"), 60)
    record = TrainingRecord(3, "classifier:in", {"learning_path_flatness": flatness})
    missing = source_scores(record, "classifier:in")
    assert missing["source.cdnv"].reason == (
        "source.cdnv: expected a value at step 3 of the training, got none"
    )
    assert missing["learning_path_flatness"].value == 0.5
    both = TrainingRecord(3, "classifier:in", dict.fromkeys(FROM_TRAINING, flatness))
    other = source_scores(both, "body.0")
    assert not other["source.cdnv"].valid
    assert "expected features of 'classifier:in'" in other["source.cdnv"].reason
    assert other["learning_path_flatness"].valid


def test_a_loaded_model_brings_its_record_to_rank():
    flat = {"learning_path_flatness": geo.Estimate(0.25, float("nan"), 60)}
    x, y = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    models = {
        name: LoadedModel(torch.nn.Linear(8, 4), name, record=record)
        for name, record in (("a", TrainingRecord(3, None, flat)), ("b", None))
    }
    ranking = geo.rank(models, (x, y), layer="", n_episodes=20)
    found = {model.label: model.scores["learning_path_flatness"] for model in ranking.models}
    assert found["a"].value == 0.25
    assert not found["b"].valid
    assert ranking.agreement["learning_path_flatness"].n_models == 1
