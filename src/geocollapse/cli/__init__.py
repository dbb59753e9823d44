"""The command line: it parses, finds model and data, calls the library and prints.

It computes nothing itself. Importing it imports neither torch nor anything else that `--help` can
do without.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TextIO, cast

import typer
from typer.main import get_command

from geocollapse._version import __version__
from geocollapse.cli.cache import cache
from geocollapse.cli.catalogue import data, models, recipes
from geocollapse.cli.command import add_command
from geocollapse.cli.compare import compare
from geocollapse.cli.launch import heard, is_joined, leave, speaks
from geocollapse.cli.measure import measure
from geocollapse.cli.ood import ood
from geocollapse.cli.rank import rank
from geocollapse.cli.report import report
from geocollapse.cli.reproduce import reproduce
from geocollapse.cli.sweep import demo, sweep
from geocollapse.cli.train import train
from geocollapse.cli.transfer import transfer

_COMMANDS = (
    measure,
    compare,
    transfer,
    rank,
    ood,
    train,
    sweep,
    report,
    reproduce,
    demo,
    recipes,
    data,
    models,
    cache,
)
# A wrong argument, file or name exits with 2, a failed run with 1; anything else is a bug and shows
# its traceback. The parent of the public BadParameter is the class of typer's usage errors, which
# has no public name in all versions.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
_WRONG_FILE = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
_WRONG = (_UsageError, ValueError, TypeError, ImportError, *_WRONG_FILE)
_FAILED = (RuntimeError, ArithmeticError, MemoryError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 when done, 1 for a failed run, 2 for a wrong argument or file."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with heard(), _warnings_in_one_line(quiet="--quiet" in arguments or not speaks()):
            run = _program()
            return int(run(arguments, prog_name="geocollapse", standalone_mode=False) or 0)
    except (*_WRONG, *_FAILED) as error:
        if "--debug" in arguments:
            raise
        if speaks() or not is_joined():
            print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, _WRONG) else 1
    finally:
        leave()


def _program() -> Callable[..., int | None]:
    """All commands as one function of the arguments."""
    app = typer.Typer(
        name="geocollapse",
        help="Measure the geometry of learned representations: geometric complexity, neural "
        "collapse, transfer.",
        rich_markup_mode=None,
        add_completion=False,
    )
    app.callback()(_root)
    for function in _COMMANDS:
        add_command(app, function)
    return get_command(app).main


def _print_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


_Version = Annotated[
    bool,
    typer.Option("--version", help="Show the version.", is_eager=True, callback=_print_version),
]


def _root(version: _Version = False) -> None:
    """The options of `geocollapse` itself."""


def _one_line(error: Exception) -> str:
    text = error.format_message() if isinstance(error, _UsageError) else str(error)
    if text.startswith("Caught ") and "DataLoader worker" in text:  # then a traceback, as text
        text = text.rpartition(f"\n{type(error).__name__}: ")[2]
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def _warnings_in_one_line(*, quiet: bool) -> Iterator[None]:
    """Show warnings as one line on stderr, without their place in the source, or not at all."""

    def show(
        message: Warning | str, *_: object, file: TextIO | None = None, line: str | None = None
    ) -> None:
        del file, line
        if not quiet:
            print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield
