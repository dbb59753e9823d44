"""What a command answers, and how it is shown: a table for the eye, one JSON object, or CSV rows."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Display:
    """How the result and the progress are shown; part of every command."""

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
        json: the JSON form: strict, undefined numbers are None.
        text: what a person reads.
        rows: the rows of the CSV form; the JSON form itself where there are none.
        failed: a run failed: the command exits with 1.
        out: a file that gets the result as well.
    """

    json: Mapping[str, Any]
    text: str
    rows: Sequence[Mapping[str, Any]] = ()
    failed: bool = False
    out: Path | None = None

    def as_json(self) -> str:
        """One JSON object; NaN and infinities are refused."""
        return json.dumps(self.json, indent=2, allow_nan=False)

    def as_csv(self) -> str:
        """A header and one line a row; nested keys are dotted."""
        from geocollapse.experiments.results.tables import flatten

        rows = [flatten(row) for row in self.rows or [self.json]]
        text = io.StringIO()
        writer = csv.DictWriter(
            text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")


def show(answer: Answer, display: Display) -> None:
    """Print the answer on stdout in the form asked for, and write its file: JSON, CSV or text by
    the file's ending.
    """
    forms = {".json": answer.as_json, ".csv": answer.as_csv}
    if answer.out is not None:
        answer.out.parent.mkdir(parents=True, exist_ok=True)
        answer.out.write_text(
            forms.get(answer.out.suffix, lambda: answer.text)() + "\n", encoding="utf-8"
        )
    print(
        answer.as_json() if display.as_json else answer.as_csv() if display.as_csv else answer.text,
        file=sys.stdout,
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A readable table as text; None is a dash, numbers stand right, and of all columns `what` is
    the one to wrap.
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
