"""Labelled texts from .csv files, of one's own or of a named data set."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from geocollapse.data.labelled import About
from geocollapse.data.naming import number_classes
from geocollapse.data.sources import DataSource
from geocollapse.data.texts import LabelledTexts

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = ("text",)  # columns of a .csv file
_LABELS = ("label", "category")


@dataclass(frozen=True)
class Columns:
    """The columns of a .csv file that a caller asks for, None for those with the usual names.

    Attributes:
        text_column: of the texts.
        label_column: of the classes.
    """

    text_column: str | None = None
    label_column: str | None = None

    def refuse(self, name: str) -> None:
        """Raise a ValueError if a column is asked for: ``name`` is no .csv file of one's own."""
        for argument, column in vars(self).items():
            if column is not None:
                raise ValueError(
                    f"{argument}: expected None for {name}, which is no csv:FILE, got {column!r}; "
                    f"do leave it out"
                )


def read_texts(path: Path, name: str, split: str, columns: Columns = Columns()) -> LabelledTexts:
    """The texts of a .csv file: by default of columns ``text`` and ``label`` or ``category``.

    Classes are numbered in alphabetical order; if all their names are numbers, by their value.
    Spaces around a label do not count.

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
    text = _column(table, path, "text_column", columns.text_column, _TEXTS)
    label = _column(table, path, "label_column", columns.label_column, _LABELS)
    for column in (text, label):
        empty = table.index[table[column].str.strip() == ""]
        if len(empty):
            raise ValueError(
                f"data: expected a {column} in each row of {path.name}, got none in row "
                f"{empty[0] + 2}"
            )
    labels, names = number_classes(list(table[label]))
    return LabelledTexts(list(table[text]), labels, About(name, split, names))


def _column(
    table: pd.DataFrame, path: Path, argument: str, wanted: str | None, usual: Sequence[str]
) -> str:
    """The column asked for, else the first of the usual ones that is there."""
    known = list(map(str, table.columns))
    found = next((column for column in usual if column in known), None)
    if wanted is not None:
        if wanted not in known:
            near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.0) or known
            raise ValueError(
                f"{argument}: expected a column of {path.name}, got {wanted!r}; do "
                f"{argument}={near[0]!r}"
            )
        return wanted
    if found is None:
        likely = known[0] if argument == "text_column" else known[-1]
        raise ValueError(
            f"data: expected columns text and label in {path.name}, got {', '.join(known)}; do "
            f"name them so in its first line, or {argument}={likely!r}"
        )
    return found


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
