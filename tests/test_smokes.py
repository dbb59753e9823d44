"""One recipe of each family, at the size of its preset `smoke`."""

from __future__ import annotations

from pathlib import Path

import pytest

from geocollapse.experiments.recipe import load_recipe
from geocollapse.experiments.sweep import run_sweep

FAMILIES = (
    "cifar10-vgg13-sampling",
    "mnist-vgg11-batch-size",
    "fashion-mnist-vgg11-learning-rate",
    "cifar100-vgg13-learning-rate",
    "cifar100-resnet18-weight-decay",
    "cifar-fs-resnet18-n-classes",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_runs_at_the_size_of_its_smoke(name: str, data_root: Path, tmp_path: Path) -> None:
    recipe = load_recipe(name).with_preset("smoke")
    summary = run_sweep(recipe, tmp_path, workers=1, data_root=data_root, progress=False)
    assert summary.n_failed == 0
    assert summary.n_done == summary.n_runs <= 3
