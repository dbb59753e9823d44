"""A lock is held by a process, tells who that is, and is free when the process has ended."""

import errno
import os
import re
import subprocess
import sys
import time

import pytest

from geocollapse.runtime import locks
from geocollapse.runtime.locks import InUseError, locked

HOLD = """
import sys, time
from pathlib import Path
from geocollapse.runtime.locks import locked
with locked(Path(sys.argv[1]), what="folder"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_lock_is_refused_with_its_holder(tmp_path, holder):
    with (
        pytest.raises(
            InUseError,
            match=rf"run 7: expected no other process at work, got process {holder.pid} on .+ "
            r"since 20\d\d-.*; do wait for it, or end it",
        ),
        locked(tmp_path / "run.lock", what="run 7"),
    ):
        pass


def test_a_lock_is_free_once_its_holder_is_killed(tmp_path, holder):
    holder.kill()
    with locked(tmp_path / "run.lock", what="run 7", patience=10):
        assert f'"pid": {os.getpid()}' in (tmp_path / "run.lock").read_text()
    assert not (tmp_path / "run.lock").exists()


def test_a_lock_that_is_about_to_be_free_is_waited_for(tmp_path):
    path = tmp_path / "new" / "run.lock"
    with locked(path, what="run 7"):
        started = time.monotonic()
        with pytest.raises(InUseError), locked(path, what="run 7", patience=0.2):
            pass
        assert time.monotonic() - started >= 0.2
    with locked(path, what="run 7"):
        pass


def test_an_error_frees_the_lock(tmp_path):
    with pytest.raises(ValueError, match="mine"), locked(tmp_path / "a", what="a"):
        raise ValueError("mine")
    with locked(tmp_path / "a", what="a"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locked(tmp_path / "a", what="a"):
        assert (tmp_path / "a").exists()


def test_a_full_disk_is_reported_with_the_path_of_the_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    path = tmp_path / "run.lock"
    with pytest.raises(OSError, match=re.escape(str(path))), locked(path, what="folder"):
        pass
    assert not path.exists()
