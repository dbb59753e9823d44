"""The result of a command, shown as a table, as one JSON object or as CSV rows."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geocollapse.cli.output import OutputFile, print_result, write_files
from geocollapse.runtime.files import write_whole

if TYPE_CHECKING:
    from rich.table import Table


SCHEMA_VERSION = 1  # of the JSON objects; raised when a key changes its meaning or goes away


@dataclass(frozen=True)
class Display:
    """The form of the result and of the progress; options of every command."""

    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV rows with dotted column names.")
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress and no warnings on stderr.")
    ] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

    def __post_init__(self) -> None:
        if self.as_json and self.as_csv:
            raise ValueError(
                "--csv: expected one form of the result, got --json and --csv; do leave one out"
            )


@dataclass(frozen=True)
class Answer:
    """The result of a command.

    Attributes:
        json: the JSON form, strict: undefined numbers are None.
        text: the form for a person to read.
        rows: rows of the CSV form; without any, the JSON form is the only row.
        failed: a run failed, so the command exits with 1.
        out: a file that the result is also written to.
        files: other files, written once the result is shown.
    """

    json: Mapping[str, object]
    text: str
    rows: Sequence[Mapping[str, object]] = ()
    failed: bool = False
    out: Path | None = None
    files: Sequence[OutputFile] = ()

    def as_json(self) -> str:
        """One JSON object; NaN and infinities raise a ValueError."""
        return json.dumps(self.json, indent=2, allow_nan=False)

    def as_csv(self) -> str:
        """A header and one line a row, with dotted names for nested keys."""
        from geocollapse.experiments.results.tables import flatten

        rows = [flatten(row) for row in self.rows or [self.json]]
        text = io.StringIO()
        writer = csv.DictWriter(
            text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")

    def all_files(self) -> list[OutputFile]:
        """The files to write, among them ``out``: as JSON, CSV or text by its ending."""
        files = list(self.files)
        if self.out is not None:
            forms = {".json": self.as_json, ".csv": self.as_csv}
            text = forms.get(self.out.suffix, lambda: self.text)() + "\n"
            files.insert(0, OutputFile("--out", self.out, partial(_write, text)))
        return files


def _write(text: str, path: Path) -> None:
    write_whole({path: text.encode()})


def show(answer: Answer, display: Display) -> None:
    """Print the answer on stdout, then write its files: a file that fails loses no result."""
    print_result(
        answer.as_json() if display.as_json else answer.as_csv() if display.as_csv else answer.text
    )
    write_files(answer.all_files())


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A readable table as text, with numbers on the right and a dash for None.

    Only the column `what` is wrapped.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, name in enumerate(columns):
        is_numeric = all(isinstance(row[number], int | float | None) for row in rows)
        drawn.add_column(name, justify="right" if is_numeric else "left", no_wrap=name != "what")
    for row in rows:
        drawn.add_row(*("-" if cell is None else escape(str(cell)) for cell in row))
    return as_text(drawn)


def as_text(drawn: Table) -> str:
    """A rich table as plain text, as wide as the terminal."""
    from rich.console import Console

    width = max(shutil.get_terminal_size((120, 24)).columns, 80)
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().strip("\n").splitlines())
