"""What was asked of the stored sweeps: whole, small, converged, measured at little cost.

Every exception is named here with its cause.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from geocollapse.experiments.recipe import load_recipe
from geocollapse.experiments.results.tables import SweepResults, read_sweep
from geocollapse.experiments.sweep import run_sweep

ROOT = Path(__file__).parents[1]
STORED = sorted(path.parent for path in ROOT.glob("results/*/*/sweep.yaml"))
FEWEST_SETTINGS = 5
LARGEST_SHARE = 0.25  # of records on the way, of the time of the steps

FEWER_SETTINGS = {
    "bilinear-game/turns": "four forms of one game, judged by margins",
    "cifar10-continual/pair": "three pairs of tasks, judged by margins",
    "cifar10-edge-of-stability/dal": "three powers, of which 0.5 does not converge",
    "cifar10-implicit-sgd/gradient_norm": "of five weights two diverge with one seed",
    "cifar10-mlp-width/width": "trained for a fixed number of steps: no stopping rule",
    "cifar10-mlp-width/depth": "trained for a fixed number of steps: no stopping rule",
    "cifar10-vgg13-sampling/training_time": "early, middle and late in training: two are stopped",
    "digits-gan-drift/spectral_norm": "a game: its divergence is what is measured",
    "digits-gan-drift/no_spectral_norm": "a game: its divergence is what is measured",
    "dirac-gan/drift": "a game: its divergence is what is measured",
    "dirac-gan/equal_rates": "a game: its divergence is what is measured",
    "dirac-gan/unequal_rates": "a game: its divergence is what is measured",
    "dirac-gan/unequal_rates_alternating": "a game: its divergence is what is measured",
    "mnist-continual/pair": "four pairs of tasks, judged by margins",
}
NOT_CONVERGED = {
    "cifar10-vgg13-sampling": {
        "training.max_steps = 10": "stopped early on purpose",
        "training.max_steps = 60": "stopped early on purpose",
    },
    "cifar10-implicit-sgd": {
        "training.gradient_penalty.weight = 0.005": "one seed ends in NaN",
        "training.gradient_penalty.weight = 0.02": "one seed ends in NaN",
    },
    "cifar10-edge-of-stability": {
        "training.optimizer = dal, training.dal.power = 0.5": "the rate is above the edge"
    },
    "cifar-fs-resnet18-batch-size": {"training.batch_size = 8": "4 images of 64 classes a batch"},
}
LOST = {
    "838bb6aa2627": "cifar10-vgg13-gc-penalty: the penalty 0.01 destroys what was learnt",
    "d7e4ae6cda5f": "cifar10-vgg13-weight-decay: L2 0.03 with rate 0.1 is unstable",
    "ccc0ff2b704a": "cifar-fs-resnet18-gc-penalty: 70.3 % at 3e-05 with rate 0.1",
    "a117aee439e0": "cifar-fs-resnet18-gc-penalty: 98.5 % at the penalty 0.0003",
    "d7472387fc02": "cifar-fs-resnet18-weight-decay: 93.2 % at L2 0.002 with rate 0.1",
    "da752a2563eb": "cifar-fs-resnet18-weight-decay: L2 0.004 with rate 0.1 is unstable",
    "a7b56aaba7ae": "mnist-vgg11-weight-decay: L2 0.03 with rate 0.1 is unstable",
}
SHORT = "a small network on few images converges in a few hundred steps or fewer"
STUDY = "what is recorded is the study: several tasks and probes at each record"
MARGIN = "a record also takes the margins and the GC of the logits"
ABOVE_SHARE = {
    "banking77-text": (57, "a small dense network on stored features: a run trains in 2 s"),
    "cifar-fs-resnet18-batch-size": (1, "a pause of the process in one record"),
    "cifar-fs-resnet18-weight-decay": (1, "26.6 % in one run, beside other work"),
    "cifar10-continual": (9, STUDY),
    "cifar10-edge-of-stability": (19, "each record takes eigenvalues of the Hessian"),
    "cifar10-implicit-sgd": (27, "each record takes the gradients of 15 batches"),
    "cifar10-mlp-width": (36, f"dense networks that train in 2 to 10 s; {MARGIN}"),
    "cifar10-resnet18-margin": (22, MARGIN),
    "cifar10-vgg13-batch-size": (7, f"{SHORT}; in one run a pause of the process"),
    "cifar10-vgg13-bound": (5, f"{SHORT}, and twice as many records are taken for the figure"),
    "cifar10-vgg13-corridors": (45, "each record takes the diagnostics of the corridor"),
    "cifar10-vgg13-learning-rate": (4, SHORT),
    "cifar10-vgg13-regularisers": (21, f"{SHORT}; {MARGIN}"),
    "cifar10-vgg13-sampling": (6, "6 of 9 runs are stopped after a second"),
    "cifar10-vgg13-weight-decay": (5, SHORT),
    "fashion-mnist-vgg11-learning-rate": (11, SHORT),
    "mnist-continual": (12, STUDY),
    "mnist-vgg11-weight-decay": (10, SHORT),
}


NINE_SWEEPS = "cifar10-vgg13-regularisers"  # 111 runs and the figures of each sweep


@pytest.fixture(params=STORED, ids=lambda path: path.parent.name, name="folder")
def fixture_folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(name="stored")
def fixture_stored(folder: Path) -> SweepResults:
    return read_sweep(folder)


def tracked(folder: Path) -> list[Path]:
    """The files of a folder that git knows, or all where this is no checkout."""
    command = ["git", "-C", str(folder), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        return [path for path in folder.rglob("*") if path.is_file()]
    return [folder / name for name in listed.stdout.split("\0") if name]


def test_it_is_below_two_megabytes_with_all_its_files_and_has_no_weights(folder: Path) -> None:
    files = tracked(folder)
    assert any(path.suffix == ".gz" for path in files)
    most = 4.5e6 if folder.parent.name == NINE_SWEEPS else 2e6
    assert sum(path.stat().st_size for path in files) < most
    assert {path.suffix for path in files} <= {".yaml", ".gz", ".csv", ".png", ".json"}


def test_the_recipe_plans_the_runs_that_are_stored(folder: Path) -> None:
    recipe = load_recipe(folder.parent.name).with_preset(folder.name)
    planned = {run.run_id for run in recipe.planned_runs()}
    assert planned == {path.name for path in (folder / "runs").iterdir()}


def test_five_settings_of_each_sweep_converged_with_all_seeds(
    folder: Path, stored: SweepResults
) -> None:
    few = []
    for sweep in stored.sweeps:
        runs = stored.of_sweep(sweep)
        all_seeds = runs["converged"].astype(bool).groupby(runs["position"]).all()
        few += [f"{folder.parent.name}/{sweep}"] if all_seeds.sum() < FEWEST_SETTINGS else []
    prefix = f"{folder.parent.name}/"
    assert few == [name for name in FEWER_SETTINGS if name.startswith(prefix)]


def test_converged_runs_end_at_the_training_accuracy_of_the_recipe(
    folder: Path, stored: SweepResults
) -> None:
    runs = stored.runs
    if stored.recipe.get("kind") == "game":
        return
    goal = stored.recipe["training"]["stop_accuracy"]
    short = runs[runs["converged"].astype(bool) & (runs["train_accuracy"].astype(float) < goal)]
    assert set(short["run_id"]) <= set(LOST)
    if stored.recipe["training"]["extra_factor"] >= 100:  # a fixed number of steps
        return
    settings = {
        str(setting)
        for sweep in stored.sweeps
        for runs in [stored.of_sweep(sweep)]
        for setting in runs.loc[~runs["converged"].astype(bool) & ~runs["run_id"].isin(LOST)][
            "setting"
        ]
    }
    assert settings == set(NOT_CONVERGED.get(folder.parent.name, {}))


def test_records_take_a_quarter_of_the_training_time_or_the_cause_is_known(folder: Path) -> None:
    table = pd.read_csv(folder / "table.csv")
    name = folder.parent.name
    if not {"seconds_history", "seconds_training"} <= set(table.columns):
        assert name not in ABOVE_SHARE
        return
    share = table["seconds_history"] / table["seconds_training"]
    n_above, _ = ABOVE_SHARE.get(name, (0, ""))
    assert int((share > LARGEST_SHARE).sum()) == n_above


def test_the_same_command_skips_what_is_stored(tmp_path: Path) -> None:
    """A copy of the smallest stored sweep: no run is started, no result is written anew."""
    folder = ROOT / "results" / "bilinear-game" / "reduced"
    for path in tracked(folder):
        copied = tmp_path / path.relative_to(folder)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    recipe = load_recipe("bilinear-game").with_preset("reduced")
    summary = run_sweep(recipe, tmp_path, workers=1, progress=False)
    assert (summary.n_done, summary.n_failed) == (0, 0)
    assert summary.n_skipped == summary.n_runs == 40
    for path in tracked(folder):
        if path.parent.parent.name == "runs":
            assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes()
