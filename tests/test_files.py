"""Files are there whole or not at all."""

import subprocess
import sys

import pytest

from geocollapse.runtime.files import remove_partial, write_whole, written_whole


def test_writing_several_files_writes_all_before_the_first_rename(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pathlib.Path.replace",
        lambda path, _: seen.append(sorted(p.name[0] + p.suffix for p in tmp_path.iterdir())),
    )
    write_whole({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert seen == [["a.part", "b.part"]] * 2


def test_two_writers_of_a_file_have_each_their_own_temporary_file(tmp_path):
    """Once both wrote to a.part, and it vanished under the second."""
    with written_whole(tmp_path / "a") as one, written_whole(tmp_path / "a") as two:
        assert one != two
        one.write_bytes(b"1")
        two.write_bytes(b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.bin"
    with written_whole(path) as partial:
        partial.write_bytes(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def write_half_of(path):
    with written_whole(path) as partial:
        partial.write_bytes(b"ne")
        raise OSError("disk full")


def test_after_an_error_the_old_file_is_there_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        write_half_of(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from geocollapse.store.formats import write_arrays
from geocollapse.runtime.files import append, write_whole, written_whole

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
path = Path(sys.argv[2])
content = b"x" * 2000

def by_parts():
    with written_whole(path) as partial:
        partial.write_bytes(content)

def arrays(ending):
    with written_whole(path) as partial:
        write_arrays(partial, ending, {"features": torch.zeros(999)}, "{}")

ways = {
    ".safetensors": lambda: arrays(".safetensors"),
    ".npz": lambda: arrays(".npz"),
    "whole": lambda: write_whole({path.with_name("b"): b"1", path: content}),
    "parts": by_parts,
    "append": lambda: append(path, content),
}
try:
    ways[sys.argv[1]]()
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
@pytest.mark.parametrize("way", ["whole", "parts", "append", ".safetensors", ".npz"])
def test_a_full_disk_is_reported_with_the_path_and_leaves_nothing(tmp_path, way):
    """Once without the path, by safetensors as its own error, and `.part` files stayed."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, way, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"[Errno 27] File too large: '{path}'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    if way != "append":
        assert path.read_bytes() == b"old"


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.7-1234.part", "in/b.part", "kept", "a.partial"):
        (tmp_path / name).touch()
    remove_partial(tmp_path, tmp_path / "in", tmp_path / "missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.partial", "in", "kept"]
    assert not list((tmp_path / "in").iterdir())
