"""The house stays readable: short files, short functions, short lines, typed signatures."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FILES = [
    path
    for folder in ("src", "tests", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MOST_ANY = 0.08


def functions_of(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


def n_lines(function):
    """Lines of a function's body, without its docstring."""
    body = function.body
    first = body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(
        getattr(first, "value", None), ast.Constant
    )
    start = body[1].lineno if has_docstring and len(body) > 1 else first.lineno
    return function.end_lineno - start + 1


def signature(function):
    returns = ast.unparse(function.returns) if function.returns else ""
    return f"{ast.unparse(function.args)} {returns}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_file_is_over_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_function_is_over_45_lines(path):
    long = {f.name: n_lines(f) for f in functions_of(path) if n_lines(f) > 45}
    assert not long


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_line_is_over_100_columns(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [number for number, line in enumerate(lines, 1) if len(line) > 100]


def test_signatures_are_typed():
    functions = [function for path in SOURCES for function in functions_of(path)]
    with_any = [function for function in functions if "Any" in signature(function)]
    assert len(with_any) <= MOST_ANY * len(functions)


def test_one_statement_a_line():
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bodies = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        lines = [node.lineno for node in bodies if ast.unparse(node) != "..."]  # an overload
        assert len(lines) == len(set(lines)), path
