"""`geocollapse ood` as a user runs it."""

import csv
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

import geocollapse as geo
from geocollapse import morse
from geocollapse.cli import main
from geocollapse.cli.ood_data import Source
from geocollapse.cli.schemas import schema
from geocollapse.data import load
from morse_page import ANSWER, COMMAND, FIGURES
from stored_blocks import ROOT

NETWORK = """
import torch
from torch import nn


def digits():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def others():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def square():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32))


class Grey(nn.Module):
    def forward(self, x):
        return x.mean(dim=1)


def grey():
    torch.manual_seed(0)
    return nn.Sequential(Grey(), nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""
QUICK = ("--n-steps", 300, "--quiet")
EXAMPLE = ROOT / "examples" / "cifar_resnet.py"
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a network, three features files, and a cache of its own."""
    monkeypatch.setenv("GEOCOLLAPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    rng = np.random.default_rng(0)
    for name, shift in (("data", 0.0), ("near", 0.7), ("far", 4.0)):
        labels = np.arange(400) % 4
        means = 3.0 * np.eye(4, 6)[labels] + shift * np.array([0, 0, 0, 0, 1.0, -1.0])
        features = means + 0.4 * rng.normal(size=(400, 6))
        np.savez(f"{name}.npz", features=features.astype(np.float32), labels=labels)
    return tmp_path


def run(capsys, *arguments, status=0):
    found = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert found == status, err
    return out, err


def answer(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--json")[0])


KEPT = ("ood", "features:data.npz", "--against", "features:near.npz")


def test_the_first_line_answers_and_a_row_follows_for_each_set(files, capsys):
    out, _ = run(capsys, *KEPT, "--against", "features:far.npz", *QUICK)
    lines = out.splitlines()
    assert lines[0].startswith("Hardest to tell from data: near, AUROC 0.")
    assert [line.split()[0] for line in lines if line.startswith(("near", "far"))] == [
        "near",
        "far",
    ]
    assert "FPR at 95 % TPR" in out
    one, _ = run(capsys, *KEPT, *QUICK)
    assert one.startswith("near is told from data with AUROC 0.")


def test_the_json_follows_its_schema_and_orders_near_and_far(files, capsys):
    found = answer(capsys, *KEPT, "--against", "features:far.npz", *QUICK)
    jsonschema.validate(found, schema("ood"))
    near, far = found["against"]
    assert near["auroc"]["value"] < far["auroc"]["value"] <= 1.0
    assert far["auroc"]["value"] > 0.95
    low, high = near["auroc"]["ci95"]
    assert low < near["auroc"]["value"] < high
    assert (found["n_fitted"], found["n_held_out"]) == (200, 200)
    assert found["detector"]["labels"]
    assert found["detector"]["noise_density"] < 0.5


def test_the_csv_has_a_row_for_each_set(files, capsys):
    out, _ = run(capsys, *KEPT, "--against", "features:far.npz", *QUICK, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["data"] for row in rows] == ["near", "far"]
    assert 0.5 < float(rows[0]["auroc.value"]) < float(rows[1]["auroc.value"])


def test_the_seed_decides_and_labels_can_be_left_out(files, capsys):
    first, again = (answer(capsys, *KEPT, *QUICK) for _ in range(2))
    assert first["against"] == again["against"]
    other = answer(capsys, *KEPT, *QUICK, "--seed", 1)
    assert other["against"] != first["against"]
    alone = answer(capsys, *KEPT, *QUICK, "--no-labels", "--hidden", "32,32")
    assert not alone["detector"]["labels"]
    assert alone["detector"]["hidden"] == [32, 32]


def test_a_saved_detector_gives_the_same_answer_on_the_same_held_out_share(files, capsys):
    first = answer(capsys, *KEPT, *QUICK, "--save", "detector.safetensors")
    again = answer(capsys, *KEPT, "--detector", "detector.safetensors", "--quiet")
    assert again["against"] == first["against"]
    assert again["n_held_out"] == first["n_held_out"]
    assert again["detector"]["file"] == "detector.safetensors"
    assert again["detector"]["noise"] == "uniform"
    new = ("ood", "features:near.npz", "--against", "features:far.npz")
    found = answer(capsys, *new, "--detector", "detector.safetensors", "--quiet")
    assert found["n_held_out"] == 400  # it saw none of these


DIGITS = ("digits", "--against", "digits", "--against-classes", "5-9", "--subset", 150)
FROM_FILE = ("--detector", "digits.safetensors", "--quiet")


@pytest.fixture
def saved(files, capsys):
    """A detector fitted on 75 of 150 digits from 0 to 4."""
    arguments = ("ood", "net.py:digits", *DIGITS, "--classes", "0-4", *QUICK)
    return answer(capsys, *arguments, "--save", "digits.safetensors")


def test_examples_of_the_fit_are_never_scored_as_held_out(saved, capsys):
    base = ("ood", "net.py:digits", *DIGITS, "--classes", "0-4", *FROM_FILE)
    same = answer(capsys, *base)
    assert same["against"] == saved["against"]
    left = "was fitted on {} of 150 examples of digits:test: the other {} are scored"
    assert same["warnings"] == [f"digits.safetensors {left.format(75, 75)}"]
    other = answer(capsys, *base, "--seed", 1)  # another subset, with some of the same images
    n = other["n_held_out"]
    assert 75 < n < 150
    assert other["warnings"] == [f"digits.safetensors {left.format(150 - n, n)}"]
    held = answer(capsys, *base, "--seed", 1, "--held-out", "digits")
    assert held["warnings"][-1] == other["warnings"][0]
    assert held["n_held_out"] == n


def test_other_data_are_scored_whole_and_a_note_says_so(saved, capsys):
    base = ("ood", "net.py:digits", *DIGITS, "--classes", "5-9", *FROM_FILE)
    found = answer(capsys, *base)
    assert found["n_held_out"] == 150
    told = "fitted on other examples, of digits:test: all 150 examples of digits:test are scored"
    assert [note.partition(" was ")[2] for note in found["warnings"]] == [told]
    assert f"note: digits.safetensors was {told}" in run(capsys, *base)[0]


def test_another_preparation_hides_the_examples_of_the_fit_and_a_note_says_so(saved, capsys):
    base = ("ood", "net.py:digits", *DIGITS, "--classes", "0-4", *FROM_FILE)
    found = answer(capsys, *base, "--mean", 0.3, "--std", 0.4)
    assert "prepared otherwise than the data of digits.safetensors (mean" in found["warnings"][0]
    assert "examples of the fit may not be recognised" in found["warnings"][0]


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (("net.py:others",), "of net.py:digits, which has other weights, code or precision"),
        (("net.py:square",), "of net.py:digits, which has other weights, code or precision"),
        (("net.py:digits", "--layer", "2"), "of the layer '3:in' of net.py:digits"),
    ],
)
def test_a_detector_of_another_model_or_layer_is_refused(saved, capsys, model, error):
    _, err = run(capsys, "ood", *model, *DIGITS, "--classes", "0-4", *FROM_FILE, status=2)
    assert "--detector: expected a detector of the features that are scored" in err
    assert error in " ".join(err.split())


