"""Labelled texts from .csv files, of one's own or of a named data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from geocollapse.data.columns import Columns, Table
from geocollapse.data.labelled import UNLABELLED, About
from geocollapse.data.naming import number_classes
from geocollapse.data.sources import DataSource
from geocollapse.data.texts import LabelledTexts

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = ("text",)  # columns of a .csv file
_LABELS = ("label", "category")
_USUAL = Columns()


def read_texts(
    path: Path, name: str, split: str, columns: Columns = _USUAL, *, require_labels: bool = True
) -> LabelledTexts:
    """The texts of a .csv file: by default of columns ``text`` and ``label`` or ``category``.

    Classes are numbered in alphabetical order; if all their names are numbers, by their value.
    Spaces around a label do not count. Without ``require_labels``, the texts of a table without
    such a column are of one class, ``unlabelled``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no readable table, missing columns, or a row without text or label.
    """
    if not path.is_file():
        state = "is no regular file" if path.exists() else "does not exist"
        raise FileNotFoundError(
            f"data: expected a .csv file, got {str(path)!r}, which {state}; do check it"
        )
    table = _table(path)
    known = Table(path.name, list(map(str, table.columns)), "text and label", "in its first line")
    text = known.column("text_column", columns.text_column, _TEXTS)
    is_labelled = require_labels or columns.label_column or set(_LABELS) & set(known.columns)
    label = known.column("label_column", columns.label_column, _LABELS) if is_labelled else None
    for column in (text,) if label is None else (text, label):
        empty = table.index[table[column].str.strip() == ""]
        if len(empty):
            raise ValueError(
                f"data: expected a {column} in each row of {path.name}, got none in row "
                f"{empty[0] + 2}"
            )
    given = [UNLABELLED] * len(table) if label is None else list(table[label])
    labels, names = number_classes(given)
    return LabelledTexts(list(table[text]), labels, About(name, split, names))


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
    return table.rename(columns=str.strip)


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
            f"do put it there, or set data_root=DIR or GEOCOLLAPSE_DATA to where it is"
        ) from error
