"""The command line: exit codes, one line for an error, and the result alone on stdout."""

import csv
import errno
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import jsonschema
import pytest
import torch

from geocollapse.cli import main
from geocollapse.cli.answer import Answer
from geocollapse.cli.report import report_text
from geocollapse.cli.resolve import parse_numbers, parse_settings
from geocollapse.cli.schemas import schema
from geocollapse.cli.wording import named_as_options
from geocollapse.reports.writing import write_report
from synthetic_sweep import write_sweep

TINY = """
import torch
from torch import nn

print("a model file may print: stdout stays clean")

def tiny(width=8, num_classes=10):
    hidden = [nn.Linear(64, width), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, num_classes))

def pair():
    return 1
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.py"
    path.write_text(TINY)
    return f"{path}:tiny"


@pytest.fixture
def run(capsys):
    """Run a command line: its exit code, stdout and stderr."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def answer(run):
    """Run a command with --json: its object, after the checks that all of them pass."""

    def call(*arguments):
        code, out, err = run(*arguments, "--json", "--quiet")
        assert code == 0, err
        found = json.loads(out, parse_constant=lambda name: pytest.fail(f"not strict JSON: {name}"))
        jsonschema.validate(found, schema(arguments[0]))
        return found

    return call


TORCH = "torch.nn:Identity"  # a factory that is always there
MEASURE = ("digits", "--subset", 300, "--max-samples", 100)


# measure


def test_measure_answers_one_json_object(tiny, answer):
    found = answer("measure", tiny, *MEASURE)
    assert (found["n_samples"], found["n_classes"], found["n_features"], found["split"]) == (
        300,
        10,
        8,
        "train",
    )
    assert found["layer"] == "3:in"
    assert found["provenance"]["data"] == "digits"
    assert found["provenance"]["weights"] is None


def test_measure_shows_a_table_that_names_model_data_and_split(tiny, run):
    code, out, err = run("measure", tiny, *MEASURE)
    assert code == 0
    assert out.startswith(f"{tiny} (as its factory made it) on digits, split train")
    assert "geometric complexity" in out
    assert "a model file may print" in err


def test_a_seed_makes_the_same_numbers_again(tiny, answer):
    first, again, other = (answer("measure", tiny, *MEASURE, "--seed", seed) for seed in (1, 1, 2))
    assert first == again
    assert first["geometric_complexity"]["value"] != other["geometric_complexity"]["value"]


def test_quiet_leaves_stderr_to_what_the_model_prints(tiny, run):
    _, _, err = run("measure", tiny, *MEASURE, "--quiet")
    assert err.splitlines() == ["a model file may print: stdout stays clean"]


def test_measure_as_csv_has_dotted_columns(tiny, run):
    _, out, _ = run("measure", tiny, *MEASURE, "--csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert float(row["geometric_complexity.value"]) > 0
    assert row["split"] == "train"


@pytest.mark.parametrize("ending", ["json", "csv", "txt"])
def test_out_gets_the_result_too(tiny, run, tmp_path, ending):
    path = tmp_path / "new" / f"result.{ending}"
    _, out, _ = run(
        "measure", tiny, *MEASURE, "--out", path, *([f"--{ending}"] if ending != "txt" else [])
    )
    assert path.read_text() == out


def test_classes_subset_and_model_arguments_reach_the_library(tiny, answer):
    found = answer(
        "measure",
        tiny,
        "digits:test",
        "--classes",
        "0-2,7",
        "--classes",
        "5",
        "--model-arg",
        "width=4",
    )
    assert found["classes"] == ["0", "1", "2", "7", "5"]
    assert found["n_features"] == 4
    assert found["split"] == "test"
    assert found["accuracy"] is None
    assert any("10 outputs" in warning for warning in found["warnings"])


def test_weights_and_dtype_and_workers_are_used(tiny, answer, tmp_path):
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    )
    path = tmp_path / "weights.pt"
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path
    )
    exact = (*MEASURE, "--estimator", "exact", "--weights", path)
    found = answer("measure", tiny, *exact, "--seed", 1, "--dtype", "float64", "--num-workers", 1)
    again = answer("measure", tiny, *exact, "--seed", 1)
    assert found["provenance"]["weights_key"] == "state_dict"
    assert found["geometric_complexity"]["value"] == pytest.approx(
        again["geometric_complexity"]["value"], rel=1e-4
    )


def test_mean_and_std_override_the_data_sets_own(tiny, answer):
    found = answer("measure", tiny, *MEASURE, "--mean", "0.5", "--std", "0.25")
    assert (found["preprocessing"]["mean"], found["preprocessing"]["std"]) == ([0.5], [0.25])


