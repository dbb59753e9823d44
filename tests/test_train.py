"""One run: resumed bit for bit, stopped by the rule, recorded with everything that definitions 8
ask for.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.nn import functional as F

from geocollapse.experiments.recipe import Recipe, RunConfig, TrainingConfig, run_id
from geocollapse.experiments.results.folders import RunFolder, load_model
from geocollapse.experiments.supervised import train
from geocollapse.experiments.supervised.losses import NonFiniteLossError
from geocollapse.experiments.supervised.optimizers import OPTIMIZERS, load_state, pack_state
from geocollapse.experiments.supervised.recording import (
    loss_and_flatness,
    measure_record,
    recalibrate_batch_norm,
)
from geocollapse.experiments.supervised.sampling import study_sampling, study_seed
from geocollapse.experiments.supervised.state import (
    Progress,
    Training,
    check_run,
    prepare,
    resume,
    save,
)
from geocollapse.experiments.supervised.train import (
    record_steps,
    take_step,
    train_run,
)

SMALL: dict[str, Any] = {
    "name": "small",
    "title": "A few steps on a few digits",
    "data": {
        "name": "digits",
        "source_classes": [0, 1, 2],
        "target_classes": [3, 4, 5],
        "target_split": "train",
        "subset": 90,
        "target_subset": 90,
    },
    "model": {"name": "mlp", "args": {"hidden": [12, 8]}},
    "training": {
        "learning_rate": 0.05,
        "batch_size": 16,
        "momentum": 0.9,
        "max_steps": 18,
        "stop_accuracy": 1.0,
    },
    "measuring": {"every": 6, "points": None},
    "transfer": {"n_way": 3, "k_shots": [1, 5], "n_query": 5, "n_episodes": 20},
}


def config(**values: Any) -> RunConfig:
    """The small run with dotted keys set; ``training__max_steps=3`` stands for
    ``training.max_steps``.
    """
    return Recipe.of(SMALL).run_config(
        {key.replace("__", "."): value for key, value in values.items()}
    )


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def timeless(value: Any) -> Any:
    """Without the times, which no two runs share."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not key.startswith("seconds")}
    return value


def outcome(folder: Path) -> tuple[Any, Any, bytes]:
    result = json.loads((folder / "result.json").read_text())
    return (
        timeless({key: value for key, value in result.items() if key != "history_sha256"}),
        [timeless(line) for line in history(folder)],
        (folder / "checkpoint.safetensors").read_bytes(),
    )


