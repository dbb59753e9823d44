"""Labelled texts from .csv files, of one's own or of a named data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from geocollapse.data.labelled import About
from geocollapse.data.sources import DataSource
from geocollapse.data.texts import LabelledTexts

if TYPE_CHECKING:
    import pandas as pd

_TEXT = "text"  # columns of a .csv file
_LABELS = ("label", "category")


def read_texts(path: Path, name: str, split: str) -> LabelledTexts:
    """The texts of a .csv file with columns ``text`` and ``label`` or ``category``.

    Classes are numbered in alphabetical order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no readable table, missing columns, or a row without text or label.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"data: expected a .csv file, got {str(path)!r}, which does not exist; do check it"
        )
    table = _table(path)
    label = next((column for column in _LABELS if column in table), None)
    if _TEXT not in table or label is None:
        raise ValueError(
            f"data: expected columns text and label in {path.name}, got "
            f"{', '.join(map(str, table.columns))}; "
            f"do name them so in its first line"
        )
    for column in (_TEXT, label):
        empty = table.index[table[column].str.strip() == ""]
        if len(empty):
            raise ValueError(
                f"data: expected a {column} in each row of {path.name}, got none in row "
                f"{empty[0] + 2}"
            )
    names = sorted(set(table[label]))
    labels = torch.tensor([names.index(value) for value in table[label]], dtype=torch.int64)
    return LabelledTexts(list(table[_TEXT]), labels, About(name, split, tuple(names)))


def _table(path: Path) -> pd.DataFrame:
    """The rows of a .csv file, every field as text."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError as error:
        raise ValueError(
            f"data: expected a first line text,label in {path.name}, got an empty file; do write "
            f"one"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data: expected {path.name} in UTF-8, got byte {error.object[error.start]:#x}; do "
            f"save it as UTF-8"
        ) from error
    except pd.errors.ParserError as error:
        raise _unreadable(
            path, str(error).strip().removeprefix("Error tokenizing data. C error: ")
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas makes surplus fields names of rows
        raise _unreadable(path, f"more than {len(table.columns)} fields in each row")
    return table


def _unreadable(path: Path, got: str) -> ValueError:
    return ValueError(
        f"data: expected a table in {path.name}, each row with as many fields as the first line, "
        f"got {got}; "
        f'do write texts with commas or line breaks in "quotes", and a quote inside as ""'
    )


def load_named_texts(source: DataSource, split: str, root: Path, download: bool) -> LabelledTexts:
    """A named set of texts; a missing file is downloaded from its official source.

    Raises:
        FileNotFoundError: a missing file that cannot be downloaded.
    """
    file = next(file for file in source.files if Path(file).stem == split)
    if not (root / file).exists():
        _fetch(source, file, root, download)
    return read_texts(root / file, source.name, split)


def _fetch(source: DataSource, file: str, root: Path, download: bool) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    url, sha256 = source.downloads[file]
    try:
        if not download:
            raise OSError("not asked for")
        torch.hub.download_url_to_file(url, str(root / file), hash_prefix=sha256, progress=False)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"data: expected {file} under {root}, and no download from {url} ({error}); "
            f"do put it there, or --data-root / GEOCOLLAPSE_DATA to where it is"
        ) from error