def test_sources_differ_only_in_what_both_know():
    one = Source("net", "digest", "fc:in", None)
    assert one.difference(Source()) == one.difference(one) == Source().difference(one) == ""
    assert one.difference(Source("renamed", "digest", "fc:in")) == ""
    assert one.difference(Source("net", "digest", "fc:in", "mean")) == "net with --pool unset"
    assert one.difference(Source("other", None, "fc:in")) == "the model net"
    assert one.difference(Source("net", None, "")) == "the layer 'fc:in' of net"


def test_kept_features_tell_their_model_and_layer_but_not_the_examples(saved, capsys):
    for name, net in (("same", "net.py:digits"), ("wide", "net.py:square")):
        save = ("--save-features", f"{name}.npz", "--subset", 60, "--quiet")
        run(capsys, "measure", net, "digits", *save)
    base = ("ood", "features:same.npz", "--against", "features:same.npz", *FROM_FILE)
    found = answer(capsys, *base)
    assert "was fitted on inputs" in found["warnings"][0]
    assert "cannot be recognised, and all 60 examples" in found["warnings"][0]
    base = ("ood", "features:wide.npz", "--against", "features:wide.npz", *FROM_FILE)
    _, err = run(capsys, *base, status=2)
    assert "of the model net.py:digits" in " ".join(err.split())


def test_a_detector_that_does_not_tell_its_examples_is_refused(saved, capsys):
    network, about = morse.load_network("digits.safetensors")
    assert len(about.pop("examples")) == 75
    morse.save_network(network, "digits.safetensors", about=about)
    base = ("ood", "net.py:digits", *DIGITS, "--classes", "0-4", *FROM_FILE)
    _, err = run(capsys, *base, status=2)
    assert "--detector: expected a file that tells the examples of its fit" in err


def test_named_held_out_data_leave_all_to_the_fit(files, capsys):
    held = ("--held-out", "features:near.npz", "--save", "all.safetensors")
    found = answer(capsys, *KEPT, "--against", "features:far.npz", *held, *QUICK)
    assert (found["n_fitted"], found["n_held_out"], found["held_out"]) == (400, 400, "near")
    assert found["against"][0]["auroc"]["value"] == pytest.approx(0.5)  # against itself
    _, err = run(capsys, *KEPT, "--detector", "all.safetensors", "--quiet", status=2)
    assert "--held-out: expected data that the detector was not fitted on" in err


