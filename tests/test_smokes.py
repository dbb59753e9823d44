"""One recipe of each family, at the size of its preset `smoke`: at most 20 s on a quiet machine.

`pytest -s` shows the seconds of each. Recipes with other records have theirs in files of their own.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

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
)
OF_THE_LOGITS = (
    "cifar10-resnet18-margin",
    "cifar100-resnet18-margin",
    "cifar10-vgg13-regularisers",
    "cifar10-mlp-width",
)


def smoke(name: str, out: Path, data_root: Path) -> int:
    """Run the smoke of a recipe, print its seconds, and return its number of runs."""
    recipe = load_recipe(name).with_preset("smoke")
    begun = time.perf_counter()
    summary = run_sweep(recipe, out, workers=1, data_root=data_root, progress=False)
    print(f"{name}: {summary.n_runs} runs in {time.perf_counter() - begun:.1f} s")
    assert summary.n_failed == 0
    assert summary.n_done == summary.n_runs
    return summary.n_runs


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_runs_at_the_size_of_its_smoke(name: str, data_root: Path, tmp_path: Path) -> None:
    assert smoke(name, tmp_path, data_root) <= 3


@pytest.mark.parametrize("name", OF_THE_LOGITS)
def test_a_smoke_records_complexity_of_the_logits_and_test_error(
    name: str, data_root: Path, tmp_path: Path
) -> None:
    assert smoke(name, tmp_path, data_root) <= 4
    runs = read_sweep(tmp_path).runs
    for column in (LOGITS_GC, "margin.test_error", "margin.gap", "test_loss"):
        assert runs[column].notna().all()