def test_several_layers_are_one_table_and_one_object(tiny, answer, run):
    layers = ("--layer", 1, "--layer", 2, "--layer", "3:in")
    found = answer("measure", tiny, *MEASURE, *layers)
    assert [layer["layer"] for layer in found["layers"]] == ["1", "2", "3:in"]
    alone = answer("measure", tiny, *MEASURE, "--layer", 2)
    assert found["layers"][1]["cdnv"] == alone["cdnv"]
    assert found["layers"][1]["provenance"] == alone["provenance"]
    _, out, _ = run("measure", tiny, *MEASURE, *layers)
    assert out.startswith(
        f"{tiny} (as its factory made it) on digits, split train\n\n3 layers: 300 examples, train"
    )
    assert (
        len([line for line in out.splitlines() if line.split()[:1] in (["1"], ["2"], ["3:in"])])
        == 3
    )
    _, out, _ = run("measure", tiny, *MEASURE, *layers, "--csv")
    assert [row["layer"] for row in csv.DictReader(io.StringIO(out))] == ["1", "2", "3:in"]


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_plot_writes_the_figure_the_same_each_time(tiny, run, tmp_path, ending):
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for layers in (("--layer", 1), ("--layer", 1, "--layer", "3:in")):
        first, again = (tmp_path / name / f"figure.{ending}" for name in "ab")
        for path in (first, again):
            code, _, _ = run("measure", tiny, *MEASURE, *layers, "--plot", path)
            assert code == 0
        assert first.read_bytes().startswith(starts[ending])
        assert first.read_bytes() == again.read_bytes()


def test_saved_features_are_measured_without_the_model(tiny, answer, run, tmp_path):
    path = tmp_path / "new" / "kept.safetensors"
    first = answer("measure", tiny, *MEASURE, "--seed", 3, "--save-features", path)
    again = answer("measure", f"features:{path}")
    origin = again.pop("provenance")
    assert {key: value for key, value in first.items() if key != "provenance"} == again
    assert {key: origin[key] for key in ("model", "data", "split", "seed")} == {
        "model": tiny,
        "data": "digits",
        "split": "train",
        "seed": 3,
    }
    assert origin["features"] == str(path)
    _, out, _ = run("measure", f"features:{path}", "--save-features", path.with_suffix(".npz"))
    assert out.startswith(f"{path}: features of {tiny} on digits, split train")
    assert (
        answer("measure", f"features:{path.with_suffix('.npz')}")["geometric_collapse"]
        == first["geometric_collapse"]
    )


VIT = (
    "--model-arg",
    "depth=1",
    "--model-arg",
    "patch_size=8",
    "--model-arg",
    "img_size=32",
    "--model-arg",
    "num_classes=10",
)