def test_a_model_reads_the_data_once_and_keeps_the_features(files, capsys):
    arguments = ("ood", "net.py:digits", "digits", "--classes", "0-4", "--against", "digits")
    arguments = (*arguments, "--against-classes", "5-9", *QUICK)
    first = answer(capsys, *arguments)
    assert first["provenance"]["from_cache"] is False
    again = answer(capsys, *arguments)
    assert again["provenance"]["from_cache"] is True
    assert again["against"] == first["against"]
    assert first["against"][0]["auroc"]["value"] > 0.6
    assert first["layer"] == "3:in"
    without = answer(capsys, *arguments, "--no-cache")
    assert without["provenance"]["from_cache"] is False
    listed, _ = run(capsys, "cache", "list")
    assert "digits" in listed


def test_another_preprocessing_is_told(files, capsys):
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        folder = files / "images" / label
        folder.mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    base = ("ood", "net.py:grey", "digits", "--against", "folder:images", *QUICK)
    found = answer(capsys, *base, "--image-size", 8)
    assert len(found["against"][0]["notes"]) == 1
    assert "was prepared otherwise than digits:test (mean" in found["warnings"][0]
    assert "digits" in run(capsys, *base, "--image-size", 8)[0].split("note: ")[1]
    same = answer(capsys, *base[:3], "--against", "digits:train", *QUICK)
    assert same["warnings"] == []


def test_kept_features_tell_their_preprocessing_too(files, capsys):
    for name, mean in (("a", "0.3"), ("b", "0.3"), ("c", "0.5")):
        save = ("--save-features", f"{name}.npz", "--mean", mean, "--std", 0.4, "--quiet")
        run(capsys, "measure", "net.py:digits", "digits", "--subset", 60, *save)
    against = ("--against", "features:b.npz", "--against", "features:c.npz")
    same, other = answer(capsys, "ood", "features:a.npz", *against, *QUICK)["against"]
    assert same["notes"] == []
    assert "mean (0.5) in place of (0.3)" in other["notes"][0]


def test_the_figure_and_the_result_are_written(files, capsys):
    run(capsys, *KEPT, *QUICK, "--plot", "scores.png", "--out", "ood.json")
    assert Path("scores.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(Path("ood.json").read_text())["against"][0]["data"] == "near"


def test_the_calibration_of_the_classifier_is_told_with_and_without_the_temperature(files, capsys):
    """As computed by hand from the held-out half, in the order of the seed."""
    base = ("ood", "net.py:digits", "digits", "--against", "digits:train", *QUICK, "--save")
    found = answer(capsys, *base, "a.safetensors", "--reliability", "reliability.png")
    assert Path("reliability.png").read_bytes()[:4] == b"\x89PNG"
    jsonschema.validate(found, schema("ood"))
    held_out, network = held_out_digits(), morse.load_network("a.safetensors").network
    logits = held_out.features @ held_out.head.weight.T + held_out.head.bias
    with torch.no_grad():
        density = network.log_density(held_out.features)
    tempered = morse.tempered_logits(logits, density)
    kept = found["calibration"]
    for name, one in (("ece", logits), ("ece_with_temperature", tempered)):
        expected = morse.reliability(one.softmax(dim=1), held_out.labels).ece
        assert kept[name] == pytest.approx(expected, abs=1e-5)
    right = (logits.argmax(dim=1) == held_out.labels).double().mean()
    assert kept["accuracy"] == pytest.approx(float(right))
    assert kept["ece"] != kept["ece_with_temperature"]
    out, _ = run(capsys, *base, "b.safetensors")
    line = f"calibration error (ECE) {kept['ece']:.3f}, {kept['ece_with_temperature']:.3f} at temp"
    assert line in out


def held_out_digits():
    """Half of the test digits, with the classifier of ``digits`` in net.py."""
    spec = importlib.util.spec_from_file_location("net", "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    whole = geo.collect_features(module.digits(), load("digits", split="test"))
    n = len(whole.features)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    rows = order[round(0.5 * n) :]
    return replace(whole, features=whole.features[rows], labels=whole.labels[rows])


def test_without_a_classifier_of_these_classes_there_is_no_calibration(files, capsys):
    assert answer(capsys, *KEPT, *QUICK)["calibration"] is None
    base = ("ood", "net.py:digits", "digits", "--classes", "0-4", "--against", "digits:train")
    assert answer(capsys, *base, *QUICK)["calibration"] is None
    _, err = run(capsys, *base, *QUICK, "--reliability", "a.png", status=2)
    told = "--reliability: expected a classifier of the classes of digits:test, got none (accuracy"
    assert told in err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--scale", -1), "scale: expected a positive number"),
        (("--weight", 0), "weight: expected a positive number"),
        (("--hidden", "64,x"), "--hidden: expected positive widths"),
        (("--fit-share", 1.5), "--fit-share: expected a share between 0 and 1"),
        (("--against", "cifar100"), "--against: expected features:FILE beside a features file"),
        (("--against", "features:wide.npz"), "--against: expected 6 features, as data has, got 9"),
        (("--detector", "none.safetensors"), "detector: expected a file"),
        (("--detector", "d.safetensors", "--scale", 3), "--scale: expected none with --detector"),
        (("--detector", "d.safetensors", "--save", "e.safetensors"), "--save: expected none with"),
        (("--save", "detector.pt"), "--save: expected a file ending in .safetensors"),
        (("--plot", "scores.gif"), "--plot: expected a file ending in .png"),
    ],
)
def test_wrong_arguments_are_told(files, capsys, arguments, error):
    np.savez("wide.npz", features=np.ones((4, 9), np.float32), labels=np.arange(4) % 2)
    _, err = run(capsys, *KEPT, "--quiet", *arguments, status=2)
    assert error in err


