"""A disk that fills in the middle of a sweep: once there is space, it ends as if undisturbed.

Every write of a run ends in `os.fsync`, where a full disk shows. The runs of this sweep are carried
out in this process, so that it can be filled at any write.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from geocollapse.experiments.engines import local
from geocollapse.experiments.recipe import Recipe
from geocollapse.experiments.results.tables import read_sweep, write_table
from geocollapse.experiments.sweep import SweepSummary, run_sweep

RECIPE = Recipe.of(
    {
        "name": "full",
        "title": "Two short runs on digits",
        "data": {"name": "digits", "source_classes": [0, 1, 2], "subset": 60},
        "model": {"name": "mlp", "args": {"hidden": [8]}},
        "training": {"learning_rate": 0.05, "batch_size": 16, "max_steps": 24},
        "measuring": {"points": 4, "max_samples": 30},
        "keep_checkpoints": "schedule",
        "sweeps": {"learning_rate": {"training.learning_rate": [0.02, 0.05]}},
    }
)


@dataclass
class Disk:
    """A disk that takes ``space`` writes, then refuses ``n_refused``, whose ends it loses."""

    space: int
    n_refused: int
    n_writes: int = 0

    def fsync(self, descriptor: int) -> None:
        self.n_writes += 1
        if self.space < self.n_writes <= self.space + self.n_refused:
            os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - 7))
            raise OSError(errno.ENOSPC, "No space left on device")


def in_this_process(
    jobs: Sequence[local.Job], _: int, threads: int, ended: Callable[[str], None]
) -> list[local.Job]:
    """The runs one after another, in the place of worker processes."""
    assert threads == 1
    for job in jobs:
        try:
            status = local._work(job)
        except (OSError, RuntimeError) as error:
            status = local._failed(job, error)
        ended(status)
    return []


def sweep(out: Path) -> SweepSummary:
    return run_sweep(RECIPE, out, workers=1, progress=False)


def table(out: Path) -> pd.DataFrame:
    """The table of the runs without their times."""
    found = pd.read_csv(write_table(read_sweep(out)))
    return found[[name for name in found.columns if "seconds" not in name]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, int]:
    """The table of the sweep, and the number of writes that it takes."""
    out = tmp_path_factory.mktemp("undisturbed")
    disk = Disk(space=10**6, n_refused=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_run_in_pool", in_this_process)
        patch.setattr(os, "fsync", disk.fsync)
        assert sweep(out).n_done == 2
    return table(out), disk.n_writes


@pytest.mark.parametrize("moment", [0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("n_refused", [1, 10**6], ids=["for one write", "until space is made"])
def test_a_sweep_goes_on_after_the_disk_was_full(
    undisturbed: tuple[pd.DataFrame, int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    moment: float,
    n_refused: int,
) -> None:
    expected, n_writes = undisturbed
    disk = Disk(space=int(moment * n_writes), n_refused=n_refused)
    monkeypatch.setattr(local, "_run_in_pool", in_this_process)
    monkeypatch.setattr(os, "fsync", disk.fsync)
    if n_refused == 1:
        assert sweep(tmp_path).n_failed == 1  # said in its result.json, and tried again below
        assert "No space left on device" in str(list(read_sweep(tmp_path).runs["error"]))
    else:
        with pytest.raises(OSError, match=r"No space left on device: '.*"):
            sweep(tmp_path)
    disk.n_refused = 0
    again = sweep(tmp_path)
    assert again.n_failed == 0
    assert not list(tmp_path.rglob("*.part"))
    pd.testing.assert_frame_equal(table(tmp_path), expected)
