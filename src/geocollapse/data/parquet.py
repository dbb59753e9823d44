"""Labelled images in .parquet files, in the layout of Hugging Face's image data sets."""

from __future__ import annotations

import glob
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from geocollapse.data.columns import Columns
from geocollapse.data.image_files import ImageFiles, UndecodableImage
from geocollapse.data.labelled import About, LabelledImages
from geocollapse.data.parquet_labels import read_labels
from geocollapse.data.parquet_shards import Shard, read_shard
from geocollapse.data.pixels import one_at_a_time
from geocollapse.data.preprocessing import ImagePreprocessing
from geocollapse.data.spool import Spool

if TYPE_CHECKING:
    import pyarrow as pa

_PART = re.compile(r"(.+)-\d+-of-\d+(-[0-9a-f]+)?")  # train-00000-of-00002
_KNOWN: tuple[str, ...] = ("train", "val", "test")
_SPLITS = dict(zip(_KNOWN, _KNOWN)) | dict.fromkeys(("validation", "valid", "dev"), "val")


def find_files(pattern: str) -> list[Path]:
    """The .parquet files of a file, a folder or a pattern with ``*``, ``?`` and ``**``, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    pattern = str(path / "**" / "*.parquet") if path.is_dir() else pattern
    found = sorted(filter(Path.is_file, map(Path, glob.glob(pattern, recursive=True))))
    if not found:
        raise FileNotFoundError(
            f"data: expected .parquet files, got none that match {pattern!r}; do check the path, "
            f"and quote a pattern"
        )
    return found


def by_split(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each split, as their names or folders tell it; else all under ``all``.

    Names are ``train-00000-of-00002.parquet``, ``train.parquet`` or ``train/0000.parquet``;
    ``validation`` is called ``val``.

    Raises:
        ValueError: some names tell a split and others do not.

    Examples:
        >>> found = by_split([Path("test-00000-of-00001.parquet"), Path("validation.parquet")])
        >>> list(found)
        ['val', 'test']
    """
    split_of = {path: _split_of(path) for path in paths}
    without = [path for path, split in split_of.items() if split is None]
    if len(without) == len(paths):
        return {"all": list(paths)}
    if without:
        raise ValueError(
            f"data: expected a split in the name of each file, such as "
            f"{next(path.name for path in paths if split_of[path])}, got {without[0].name}; do "
            f"name it so, or give a pattern that leaves it out"
        )
    found = [split for split in split_of.values() if split is not None]
    names = [name for name in _KNOWN if name in found]
    names += sorted(set(found) - set(names))
    return {name: [path for path in paths if split_of[path] == name] for name in names}


def read_parquet(
    paths: Sequence[Path],
    about: tuple[str, str],
    columns: Columns,
    preprocessing: ImagePreprocessing,
) -> LabelledImages:
    """The images of several files, which are decoded one at a time.

    Labels are read at once; of the images one row group at a time is in memory.

    Args:
        paths: of the files.
        about: name and split of the data set.
        columns: asked for; by default ``image`` or ``img``, and ``label`` or ``labels``.
        preprocessing: of each image.

    Raises:
        ImportError: pyarrow is missing (the pip command is named).
        ValueError: a damaged file, missing columns, columns of other types, or a row without a
            label.
    """
    shards = [read_shard(path, columns) for path in paths]
    labels, names, notes = read_labels(shards)
    images = ImageFiles(ImagesOfShards(tuple(shards)), preprocessing)
    described = About(*about, names, notes=notes)
    return one_at_a_time(images, labels, described, preprocessing)


class ImagesOfShards:
    """The encoded images of several files, each row group of which is read once.

    What is read of it is kept in a ``Spool``, since a measurement asks for its examples in an order
    that jumps between row groups.

    Args:
        shards: the files.
        wanted: (n,) the rows that will be asked for, and are kept; by default all.
    """

    def __init__(self, shards: tuple[Shard, ...], wanted: Tensor | None = None) -> None:
        self.shards = shards
        self._groups = list(_groups(shards))
        self._ends = [group.end for group in self._groups]
        self._wanted = wanted if wanted is None else wanted.sort().values
        self._spool: Spool | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_spool": None}  # a worker process reads for itself

    def of_rows(self, rows: Tensor, /) -> ImagesOfShards:
        """These images, of which only some rows are kept."""
        return ImagesOfShards(self.shards, rows)

    def open(self, row: int, /) -> BinaryIO:
        """The encoded image, from the table or from the file that it names.

        Raises:
            UndecodableImage: there is none.
        """
        spool = self._read(row)
        content, path = spool.content(row), spool.path(row)
        if content is not None:
            return BytesIO(content)
        if path is None:
            raise UndecodableImage(f"data: expected an image in {self.place(row)}, got none")
        file = self._group(row).shard.path.parent / path
        if not file.is_file():
            raise UndecodableImage(
                f"data: expected an image in {self.place(row)}, got no file {file}",
                "put it there, or remove the row",
            )
        return file.open("rb")

    def name(self, row: int, /) -> str:
        """The number of the row in its file, after the image's own path if it has one."""
        group = self._group(row)
        place = f"row {row - group.first_of_shard} of {group.shard.path.name}"
        path = self._read(row).path(row)
        return place if path is None else f"{path} ({place})"

    def place(self, row: int, /) -> str:
        """The number of the row and the path of its file."""
        group = self._group(row)
        return f"row {row - group.first_of_shard} of {group.shard.path}"

    def _group(self, row: int) -> _Group:
        return self._groups[bisect_right(self._ends, row)]

    def _read(self, row: int) -> Spool:
        """The rows read so far, among them those of this row's group."""
        if self._spool is None or self._spool.process != os.getpid():
            self._spool = Spool()
        if row not in self._spool:
            group = self._group(row)
            images = group.shard.read_images(group.number)
            for kept in {row, *self._wanted_of(group)}:
                self._spool.add(kept, *_parts(images[kept - group.start]))
        return self._spool

    def _wanted_of(self, group: _Group) -> list[int] | range:
        if self._wanted is None:
            return range(group.start, group.end)
        ends = torch.tensor([group.start, group.end])
        first, last = torch.searchsorted(self._wanted, ends).tolist()
        return list(self._wanted[first:last].tolist())


@dataclass(frozen=True)
class _Group:
    """A row group: its rows among those of all files.

    Attributes:
        shard: its file.
        number: in the file.
        first_of_shard: the first row of the file.
        start: the first row.
        end: the row behind the last.
    """

    shard: Shard
    number: int
    first_of_shard: int
    start: int
    end: int


def _groups(shards: Sequence[Shard]) -> Iterator[_Group]:
    end = 0
    for shard in shards:
        first = end
        for number, size in enumerate(shard.group_sizes):
            start = end
            end += size
            yield _Group(shard, number, first, start, end)


def _parts(value: pa.Scalar) -> tuple[bytes | None, str | None]:
    """The bytes and the path of an image; a column without parts has either."""
    found = value.as_py()
    if isinstance(found, dict):
        return found.get("bytes"), found.get("path")
    return (None, found) if isinstance(found, str) else (found, None)


def _split_of(path: Path) -> str | None:
    """The split that the name of a file or of its folder tells."""
    part = _PART.fullmatch(path.stem)
    if part is not None:
        return _SPLITS.get(part[1], part[1])
    return _SPLITS.get(path.stem) or _SPLITS.get(path.parent.name)


def split_name(split: str | None) -> str | None:
    """The name of a split here: ``val`` for ``validation``."""
    return None if split is None else _SPLITS.get(split, split)
