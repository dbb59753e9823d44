"""Keys of recipes that regularise or randomise: what they change, record, and leave as it was."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import geocollapse as geo
from geocollapse.bounds import transfer_inequality
from geocollapse.data import LabelledData, random_labels, with_random_labels
from geocollapse.experiments.recipe import Recipe, RunConfig, run_id
from geocollapse.experiments.results.folders import RunFolder, load_model
from geocollapse.experiments.supervised import margin_record as margin_record_module
from geocollapse.experiments.supervised.margin_record import (
    margin_record,
    transfer_inequality_ratio,
)
from geocollapse.experiments.supervised.regularising import with_noise
from geocollapse.experiments.supervised.state import check_run, load_run_data, prepare
from geocollapse.experiments.supervised.train import (
    generator,
    measured_values,
    take_step,
    train_run,
)
from geocollapse.measurement import MarginReading, measure_margins
from geocollapse.models.architectures import scale_weights
from test_train import SMALL, config, history, outcome, train_until

SAME_CLASSES: dict[str, Any] = {
    "data__target_classes": None,
    "data__target_split": None,
    "data__test_split": "test",
}


def measured(**values: Any) -> RunConfig:
    return config(**SAME_CLASSES, measuring__margin=0.2, **values)


# Random labels


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_random_labels_is_exact_and_the_rest_keeps_its_own(share: float) -> None:
    plain, _ = load_run_data(config().data)
    mixed, _ = load_run_data(config(data__random_labels=share).data)
    rows, labels = random_labels(len(plain), plain.n_classes, share)
    assert len(rows) == round(share * len(plain))
    expected = plain.targets.clone()
    expected[rows] = labels
    assert torch.equal(mixed.targets, expected)
    assert torch.equal(mixed.inputs, plain.inputs)


def test_random_labels_depend_on_their_own_seed_alone() -> None:
    def targets(**values: Any) -> torch.Tensor:
        return prepare(config(data__random_labels=0.5, **values)).source.targets

    assert torch.equal(targets(), targets(training__learning_rate=0.1))
    recipe = Recipe.of(SMALL).with_values({"data.random_labels": 0.5})
    assert torch.equal(targets(), prepare(recipe.run_config(seed=3)).source.targets)
    assert not torch.equal(targets(), targets(data__random_labels_seed=1))


def test_a_larger_share_keeps_the_random_labels_of_a_smaller_one() -> None:
    few, of_few = random_labels(200, 10, 0.2)
    many, of_many = random_labels(200, 10, 0.7)
    drawn = dict(zip(many.tolist(), of_many.tolist(), strict=True))
    assert all(drawn[row] == label for row, label in zip(few.tolist(), of_few.tolist()))


def test_random_labels_are_uniform_over_the_classes() -> None:
    _, labels = random_labels(50_000, 10, 1.0)
    assert labels.bincount().min() > 4_700
    assert labels.bincount().max() < 5_300


def test_only_the_source_has_random_labels_and_the_data_say_so() -> None:
    source, target = load_run_data(config(data__random_labels=1.0).data)
    _, plain = load_run_data(config().data)
    assert target is not None
    assert plain is not None
    assert torch.equal(target.targets, plain.targets)
    assert source.notes[-1].startswith("data: the labels of 90 of 90 examples were drawn at random")
    changed = prepare(measured(data__random_labels=1.0))
    assert changed.test is not None
    assert not any("random" in note for note in changed.test.notes)


def test_a_share_outside_0_and_1_is_refused() -> None:
    source, _ = load_run_data(config().data)
    for share in (1.5, -0.2, math.nan):
        with pytest.raises(ValueError, match=f"share: expected a number from 0 to 1, got {share}"):
            with_random_labels(source, share)
        with pytest.raises(ValueError, match=f"share: expected a number from 0 to 1, got {share}"):
            random_labels(100, 10, share)
    with pytest.raises(ValueError, match=r"data.random_labels"):
        config(data__random_labels=1.5)


# Penalties, noise and the initial scale

ADDED: dict[str, dict[str, Any]] = {
    "l2": {"training__l2_penalty": 0.01},
    "spectral norm": {"training__spectral_norm_penalty": 0.05},
    "noise": {"training__input_noise": 0.3},
    "scale": {"model__initial_scale": 1.5},
    "random labels": {"data__random_labels": 0.5},
}


@pytest.mark.parametrize("name", ADDED)
def test_a_resumed_run_equals_an_uninterrupted_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = measured(**ADDED[name])
    train_run(run, RunFolder(tmp_path / "whole"))
    train_until(13, run, tmp_path / "resumed", monkeypatch)
    train_run(run, RunFolder(tmp_path / "resumed"))
    assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("name", ADDED)
def test_each_key_changes_the_run_and_its_default_does_not_name_it(name: str) -> None:
    plain = config()
    changed = config(**ADDED[name])
    defaults = {
        "training__l2_penalty": 0.0,
        "training__spectral_norm_penalty": 0.0,
        "training__input_noise": 0.0,
        "model__initial_scale": 1.0,
        "data__random_labels": 0.0,
        "measuring__margin": None,
        "measuring__transfer_inequality": None,
    }
    assert run_id(config(**defaults)) == run_id(plain)
    assert run_id(changed) != run_id(plain)
    a, b = prepare(plain), prepare(changed)
    for _ in range(3):
        take_step(a)
        take_step(b)
    assert not torch.equal(a.model.classifier.weight, b.model.classifier.weight)


def test_the_vectors_of_the_spectral_norm_are_needed_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a run that forgets them ends elsewhere."""
    run = measured(**ADDED["spectral norm"])
    train_run(run, RunFolder(tmp_path / "whole"))
    train_until(13, run, tmp_path / "resumed", monkeypatch)
    monkeypatch.setattr(
        "geocollapse.experiments.supervised.regularising.WeightPenalties.load", lambda *_: None
    )
    train_run(run, RunFolder(tmp_path / "resumed"))
    assert outcome(tmp_path / "resumed") != outcome(tmp_path / "whole")


