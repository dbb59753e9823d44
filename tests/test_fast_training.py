"""Training without waits for the device: losses watched in batches, the stopping rule that ends
early, channels-last, other losses, and where the time of a run went.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from geocollapse.experiments.recipe import Recipe, RunConfig, run_id
from geocollapse.experiments.results.folders import RunFolder
from geocollapse.experiments.results.tables import read_sweep
from geocollapse.experiments.supervised import train
from geocollapse.experiments.supervised.losses import LossWatch, NonFiniteLossError, loss_of
from geocollapse.experiments.supervised.recording import reaches
from geocollapse.experiments.supervised.state import Training, prepare
from geocollapse.experiments.supervised.train import take_step, train_run
from geocollapse.experiments.sweep import run_sweep
from test_train import SMALL, config, history, outcome, train_until

IMAGES: dict[str, Any] = {"model__name": "small_cnn", "model__args": {"width": 4}}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_look_names_the_first_loss_that_is_not_finite(bad: float) -> None:
    watch = LossWatch(look_every=10)
    for step, loss in enumerate([0.5, 0.4, bad, math.nan], start=20):
        watch.add(step, torch.tensor(loss, requires_grad=True))
    with pytest.raises(NonFiniteLossError, match=f"got {bad} at step 22"):
        watch.look()
    watch.look()  # what was seen is not seen again


def test_the_watch_looks_by_itself_when_it_is_full() -> None:
    watch = LossWatch(look_every=3)
    watch.add(0, torch.tensor(math.nan))
    watch.add(1, torch.tensor(1.0))
    with pytest.raises(NonFiniteLossError, match="at step 0"):
        watch.add(2, torch.tensor(1.0))


def losses_until(run: RunConfig, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loss be NaN from step ``first`` on."""

    def loss(training: Training, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        value = loss_of(training.model(x), y, run.training)
        return value * (math.nan if training.progress.step >= first else 1.0)

    monkeypatch.setattr(train, "objective_of", loss)


@pytest.mark.parametrize("first", [0, 3, 6, 11])
def test_a_failed_run_names_the_step_of_the_loss_not_that_of_the_look(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config()
    losses_until(run, first, monkeypatch)
    result = train_run(run, RunFolder(tmp_path / "run"))
    assert (result["status"], result["failed_step"]) == ("failed", first)
    assert f"expected a finite number, got nan at step {first};" in result["error"]
    steps = [line["step"] for line in history(tmp_path / "run")]
    assert steps == [step for step in (0, 6, 12, 18) if step <= first]  # none from behind it
    saved = RunFolder(tmp_path / "run").load_checkpoint(run_id(run))
    assert saved is not None
    assert all(torch.isfinite(weight).all() for weight in saved.weights.values())


def test_an_error_of_a_network_that_has_diverged_is_its_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config()
    losses_until(run, 2, monkeypatch)

    def step_or_fail(training: Training) -> None:
        if training.progress.step == 4:
            raise RuntimeError("no such number")
        take_step(training)

    monkeypatch.setattr(train, "take_step", step_or_fail)
    result = train_run(run, RunFolder(tmp_path / "run"))
    assert result["failed_step"] == 2


def test_other_errors_of_a_step_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(training: Training) -> None:
        raise RuntimeError("no such number")

    monkeypatch.setattr(train, "take_step", fail)
    with pytest.raises(RuntimeError, match="no such number"):
        train_run(config(), RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("penalty", ["gc_penalty", "gradient_penalty"])
def test_a_diverging_run_with_a_penalty_fails_at_its_step(tmp_path: Path, penalty: str) -> None:
    run = config(
        training__learning_rate=1e18,
        training__max_steps=100,
        **{f"training__{penalty}.weight": 1e-3},
    )
    result = train_run(run, RunFolder(tmp_path / "run"))
    assert result["status"] == "failed"
    assert 1 <= result["failed_step"] < 10


@pytest.mark.parametrize("batch_size", [7, 30, 1000])
def test_the_stopping_rule_that_ends_early_decides_like_the_accuracy(batch_size: int) -> None:
    training = prepare(config())
    data = training.source
    for _ in range(12):
        take_step(training)
    training.model.eval()
    hits = int((training.model(data.inputs).argmax(dim=1) == data.targets).sum())
    assert 0 < hits < len(data)
    training.model.train()
    for count in (hits - 1, hits, hits + 1, len(data)):
        reached = reaches(training.model, data, count / len(data), batch_size=batch_size)
        assert reached == (hits >= count)
    assert training.model.training


def test_the_stopping_rule_ends_as_soon_as_too_many_are_missed() -> None:
    training = prepare(config())
    calls: list[int] = []
    training.model.register_forward_hook(lambda *_: calls.append(1))
    wrong = type(training.source)(
        training.source.inputs, torch.full_like(training.source.targets, 3), training.source.about
    )
    assert not reaches(training.model, wrong, 0.99, batch_size=10)
    assert len(calls) == 1


def test_channels_last_computes_the_same_up_to_rounding() -> None:
    plain, last = (
        prepare(config(**IMAGES, training__memory_format=kind))
        for kind in ("contiguous", "channels_last")
    )
    weight = next(p for p in last.model.parameters() if p.ndim == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert train._next_batch(last)[0].is_contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        take_step(plain)
        take_step(last)
    for one, two in zip(plain.model.parameters(), last.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_channels_last_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = config(**IMAGES, training__memory_format="channels_last")
    train_run(run, RunFolder(tmp_path / "whole"))
    train_until(13, run, tmp_path / "resumed", monkeypatch)
    train_run(run, RunFolder(tmp_path / "resumed"))
    assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole")


def test_squared_loss_is_half_the_squared_distance_from_the_label() -> None:
    settings = config(training__loss="squared").training
    z = torch.tensor([[1.0, 0.0, 2.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    y = torch.tensor([0, 1])
    expected = torch.tensor([(0 + 0 + 4) / 2, (0.25 + 0.25) / 2], dtype=torch.float64)
    assert loss_of(z, y, settings, "sum").item() == pytest.approx(expected.sum().item())
    assert loss_of(z, y, settings).item() == pytest.approx(expected.mean().item())


def test_a_run_with_the_squared_loss_records_it(tmp_path: Path) -> None:
    run = config(training__loss="squared", training__learning_rate=0.01)
    final = train_run(run, RunFolder(tmp_path / "run"))["final"]
    training = prepare(run)
    saved = RunFolder(tmp_path / "run").load_checkpoint(run_id(run))
    assert saved is not None
    training.model.load_state_dict(saved.weights)
    z, y = training.model(training.source.inputs), training.source.targets
    expected = 0.5 * (z - F.one_hot(y, 3)).square().sum(dim=1).mean()
    assert final["train_loss"] == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"training__loss": "squared", "training__label_smoothing": 0.1},
            "label_smoothing: expected 0 with the loss squared, got 0.1",
        ),
        ({"training__loss": "hinge"}, "training.loss: expected 'cross_entropy' or 'squared'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        config(**values)


def test_n_classes_are_the_first_source_classes() -> None:
    run = config(data__source_classes=[2, 0, 1], data__n_classes=2, data__subset=40)
    training = prepare(run)
    assert training.source.classes == ["2", "0"]
    assert torch.bincount(training.source.targets).tolist() == [20, 20]
    assert training.target is not None
    assert training.target.classes == ["3", "4", "5"]
    with pytest.raises(ValueError, match="data.n_classes: expected at most the 3 source classes"):
        prepare(config(data__n_classes=4))


def test_a_run_says_where_its_time_went(tmp_path: Path) -> None:
    study = {"repeats": 2, "n_samples": [30]}
    result = train_run(config(measuring__sampling=study), RunFolder(tmp_path / "run"))
    parts = [result[f"seconds_{part}"] for part in ("training", "history", "final")]
    assert all(part > 0 for part in [*parts, result["seconds_sampling"]])
    assert sum(parts) == pytest.approx(result["seconds"])
    final = result["final"]
    assert parts[1] + parts[2] == pytest.approx(final["seconds_measuring"])


def test_the_table_has_the_times_and_reads_results_without_them(tmp_path: Path) -> None:
    recipe = Recipe.of(SMALL | {"seeds": 2})
    run_sweep(recipe, tmp_path, workers=1, progress=False)
    path = next(tmp_path.glob("runs/*/result.json"))
    result = json.loads(path.read_text())
    old = {key: value for key, value in result.items() if not key.startswith("seconds_")}
    path.write_text(json.dumps(old))
    runs = read_sweep(tmp_path).runs.set_index("run_id")
    for part in ("training", "history", "final", "sampling"):
        column = runs[f"seconds_{part}"]
        assert math.isnan(column[path.parent.name])
        assert column.drop(path.parent.name).iloc[0] >= 0


def test_records_without_single_classes_have_all_other_values(tmp_path: Path) -> None:
    whole = train_run(config(), RunFolder(tmp_path / "whole"))["final"]
    lean = train_run(config(measuring__per_class=False), RunFolder(tmp_path / "lean"))["final"]
    for population in ("source", "target"):
        one, two = whole[population], lean[population]
        assert len(one.pop("geometric_complexity_per_class")) == 3
        assert len(one["poincare_ratio"].pop("per_class")) == 3
        assert two.pop("geometric_complexity_per_class") == {}
        assert two["poincare_ratio"].pop("per_class") == {}
        assert one == two


def test_a_history_of_a_subset_and_a_final_record_of_all(tmp_path: Path) -> None:
    values: dict[str, Any] = {"training__stop_accuracy": 0.5, "training__max_steps": 400}
    whole = train_run(config(**values), RunFolder(tmp_path / "whole"))
    subset = train_run(
        config(**values, measuring__history_subset=30), RunFolder(tmp_path / "subset")
    )
    lines = history(tmp_path / "subset")
    assert len(lines) > 2
    assert {line["source"]["n_samples"] for line in lines[:-1]} == {30}
    assert {line["target"]["n_samples"] for line in lines[:-1]} == {30}
    assert lines[-1]["source"]["n_samples"] == 90
    final = subset["final"]
    assert final["source"]["n_samples"] == final["target"]["n_samples"] == 90
    # the rule looks at the end of each epoch, and a record of all examples in between as well
    assert whole["stop_step"] <= subset["stop_step"]
    assert subset["stop_step"] % 5 == 0
    assert subset["steps"] == 2 * subset["stop_step"] == final["step"]
