"""The columns of tables that hold texts or images with their labels."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

_KINDS = {
    "text_column": "csv:FILE",
    "label_column": "csv:FILE or parquet:GLOB",
    "image_column": "parquet:GLOB",
}


@dataclass(frozen=True)
class Columns:
    """The columns that a caller asks for, None for those with the usual names.

    Attributes:
        text_column: of the texts of a .csv file.
        label_column: of the classes.
        image_column: of the images of .parquet files.
    """

    text_column: str | None = None
    label_column: str | None = None
    image_column: str | None = None

    def refuse(self, name: str, *, taken: Collection[str] = ()) -> None:
        """Raise a ValueError if a column is asked for that data called ``name`` do not take."""
        for argument, column in vars(self).items():
            if column is not None and argument not in taken:
                raise ValueError(
                    f"{argument}: expected None for {name}, which is no {_KINDS[argument]}, got "
                    f"{column!r}; do leave it out"
                )


@dataclass(frozen=True)
class Table:
    """The columns of a file.

    Attributes:
        file: its name, for errors.
        columns: their names.
        usual: the columns that are expected, for errors.
        place: of the names in the file, for errors.
    """

    file: str
    columns: Sequence[str]
    usual: str
    place: str

    def column(self, argument: str, wanted: str | None, usual: Sequence[str]) -> str:
        """The column asked for by ``argument``, else the first of the ``usual`` ones there is.

        Raises:
            ValueError: there is no such column.
        """
        known = self.columns
        if wanted is not None:
            if wanted not in known:
                near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.0) or known
                raise ValueError(
                    f"{argument}: expected a column of {self.file}, got {wanted!r}; do "
                    f"{argument}={near[0]!r}"
                )
            return wanted
        found = next((column for column in usual if column in known), None)
        if found is None:
            likely = known[-1] if argument == "label_column" else known[0]
            raise ValueError(
                f"data: expected columns {self.usual} in {self.file}, got {', '.join(known)}; do "
                f"name them so {self.place}, or {argument}={likely!r}"
            )
        return found
