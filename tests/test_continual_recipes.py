"""Recipes that study two tasks in turn: what is recorded, and that the run stays as it is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geocollapse import data, dynamics
from geocollapse.dynamics import multitask
from geocollapse.experiments.recipe import load_recipe, run_id
from geocollapse.experiments.results.folders import RunFolder
from geocollapse.experiments.results.records import OrderRecord
from geocollapse.experiments.results.tables import read_sweep
from geocollapse.experiments.supervised import order_effect as order_effect_module
from geocollapse.experiments.supervised.order_effect import order_records
from geocollapse.experiments.supervised.state import Training, check_run, prepare
from geocollapse.experiments.supervised.train import take_step, train_run
from geocollapse.experiments.sweep import run_sweep
from geocollapse.models.architectures import MLP
from geocollapse.papers.registry import papers
from test_train import config, history, outcome, train_until

OTHER: dict[str, Any] = {
    "name": "digits",
    "classes": "3-5",
    "subset": 60,
    "learning_rate": 0.02,
    "n_steps": [1, 3],
}
STUDY: dict[str, Any] = {"measuring__order_effect": OTHER}
RECIPES = ("mnist-continual", "cifar10-continual")


def studied(**values: Any) -> dict[str, Any]:
    """The small run with the study, whose keys are set to values."""
    return {"measuring__order_effect": OTHER | values}


def recorded(training: Training) -> dict[str, Any]:
    return dict(order_records(training)["order_effect"])


def stepped(**values: Any) -> Training:
    training = prepare(config(**values))
    for _ in range(2):
        take_step(training)
    return training


# What is recorded


def test_a_record_says_what_the_functions_of_dynamics_say() -> None:
    training = stepped(**STUDY)
    record = recorded(training)
    assert (record["n_samples"], record["n_other_samples"]) == (60, 60)
    model = copy.deepcopy(training.model).double().eval()
    first = training.source.select(subset=60)
    second = data.load("digits", classes="3-5", subset=60)
    assert second.targets.unique().tolist() == [0, 1, 2]  # the outputs of the source

    def loss_on(x: torch.Tensor, y: torch.Tensor) -> dynamics.Loss:
        return lambda net: F.cross_entropy(net(x.double()), y)

    losses = [loss_on(part.inputs, part.targets) for part in (first, second)]
    found = dynamics.order_effect(losses[0], losses[1], model, lr=0.02, n_steps=3)
    row = record["steps"]["3"]
    assert set(row) == set(OrderRecord.__annotations__)
    assert row["norm"] == pytest.approx(found.norm)
    assert row["predicted_norm"] == pytest.approx(found.predicted_norm)
    assert row["cosine"] == pytest.approx(found.cosine)
    assert row["gap"] == pytest.approx(found.a.order_gap)
    assert row["predicted_total_gap"] == pytest.approx(found.predicted_total_gap)
    assert row["forgetting"] == pytest.approx(found.a.rise)
    assert row["forgetting_second_order"] == pytest.approx(found.a.second_order)
    bias = dynamics.multitask_bias(losses, model)
    assert [record["loss"], record["other_loss"]] == pytest.approx(bias.losses.tolist())
    norms = bias.gramian.diagonal().sqrt()
    assert [record["gradient_norm"], record["other_gradient_norm"]] == pytest.approx(norms.tolist())
    cosine = bias.gramian[0, 1] / norms.prod()
    assert record["gradient_cosine"] == pytest.approx(float(cosine))


def test_the_bracket_is_computed_once_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    crossing = multitask._crossing

    def counted(*given: Any) -> dynamics.Crossing:
        computed.append(1)
        return crossing(*given)

    monkeypatch.setattr(multitask, "_crossing", counted)
    training = stepped(**studied(n_steps=[1, 2, 3]))
    record = recorded(training)
    assert len(computed) == 1
    monkeypatch.setattr(order_effect_module, "_crossing", lambda *_: None)
    assert recorded(training) == record  # bit for bit
    assert len(computed) == 4


TANH: dict[str, Any] = {"model__args": {"hidden": [12, 8], "activation": "tanh"}}


def test_a_small_rate_is_predicted_and_more_steps_less_well() -> None:
    steps = recorded(stepped(**TANH, **studied(learning_rate=1e-3, n_steps=[1, 30])))["steps"]
    assert steps["1"]["cosine"] > 0.999
    assert steps["1"]["relative_error"] < 0.05
    assert steps["1"]["relative_error"] < steps["30"]["relative_error"]
    assert steps["1"]["gap"] == pytest.approx(steps["1"]["predicted_gap"], rel=0.1)


def test_kinks_of_relu_are_not_in_the_bracket_until_no_unit_switches() -> None:
    """They add to the order effect at its own order, which the almost-everywhere Hessian misses."""
    rows = {
        lr: recorded(stepped(**studied(learning_rate=lr, n_steps=[1])))["steps"]["1"]
        for lr in (1e-3, 1e-5)
    }
    assert rows[1e-3]["relative_error"] > 0.5
    assert rows[1e-5]["relative_error"] < 1e-3


def test_one_task_twice_has_no_order() -> None:
    """The source itself, with labels in its own order: no bracket, and both orders end alike."""
    same = studied(classes="0-2", subset=90)
    record = recorded(stepped(data__subset=90, **same))
    row = record["steps"]["3"]
    assert row["norm"] == 0.0
    assert row["cosine"] is None
    assert row["gap"] == 0.0
    assert row["forgetting"] < 0.0
    assert record["gradient_cosine"] == pytest.approx(1.0)


def test_the_loss_is_the_one_that_is_trained_on_without_its_penalties() -> None:
    squared = stepped(**STUDY, training__loss="squared")
    smoothed = stepped(**STUDY, training__label_smoothing=0.2)
    for training in (squared, smoothed):
        first = training.source.select(subset=60)
        logits = training.model.eval()(first.inputs)
        expected = (
            0.5 * (logits - F.one_hot(first.targets, 3)).square().sum(dim=1).mean()
            if training is squared
            else F.cross_entropy(logits, first.targets, label_smoothing=0.2)
        )
        assert recorded(training)["loss"] == pytest.approx(float(expected.detach()), rel=1e-5)
    plain, penalised = (
        recorded(prepare(config(**STUDY, training__l2_penalty=weight))) for weight in (0.0, 1.0)
    )
    assert plain == penalised


def test_steps_that_diverge_are_null_and_noted() -> None:
    record = recorded(stepped(**studied(learning_rate=1e200)))
    assert record["loss"] > 0.0
    assert set(record["steps"]["3"].values()) == {None}
    assert any(note.startswith("3 steps: loss: expected a finite") for note in record["warnings"])


def test_weights_that_are_not_finite_are_null_and_noted() -> None:
    training = stepped(**STUDY)
    with torch.no_grad():
        training.model.classifier.weight.fill_(float("inf"))
    record = recorded(training)
    assert record["loss"] is None
    assert record["gradient_cosine"] is None
    assert set(record["steps"]["1"].values()) == {None}


# The run stays as it is


def test_the_study_leaves_the_run_as_it_is(tmp_path: Path) -> None:
    """The weights at the end are those of a run without it, bit for bit."""
    for name, values in (("with", STUDY), ("without", {})):
        train_run(config(**values), RunFolder(tmp_path / name))
    ends = [
        (tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("with", "without")
    ]
    assert ends[0] == ends[1]
    lines = [history(tmp_path / name) for name in ("with", "without")]
    assert all("order_effect" in line for line in lines[0])
    assert not any("order_effect" in line for line in lines[1])


@pytest.mark.parametrize("step", [3, 13])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(**STUDY)
    train_run(run, RunFolder(tmp_path / "whole"))
    train_until(step, run, tmp_path / "resumed", monkeypatch)
    train_run(run, RunFolder(tmp_path / "resumed"))
    assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole")


def test_a_record_keeps_mode_buffers_and_random_state() -> None:
    training = stepped(**STUDY, model__name="small_cnn", model__args={"width": 4})
    training.model.train()
    before = copy.deepcopy(training.model.state_dict())
    state = torch.random.get_rng_state()
    recorded(training)
    assert training.model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    after = training.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.dtype == torch.float32 for p in training.model.parameters())


# Settings


def test_keys_at_their_default_rename_no_run_and_other_values_do() -> None:
    plain = run_id(config())
    assert run_id(config(measuring__order_effect=None)) == plain
    least = config(measuring__order_effect={"name": "digits"})
    assert run_id(least) != plain
    defaults = {"subset": 500, "learning_rate": 0.01, "n_steps": [1, 4, 16, 64], "classes": None}
    same = config(measuring__order_effect={"name": "digits"} | defaults)
    assert run_id(same) == run_id(least)
    others = ({"name": "mnist"}, {"classes": "3-5"}, {"n_steps": [1]}, {"subset": 50})
    names = {run_id(config(measuring__order_effect={"name": "digits"} | other)) for other in others}
    assert len(names - {run_id(least)}) == len(others)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"classes": "0-3"}, "order_effect.classes: expected at most the 3 classes .* got 4; do"),
        (
            {"name": "mnist", "classes": "0-2"},
            r"order_effect.name: expected inputs \(1, 8, 8\), .*",
        ),
        ({"subset": 5000}, "subset: expected 3 to .* examples, got 5000"),
        ({"classes": "three"}, "classes: expected class numbers or names, got 'three'"),
        ({"name": "digts"}, "data: expected one of .*, got 'digts'; do digits"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_before_training(
    values: dict[str, Any], words: str, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue("data_root") if values.get("name") == "mnist" else None
    run = config(**studied(**values))
    for load in (check_run, prepare):
        with pytest.raises(ValueError, match=words):
            load(run, data_root=root)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_steps": []}, "n_steps: expected at least 1 values"),
        ({"n_steps": [0]}, "n_steps.* at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected more than 0"),
        (
            {"step": 3},
            "measuring.order_effect.step: unknown key; do measuring.order_effect.n_steps",
        ),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**studied(**values))


# Networks and recipes


def test_the_activation_of_an_mlp() -> None:
    kinds = {type(module) for module in MLP(hidden=[8], activation="tanh").modules()}
    assert nn.Tanh in kinds
    assert nn.ReLU not in kinds
    assert any(isinstance(module, nn.ReLU) for module in MLP(hidden=[8]).modules())
    with pytest.raises(ValueError, match="activation: expected 'relu' or 'tanh', got 'gelu'; do"):
        MLP(activation="gelu")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_at_the_size_of_its_smoke(name: str, data_root: Path, tmp_path: Path) -> None:
    recipe = load_recipe(name).with_preset("smoke")
    summary = run_sweep(recipe, tmp_path, workers=1, data_root=data_root, progress=False)
    assert summary.n_failed == 0
    assert summary.n_done == summary.n_runs <= 2
    results = read_sweep(tmp_path)
    for m in (1, 4):
        assert results.history[f"order_effect.steps.{m}.norm"].notna().all()
        assert (results.history[f"order_effect.steps.{m}.cosine"] > 0.5).all()
    judged = papers()["multitask"].judge(results)
    assert all(verdict.n_runs for verdict in judged)
    assert {verdict.verdict for verdict in judged} == {"undecided"}  # one seed


@pytest.mark.parametrize("name", RECIPES)
def test_the_reduced_preset_plans_three_seeds(name: str) -> None:
    recipe = load_recipe(name).with_preset("reduced")
    assert recipe.seeds == 3
    planned = recipe.planned_runs()
    assert all(run.sweeps for run in planned)
    assert len(planned) == 3 * {"mnist-continual": 4, "cifar10-continual": 3}[name]
