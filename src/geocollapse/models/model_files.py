"""Python files that define models: what they define without being run, and errors when they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb

# calls and names by which a file may define what its text does not show
_DYNAMIC = ("__getattr__", "exec", "globals", "setattr", "vars", "locals")


@dataclass(frozen=True)
class Definitions:
    """The names that a Python file defines, by its text.

    Attributes:
        names: all that are assigned, defined or imported anywhere in it.
        public: its functions and classes, without those that begin with an underscore.
        is_open: it may define more when it runs.
    """

    names: frozenset[str]
    public: list[str]
    is_open: bool

    def may_have(self, name: str) -> bool:
        """True if running the file may define ``name``."""
        return self.is_open or name in self.names


def definitions(path: Path) -> Definitions:
    """Read what a Python file defines, which takes no time where running it imports much.

    Raises:
        ValueError: the file is no Python; the line is named.
    """
    with runnable(str(path)):
        tree = ast.parse(path.read_bytes(), str(path))
    names: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else names).add(node.id)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    tops = [node.name for node in tree.body if isinstance(node, kinds)]
    is_open = "*" in names or not (names | used).isdisjoint(_DYNAMIC)
    return Definitions(frozenset(names), [name for name in tops if name[0] != "_"], is_open)


@contextmanager
def runnable(source: str) -> Iterator[None]:
    """Let an error of a model's own file name the file and the line.

    Raises:
        ValueError: the file raised, whatever it was; a module that is missing stays what it is
            where it is ``source`` itself.
    """
    try:
        yield
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # a file is code of others, which may raise anything
        if isinstance(error, ModuleNotFoundError) and _is_part_of(source, error.name or ""):
            raise
        reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        line = _line_in(source, error)
        place = f"line {line} of {source}" if line else source
        raise ValueError(
            f"model: expected Python that runs, got {reason} at {place}; "
            f"{remedy_of(error) or 'do correct it'}"
        ) from error


def remedy_of(error: BaseException) -> str | None:
    """What to do where a model's code does not run for want of a package."""
    is_missing = isinstance(error, ModuleNotFoundError)
    return "do pip install the package it is part of" if is_missing else None


def _is_part_of(module: str, missing: str) -> bool:
    return module == missing or module.startswith(f"{missing}.")


def _line_in(source: str, error: BaseException) -> int | None:
    """The last line of ``source`` on the way to the error."""
    if isinstance(error, SyntaxError) and error.filename == source:
        return error.lineno
    lines = [n for frame, n in walk_tb(error.__traceback__) if frame.f_code.co_filename == source]
    return lines[-1] if lines else None
