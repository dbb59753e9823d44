"""Recipes of the sibling papers: optimizers that choose their rate, the gradient penalty, records
of how training moves and of test accuracy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geocollapse import dynamics
from geocollapse.experiments.recipe import Recipe, RunConfig, load_recipe, run_id
from geocollapse.experiments.results.folders import RunFolder
from geocollapse.experiments.results.tables import read_sweep
from geocollapse.experiments.supervised import train
from geocollapse.experiments.supervised.losses import NonFiniteLossError
from geocollapse.experiments.supervised.objective import objective_of
from geocollapse.experiments.supervised.state import Training, prepare
from geocollapse.experiments.supervised.train import measured_values, take_step, train_run
from geocollapse.experiments.sweep import run_sweep
from geocollapse.optimizers import NonFiniteGradientError
from test_train import SMALL, config, history, outcome, train_until

CORRIDOR: dict[str, Any] = {"training__optimizer": "corridor", "training__momentum": 0.0}
DAL: dict[str, Any] = {"training__optimizer": "dal", "training__momentum": 0.0}
DYNAMICS: dict[str, Any] = {
    "measuring__dynamics": {"subset": 30, "n_batches": 3},
    "data__test_split": "test",
    "data__test_subset": 30,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "corridor": CORRIDOR | {"training__corridor.max_learning_rate": 0.5} | DYNAMICS,
    "dal": DAL | {"training__dal.every": 2, "training__weight_decay": 0.01},
    "gradient penalty": {
        "training__gradient_penalty.weight": 0.01,
        "training__gradient_penalty.batch_fraction": 0.5,
        "training__gradient_penalty.every": 2,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [3, 13])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    variant: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(**VARIANTS[variant])
    train_run(run, RunFolder(tmp_path / "whole"))
    train_until(step, run, tmp_path / "resumed", monkeypatch)
    train_run(run, RunFolder(tmp_path / "resumed"))
    assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole")


def test_a_key_at_its_default_renames_no_run_and_another_value_does() -> None:
    plain = run_id(config())
    for key, default, other in (
        ("training__corridor.smallest_loss", 0.0, 0.1),
        ("training__dal.power", 1.0, 0.5),
        ("training__gradient_penalty.weight", 0.0, 0.1),
        ("data__test_split", None, "test"),
        ("measuring__dynamics", None, {}),
    ):
        assert run_id(config(**{key: default})) == plain
        assert run_id(config(**{key: other})) != plain
    named = {run_id(config(measuring__dynamics={"subset": n})) for n in (500, 400)}
    assert run_id(config(measuring__dynamics={})) in named
    assert len(named) == 2


def test_a_schedule_and_momentum_are_refused_with_a_rate_of_its_own() -> None:
    for optimizer in ("corridor", "dal"):
        with pytest.raises(ValueError, match=f"schedule: expected constant .* {optimizer}, which"):
            config(**CORRIDOR | {"training__optimizer": optimizer, "training__schedule": "cosine"})
        with pytest.raises(ValueError, match="momentum: expected 0 with the optimizer"):
            config(training__optimizer=optimizer)


def weights(training: Training) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in training.model.parameters()])


@pytest.mark.parametrize("method", [CORRIDOR, DAL])
def test_the_learning_rate_is_not_read(method: dict[str, Any]) -> None:
    ends = []
    for rate in (0.05, 5.0):
        training = prepare(config(**method, training__learning_rate=rate))
        take_step(training)
        ends.append(weights(training))
    assert torch.equal(*ends)


def gradient_of(model: nn.Module, value: torch.Tensor) -> torch.Tensor:
    rows = torch.autograd.grad(value, list(model.parameters()))
    return torch.cat([row.reshape(-1) for row in rows])


@pytest.mark.parametrize("penalty", [0.0, 0.01])
def test_weight_decay_and_penalty_are_terms_of_the_loss_of_the_corridor_rate(
    penalty: float,
) -> None:
    """h = E/||g||^2 with E = loss + penalty + decay/2 ||theta||^2, so that E is what falls."""
    settings = {"training__weight_decay": 0.1, "training__gc_penalty.weight": penalty}
    training = prepare(config(**CORRIDOR, **settings))
    reference = prepare(config(**CORRIDOR, **settings))
    x, y = train._next_batch(reference)
    loss = F.cross_entropy(reference.model(x), y) + 0.05 * weights_squared(reference.model)
    if reference.penalty is not None:
        loss = loss + reference.penalty(reference.model, x)[1]
    g = gradient_of(reference.model, loss)
    expected = weights(reference) - float(loss.detach()) / float(g @ g) * g
    take_step(training)
    torch.testing.assert_close(weights(training), expected, rtol=1e-4, atol=1e-6)


def weights_squared(model: nn.Module) -> torch.Tensor:
    return torch.stack([p.square().sum() for p in model.parameters()]).sum()


def test_weight_decay_of_sgd_is_as_it_was() -> None:
    """Negative control: SGD adds its gradient by itself, so the objective has no such term."""
    with_decay, without = (prepare(config(training__weight_decay=decay)) for decay in (0.1, 0.0))
    batch = train._next_batch(without)
    assert torch.equal(objective_of(with_decay, *batch), objective_of(without, *batch))


def test_dal_takes_the_curvature_of_the_whole_objective() -> None:
    settings = {"training__gc_penalty.weight": 0.01, "training__weight_decay": 0.1}
    training = prepare(config(**DAL, **settings))
    reference = prepare(config(**DAL, **settings))
    x, y = train._next_batch(reference)

    def objective(model: nn.Module) -> torch.Tensor:
        del model
        return objective_of(reference, x, y)

    g = dynamics.gradient(reference.model, objective)
    size = float(sum(z.square().sum() for z in g.values())) ** 0.5
    reference.penalty.step.zero_()  # the same probes again
    along = dynamics.hessian_vector_product(
        reference.model, objective, {name: z / size for name, z in g.items()}
    )
    curvature = float(sum(z.square().sum() for z in along.values())) ** 0.5
    take_step(training)
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(2.0 / curvature, rel=1e-3)


def test_the_gradient_penalty_is_added_to_the_loss() -> None:
    training = prepare(config(**{"training__gradient_penalty.weight": 0.5}))
    x, y = train._next_batch(training)
    loss = F.cross_entropy(training.model(x), y)
    g = gradient_of(training.model, loss)
    expected = float(loss.detach()) + 0.5 * float(g @ g)
    assert float(objective_of(training, x, y).detach()) == pytest.approx(expected, rel=1e-5)


def test_both_penalties_add_up() -> None:
    keys = {"gradient": "training__gradient_penalty.weight", "gc": "training__gc_penalty.weight"}
    values = []
    for chosen in ((), ("gradient",), ("gc",), ("gradient", "gc")):
        training = prepare(config(**{keys[name]: 0.1 for name in chosen}))
        batch = train._next_batch(training)
        values.append(float(objective_of(training, *batch).detach()))
    plain, gradient, gc, both = values
    assert both - plain == pytest.approx((gradient - plain) + (gc - plain), rel=1e-4)


def test_a_rate_that_diverges_fails_with_its_step(tmp_path: Path) -> None:
    run = config(**CORRIDOR, **{"training__corridor.smallest_loss": -1e30})
    result = train_run(run, RunFolder(tmp_path))
    assert result["status"] == "failed"
    assert result["failed_step"] == 1
    assert str(result["error"]).startswith("training loss: expected a finite number, got ")


def test_a_gradient_that_is_not_finite_fails_with_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(training: Training) -> None:
        if training.progress.step == 4:
            raise NonFiniteGradientError("parameters: expected finite gradients, got inf")
        take_step(training)

    monkeypatch.setattr(train, "take_step", overflow)
    result = train_run(config(**DAL), RunFolder(tmp_path))
    assert (result["status"], result["failed_step"]) == ("failed", 4)
    assert "gradient norm: expected a finite number, got inf at step 4" in str(result["error"])
    assert issubclass(NonFiniteLossError, RuntimeError)


# Records


def recorded(training: Training) -> dict[str, Any]:
    return dict(measured_values(training)["dynamics"])


def test_a_record_says_what_the_functions_of_dynamics_say() -> None:
    training = prepare(config(**DYNAMICS))
    take_step(training)
    record = recorded(training)
    data = training.source.select(subset=30)

    def loss(model: nn.Module) -> torch.Tensor:
        return F.cross_entropy(model(data.inputs), data.targets)

    model = training.model.eval()
    path = dynamics.corridor_diagnostics(model, loss, 0.05, straightness=True)
    assert record["n_samples"] == 30
    assert record["gradient_norm"] == pytest.approx(path.speed)
    assert record["drift_ratio"] == pytest.approx(path.drift_ratio)
    assert record["linearity_defect"] == pytest.approx(path.linearity_defect)
    assert record["straightness"] == pytest.approx(path.straightness)
    assert record["corridor_rate"] == pytest.approx(path.corridor_lr)
    top = dynamics.sharpness(model, loss, tolerance=1e-6)
    assert record["sharpness"] == pytest.approx(top.largest, rel=1e-2)
    g = dynamics.gradient(model, loss)
    along = dynamics.hessian_vector_product(
        model, loss, {name: z / path.speed for name, z in g.items()}
    )
    curvature = float(sum(z.square().sum() for z in along.values())) ** 0.5
    assert record["curvature"] == pytest.approx(curvature, rel=1e-4)
    assert record["edge"] == pytest.approx(2.0 * 1.9 / 0.05)  # momentum 0.9
    assert record["edge_ratio"] == pytest.approx(record["sharpness"] / record["edge"])


def test_the_gradient_norm_of_mini_batches_is_split() -> None:
    record = recorded(prepare(config(**DYNAMICS)))
    assert (record["n_batches"], record["batch_size"]) == (3, 16)
    assert record["mini_batch_norm"] == pytest.approx(
        record["mean_gradient_norm"] + record["mini_batch_variance"]
    )
    training = prepare(config(**DYNAMICS))
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    norms = []
    for rows in order[:48].split(16):
        batch = training.source.inputs[rows], training.source.targets[rows]
        g = gradient_of(training.model, F.cross_entropy(training.model(batch[0]), batch[1]))
        norms.append(float(g @ g))
    assert record["mini_batch_norm"] == pytest.approx(sum(norms) / 3, rel=1e-5)


def test_what_needs_a_rate_is_null_before_the_first_step_of_an_optimizer_that_chooses_it() -> None:
    training = prepare(config(**CORRIDOR | DYNAMICS))
    unknown = ("learning_rate", "drift_ratio", "linearity_defect", "straightness", "edge")
    record = recorded(training)
    assert [record[key] for key in unknown] == [None] * len(unknown)
    assert record["sharpness"] > 0.0
    take_step(training)
    record = recorded(training)
    assert record["learning_rate"] == training.optimizer.param_groups[0]["lr"] > 0.0
    assert record["edge"] == pytest.approx(2.0 / record["learning_rate"])


def test_the_edge_of_adamw_and_of_a_rate_of_0_is_null() -> None:
    adamw = {"training__optimizer": "adamw", "training__momentum": 0.0}
    assert recorded(prepare(config(**DYNAMICS, **adamw)))["edge"] is None
    training = prepare(config(**DYNAMICS, training__schedule="cosine"))
    training.progress.step = 18
    assert recorded(training)["learning_rate"] is None


def test_without_the_keys_a_record_is_as_it_was(tmp_path: Path) -> None:
    train_run(config(), RunFolder(tmp_path))
    for line in history(tmp_path):
        assert not {"dynamics", "test_loss", "test_accuracy"} & set(line)


def test_a_record_changes_nothing_in_the_run() -> None:
    one, two = (
        prepare(config(**DYNAMICS, model__name="small_cnn", model__args={"width": 4}))
        for _ in range(2)
    )
    for training in (one, two):
        take_step(training)
    before = torch.random.get_rng_state()
    assert one.model.training
    recorded(one)
    assert one.model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_test_accuracy_is_that_of_the_source_classes_in_the_test_split() -> None:
    training = prepare(config(**DYNAMICS))
    assert training.test is not None
    assert training.test.classes == training.source.classes
    values = measured_values(training)
    model = training.model.eval()
    logits = model(training.test.inputs)
    hits = (logits.argmax(dim=1) == training.test.targets).float().mean()
    assert values["test_accuracy"] == pytest.approx(float(hits))
    expected = F.cross_entropy(logits, training.test.targets)
    assert values["test_loss"] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_records_become_columns_of_the_table(tmp_path: Path) -> None:
    recipe = Recipe.of(SMALL).with_values(
        {key.replace("__", "."): value for key, value in (CORRIDOR | DYNAMICS).items()}
    )
    run_sweep(recipe, tmp_path, workers=1, progress=False)
    runs = read_sweep(tmp_path).runs
    for column in ("dynamics.sharpness", "dynamics.mini_batch_norm", "test_accuracy"):
        assert runs[column].notna().all()


RECIPES = ("cifar10-vgg13-corridors", "cifar10-edge-of-stability", "cifar10-implicit-sgd")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_at_the_size_of_its_smoke(name: str, data_root: Path, tmp_path: Path) -> None:
    recipe = load_recipe(name).with_preset("smoke")
    summary = run_sweep(recipe, tmp_path, workers=1, data_root=data_root, progress=False)
    assert summary.n_failed == 0
    assert summary.n_done == summary.n_runs <= 4
    runs = read_sweep(tmp_path).runs
    assert runs["test_accuracy"].notna().all()
    assert runs["dynamics.gradient_norm"].notna().all()


@pytest.mark.parametrize("name", RECIPES)
def test_the_reduced_preset_plans_three_seeds(name: str) -> None:
    recipe = load_recipe(name).with_preset("reduced")
    assert recipe.seeds == 3
    assert isinstance(recipe.run_config(), RunConfig)