def test_data_that_cannot_be_fitted_are_told(files, capsys):
    _, err = run(capsys, "ood", "features:data.npz", "--quiet", status=2)
    assert "--against: expected at least one other data set" in err
    features = np.ones((6, 6), np.float32)
    features[2, 1] = np.nan
    np.savez("nan.npz", features=features, labels=np.arange(6) % 2)
    _, err = run(capsys, *KEPT, "--against", "features:nan.npz", *QUICK, status=2)
    assert "expected finite numbers, got NaN or infinity in 1 of 6" in err
    np.savez("one.npz", features=np.load("data.npz")["features"], labels=np.zeros(400, int))
    _, err = run(capsys, "ood", "features:one.npz", *KEPT[2:], *QUICK, status=2)
    assert "expected at least two of the classes" in err


def test_a_detector_of_another_width_is_refused(files, capsys):
    save = ("--save", "d.safetensors")
    run(capsys, *KEPT, *QUICK, *save)
    wide = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32)
    np.savez("wide.npz", features=wide, labels=np.arange(40) % 2)
    other = ("ood", "features:wide.npz", "--against", "features:wide.npz")
    _, err = run(capsys, *other, "--detector", "d.safetensors", "--quiet", status=2)
    assert "--detector: expected a detector of 9 features, those of 'wide.npz', got d.s" in err


def test_help_imports_no_torch_and_takes_under_three_tenths_of_a_second():
    """Processor time within the process, the best of five."""
    code = (
        "import sys, time; from geocollapse.cli import main; main(['ood', '--help']); "
        "print('torch' in sys.modules, time.process_time())"
    )
    command = [sys.executable, "-c", code]
    done = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(5)]
    ends = [one.stdout.splitlines()[-1].split() for one in done]
    assert {loaded for loaded, _ in ends} == {"False"}
    assert min(float(seconds) for _, seconds in ends) < 0.3


@pytest.mark.data
def test_the_command_of_the_page_answers_what_is_stored(
    files, capsys, checkpoints, data_root, monkeypatch
):
    """`REWRITE_PAGES=1` stores the answer and the figures anew."""
    monkeypatch.setenv("GEOCOLLAPSE_DATA", str(data_root))
    monkeypatch.setenv("COLUMNS", "120")
    (files / "examples").mkdir()
    shutil.copy(EXAMPLE, "examples")
    shutil.copy(checkpoints / "resnet20-12fca82f.th", ".")
    arguments = shlex.split(COMMAND.replace("\\\n", ""))[1:]
    out, _ = run(capsys, *arguments, "--out", "ood.json", "--quiet")
    found = json.loads(Path("ood.json").read_text())
    assert found["layer"] == "linear:in"
    assert found["against"][0]["notes"] == []
    if os.environ.get("REWRITE_PAGES"):
        ANSWER.write_text(out)
        for name in FIGURES:
            shutil.copy(name, ROOT / "docs" / "figures")
    words, numbers = (
        [take(text) for text in (ANSWER.read_text(), out)]
        for take in (lambda text: NUMBER.sub("", text).split(), NUMBER.findall)
    )
    assert words[0] == words[1]
    values = [[float(number) for number in one] for one in numbers]
    assert values[1] == pytest.approx(values[0], abs=0.01)
