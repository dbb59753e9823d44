"""Comparisons of the training loop of a run with a bare loop over the same images."""

from __future__ import annotations

from typing import Any

import baselines
import torch
from harness import Row, Work

from geocollapse.experiments.recipe import Recipe, load_recipe
from geocollapse.experiments.supervised.state import prepare
from geocollapse.experiments.supervised.train import take_step

_BARE = "bare PyTorch loop, 1 thread"
# ours over theirs: a throughput of at least 0.95 of the bare loop's
_REACH = 1 / 0.95


def _recipe(name: str, **values: Any) -> Recipe:
    """A recipe at the size of its preset `reduced`, with some values changed."""
    return load_recipe(name).with_preset("reduced").with_values(values)


def _loop(recipe: Recipe, n_steps: int) -> tuple[Work, Work]:
    """Steps of a run, and of a bare loop that trains the same network on the same images."""
    run = recipe.run_config()
    training = prepare(run)
    bare = prepare(run)
    x, y = bare.source.inputs, bare.source.targets
    optimizer = torch.optim.SGD(bare.model.parameters(), lr=run.training.learning_rate)
    size = run.training.batch_size

    def ours() -> None:
        for _ in range(n_steps):
            take_step(training)
        training.losses.look()

    def theirs() -> None:
        left = n_steps
        bare.model.train()
        while left:
            for rows in torch.randperm(len(x)).split(size)[: min(left, len(x) // size)]:
                baselines.training_step(bare.model, x[rows], y[rows], optimizer)
                left -= 1

    return ours, theirs


def _formats(n_steps: int) -> tuple[Work, Work]:
    """Steps with channels-last tensors, and with contiguous ones."""
    ours, _ = _loop(_recipe(_VGG, **{_FORMAT: "channels_last"}), n_steps)
    theirs, _ = _loop(_recipe(_VGG, **{_FORMAT: "contiguous"}), n_steps)
    return ours, theirs


_VGG = "cifar10-vgg13-learning-rate"
_FORMAT = "training.memory_format"

ROWS = (
    Row(
        "training-vgg13-128",
        "5 steps of a run, VGG-13 width 16, batch 128",
        _BARE,
        _REACH,
        lambda: _loop(_recipe(_VGG), 5),
        repeats=9,
        single=True,
    ),
    Row(
        "training-vgg13-8",
        "50 steps of a run, VGG-13 width 16, batch 8",
        _BARE,
        _REACH,
        lambda: _loop(_recipe(_VGG, **{"training.batch_size": 8}), 50),
        repeats=9,
        single=True,
    ),
    Row(
        "training-channels-last",
        "5 steps of a run, VGG-13 width 16, batch 128, channels last",
        "contiguous",
        0.9,
        lambda: _formats(5),
        repeats=9,
        single=True,
    ),
)