def test_a_model_by_name_takes_its_own_preprocessing_and_says_random(answer, run):
    found = answer(
        "measure",
        "timm:vit_tiny_patch16_224@random",
        "digits",
        "--subset",
        20,
        "--image-size",
        32,
        *VIT,
    )
    assert (found["layer"], found["n_features"]) == ("head:in", 192)
    assert (found["provenance"]["model"], found["provenance"]["weights"]) == (
        "timm:vit_tiny_patch16_224@random",
        "random",
    )
    preprocessing = found["preprocessing"]
    assert {
        key: preprocessing[key]
        for key in ("image_size", "resize", "crop", "interpolation", "mean", "std")
    } == {
        "image_size": [32, 32],
        "resize": [35],
        "crop": [32, 32],
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    assert found["gc_pixel"] == pytest.approx(4 * found["geometric_complexity"]["value"])
    _, out, _ = run(
        "measure", "timm:vit_tiny_patch16_224@random", "digits", "--subset", 20, *VIT, "--quiet"
    )
    assert out.startswith(
        "timm:vit_tiny_patch16_224@random (random weights) on digits, split train"
    )


def test_mean_std_and_weights_of_a_model_by_name(answer, tmp_path):
    from geocollapse import models

    path = tmp_path / "w.pt"
    torch.save(
        models.load("timm:test_resnet@random", model_args={"num_classes": 10}).model.state_dict(),
        path,
    )
    arguments = (
        "digits",
        "--subset",
        20,
        "--image-size",
        32,
        "--model-arg",
        "num_classes=10",
        "--mean",
        "0,0,0",
    )
    found = answer("measure", "timm:test_resnet", *arguments, "--std", "1,1,1", "--weights", path)
    assert found["provenance"]["weights"] == str(path)
    assert (found["preprocessing"]["mean"], found["preprocessing"]["std"]) == ([0.0] * 3, [1.0] * 3)
    assert found["gc_pixel"] == pytest.approx(found["geometric_complexity"]["value"])
    again = answer("measure", f"timm:test_resnet@{path}", *arguments, "--std", "1,1,1")
    assert again["geometric_complexity"] == found["geometric_complexity"]


def test_transfer_of_a_model_by_name(answer):
    small = ("--image-size", 32, "--n-way", 2, "--k-shot", 1, "--n-query", 2, "--n-episodes", 5)
    found = answer("transfer", "timm:test_resnet@random", "digits", "--subset", 40, *small)
    assert (found["split"], found["provenance"]["weights"]) == ("test", "random")


# transfer


def test_transfer_answers_accuracies_with_intervals(tiny, answer):
    found = answer(
        "transfer",
        tiny,
        "digits",
        "--n-way",
        3,
        "--k-shot",
        "1,2",
        "--n-episodes",
        20,
        "--n-query",
        5,
    )
    assert (found["n_way"], found["n_episodes"], found["split"]) == (3, 20, "test")
    for classifier in ("nearest_mean", "linear_probe"):
        assert set(found["accuracy"][classifier]) == {"1", "2"}
    low, high = found["accuracy"]["nearest_mean"]["2"]["ci95"]
    assert 0 < low < found["accuracy"]["nearest_mean"]["2"]["value"] < high <= 1.05


def test_transfer_shows_a_table(tiny, run):
    code, out, _ = run("transfer", tiny, "digits", "--n-episodes", 20, "--quiet")
    assert code == 0
    assert "split test" in out
    assert out.startswith("Nearest mean: ")
    assert out.splitlines()[0].endswith(" with 5 labelled examples of each of 5 classes")
    for part in (
        "linear probe",
        "predicted from geometry",
        "these 10 classes",
        "others like them",
        "From 290 labelled",
    ):
        assert part in out


def test_transfer_by_other_classifiers_with_the_value_of_each_episode(tiny, answer, tmp_path):
    figure = tmp_path / "curve.png"
    small = ("--n-episodes", 4, "--n-query", 5, "--k-shot", "1,2", "--no-full-data")
    asked = ("--also", "knn,logistic_probe", "--also", "knn", "--episode-values", "--plot", figure)
    found = answer("transfer", tiny, "digits", *small, *asked)
    assert list(found["accuracy"]) == ["nearest_mean", "linear_probe", "logistic_probe", "knn"]
    values = found["episode_values"]["accuracy"]["knn"]["2"]
    assert sum(values) / 4 == pytest.approx(found["accuracy"]["knn"]["2"]["value"])
    assert [len(ways) for ways in found["episode_values"]["classes"]["1"]] == [5] * 4
    assert found["full_data"] is None
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_transfer_sees_the_same_episodes_whatever_model_and_batch_size(tiny, answer):
    small = ("--n-episodes", 4, "--k-shot", 1, "--no-full-data")
    one = answer("transfer", tiny, "digits", *small)
    other = answer("transfer", tiny, "digits", "--batch-size", 7, "--layer", "", *small)
    assert one["episodes"] == other["episodes"]
    assert one["episodes"] != answer("transfer", tiny, "digits", *small, "--seed", 1)["episodes"]


def test_transfer_names_the_class_with_too_few_images(tmp_path, run):
    from PIL import Image

    for name, count in (("cat", 9), ("dog", 3), ("eel", 9)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (8, 8), (20 * i, 9, 9)).save(tmp_path / name / f"{i}.png")
    small = ("--image-size", 8, "--n-way", 2, "--n-query", 2, "--k-shot", "1,3", "--quiet")
    factory = "torch.nn:Flatten"
    code, _, err = run("transfer", factory, f"folder:{tmp_path}", "--layer", "", *small)
    assert code == 2
    assert "k_shot + n_query = 5 examples of each class, got 3 of class 'dog'" in err


def test_transfer_refuses_an_unknown_classifier_and_a_figure_that_cannot_be_written(tiny, run):
    code, _, err = run("transfer", tiny, "digits", "--also", "svm")
    assert (code, "--also: expected names of nearest_mean" in err) == (2, True)
    code, _, err = run("transfer", tiny, "digits", "--plot", "curve.gif")
    assert (code, "--plot: expected a file ending in" in err) == (2, True)


def test_transfer_of_saved_features(tiny, answer, tmp_path):
    path, episodes = tmp_path / "kept.npz", ("--n-episodes", 20, "--k-shot", 1, "--seed", 1)
    answer(
        "measure", tiny, "digits:test", "--seed", 1, "--save-features", path
    )  # the seed also makes the weights
    first, again = (
        answer("transfer", tiny, "digits", *episodes),
        answer("transfer", f"features:{path}", *episodes),
    )
    assert {**first, "provenance": None} == {**again, "provenance": None}
    assert again["provenance"]["model"] == tiny


# report


def test_report_writes_what_it_says_and_ends_with_its_path(answer, tmp_path):
    folder = write_sweep(tmp_path / "sweep")
    found = answer("report", folder)
    assert all(
        (tmp_path / path).is_file() for path in (found["report"], found["table"], *found["figures"])
    )
    assert {verdict["verdict"] for verdict in found["verdicts"]} <= {
        "holds",
        "does not hold",
        "undecided",
    }
    text = report_text(write_report(folder))
    assert "Verdicts" in text
    assert text.splitlines()[-1] == f"report: {folder.resolve() / 'report.html'}"


# train, sweep


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The demo in a few steps: two rates, one seed, few episodes."""
    path = tmp_path_factory.mktemp("recipe") / "short.yaml"
    path.write_text(
        """
        extends: demo
        seeds: 1
        data: {mean: [0.3], std: [0.4]}
        training: {max_steps: 12}
        measuring: {points: 2, max_samples: 20}
        transfer: {n_episodes: 10}
        sweeps: {learning_rate: {training.learning_rate: [0.05, 0.1]}}
        """
    )
    return path


@pytest.fixture(scope="module")
def swept(recipe, tmp_path_factory):
    """A sweep in which one run of two diverges: its exit code, what it answers, and its folder."""
    folder = tmp_path_factory.mktemp("swept")
    rates = "sweeps.learning_rate.training.learning_rate=[0.05, 1e30]"
    with redirect_stdout(io.StringIO()) as out:
        code = main(
            [
                "sweep",
                str(recipe),
                "--set",
                rates,
                "--out",
                str(folder),
                "--workers",
                "1",
                "--json",
                "--quiet",
            ]
        )
    return code, json.loads(out.getvalue()), folder


def test_sweep_answers_with_its_runs_and_exits_with_1_where_one_failed(swept):
    code, found, folder = swept
    jsonschema.validate(found, schema("sweep"))
    assert (code, found["n_runs"], found["n_done"], found["n_skipped"], found["n_failed"]) == (
        1,
        2,
        1,
        0,
        1,
    )
    (failure,) = found["failures"]
    assert failure["failed_step"] is not None
    assert "finite" in failure["error"]
    assert found["report"]["report"] == str(folder / "report.html")
    assert (folder / "report.html").is_file()


def test_a_run_folder_is_a_model(swept, answer):
    _, found, folder = swept
    (done,) = {run.name for run in (folder / "runs").iterdir()} - {found["failures"][0]["run_id"]}
    run = folder / "runs" / done
    measured = answer("measure", run, "digits", "--classes", "0-4")
    assert measured["accuracy"] > 0.2
    assert measured["provenance"]["weights"] == str(run / "checkpoint.safetensors")
    assert (measured["preprocessing"]["mean"], measured["preprocessing"]["std"]) == ([0.3], [0.4])


def test_train_answers_with_its_result_and_goes_on_from_it(recipe, answer, tmp_path):
    arguments = (recipe, "--out", tmp_path, "--set", "training.learning_rate=0.02", "--seed", 3)
    found = answer("train", *arguments)
    assert (found["status"], found["converged"], found["steps"]) == ("done", False, 12)
    assert found["folder"] == str(tmp_path / found["run_id"])
    assert found["provenance"]["seed"] == 3
    assert answer("train", *arguments)["final"]["source"] == found["final"]["source"]


def test_a_loss_that_is_no_number_exits_with_1(recipe, run, tmp_path):
    code, out, _ = run(
        "train", recipe, "--set", "training.learning_rate=1e30", "--out", tmp_path, "--quiet"
    )
    assert code == 1
    assert out.startswith("failed at step ")


def test_dry_run_says_what_it_would_cost(recipe, answer, run, tmp_path):
    found = answer("sweep", recipe, "--dry-run", "--seeds", 3, "--out", tmp_path / "none")
    assert (found["n_runs"], len(found["runs"])) == (6, 6)
    assert not (tmp_path / "none").exists()
    _, out, _ = run("sweep", recipe, "--dry-run", "--workers", 2)
    assert "2 runs, 2 at a time" in out


def test_an_interrupted_sweep_says_how_to_go_on(run, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("geocollapse.experiments.sweep.run_sweep", interrupted)
    code, _, err = run("sweep", "demo", "--preset", "smoke", "--out", tmp_path / "out", "--quiet")
    assert code == 130
    assert f"interrupted; the same command goes on in {tmp_path / 'out'}" in err


def test_two_sweeps_are_not_compared_as_runs(run, tmp_path):
    write_sweep(tmp_path / "a")
    code, _, err = run("compare", tmp_path / "a", tmp_path / "a")
    assert code
    assert "MODEL: expected the folder of one run, got the sweep" in err


# what there is


def test_recipes_lists_the_demo_first(answer):
    first = answer("recipes")["recipes"][0]
    assert (first["name"], first["n_runs"]) == ("demo", 57)
    assert set(first["sweeps"]) == {"learning_rate", "batch_size", "weight_decay"}


def test_recipes_of_the_main_paper_stand_together_and_others_with_their_title(run):
    lines = run("recipes")[1].splitlines()
    (family,) = (line for line in lines if line.startswith("cifar10-vgg13-:"))
    assert {"learning-rate*,", "batch-size*,"} <= set(family.split())
    assert "corridors" not in family
    assert any(line.startswith("cifar10-vgg13-corridors*: The corridor") for line in lines)


def test_recipes_fit_one_screen_and_claim_no_cost_or_preset_of_another(run, answer):
    text = run("recipes")[1]
    lines = text.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    flat = " ".join(text.split())
    assert "mini-imagenet-resnet18-: batch-size, learning-rate, weight-decay 25 to 30 runs" in flat
    assert "paper: a GPU for hours (gc-penalty, n-classes), on one TPU v3 about 10 hours" in flat
    assert "reduced: 2 to 34 minutes a seed, where marked" in flat
    for recipe in answer("recipes")["recipes"]:
        short = recipe["name"].removeprefix(f"{recipe['data']}-{recipe['model']}-")
        found = {word.strip(",:") for word in text.split()}
        names = {short, recipe["name"]}
        marked = names if "reduced" not in recipe["presets"] else {f"{name}*" for name in names}
        assert marked & found, recipe["name"]


def test_data_lists_every_source(answer, tmp_path):
    found = answer("data", "--data-root", tmp_path)
    here = {source["name"]: source["is_here"] for source in found["data"]}
    assert here["digits"]
    assert not here["cifar10"]


def test_the_forms_of_a_model_are_listed(answer, run):
    forms = [form["form"] for form in answer("models")["forms"]]
    assert {
        "DIR",
        "timm:NAME",
        "torchvision:NAME",
        "NAME@random",
        "MODEL@FILE",
        "features:FILE",
    } <= set(forms)
    assert all(form in run("models")[1] for form in forms)


def test_models_can_be_measured_as_they_are_listed(answer):
    listed = {model["name"]: model["model"] for model in answer("models")["models"]}
    found = answer("measure", listed["mlp"], *MEASURE, "--model-arg", "hidden=[16]")
    assert found["n_features"] == 16


# errors


def error_of(run, *arguments):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    return err.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["mesure"], "No such command 'mesure'."),
        (["measure"], "Missing argument 'MODEL'."),
        (
            ["measure", "m.py:f"],
            "DATA: expected a data set behind MODEL, got none; do name one of `geocollapse data`",
        ),
        (
            ["measure", "features:a.npz", "digits"],
            "DATA: expected none with features:a.npz, whose features are measured",
        ),
        (
            ["measure", "features:a.npz", "--layer", "fc"],
            "--layer: expected none with features:a.npz, whose features",
        ),
        (
            ["measure", "features:a.npz", "--max-samples", "9"],
            "--max-samples: expected none with features:a.npz",
        ),
        (["measure", "features:a.npz", "--seed", "9"], "--seed: expected none with features:a.npz"),
        (
            ["transfer", "features:a.npz", "--batch-size", "9"],
            "--batch-size: expected none with features:a.npz",
        ),
        (
            ["measure", "features:a.npz"],
            "features: expected a file, got 'a.npz', which does not exist",
        ),
        (
            ["transfer", "features:a.csv"],
            "features: expected a file, got 'a.csv', which does not exist",
        ),
        (
            ["measure", "m.py:f", "digits", "--save-features", "a.csv"],
            "--save-features: expected a file ending in .safetensors or .npz, got 'a.csv'",
        ),
        (
            [
                "measure",
                "m.py:f",
                "digits",
                "--save-features",
                "a.npz",
                "--layer",
                "1",
                "--layer",
                "2",
            ],
            "--save-features: expected one layer, got 1, 2; do one call a layer",
        ),
        (
            ["measure", "m.py:f", "digits", "--plot", "a.jpeg"],
            "--plot: expected a file ending in .png, .pdf, .svg, got 'a.jpeg'; do figure.png",
        ),
        (
            ["transfer", "m.py:f", "digits", "--layer", "1", "--layer", "2"],
            "--layer: expected one layer, got 1, 2",
        ),
        (["measure", "m.py:f", "digits", "--lair", "x"], "No such option: --lair"),
        (["measure", "m.py:f", "digits", "--seed", "one"], "Invalid value for '--seed'"),
        (["measure", "m.py:f", "digits", "--device", "tpu"], "Invalid value for '--device'"),
        (
            ["measure", "m.py:f", "digits", "--json", "--csv"],
            "--csv: expected one form of the result, got --json and",
        ),
        (
            ["measure", "m.py:f", "digits", "--n-probes", "none"],
            "--n-probes: expected a positive number or auto, got",
        ),
        (
            ["measure", "m.py:f", "digits", "--threads", "0"],
            "--threads: expected a positive number, got 0",
        ),
        (
            ["measure", TORCH, "digits", "--mean", "a,b"],
            "--mean: expected numbers separated by commas, got 'a,b'",
        ),
        (
            ["measure", "m.py:f", "digits", "--model-arg", "w"],
            "--model-arg: expected KEY=VALUE, got 'w'",
        ),
        (
            ["measure", "none.py:f", "digits"],
            "model: expected a Python file, got 'none.py', which does not exist",
        ),
        (
            ["measure", "resnet", "digits"],
            "model: expected file.py:factory, package.module:factory, timm:NAME",
        ),
        (
            ["measure", "timm:resnt18@random", "digits"],
            "model: expected the name of a timm model, got 'resnt18'; do timm",
        ),
        (
            ["measure", "hf:gpt3@random", "digits", "--model-arg", "x=1"],
            "model: expected config.json of hf:gpt3 in that",
        ),
        (
            ["measure", "timm:resnet18@random", "digits", "--weights", "w.pt"],
            "--weights: expected none with 'timm:resnet18@random', which names its own, got w.pt",
        ),
        (
            ["measure", "timm:test_resnet@random", "digits", "--image-size", "0"],
            "--image-size: expected a positive number of pixels, got 0; do --image-size 224",
        ),
        (
            ["measure", "no_such_package:f", "digits"],
            "model: expected an importable module, got 'no_such_package'",
        ),
        (
            ["measure", "json:dumps", "digits"],
            "model: expected json:dumps to make a model of no arguments, got TypeError: dumps() "
            "missing 1 required",
        ),
        (
            [
                "measure",
                "timm:vit_tiny_patch16_224@random",
                "digits",
                "--subset",
                "40",
                "--image-size",
                "32",
            ],
            "model: expected a forward pass of inputs of shape (1, 3, 32, 32), got AssertionError: "
            "Input height (32) doe",
        ),
        (["measure", TORCH, "didgits"], "data: expected one of digits,"),
        (
            ["measure", TORCH, "digits:val"],
            "DATA: expected one of the splits train, test of digits, got 'val'; do digits:train",
        ),
        (
            ["measure", TORCH, "digits", "--classes", "0-12"],
            "--classes: expected numbers from 0 to 9, got '0-12'; do --classes '0-4'",
        ),
        (
            ["measure", TORCH, "digits", "--classes", "zero"],
            "--classes: expected class numbers or names, got 'zero'",
        ),
        (
            ["measure", TORCH, "digits", "--subset", "3"],
            "--subset: expected 10 to 1437 examples, got 3; do --subset 1437",
        ),
        (
            ["measure", TORCH, "folder:nowhere"],
            "data: expected a folder of class folders, got 'nowhere'",
        ),
        (
            ["measure", "{here}", "digits"],
            "MODEL: expected a run folder, with config.yaml, got the folder",
        ),
        (["sweep", "dmo"], "recipe: expected a path ending in .yaml or one of demo"),
        (["train", "none.yaml"], "recipe: expected a file at none.yaml, got none"),
        (
            ["train", "demo", "--set", "training.learnin_rate=1"],
            "recipe: training.learnin_rate: unknown key; do training",
        ),
        (["train", "demo", "--set", "training"], "set: expected key=value, got 'training'"),
        (["train", "demo", "--preset", "smok"], "preset: expected one of smoke, got 'smok'"),
        (["sweep", "demo", "--workers", "0"], "workers: expected at least 1, got 0"),
        (["sweep", "demo", "--seeds", "0"], "--seeds: expected 1 or more, got 0; do --seeds 1"),
        (
            ["transfer", "m.py:f", "digits", "--k-shot", "1,x"],
            "--k-shot: expected positive numbers, got '1,x'",
        ),
        (["report", "nowhere"], "DIR: expected a sweep folder with sweep.yaml, got nowhere"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(run, arguments, line, tmp_path):
    arguments = [argument.format(here=tmp_path) for argument in arguments]
    assert error_of(run, *arguments).startswith(line)


def test_the_nearest_data_set_is_named(run):
    assert error_of(run, "measure", TORCH, "cifar-10").endswith("do cifar10")


def test_the_nearest_layer_is_named(run, tiny):
    code, _, err = run("measure", tiny, *MEASURE, "--layer", "33", "--quiet")
    assert code == 2
    assert (
        err.splitlines()[-1]
        == "error: --layer: expected the name of a module, got '33'; do --layer '3'"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            "layer: expected one, got none; do name it with layer=, or layer='a'",
            "--layer: expected one, got none; do name it with --layer, or --layer 'a'",
        ),
        ("subset: expected one; do subset=3", "subset: expected one; do subset=3"),
    ],
)
def test_errors_name_the_options_that_the_command_has(error, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"), named_as_options(["layer"]):
        raise ValueError(error)


def test_a_factory_that_is_missing_or_no_model_is_named(run, tiny):
    file = tiny.removesuffix(":tiny")
    for name, words in (
        ("small", "do one of"),
        ("pair", "expected a factory that returns a Module, got int"),
    ):
        code, _, err = run("measure", f"{file}:{name}", *MEASURE)
        assert code == 2
        assert words in err.splitlines()[-1]


def test_weights_that_do_not_fit_are_refused(run, tiny, tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"1.weight": torch.zeros(8, 64)}, path)
    code, _, err = run("measure", tiny, *MEASURE, "--weights", path)
    assert code == 2
    assert "missing" in err.splitlines()[-1]


def test_missing_weights_are_named(run, tiny):
    code, _, err = run("measure", tiny, *MEASURE, "--weights", "none.pt")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: --weights: expected a file, got 'none.pt'")


def test_errors_of_the_library_name_the_options(run, tiny, tmp_path):
    """The library names its arguments: image_size=, model_args=, weights=."""
    file = tiny.removesuffix(":tiny")
    code, _, err = run("measure", f"{file}:tiny", *MEASURE, "--model-arg", "depht=3")
    assert code == 2
    assert err.splitlines()[-1].endswith(
        "do check the factory, or its arguments, such as --model-arg KEY=VALUE"
    )
    code, _, err = run("measure", "torchvision:resnet18@random", "digits", "--model-arg", "x=1")
    assert code == 2
    assert err.splitlines()[-1].endswith("do check --model-arg")
    (tmp_path / "wide.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), "
        "torch.nn.Linear(99, 3))\n"
    )
    code, _, err = run("measure", f"{tmp_path / 'wide.py'}:net", *MEASURE)
    assert code == 2
    assert err.splitlines()[-1].endswith(
        "their size, such as --image-size 224 or --model-arg img_size=32"
    )


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(run, command, tmp_path):
    file = tmp_path / "taken"
    file.write_text("")
    for place in (file, file / "deeper"):
        line = error_of(run, command, "demo", "--preset", "smoke", "--out", place)
        assert line.startswith("--out: expected a folder")
        assert str(place) in line


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError):
        main(["report", "nowhere", "--debug"])


def test_a_failed_run_exits_with_1(run, tiny, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("model: expected a finite output,\n got NaN; do train it")

    monkeypatch.setattr("geocollapse.measurement.measure", fail)
    code, out, err = run("measure", tiny, *MEASURE)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "error: model: expected a finite output, got NaN; do train it"


def test_the_command_itself_exits_with_the_code():
    command = [sys.executable, "-m", "geocollapse", "report", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [done.stderr.strip()]


def test_without_arguments_there_is_help(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert all(name in out for name in ("measure", "compare", "transfer", "rank", "ood"))


def test_version(run):
    from geocollapse._version import __version__

    assert run("--version") == (0, f"{__version__}\n", "")


# parsing


def test_numbers_and_settings_are_parsed():
    assert parse_numbers(None, option="--std") is None
    assert parse_settings(["a.b=2", "c=true", "d=[1, 2]", "e=x=y", "f="], option="--model-arg") == {
        "a.b": 2,
        "c": True,
        "d": [1, 2],
        "e": "x=y",
        "f": None,
    }


@pytest.mark.parametrize(
    ("text", "size"),
    [("500", 500), ("500B", 500), ("2KB", 2000), ("1.5MB", 1_500_000), ("2GB", 2 * 10**9)],
)
def test_sizes_of_memory(text, size):
    from geocollapse.cli.resolve import parse_bytes

    assert parse_bytes(text, option="--memory-limit") == size


@pytest.mark.parametrize("text", ["", "GB", "2TB", "-1", "1.2.3MB"])
def test_bad_sizes_of_memory(text):
    from geocollapse.cli.resolve import parse_bytes

    with pytest.raises(
        ValueError, match="--memory-limit: expected a size such as 500MB or 2GB, got"
    ):
        parse_bytes(text, option="--memory-limit")


# results are not lost, and stdout is clean


def test_files_that_cannot_be_written_are_refused_before_any_work(run, tmp_path, monkeypatch):
    """They failed after the whole pass, with nothing on stdout."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "d.png").mkdir()
    (tmp_path / "d.npz").mkdir()
    for option, path, words in (
        ("--out", "", "expected a file, got the folder '.'; do name a file"),
        ("--out", tmp_path, "expected a file, got the folder"),
        ("--out", tmp_path / "file" / "x.json", "expected a file in a folder, got"),
        ("--save-features", tmp_path / "file" / "x.npz", "expected a file in a folder, got"),
        ("--save-features", "d.npz", "expected a file, got the folder 'd.npz'"),
        ("--plot", tmp_path / "file" / "deep" / "x.png", "expected a file in a folder, got"),
        ("--plot", "d.png", "expected a file, got the folder 'd.png'"),
    ):
        line = error_of(run, "measure", "none.py:f", "digits", option, path)
        assert line.startswith(f"{option}: {words}")
    assert error_of(run, "transfer", "none.py:f", "digits", "--out", tmp_path).startswith("--out: ")
    monkeypatch.setattr("os.access", lambda *_: False)
    line = error_of(run, "measure", "none.py:f", "digits", "--out", "x.json")
    assert line == "--out: expected a place that can be written, got 'x.json'; do name another"


@pytest.mark.parametrize("option", ["--out", "--save-features", "--plot"])
def test_a_full_disk_loses_no_result(run, tiny, tmp_path, monkeypatch, option):
    """The result is printed before any file is written, and the other files are."""
    endings = {"--out": "json", "--save-features": "npz", "--plot": "png"}
    paths = {name: tmp_path / f"x.{ending}" for name, ending in endings.items()}
    real = Path.open

    def full(path, *arguments, **settings):
        if path.name.startswith(paths[option].name):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda _, path, **__: Path(path).write_bytes(b"")
    )
    files = [part for pair in paths.items() for part in pair]
    code, out, err = run("measure", tiny, *MEASURE, *files, "--json", "--quiet")
    assert code == 1
    assert json.loads(out)["n_samples"] == 300
    expected = (
        f"error: {option}: expected '{paths[option]}' to be written, got No space left on devi"
    )
    assert err.splitlines()[-1].startswith(expected)
    assert [name for name, path in paths.items() if path.exists()] == [
        n for n in paths if n != option
    ]


