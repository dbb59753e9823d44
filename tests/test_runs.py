"""Run folders: files written whole, histories cut, damaged files set aside, models read back."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from geocollapse.experiments.recipe import RunConfig, load_recipe, run_id
from geocollapse.experiments.results.folders import RunFolder, SweepFolder, load_model
from geocollapse.experiments.results.tables import read_sweep
from geocollapse.experiments.results.tensors import pack_weights
from geocollapse.models import build
from synthetic_sweep import run_folders, write_sweep

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}
BUFFERS = {"a": torch.ones(2, 3)}
INFO = {
    "step": 4,
    "stop_step": None,
    "seconds": 0.5,
    "seconds_measuring": 0.25,
    "penalty_step": 0,
}
RUN_ID = "0123456789ab"
DONE = {
    "run_id": RUN_ID,
    "status": "done",
    "converged": True,
    "steps": 4,
    "final": {"step": 4, "loss": 0.5},
}
FAILED = {"run_id": RUN_ID, "status": "failed"}
CONFIG = RunConfig.of(
    {
        "data": {"name": "digits"},
        "model": {"name": "mlp", "args": {"hidden": [8]}},
        "training": {"learning_rate": 0.1, "batch_size": 16, "max_steps": 10},
        "measuring": {"points": 2},
    }
)


@pytest.fixture
def run(tmp_path):
    """A run with records at steps 0, 2, 4 and a checkpoint at step 4."""
    folder = RunFolder(tmp_path / RUN_ID)
    folder.write_config(CONFIG)
    for step in (0, 2, 4):
        folder.append_history({"step": step, "train_loss": 1.0 / (step + 1)})
    folder.save_checkpoint(WEIGHTS, BUFFERS, INFO)
    return folder


def steps(run):
    return [line["step"] for line in run.history()]


def test_configuration_and_result_come_back(run):
    assert run.config() == CONFIG
    assert run.result() is None
    run.write_result(DONE | {"final": {"step": 4, "loss": float("nan")}})
    assert run.result() == DONE | {"final": {"step": 4, "loss": None}}


def test_a_checkpoint_comes_back_bit_for_bit(run):
    saved = run.load_checkpoint()
    weights = saved.weights
    assert all(
        torch.equal(weights[key], value) and weights[key].dtype == value.dtype
        for key, value in WEIGHTS.items()
    )
    assert torch.equal(saved.tensors["a"], BUFFERS["a"])
    assert saved.info == INFO
    assert run.problems == []


def test_weights_that_share_memory_can_be_saved(run):
    run.save_checkpoint({"a": WEIGHTS["a"], "b": WEIGHTS["a"].T}, {}, INFO)
    weights = run.load_checkpoint().weights
    assert torch.equal(weights["b"], weights["a"].T)


def test_a_crash_before_the_rename_leaves_the_old_file(run, monkeypatch):
    def crash(*_):
        raise OSError("the power is gone")

    run.write_result(DONE)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", crash)
        with pytest.raises(OSError, match="the power is gone"):
            run.write_result(FAILED)
        with pytest.raises(OSError, match="the power is gone"):
            run.save_checkpoint(BUFFERS, BUFFERS, INFO | {"step": 2})
    again = RunFolder(run.path)
    assert again.result() == DONE
    assert not list(run.path.glob("*.part"))
    saved = again.load_checkpoint()
    assert set(saved.weights) == {"a", "n"}
    assert saved.info["step"] == 4


@pytest.mark.parametrize("place", range(1, 6))
def test_a_crash_between_two_renames_leaves_a_whole_checkpoint(run, monkeypatch, place):
    """Once a run killed there started again from step 0."""
    rename, renamed = Path.replace, []

    def crash(path, target):
        renamed.append(target)
        if len(renamed) == place:
            raise OSError("the power is gone")
        return rename(path, target)

    run.append_history({"step": 6})
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", crash)
        with pytest.raises(OSError, match="the power is gone"):
            run.save_checkpoint(BUFFERS, WEIGHTS, INFO | {"step": 6})
    is_new = place > 3  # two parts of the new generation, then state.json
    for _ in range(2):
        again = RunFolder(run.path)
        saved = again.load_checkpoint()
        assert again.problems == []
        assert saved.info["step"] == (6 if is_new else 4)
        assert set(saved.weights) == ({"a"} if is_new else {"a", "n"})
        with again.held():
            assert not list(run.path.glob("*.next"))
    run.save_checkpoint(WEIGHTS, BUFFERS, INFO | {"step": 6})
    assert set(run.load_checkpoint().weights) == {"a", "n"}


def test_lines_of_the_history_are_strict_json(run):
    run.append_history({"step": 6, "train_loss": float("inf"), "gc": torch.tensor(2.0)})
    line = run.file("history.jsonl").read_text().splitlines()[-1]
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 6,
        "train_loss": None,
        "gc": 2.0,
    }


def test_an_incomplete_last_line_is_dropped(run):
    path = run.file("history.jsonl")
    path.write_bytes(path.read_bytes() + b'{"step": 6, "train_lo')
    assert steps(run) == [0, 2, 4]
    assert run.problems == []
    assert run.load_checkpoint() is not None
    run.cut_history(4)
    run.append_history({"step": 6})
    assert steps(run) == [0, 2, 4, 6]


def test_the_history_is_cut(run):
    assert [line["step"] for line in run.cut_history(2)] == [0, 2]
    assert steps(run) == [0, 2]
    assert run.cut_history(-1) == []


def test_a_damaged_line_sets_the_history_aside(run):
    path = run.file("history.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"step": 2', b'"st'))
    assert run.load_checkpoint() is None
    assert "history.jsonl set aside as history.jsonl.corrupt" in run.problems[0]
    assert path.with_name("history.jsonl.corrupt").is_file()
    assert steps(run) == []


def test_a_checkpoint_that_the_history_does_not_reach_is_not_used(run):
    run.cut_history(2)
    assert run.load_checkpoint() is None
    assert "the history does not reach its step 4" in run.problems[0]


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "state.safetensors", "state.json"])
def test_a_damaged_file_is_named_set_aside_and_not_used(run, name, caplog):
    path = run.file(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\xff" * 7
    path.write_bytes(bytes(content))
    assert run.load_checkpoint() is None
    assert (
        f"run 0123456789ab: {name} set aside as {name}.corrupt, to be computed anew"
        in run.problems[0]
    )
    assert run.problems[0] in caplog.text
    assert path.with_name(f"{name}.corrupt").read_bytes() == bytes(content)
    assert not path.exists()
    assert run.load_checkpoint() is None


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "state.safetensors"])
def test_a_state_without_its_other_files_is_not_used(run, name):
    run.file(name).unlink()
    assert run.load_checkpoint() is None
    assert f"{name} is missing" in run.problems[0]


def test_one_flipped_bit_is_noticed(run):
    path = run.file("checkpoint.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert run.load_checkpoint() is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"status": "perhaps"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"status": "done"}',
        json.dumps(DONE | {"run_id": "ba9876543210"}).encode(),
        json.dumps(DONE | {"final": None}).encode(),
        json.dumps(DONE | {"steps": 3}).encode(),
    ],
)
def test_a_damaged_result_is_not_a_result(run, content):
    run.file("result.json").write_bytes(content)
    assert run.result() is None
    assert "result.json set aside" in run.problems[0]
    assert run.file("result.json.corrupt").read_bytes() == content


def newer(path, version=99):
    """Write into a file that a later version of the package wrote it."""
    lines = path.read_text().splitlines()
    if path.suffix == ".yaml":
        content = yaml.safe_load(path.read_text()) | {"schema_version": version}
        path.write_text(yaml.safe_dump(content))
    elif path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
    else:
        last = json.loads(lines[-1]) | {"schema_version": version}
        path.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.yaml", RunFolder.config),
        ("history.jsonl", RunFolder.history),
        ("history.jsonl", RunFolder.load_checkpoint),
        ("state.json", RunFolder.load_checkpoint),
        ("result.json", RunFolder.result),
    ],
)
def test_a_file_of_a_newer_version_is_refused_and_stays(run, name, read):
    run.write_result(DONE)
    content = newer(run.file(name))
    with pytest.raises(
        ValueError,
        match=rf"{name}: expected schema_version \d or older, got 99; do update geocollapse",
    ):
        read(run)
    assert run.file(name).read_bytes() == content
    assert run.problems == []


def test_files_state_their_version_and_are_read_without_one(run):
    for name in ("config.yaml", "state.json"):
        assert "schema_version" in run.file(name).read_text()
    config = yaml.safe_load(run.file("config.yaml").read_text())
    del config["schema_version"]
    run.file("config.yaml").write_text(yaml.safe_dump(config))
    state = json.loads(run.file("state.json").read_text())
    del state["schema_version"]
    run.file("state.json").write_text(json.dumps(state))
    assert run.config() == CONFIG
    assert run.load_checkpoint().info == INFO


@pytest.fixture
def whole(tmp_path):
    """A run that is done, under its true name."""
    folder = RunFolder(tmp_path / run_id(CONFIG))
    folder.write_config(CONFIG)
    for step in (0, 2, 4):
        folder.append_history({"step": step, "train_loss": 1.0 / (step + 1)})
    done = DONE | {"run_id": folder.run_id, "history_sha256": folder.history_digest()}
    folder.save_checkpoint(WEIGHTS, BUFFERS, INFO | {"run_id": folder.run_id})
    folder.write_result(done)
    return folder


def test_a_run_is_done_with_its_result_and_its_whole_history(whole):
    assert whole.finished(CONFIG)["status"] == "done"
    assert whole.problems == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: b"garbage", "it does not reach the end of the run"),
        (lambda text: b"garbage\n", "a line of it cannot be read"),
        (lambda text: text.replace(b'"step": 2', b'"step": 3'), "it was changed, or is of another"),
        (lambda text: text.replace(b'"step": 2', b'"step": 4'), "its steps do not increase"),
        (lambda text: text.replace(b"0.2}", b"0.25}"), "it was changed, or is of another run"),
        (lambda text: text.splitlines(keepends=True)[0], "it does not reach the end of the run"),
    ],
)
def test_a_done_run_with_another_history_is_computed_anew(whole, change, problem):
    """Each once counted as done, and the history was drawn."""
    path = whole.file("history.jsonl")
    path.write_bytes(change(path.read_bytes()))
    assert whole.finished(CONFIG) is None
    assert "history.jsonl set aside" in whole.problems[0]
    assert problem in whole.problems[0]
    assert "result.json set aside" in whole.problems[1]
    assert whole.result() is None


@pytest.mark.parametrize("content", [b"", b"seed: [", b"seed: 1\n", b"\xff"])
def test_the_configuration_of_a_done_run_is_mended(whole, content):
    """Half a config.yaml once gave empty columns for ever."""
    whole.file("config.yaml").write_bytes(content)
    assert whole.finished(CONFIG)["status"] == "done"
    assert "config.yaml set aside as config.yaml.corrupt" in whole.problems[0]
    assert whole.config() == CONFIG


def test_the_configuration_of_another_run_is_no_configuration_of_this_one(whole):
    whole.write_config(CONFIG.model_copy(update={"seed": 1}))
    assert whole.finished(CONFIG)["status"] == "done"
    other = run_id(CONFIG.model_copy(update={"seed": 1}))
    assert f"it is of run {other}" in whole.problems[0]
    assert whole.config() == CONFIG


@pytest.mark.parametrize("key", ["step", "stop_step", "seconds", "seconds_measuring"])
def test_a_state_without_a_key_starts_the_run_anew(run, key):
    """Once a bare KeyError."""
    path = run.file("state.json")
    state = json.loads(path.read_text())
    del state["info"][key]
    path.write_text(json.dumps(state))
    assert run.load_checkpoint() is None
    assert (
        f"state.json set aside as state.json.corrupt, to be computed anew: info.{key}"
        in (run.problems[0])
    )


def test_a_state_of_another_run_is_not_resumed(whole):
    assert whole.load_checkpoint(run_id(CONFIG)) is not None
    assert whole.load_checkpoint("ba9876543210") is None
    assert f"it is of run {whole.run_id}" in whole.problems[0]


@pytest.mark.parametrize(("old", "new"), [(b'"step": 2', b'"step": 3'), (b": 1.0}", b": 2.0}")])
def test_a_history_that_was_edited_is_not_resumed(run, old, new):
    path = run.file("history.jsonl")
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    assert run.load_checkpoint() is None
    assert "history.jsonl set aside" in run.problems[0]
    assert "it was changed, or is of another run" in run.problems[0]


def test_a_state_of_an_earlier_release_is_resumed(run):
    path = run.file("state.json")
    state = json.loads(path.read_text())
    del state["history_sha256"]
    path.write_text(json.dumps(state))
    assert run.load_checkpoint().info == INFO


def test_results_name_files_of_other_runs_and_do_not_use_them(tmp_path):
    """Swapped files once gave numbers under the wrong setting."""
    write_sweep(tmp_path, n_settings=3, n_seeds=1)
    one, two, three = run_folders(tmp_path)
    for name in ("result.json", "config.yaml"):
        for pair in ((one, two), (two, one)):
            (pair[1] / f"{name}.new").write_bytes((pair[0] / name).read_bytes())
        for folder in (one, two):
            (folder / f"{name}.new").replace(folder / name)
    half = (three / "config.yaml").read_text()
    (three / "config.yaml").write_text(half[: len(half) // 2])
    results = read_sweep(tmp_path)
    assert list(results.runs["status"]) == ["unfinished", "unfinished", "done"]
    assert "training.learning_rate" not in results.runs
    for folder, other in ((one, two), (two, one)):
        for name in ("result.json", "config.yaml"):
            told = f"run {folder.name}: {name} is not used: it is of run {other.name}"
            assert told in results.problems
    assert any(
        told.startswith(f"run {three.name}: config.yaml is not used") for told in results.problems
    )


def test_results_do_not_use_a_history_that_was_changed(tmp_path):
    write_sweep(tmp_path, n_settings=1, n_seeds=1)
    (run,) = run_folders(tmp_path)
    path = run / "history.jsonl"
    result = json.loads((run / "result.json").read_text())
    result["history_sha256"] = RunFolder(run).history_digest()
    (run / "result.json").write_text(json.dumps(result))
    assert read_sweep(tmp_path).problems == ()
    path.write_text(path.read_text().replace('"step": 20', '"step": 21'))
    results = read_sweep(tmp_path)
    assert list(results.history["step"]) == [400]
    assert "history.jsonl is not used: it was changed" in results.problems[0]


def test_a_fresh_folder_has_nothing(tmp_path):
    run = RunFolder(tmp_path / "new")
    assert (run.load_checkpoint(), run.result(), run.history()) == (None, None, [])
    assert run.cut_history(-1) == []
    with pytest.raises(FileNotFoundError, match="config.yaml"):
        run.config()


def test_a_damaged_configuration_is_refused(run):
    run.file("config.yaml").write_text("seed: [")
    with pytest.raises(ValueError, match=r"config.yaml: expected YAML"):
        run.config()
    run.file("config.yaml").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"config.yaml: expected keys with values"):
        run.config()


@pytest.mark.parametrize(
    ("name", "args", "shape"),
    [
        ("mlp", {"hidden": [8]}, (1, 8, 8)),
        ("vgg11", {"width": 2}, (1, 32, 32)),
        ("vgg13", {"width": 2, "batch_norm": False}, (3, 32, 32)),
        ("resnet18", {"width": 0.05}, (3, 32, 32)),
        ("small_cnn", {"width": 2}, (1, 8, 8)),
    ],
)
def test_the_trained_model_is_read_back(run, name, args, shape):
    run.write_config(
        CONFIG.model_copy(
            update={"model": CONFIG.model.model_copy(update={"name": name, "args": args})}
        )
    )
    model = build(name, num_classes=7, input_shape=shape, **args).eval()
    run.save_checkpoint(model.state_dict(), {}, INFO)
    loaded = load_model(run.path)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.model(x), model(x))
    assert not loaded.model.training
    assert loaded.config == run.config()
    assert loaded.weights == str(run.file("checkpoint.safetensors"))


def test_a_model_without_its_weights_is_refused(run):
    run.file("checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(
        ValueError, match=r"MODEL: expected weights at .*, got a file where it is damaged or of"
    ):
        load_model(run.path)
    run.file("state.json").unlink()
    with pytest.raises(
        ValueError, match=r"MODEL: expected weights at .*, got a file where it is not a safetensors"
    ):
        load_model(run.path)
    run.file("checkpoint.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"MODEL: expected weights at .*checkpoint.safetensors, got none; do",
    ):
        load_model(run.path)


def test_damaged_weights_and_those_of_another_run_are_refused(run):
    """One flipped byte once gave GC 4.6e75, another run's checkpoint 3.05 for 45.2."""
    model = build("mlp", num_classes=7, input_shape=(1, 8, 8), hidden=[8])
    info = INFO | {"run_id": run_id(CONFIG)}
    run.save_checkpoint(model.state_dict(), {}, info)
    path = run.file("checkpoint.safetensors")
    whole = path.read_bytes()
    x = torch.ones(1, 1, 8, 8)
    assert torch.equal(load_model(run.path).model(x), model(x))
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
    with pytest.raises(ValueError, match="got a file where it is damaged or of another moment"):
        load_model(run.path)
    path.write_bytes(whole)
    run.write_config(CONFIG.model_copy(update={"seed": 1}))
    with pytest.raises(ValueError, match=r"it is of run \w+, not that of config.yaml"):
        load_model(run.path)