def test_the_l2_penalty_trains_as_the_weight_decay_of_plain_sgd() -> None:
    a = prepare(config(training__l2_penalty=0.05, training__momentum=0.0))
    b = prepare(config(training__weight_decay=0.05, training__momentum=0.0))
    for _ in range(5):
        take_step(a)
        take_step(b)
    for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_strong_spectral_norm_penalty_lowers_the_spectral_norms() -> None:
    plain, penalised = prepare(config()), prepare(config(training__spectral_norm_penalty=0.2))
    for _ in range(18):
        take_step(plain)
        take_step(penalised)
    norms = [geo.regularizers.spectral_norms(run.model) for run in (plain, penalised)]
    assert all(b < a for a, b in zip(norms[0].values(), norms[1].values(), strict=True))


def test_noise_has_its_deviation_and_depends_on_seed_and_step() -> None:
    x = torch.zeros(400, 100)
    a = with_noise(x, 0.3, generator(0, "input noise", 5))
    assert float(a.std()) == pytest.approx(0.3, rel=0.02)
    assert torch.equal(a, with_noise(x, 0.3, generator(0, "input noise", 5)))
    assert not torch.equal(a, with_noise(x, 0.3, generator(0, "input noise", 6)))
    assert not torch.equal(a, with_noise(x, 0.3, generator(1, "input noise", 5)))


def test_the_initial_scale_multiplies_weights_and_no_biases() -> None:
    plain, scaled = prepare(config()).model, prepare(config(model__initial_scale=2.0)).model
    for (name, p), q in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(q, (2.0 if name.endswith("weight") else 1.0) * p)
    before = plain.classifier.weight.clone()
    scale_weights(plain, 1.0)
    assert torch.equal(plain.classifier.weight, before)


# What is recorded


def test_the_margin_record_is_what_direct_calls_give(tmp_path: Path) -> None:
    run = measured()
    result = train_run(run, RunFolder(tmp_path))
    training = prepare(run)
    model = load_model(tmp_path).model
    assert result["final"] is not None
    found = result["final"]["margin"]
    z = model(training.source.inputs)
    m = geo.bounds.margins(z, training.source.targets)
    gamma = geo.bounds.MarginQuantile.of(m, 0.2).value
    assert found["gamma"] == pytest.approx(gamma, rel=1e-6)
    gc = geo.geometric_complexity(
        model, (training.source.inputs, training.source.targets), layer=""
    )
    assert found["geometric_complexity"]["value"] == pytest.approx(gc.value, rel=1e-5)
    assert found["margin_complexity"]["value"] == pytest.approx(gc.value / gamma**2, rel=1e-5)
    assert found["train_error"] == pytest.approx(1.0 - result["final"]["train_accuracy"])
    assert training.test is not None
    right = model(training.test.inputs).argmax(dim=1) == training.test.targets
    assert found["test_error"] == pytest.approx(1.0 - float(right.double().mean()))
    assert found["gap"] == pytest.approx(found["test_error"] - found["train_error"])
    risk = geo.bounds.empirical_margin_risk(m, gamma).value
    assert found["train_risk"] == pytest.approx(risk, rel=1e-5)
    assert found["excess_risk"] == pytest.approx(found["test_error"] - risk, abs=1e-6)


def test_margins_are_recorded_from_initialisation_on(tmp_path: Path) -> None:
    train_run(measured(), RunFolder(tmp_path))
    lines = history(tmp_path)
    assert [line["step"] for line in lines] == [0, 6, 12, 18]
    assert lines[0]["margin"]["gamma"] < 0.0  # untrained: wrong on more than a fifth
    assert lines[0]["margin"]["margin_complexity"]["value"] is None
    assert lines[0]["margin"]["train_risk"] is None
    assert lines[0]["margin"]["excess_risk"] is None
    assert lines[0]["margin"]["geometric_complexity"]["value"] > 0.0
    assert any("undefined" in note for note in lines[0]["margin"]["warnings"])


