"""`sweep --preset paper --dry-run` plans the published experiments, as definitions 8 lists them."""

from __future__ import annotations

import json

import pytest

from geocollapse.cli import main
from geocollapse.experiments.cost import Cost
from geocollapse.experiments.recipe import load_recipe, recipe_names

RATES = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1]
BATCHES = [8, 16, 32, 64, 128, 256]
L2 = [0, 0.00025, 0.0005, 0.001, 0.0025]
PENALTIES = [0, 1e-7, 1e-6, 1e-4]

# sweep, its key and values, and the rate and batch size that it is at
LEARNING_RATE = ("learning_rate", "training.learning_rate", RATES, None, 512)
BATCH_SIZE = ("batch_size", "training.batch_size", BATCHES, 0.01, None)
WEIGHT_DECAY = ("weight_decay", "training.weight_decay", L2, 0.01, 256)
GC_PENALTY = ("gc_penalty", "training.gc_penalty.weight", PENALTIES, 0.01, 256)
THREE = {"learning-rate": LEARNING_RATE, "batch-size": BATCH_SIZE, "weight-decay": WEIGHT_DECAY}

# network and data, as definitions 8 has them in the rows of its table
FAMILIES = {
    "cifar10-vgg13": ("vgg13", "cifar10"),
    "mnist-vgg11": ("vgg11", "mnist"),
    "fashion-mnist-vgg11": ("vgg11", "fashion-mnist"),
    "cifar100-vgg13": ("vgg13", "cifar100"),
    "cifar100-resnet18": ("resnet18", "cifar100"),
    "cifar-fs-resnet18": ("resnet18", "cifar-fs"),
    "mini-imagenet-resnet18": ("resnet18", "mini-imagenet"),
}
PUBLISHED = {
    f"{family}-{name}": (*about, *grid)
    for family, about in FAMILIES.items()
    for name, grid in THREE.items()
} | {"cifar10-vgg13-gc-penalty": ("vgg13", "cifar10", *GC_PENALTY)}


def dry_run(name, monkeypatch, capsys):
    """The JSON of a dry run; the timing of a full network is left out."""
    monkeypatch.setattr(
        "geocollapse.experiments.cost.estimate_cost",
        lambda recipe, **_: Cost(len(recipe.planned_runs()), 1, 1.0, 1.0, 1.0, 1.0),
    )
    command = ["sweep", name, "--preset", "paper", "--dry-run", "--json", "--quiet"]
    assert main(command) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_dry_run_plans_the_published_grid_with_five_seeds(name, monkeypatch, capsys):
    model, data, sweep, key, values, rate, batch = PUBLISHED[name]
    plan = dry_run(name, monkeypatch, capsys)
    assert plan["n_runs"] == 5 * len(values)
    planned = [(run["sweeps"], run["seed"]) for run in plan["runs"]]
    expected = [({sweep: {key: value}}, seed) for value in values for seed in range(5)]
    assert sorted(planned, key=str) == sorted(expected, key=str)

    recipe = load_recipe(name).with_preset("paper")
    for run in recipe.planned_runs():
        config = run.config
        assert run.run_id in {entry["run_id"] for entry in plan["runs"]}
        assert (config.model.name, config.data.name) == (model, data)
        assert rate in (None, config.training.learning_rate)
        assert batch in (None, config.training.batch_size)
        assert config.data.subset is None
        assert config.data.pad_to == (32 if "mnist" in data else None)
        assert config.training.momentum == 0.0
        assert config.training.schedule == "constant"
        assert config.data.augmentation == "none"
        assert config.training.stop_accuracy == 0.99
        assert config.training.extra_factor == 1.0
        assert config.model.args.get("batch_norm", True) is ("gc-penalty" not in name)
        assert config.model.args["width"] == (1 if model == "resnet18" else 64)


def test_the_bound_is_planned_without_a_sweep_and_with_five_seeds(monkeypatch, capsys):
    plan = dry_run("cifar10-vgg13-bound", monkeypatch, capsys)
    assert [(run["sweeps"], run["seed"]) for run in plan["runs"]] == [({}, s) for s in range(5)]


def test_every_row_of_the_published_table_has_its_recipe():
    assert set(PUBLISHED) | {"cifar10-vgg13-bound", "cifar10-vgg13-sampling"} <= set(recipe_names())
