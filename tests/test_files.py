"""Files are there whole or not at all."""

import pytest

from geocollapse.runtime.files import write_whole, written_whole


def test_writing_several_files_writes_all_before_the_first_rename(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pathlib.Path.replace",
        lambda path, _: seen.append(sorted(p.name for p in tmp_path.iterdir())),
    )
    write_whole({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert seen == [["a.part", "b.part"]] * 2


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
