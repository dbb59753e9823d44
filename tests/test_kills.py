"""A sweep killed at any moment and started again at once ends with the same table.

Parents and workers are killed by SIGKILL and SIGTERM at seeded moments of their progress, and
parents also while their workers start. Nearly all of the time goes into workers that import torch.
The parents are forked from a server that has imported the package already; the workers are those of
any sweep, on images for which they need not import scikit-learn.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from geocollapse.experiments.recipe import Recipe
from geocollapse.experiments.results.folders import RunFolder, SweepFolder
from geocollapse.experiments.results.tables import read_sweep, write_table
from geocollapse.experiments.supervised.train import train_run
from geocollapse.experiments.sweep import run_sweep

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RECIPE: dict[str, Any] = {
    "name": "killed",
    "title": "Runs of many records, each of which is a moment to be killed at",
    "data": {"name": "mnist", "source_classes": [0, 1, 2], "subset": 60},
    "model": {"name": "mlp", "args": {"hidden": [8]}},
    "training": {
        "learning_rate": 0.05,
        "batch_size": 16,
        "momentum": 0.9,
        "max_steps": 80,
        "stop_accuracy": 1.0,
        "extra_factor": 100.0,
    },
    "measuring": {"every": 2, "points": None},
    "keep_checkpoints": "schedule",
    "sweeps": {"learning_rate": {"training.learning_rate": [0.02, 0.05]}},
}
KINDS = [(who, how) for who in ("parent", "worker") for how in (signal.SIGKILL, signal.SIGTERM)]
N_KILLS = 20
LONGEST = 120.0  # seconds that a step of the test may take


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random images of three classes, in the files of MNIST."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    labels = np.arange(90, dtype=np.uint8) % 3
    pixels = np.random.default_rng(0).integers(0, 200, (90, 28, 28), dtype=np.uint8)
    for label in range(3):
        pixels[labels == label, 8 * label : 8 * label + 8] += 50
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (raw / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
    return folder


def sweep(out: str, images: str, n_workers: int) -> None:
    """A sweep in a session of its own."""
    os.setsid()
    recipe = Recipe.of(RECIPE)
    summary = run_sweep(recipe, out, workers=n_workers, data_root=images, progress=False)
    sys.exit(1 if summary.n_failed else 0)


def start(out: Path, images: Path, n_workers: int = 2) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["geocollapse.experiments.sweep", "torchvision"])
    process = context.Process(target=sweep, args=(str(out), str(images), n_workers))
    process.start()
    return process


def members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of_session, *_ = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_session) == session and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def workers(session: int) -> list[int]:
    """The worker processes of a sweep."""
    found = []
    for pid in members(session):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"spawn_main" in command:
            found.append(pid)
    return found


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONGEST
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def n_lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("runs/*/history.jsonl"))


def reaches(process: ForkServerProcess, out: Path, moment: float) -> bool:
    """Wait until a sweep has written so many lines; False if it has ended before."""
    wait_until(
        lambda: not process.is_alive() or n_lines(out) >= moment, f"no {moment} lines of history"
    )
    return process.is_alive()


def kill(process: ForkServerProcess, who: str, how: signal.Signals) -> bool:
    """Kill the parent or one of its workers; nothing of a killed parent goes on."""
    session = process.pid
    targets = [session] if who == "parent" else workers(session)[:1]
    for target in targets:
        os.kill(target, how)
    if who == "parent":
        process.join(LONGEST)
        assert process.exitcode in (-how, 128 + how)  # the first also before the sweep has begun
        wait_until(lambda: not members(session), "workers outlive their parent")
    return bool(targets)


def table(out: Path) -> pd.DataFrame:
    written = pd.read_csv(write_table(read_sweep(out)))
    return written.drop(columns=[name for name in written if name.startswith("seconds")])


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs, which nobody interrupted."""
    folder = SweepFolder(tmp_path_factory.mktemp("whole") / "out")
    recipe = Recipe.of(RECIPE)
    folder.write_recipe(recipe, recipe.planned_runs())
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    for run in recipe.planned_runs():
        train_run(run.config, folder.run(run.run_id), data_root=images)
    torch.set_num_threads(threads)
    return folder.path


def test_a_sweep_killed_twenty_times_ends_with_the_same_table(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    """Once the workers trained on, two writers met in one run, and it failed."""
    rng = random.Random(0)
    kinds = [KINDS[i % len(KINDS)] for i in range(N_KILLS)]
    rng.shuffle(kinds)
    out = tmp_path / "out"
    n_expected = n_lines(whole)
    process = start(out, images)
    n_killed = 0
    while n_killed < N_KILLS:
        moment = n_expected * (n_killed + rng.random()) / (N_KILLS + 1)
        is_early = kinds[n_killed][0] == "parent" and rng.random() < 0.5
        if is_early or reaches(process, out, moment):
            time.sleep(rng.random() * (1.0 if is_early else 0.03))
            n_killed += process.is_alive() and kill(process, *kinds[n_killed])
        if not process.is_alive():
            process = start(out, images, n_workers=1 if n_killed % 4 else 2)
    process.join(LONGEST)
    wait_until(lambda: not members(process.pid), "a worker is left")
    last = start(out, images)
    last.join(LONGEST)
    assert last.exitcode == 0
    pd.testing.assert_frame_equal(table(out), table(whole))
    assert read_sweep(out).problems == ()
    files = {path.relative_to(whole): path for path in whole.rglob("*") if path.is_file()}
    assert {path.relative_to(out) for path in out.rglob("*") if path.is_file()} == set(files)
    for name, path in files.items():
        if name.suffix == ".safetensors":
            assert (out / name).read_bytes() == path.read_bytes()
    for run in whole.glob("runs/*"):
        steps = [line["step"] for line in RunFolder(out / "runs" / run.name).history()]
        assert steps == [line["step"] for line in RunFolder(run).history()]
        assert json.loads((run / "result.json").read_text())["status"] == "done"