def test_a_result_that_cannot_be_written_whole_leaves_the_old_file(tmp_path):
    """A full disk left half of the new file, and the old one was gone."""
    path = tmp_path / "x.json"
    path.write_text("old")
    answer = Answer({"a": 1}, "text" * 10_000, out=path)
    (file,) = answer.all_files()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, hard))
    try:
        with pytest.raises(OSError):
            file.write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]
    file.write(path)
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize("command", ["sweep", "train"])
def test_an_empty_folder_name_is_not_the_current_folder(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    line = error_of(run, command, "demo", "--out", "")
    assert "--out" in line
    assert "expected a folder, got ''; do name one" in line
    assert os.listdir(tmp_path) == []


def test_threads_of_a_recipe_are_bounded(run):
    line = error_of(run, "sweep", "demo", "--set", "threads=100000", "--dry-run")
    assert "recipe: threads: " in line


def test_a_factory_that_exits_is_an_error(run, tmp_path):
    """It ended the command with code 0 and nothing on stdout."""
    (tmp_path / "quits.py").write_text("import sys\ndef net():\n    sys.exit(0)\n")
    line = error_of(run, "measure", f"{tmp_path / 'quits.py'}:net", "digits")
    assert "quits.py:net to make a model of no arguments, got SystemExit: 0; do check" in line


def test_nothing_but_the_result_reaches_descriptor_1(tmp_path):
    """A subprocess of the model's file, or its compiled code, wrote in front of the JSON."""
    (tmp_path / "loud.py").write_text(
        "import ctypes, os, subprocess\nfrom torch import nn\n"
        "print('printed')\nos.write(1, b'written\\n')\nsubprocess.run(['echo', 'echoed'])\n"
        "ctypes.CDLL(None).puts(b'put')\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    command = [sys.executable, "-m", "geocollapse", "measure", f"{tmp_path / 'loud.py'}:net"]
    command += ["digits", "--subset", "40", "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["n_samples"] == 40
    assert {"printed", "written", "echoed", "put"} <= set(done.stderr.splitlines())


def test_names_that_stdout_cannot_show_are_escaped(tmp_path):
    """An ASCII stdout lost the result."""
    (tmp_path / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.Größe = torch.nn.Linear(64, 8)\n"
        "        self.fc = torch.nn.Linear(8, 10)\n"
        "    def forward(self, x):\n        return self.fc(self.Größe(x.flatten(1)).relu())\n"
    )
    command = [sys.executable, "-m", "geocollapse", "measure", f"{tmp_path / 'net.py'}:Net"]
    command += ["digits", "--subset", "40", "--layer", "Größe", "--quiet"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert r"Gr\xf6\xdfe: 40 examples" in done.stdout
    assert "-----" in done.stdout
    for form in ("--json", "--csv"):
        done = subprocess.run(
            [*command, form], capture_output=True, text=True, env=environment, check=True
        )
        assert "geometric_complexity" in done.stdout


@pytest.mark.parametrize(
    ("option", "number"),
    [("--threads", 100_000), ("--num-workers", 100_000), ("--num-workers", -1)],
)
def test_more_threads_or_processes_than_a_machine_starts_are_refused(run, option, number):
    """100,000 threads ended with a segmentation fault."""
    line = error_of(run, "measure", TORCH, "digits", option, number)
    assert line.startswith(f"{option}: expected 0 to ")
    assert f"got {number} on " in line


@pytest.mark.parametrize("classes", ["0-1000000000", "0-99999999999999999999999", "0-²"])
def test_classes_beyond_all_bounds_are_refused_at_once(run, classes):
    start = time.process_time()
    line = error_of(run, "measure", TORCH, "digits", "--classes", classes)
    assert line.startswith("--classes: expected ")
    assert time.process_time() - start < 5


def test_an_error_of_the_model_itself_is_not_one_of_its_inputs(run, tmp_path):
    (tmp_path / "bad.py").write_text(
        "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n"
        "        super().__init__(64, 10)\n    def forward(self, x):\n        return x / (1 // 0)\n"
    )
    line = error_of(run, "measure", f"{tmp_path / 'bad.py'}:Net", "digits", "--quiet")
    assert "got ZeroDivisionError: " in line
    assert line.endswith(f"do correct the model at line 6 of {tmp_path / 'bad.py'}")


def test_notes_nobody_asked_for_stay_in_the_json(run, answer, tiny):
    notes = answer("measure", tiny, *MEASURE)["warnings"]
    unasked = [note for note in notes if note.startswith("alpha_req: ")]
    assert unasked
    for layers in ((), ("--layer", 1, "--layer", 2)):
        assert "alpha_req" not in run("measure", tiny, *MEASURE, *layers)[1]


def test_recipes_show_prints_one_with_its_comments(run, answer, tmp_path):
    code, out, _ = run("recipes", "show", "cifar10-vgg13-bound")
    assert code == 0
    assert out.startswith("# cifar10-vgg13-bound.yaml\n# ")
    for part in ("# _cifar10-vgg13.yaml\n", "# _paper.yaml\n", "extends: _paper"):
        assert out.count(part) == 1
    assert set(answer("recipes", "show", "demo")["files"]) == {"demo.yaml"}
    own = tmp_path / "own.yaml"
    own.write_text("# mine\nextends: demo\n")
    assert list(answer("recipes", "show", own)["files"]) == ["own.yaml", "demo.yaml"]
    assert error_of(run, "recipes", "show", "dmo").endswith("do demo")
    assert error_of(run, "recipes", "show").startswith("NAME: expected a recipe to show, got none")
    assert error_of(run, "recipes", "list").startswith("Invalid value for ")


def test_a_closed_stdout_leaves_the_file(tiny, tmp_path):
    path = tmp_path / "x.json"
    command = (
        f"'{sys.executable}' -m geocollapse measure {tiny} digits --subset 40 --out {path} >&-"
    )
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text())["n_samples"] == 40


def test_the_preset_of_the_paper_asks_before_it_starts_without_a_gpu(run, monkeypatch, tmp_path):
    from geocollapse.experiments import cost

    hours = cost.Cost(30, 2, 1.0, 1.0, 3600.0, 2 * 3600.0)
    monkeypatch.setattr(cost, "estimate_cost", lambda *_, **__: hours)
    folder = tmp_path / "out"
    command = ["sweep", "cifar10-vgg13-learning-rate", "--preset", "paper", "--quiet"]
    text = error_of(run, *command, "--device", "cpu", "--out", str(folder))
    assert text == (
        "preset: expected a GPU for paper, got none, and 30 runs would take up to 2 hours here; "
        "do --yes to start all the same, or another preset"
    )
    assert not folder.exists()