def train_until(step: int, run: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and be killed before the update that follows ``step``."""

    def kill_or_step(training: Training) -> None:
        if training.progress.step == step:
            raise KeyboardInterrupt
        take_step(training)

    with monkeypatch.context() as patch:
        patch.setattr(train, "take_step", kill_or_step)
        with pytest.raises(KeyboardInterrupt):
            train_run(run, RunFolder(folder))


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_momentum": {"training__momentum": 0.0},
    "adamw": {
        "training__optimizer": "adamw",
        "training__momentum": 0.0,
        "training__weight_decay": 0.1,
        "training__learning_rate": 0.01,
    },
    "penalty": {"training__gc_penalty.weight": 1e-3, "training__gc_penalty.every": 2},
    "batch_norm": {
        "model__name": "small_cnn",
        "model__args": {"width": 4},
        "data__augmentation": "crop_flip",
        "training__schedule": "cosine",
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [3, 13])
def test_resumed_run_equals_uninterrupted_one(
    variant: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(**VARIANTS[variant])
    train_run(run, RunFolder(tmp_path / "whole"))
    train_until(step, run, tmp_path / "resumed", monkeypatch)
    assert not (tmp_path / "resumed" / "result.json").exists()
    train_run(run, RunFolder(tmp_path / "resumed"))
    assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole")


def test_run_saved_by_version_1_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There state.safetensors held momentum buffers under the names of the parameters."""
    run = config()
    train_run(run, RunFolder(tmp_path / "whole"))
    folder = RunFolder(tmp_path / "resumed")
    train_until(13, run, folder.path, monkeypatch)
    saved = folder.load_checkpoint()
    assert saved is not None
    names = [name for name in saved.weights if name.endswith(("weight", "bias"))]
    buffers = {name: saved.tensors[f"momentum_buffer/{name}"] for name in names}
    assert len(buffers) == len(saved.tensors)
    del saved.info["optimizer"]
    folder.save_checkpoint(saved.weights, buffers, saved.info)
    state = json.loads(folder.file("state.json").read_text())
    del state["schema_version"]
    folder.file("state.json").write_text(json.dumps(state))
    train_run(run, folder)
    assert outcome(folder.path) == outcome(tmp_path / "whole")


def equal(one: Any, two: Any) -> bool:
    """Nested values that are the same to the bit and to the type."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and all(equal(a, b) for a, b in zip(one, two, strict=True))
    return type(one) is type(two) and one == two


@pytest.mark.parametrize("variant", ["plain", "no_momentum", "adamw"])
def test_whole_state_of_the_optimizer_comes_back(variant: str, tmp_path: Path) -> None:
    one, two = (prepare(config(**VARIANTS[variant])) for _ in range(2))
    folder = RunFolder(tmp_path / "run")
    for _ in range(3):
        take_step(one)
    folder.append_history({"step": 3})
    save(one, folder)
    resume(two, folder)
    assert equal(one.optimizer.state_dict(), two.optimizer.state_dict())
    take_step(one)
    take_step(two)
    assert equal(one.model.state_dict(), two.model.state_dict())


def test_state_of_an_optimizer_that_is_not_plain_is_refused() -> None:
    training = prepare(config())
    training.optimizer.param_groups[0]["limit"] = float("inf")
    tensors, packed = pack_state(training.optimizer, training.model)
    again = prepare(config())
    load_state(again.optimizer, again.model, tensors, json.loads(json.dumps(packed)))
    assert again.optimizer.param_groups[0]["limit"] == float("inf")
    training.optimizer.param_groups[0]["limit"] = object()
    with pytest.raises(TypeError, match="optimizer: expected a state of tensors and plain values"):
        pack_state(training.optimizer, training.model)


def test_every_optimizer_of_a_recipe_can_be_built() -> None:
    assert set(OPTIMIZERS) == set(get_args(TrainingConfig.model_fields["optimizer"].annotation))


def test_adamw_decouples_weight_decay_and_takes_the_schedule() -> None:
    training = prepare(config(**VARIANTS["adamw"]))
    reference = copy.deepcopy(training.model)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        x, y = train._next_batch(training)
        take_step(training)
        optimizer.zero_grad()
        F.cross_entropy(reference(x), y).backward()
        optimizer.step()
    assert equal(training.model.state_dict(), reference.state_dict())
    assert isinstance(training.optimizer, torch.optim.AdamW)


def test_history_is_cut_back_to_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run(config(), RunFolder(tmp_path / "whole"))
    train_until(9, config(), tmp_path / "run", monkeypatch)
    lines = history(tmp_path / "run")
    with (tmp_path / "run" / "history.jsonl").open("a") as file:
        file.write(json.dumps(lines[-1] | {"step": 8}) + '\n{"step": 9, "epo')
    train_run(config(), RunFolder(tmp_path / "run"))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}


def test_run_killed_at_any_rename_keeps_every_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 44 moments, 8 lost a kept checkpoint and 16 started again from step 0."""
    run = config(
        training__max_steps=3,
        measuring__every=1,
        keep_checkpoints="schedule",
        data__target_classes=None,
        data__target_split=None,
    )
    train_run(run, RunFolder(tmp_path / "whole"))
    rename = Path.replace
    n_renames = 0
    while True:
        folder = tmp_path / f"killed-{n_renames}"
        left = n_renames

        def rename_or_die(path: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", rename_or_die)
            try:
                train_run(run, RunFolder(folder))
                break
            except KeyboardInterrupt:
                n_renames += 1
        if (folder / "state.json").is_file():
            assert RunFolder(folder).load_checkpoint() is not None
        train_run(run, RunFolder(folder))
        assert outcome(folder) == outcome(tmp_path / "whole")
        assert kept(folder) == kept(tmp_path / "whole")
        assert not list(folder.rglob("*.corrupt"))
        assert {path.name for path in folder.iterdir()} == {
            path.name for path in (tmp_path / "whole").iterdir()
        }
    assert n_renames > 20


@pytest.mark.parametrize("fault", ["weights", "optimizer", "tensor"])
def test_checkpoint_that_does_not_fit_starts_the_run_anew(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was once a bare KeyError or RuntimeError."""
    run = config()
    train_run(run, RunFolder(tmp_path / "whole"))
    folder = RunFolder(tmp_path / "run")
    train_until(13, run, folder.path, monkeypatch)
    saved = folder.load_checkpoint()
    assert saved is not None
    weights, info = saved.weights, copy.deepcopy(saved.info)
    name = next(name for name in weights if name.endswith("weight"))
    if fault == "weights":
        weights = weights | {name: weights[name][:, :-1]}
    if fault == "optimizer":
        info["optimizer"]["state"]["new"] = {}
    if fault == "tensor":
        info["optimizer"]["state"][name]["momentum_buffer"] = {"tensor": "none"}
    folder.save_checkpoint(weights, saved.tensors, info)
    train_run(run, folder)
    assert "state.json set aside" in folder.problems[0]
    assert outcome(folder.path) == outcome(tmp_path / "whole")


def test_history_of_another_run_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [config(), config(training__learning_rate=0.02)]
    for number, run in enumerate(runs):
        train_until(13, run, tmp_path / str(number), monkeypatch)
        train_run(run, RunFolder(tmp_path / f"whole-{number}"))
    for number in (0, 1):
        lines = (tmp_path / str(1 - number) / "history.jsonl").read_bytes()
        (tmp_path / str(number) / "history.new").write_bytes(lines)
    folder = RunFolder(tmp_path / "0")
    folder.file("history.new").replace(folder.file("history.jsonl"))
    train_run(runs[0], folder)
    assert "history.jsonl set aside" in folder.problems[0]
    assert outcome(folder.path) == outcome(tmp_path / "whole-0")
    other = RunFolder(tmp_path / "1")
    for name in ("history.jsonl", "state.json", "state.safetensors", "checkpoint.safetensors"):
        source = tmp_path / ("0" if name == "history.jsonl" else "whole-0") / name
        other.file(name).write_bytes(source.read_bytes())
    train_run(runs[1], other)
    assert "state.json set aside" in other.problems[0]
    assert "it is of run" in other.problems[0]
    assert outcome(other.path) == outcome(tmp_path / "whole-1")


def test_image_size_and_classes_by_name(tmp_path: Path) -> None:
    from PIL import Image

    for name, shade in (("ant", 40), ("bee", 200), ("cow", 90)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            image = Image.new("RGB", (20, 10), (shade + number, shade, 255 - shade))
            image.save(tmp_path / "images" / name / f"{number}.png")
    run = config(
        data__name=f"folder:{tmp_path / 'images'}",
        data__source_classes=["cow", "ant"],
        data__target_classes=None,
        data__target_split=None,
        data__subset=None,
        data__image_size=8,
        training__batch_size=4,
        training__max_steps=1,
    )
    training = prepare(run)
    assert training.source.inputs.shape == (8, 3, 8, 8)
    assert training.source.classes == ["cow", "ant"]
    train_run(run, RunFolder(tmp_path / "run"))
    assert load_model(tmp_path / "run").normalisation.image_size == 8


def test_record_holds_every_quantity(tmp_path: Path) -> None:
    result = train_run(config(), RunFolder(tmp_path / "run"))
    lines = history(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 6, 12, 18]
    for line in [*lines, result["final"]]:
        assert line["learning_path_flatness"] > 0
        assert line["train_loss"] > 0
        assert line["examples_seen"] == 16 * line["step"]
        assert line["epoch"] == line["step"] / 5
        assert 0 < line["seconds_measuring"] <= line["seconds"]
        assert line["source"]["geometric_complexity"]["value"] > 0
        assert line["source"]["cdnv"] > 0
        assert line["source"]["accuracy"] == line["train_accuracy"]
        assert line["target"]["geometric_complexity"]["value"] > 0
        assert 0 <= line["target"]["accuracy"]["nearest_mean"]["5"]["value"] <= 1
        assert line["target"]["nc3"] is None
        assert line["source"]["nc3"] is not None
    assert result["steps"] == 18
    assert result["provenance"]["seed"] == 0
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())


def test_run_without_target_classes(tmp_path: Path) -> None:
    run = config(data__target_classes=None, data__target_split=None, training__max_steps=2)
    assert train_run(run, RunFolder(tmp_path / "run"))["final"]["target"] is None


def test_stopping_rule_takes_as_many_steps_again(tmp_path: Path) -> None:
    run = config(training__stop_accuracy=0.5, training__max_steps=400, training__extra_factor=1.5)
    result = train_run(run, RunFolder(tmp_path / "run"))
    assert result["converged"]
    assert result["status"] == "done"
    assert (
        result["stop_step"] % 5 == 0 or result["stop_step"] % 6 == 0
    )  # the end of an epoch, or a record
    assert (
        result["steps"]
        == result["stop_step"] + -(-3 * result["stop_step"] // 2)
        == result["final"]["step"]
    )
    seen = [
        line["train_accuracy"]
        for line in history(tmp_path / "run")
        if line["step"] < result["stop_step"]
    ]
    assert max(seen) < 0.5


@pytest.mark.parametrize(("stop_accuracy", "reached"), [(1.0, False), (0.5, True)])
def test_limit_of_steps_comes_first(stop_accuracy: float, reached: bool, tmp_path: Path) -> None:
    run = config(training__stop_accuracy=stop_accuracy, training__extra_factor=100.0)
    result = train_run(run, RunFolder(tmp_path / "run"))
    assert result["status"] == "done"
    assert not result["converged"]
    assert result["steps"] == 18
    assert (result["stop_step"] is not None) == reached


@pytest.mark.parametrize(("accuracy", "converged"), [(0.99, True), (0.98, False), (0.146, False)])
def test_a_run_that_ends_below_its_goal_has_not_converged(accuracy: float, converged: bool) -> None:
    progress = Progress(step=20, stop_step=10)
    assert (
        progress.is_converged(config(training__stop_accuracy=0.99).training, accuracy) == converged
    )


def test_non_finite_loss_is_a_failed_run_with_its_step(tmp_path: Path) -> None:
    run = config(training__learning_rate=1e18, training__max_steps=100)
    result = train_run(run, RunFolder(tmp_path / "run"))
    assert result["status"] == "failed"
    assert not result["converged"]
    assert result["final"] is None
    assert 1 <= result["failed_step"] < 10
    assert f"at step {result['failed_step']}" in result["error"]
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result


def test_the_model_of_a_failed_run_is_refused(tmp_path: Path) -> None:
    run = config(training__learning_rate=1e18, training__max_steps=100)
    folder = tmp_path / run_id(run)
    result = train_run(run, RunFolder(folder))
    with pytest.raises(ValueError, match=f"failed at step {result['failed_step']}; do name"):
        load_model(folder)


def test_diverged_weights_are_found_when_they_are_recorded(tmp_path: Path) -> None:
    training = prepare(config())
    with torch.no_grad():
        next(training.model.parameters()).fill_(float("nan"))
    with pytest.raises(
        NonFiniteLossError, match="training loss: expected a finite number, got nan at step 0"
    ):
        train._measured(training, recalibrated=False)


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    train_run(config(**VARIANTS["batch_norm"]), RunFolder(tmp_path / "one"))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    train_run(config(**VARIANTS["batch_norm"]), RunFolder(tmp_path / "two"))
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")


def test_seeds_differ_in_weights_and_order_not_in_data() -> None:
    one, two = (prepare(config().model_copy(update={"seed": seed})) for seed in (0, 1))
    assert torch.equal(one.source.inputs, two.source.inputs)
    assert not torch.equal(next(one.model.parameters()), next(two.model.parameters()))
    assert not torch.equal(train._next_batch(one)[1], train._next_batch(two)[1])


def test_epoch_shows_each_example_once_without_the_partial_batch() -> None:
    training = prepare(config())
    seen = []
    for _ in range(training.steps_per_epoch):
        seen += [row.numpy().tobytes() for row in train._next_batch(training)[0]]
        training.progress.step += 1
    known = {row.numpy().tobytes() for row in training.source.inputs}
    assert len(seen) == 80 == len(set(seen))
    assert set(seen) <= known


def test_penalty_lowers_geometric_complexity(tmp_path: Path) -> None:
    values = {"training__max_steps": 60, "measuring__every": 60}
    plain = train_run(config(**values), RunFolder(tmp_path / "plain"))
    penalised = train_run(
        config(**values, **{"training__gc_penalty.weight": 0.05}), RunFolder(tmp_path / "penalised")
    )
    gc = [run["final"]["source"]["geometric_complexity"]["value"] for run in (plain, penalised)]
    assert gc[1] < 0.5 * gc[0]


def test_flatness_is_the_squared_gradient_of_the_loss() -> None:
    training = prepare(config())
    model, data = training.model.double(), training.source
    data = type(data)(data.inputs.double(), data.targets, data.about)
    settings = config(training__label_smoothing=0.1).training
    loss = F.cross_entropy(model(data.inputs), data.targets, label_smoothing=0.1)
    expected = sum(
        float(g.square().sum()) for g in torch.autograd.grad(loss, list(model.parameters()))
    )
    for batch_size in (7, 90):
        mean, _, flatness = loss_and_flatness(model, data, settings, batch_size=batch_size)
        assert mean == pytest.approx(float(loss.detach()), rel=1e-12)
        assert flatness == pytest.approx(expected, rel=1e-10)


def test_final_record_has_fresh_batch_norm_statistics(tmp_path: Path) -> None:
    result = train_run(config(**VARIANTS["batch_norm"]), RunFolder(tmp_path / "run"))
    last = history(tmp_path / "run")[-1]
    assert result["final"]["batch_norm_recalibrated"]
    assert not last["batch_norm_recalibrated"]
    assert last["step"] == result["final"]["step"]
    assert last["train_loss"] != result["final"]["train_loss"]


def test_recalibration_does_not_depend_on_the_statistics_before() -> None:
    training = prepare(config(**VARIANTS["batch_norm"]))
    recalibrate_batch_norm(training.model, training.source, batch_size=16)
    first = {name: value.clone() for name, value in training.model.named_buffers()}
    take_step(training)
    prepare_again = prepare(config(**VARIANTS["batch_norm"])).model.state_dict()
    training.model.load_state_dict(
        prepare_again | {name: value + 1 for name, value in first.items()}
    )
    recalibrate_batch_norm(training.model, training.source, batch_size=16)
    assert all(torch.equal(value, first[name]) for name, value in training.model.named_buffers())


def test_record_leaves_the_model_alone() -> None:
    training = prepare(config(**VARIANTS["batch_norm"]))
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.model.train()
    measure_record(training.model, training.source, training.target, training.config)
    assert training.model.training
    assert all(p.requires_grad and p.grad is None for p in training.model.parameters())
    assert all(
        torch.equal(value, before[name]) for name, value in training.model.state_dict().items()
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [1.0, 1.0, 1.0]),
        ({"training__schedule": "cosine", "training__max_steps": 2}, [1.0, 0.5, 0.0]),
        ({"training__schedule": "step", "training__milestones": [1, 2]}, [1.0, 0.1, 0.01]),
    ],
)
def test_learning_rate_schedules(values: dict[str, Any], expected: list[float]) -> None:
    settings = config(training__learning_rate=1.0, **values).training
    assert [train.learning_rate(step, settings) for step in range(3)] == pytest.approx(expected)


def test_points_are_geometric_from_the_first_step_to_the_limit() -> None:
    run = config(measuring__every=None, measuring__points=4, training__max_steps=1000)
    assert sorted(record_steps(run.measuring, run.training.max_steps)) == [1, 10, 100, 1000]
    later = run.measuring.model_copy(update={"points": 3, "first": 10})
    assert sorted(record_steps(later, 1000)) == [10, 100, 1000]
    assert sorted(record_steps(later, 5)) == [5]
    assert all(
        sorted(record_steps(run.measuring.model_copy(update={"points": n}), 60000))
        == sorted({round(60000 ** (i / (n - 1))) for i in range(n)})
        for n in range(2, 30)
    )


def test_sampling_study_compares_with_the_exact_value(tmp_path: Path) -> None:
    study = {
        "repeats": 40,
        "n_samples": [30],
        "n_outputs": [4],
        "n_probes": [2],
        "kept_shares": [0.1],
    }
    run = config(training__max_steps=2, measuring__sampling=study)
    sampling = train_run(run, RunFolder(tmp_path / "run"))["sampling"]
    assert set(sampling) == {"examples 30", "outputs 4", "probes 2", "entries 0.1"}
    for way in sampling.values():
        inside = [low <= way["full"] <= high for low, high in (e["ci95"] for e in way["estimates"])]
        assert len(inside) == 40
        assert sum(inside) >= 32
    assert sampling["examples 30"]["n_samples"] == 30
    assert sampling["outputs 4"]["n_probes"] == 4


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ({"n_samples": [5]}, "examples 5: max_samples: expected at least 6, two for each of 3"),
        ({"n_outputs": [4, 999]}, "outputs 999: n_probes: expected at most n_features"),
    ],
)
def test_a_sampling_study_that_cannot_be_had_ends_before_it_trains(study, words) -> None:
    none = {"repeats": 2, "n_samples": [], "n_outputs": [], "n_probes": [], "kept_shares": []}
    check_run(config(measuring__sampling=none | {"n_samples": [6], "n_outputs": [4]}))
    with pytest.raises(ValueError, match=f"^measuring.sampling, {words}"):
        check_run(config(measuring__sampling=none | study))


def test_sampling_studies_of_two_runs_are_independent() -> None:
    """Equal examples and probes in every run would make its errors common ones, and the coverage a
    matter of luck.
    """
    study = {"repeats": 3, "n_samples": [30]}
    runs = [config(measuring__sampling=study, training__weight_decay=value) for value in (0.0, 0.1)]
    model, data = (training := prepare(runs[0])).model, training.source
    values = [
        [
            e["value"]
            for e in study_sampling(model, data, run.measuring, seed=study_seed(run))[
                "examples 30"
            ]["estimates"]
        ]
        for run in runs
    ]
    assert len({*values[0], *values[1]}) == 6


def test_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="training.batch_size: expected at most the 90 training examples, got 91; do training",
    ):
        train_run(config(training__batch_size=91), RunFolder(tmp_path / "run"))