def test_checkpoints_are_kept_by_step(run):
    """A flipped byte in one was once read without a word: its largest weight was 9e37."""
    model = build("mlp", num_classes=7, input_shape=(1, 8, 8), hidden=[8])
    path = run.keep_checkpoint(4, model.state_dict(), run_id(CONFIG))
    assert path == run.path / "checkpoints" / "4.safetensors"
    x = torch.ones(1, 1, 8, 8)
    assert torch.equal(load_model(run.path, step=4).model(x), model(x))
    whole = path.read_bytes()
    for place in (-1, -50):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place:][1:])
        with pytest.raises(ValueError, match=r"got a file where it is damaged; do"):
            load_model(run.path, step=4)
    path.write_bytes(whole)
    run.write_config(CONFIG.model_copy(update={"seed": 1}))
    with pytest.raises(ValueError, match=r"it is of run \w+, not that of config.yaml"):
        load_model(run.path, step=4)


def test_kept_checkpoints_of_older_versions_are_taken_at_their_word(run):
    model = build("mlp", num_classes=7, input_shape=(1, 8, 8), hidden=[8])
    path = run.keep_checkpoint(4, model.state_dict(), "another")
    path.write_bytes(pack_weights(model.state_dict()))
    x = torch.ones(1, 1, 8, 8)
    assert torch.equal(load_model(run.path, step=4).model(x), model(x))