def test_nothing_is_recorded_that_the_recipe_does_not_ask_for(tmp_path: Path) -> None:
    train_run(config(), RunFolder(tmp_path))
    assert all(
        {"margin", "transfer_inequality_ratio"}.isdisjoint(line) for line in history(tmp_path)
    )
    training = prepare(config())
    assert margin_record(training.model, training.source, None, training.config) is None


def test_the_test_split_is_read_once_a_record() -> None:
    def rows_read(test: LabelledData | None) -> int:
        training = prepare(measured())
        n_rows: list[int] = []
        training.model.register_forward_hook(lambda _, given, __: n_rows.append(len(given[0])))
        values = measured_values(replace(training, test=test))
        assert ("test_loss" in values) == (values["margin"]["gap"] is not None)
        assert ("test_loss" in values) == (test is not None)
        return sum(n_rows)

    test = prepare(measured()).test
    assert test is not None
    assert rows_read(test) - rows_read(None) == len(test)


def test_without_a_test_split_there_is_no_gap(tmp_path: Path) -> None:
    train_run(config(measuring__margin=0.2), RunFolder(tmp_path))
    record = history(tmp_path)[-1]["margin"]
    assert record["test_error"] is None
    assert record["gap"] is None


def test_a_record_does_not_change_the_run(tmp_path: Path) -> None:
    train_run(config(), RunFolder(tmp_path / "plain"))
    run = config(measuring__margin=0.2, measuring__transfer_inequality=20)
    train_run(run, RunFolder(tmp_path / "measured"))
    a, b = (load_model(tmp_path / name).model for name in ("plain", "measured"))
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_transfer_inequality_of_a_dense_network_is_a_column(tmp_path: Path) -> None:
    run = config(measuring__transfer_inequality=20)
    train_run(run, RunFolder(tmp_path))
    ratios = [line["transfer_inequality_ratio"] for line in history(tmp_path)]
    assert len(ratios) == 4
    assert all(0.0 < ratio <= 1.0 for ratio in ratios)
    source, _ = load_run_data(run.data)
    chosen = source.select(subset=20)
    model = load_model(tmp_path).model
    found = transfer_inequality(model, chosen.inputs, lambda z: z[torch.arange(20), chosen.targets])
    assert ratios[-1] == pytest.approx(found.ratio, rel=1e-6)


def test_the_transfer_inequality_of_convolutions_is_refused(tmp_path: Path) -> None:
    run = config(measuring__transfer_inequality=20, model__name="small_cnn", model__args={})
    with pytest.raises(ValueError, match="expected linear layers and element-wise activations"):
        train_run(run, RunFolder(tmp_path))
    training = prepare(run)
    unasked = config().measuring
    assert transfer_inequality_ratio(training.model, training.source, unasked) is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model__name": "small_cnn", "model__args": {}}, "model: .* got Conv2d in 'features.0'"),
        ({"measuring__transfer_inequality": 2}, "subset: expected 3 to 90 examples, got 2"),
        ({"measuring__transfer_inequality": 91}, "subset: expected 3 to 90 examples, got 91"),
    ],
)
def test_a_sweep_without_a_transfer_inequality_ends_before_it_trains(
    values: dict[str, Any], words: str
) -> None:
    run = config(**{"measuring__transfer_inequality": 20} | values)
    with pytest.raises(ValueError, match=f"^measuring.transfer_inequality: {words}"):
        check_run(run)
    check_run(config(measuring__transfer_inequality=20))


@pytest.mark.parametrize("name", ["gc_penalty", "gradient_penalty"])
def test_a_sweep_whose_penalty_refuses_batch_norm_ends_before_it_trains(name: str) -> None:
    values = {"model__name": "resnet18", "model__args": {"width": 4}}
    check_run(config(**values))
    with pytest.raises(ValueError, match=f"^training.{name}: model: expected no batch norm"):
        check_run(config(**values, **{f"training__{name}__weight": 0.1}))
    running = {f"training__{name}__weight": 0.1, f"training__{name}__batch_norm": "running"}
    check_run(config(**values, **running))


def test_a_ctrl_c_in_a_margin_pass_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any, **settings: Any) -> MarginReading:
        found = measure_margins(*given, **settings)
        return replace(found, complexity=replace(found.complexity, interrupted=True))

    monkeypatch.setattr(margin_record_module, "measure_margins", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_run(measured(), RunFolder(tmp_path))
    assert not (tmp_path / "history.jsonl").exists() or history(tmp_path) == []