def test_a_sweep_folder_holds_the_recipe_and_its_runs(tmp_path):
    recipe = load_recipe("demo")
    planned = recipe.planned_runs(1)
    folder = SweepFolder(tmp_path)
    folder.write_recipe(recipe, planned)
    assert folder.recipe() == recipe
    assert folder.entries() == [run.entry() for run in planned]
    assert "&id" not in (tmp_path / "sweep.yaml").read_text()
    assert folder.run(planned[0].run_id).path == tmp_path / "runs" / planned[0].run_id


def test_a_sweep_of_a_newer_version_is_neither_read_nor_written_over(tmp_path):
    recipe = load_recipe("demo")
    folder = SweepFolder(tmp_path)
    folder.write_recipe(recipe, recipe.planned_runs(1))
    content = newer(tmp_path / "sweep.yaml")
    for call in (
        folder.recipe,
        folder.entries,
        lambda: folder.write_recipe(recipe, []),
        lambda: read_sweep(tmp_path),
    ):
        with pytest.raises(ValueError, match=r"sweep.yaml: expected schema_version 1 or older"):
            call()
    assert (tmp_path / "sweep.yaml").read_bytes() == content


@pytest.mark.parametrize("name", ["config.yaml", "history.jsonl", "result.json"])
def test_results_refuse_a_run_of_a_newer_version(tmp_path, name):
    write_sweep(tmp_path, n_settings=1, n_seeds=1)
    (run,) = (tmp_path / "runs").iterdir()
    newer(run / name)
    with pytest.raises(ValueError, match=f"{name}: expected schema_version 1 or older, got 99"):
        read_sweep(tmp_path)


def test_what_is_written_is_what_the_results_read(tmp_path):
    recipe = load_recipe("demo")
    folder, planned = SweepFolder(tmp_path), recipe.planned_runs(1)
    folder.write_recipe(recipe, planned)
    for run in planned:
        on_disk = folder.run(run.run_id)
        on_disk.write_config(run.config)
        for step in (0, 3):
            on_disk.append_history({"step": step, "source": {"cdnv": 0.5}})
        final = {"step": 3, "source": {"cdnv": 0.25}}
        on_disk.write_result(DONE | {"run_id": run.run_id, "steps": 3, "final": final})
    results = read_sweep(tmp_path)
    assert results.problems == ()
    assert results.sweeps == ["learning_rate", "batch_size", "weight_decay"]
    assert set(results.runs["source.cdnv"]) == {0.25}
    rates = results.of_sweep("learning_rate")
    assert set(rates["training.learning_rate"]) == set(
        recipe.sweeps["learning_rate"]["training.learning_rate"]
    )
    assert (rates["swept.training.learning_rate"] == rates["training.learning_rate"]).all()
