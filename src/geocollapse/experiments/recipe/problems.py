"""The first problem of a recipe in one line: its key, what was expected, what came, a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
}


def describe(error: ValidationError, known: Sequence[str]) -> str:
    """The first problem of a recipe; for a key of several types, what each of them expects.

    Args:
        error: what pydantic found.
        known: all dotted keys of a recipe.
    """
    problems = error.errors(include_url=False)
    unknown = next((problem for problem in problems if problem["type"] == "extra_forbidden"), None)
    if unknown is not None:
        path = ".".join(str(part) for part in unknown["loc"])
        return f"recipe: {path}: unknown key; do {nearest(path, known)}"
    path = _path(problems[0]["loc"], known)
    alike = [problem for problem in problems if _path(problem["loc"], known) == path]
    first = alike[0]
    if first["type"] == "missing":
        return f"recipe: {path}: expected a value, got none; do add {path}"
    if first["type"] == "value_error":
        where = f"{path}: " if path else ""  # no path for a rule of the whole recipe
        return f"recipe: {where}{first['ctx']['error']}"
    expected = " or ".join(dict.fromkeys(_expected(problem) for problem in alike))
    got = first["input"]
    return (
        f"recipe: {path}: expected {expected}, got {got!r} ({type(got).__name__}); "
        f"do set {path} to {expected}"
    )


def nearest(key: str, known: Sequence[str]) -> str:
    """The known dotted key most like ``key``: a similar sibling if there is one, else any."""
    parent, _, name = key.rpartition(".")
    beside = [item for item in known if item.rpartition(".")[0] == parent]
    for candidates, cutoff in ((beside, 0.6), (known, 0.6), (beside or known, 0.0)):
        names = {item: item for item in candidates} | {
            item.rpartition(".")[2]: item for item in reversed(candidates)
        }
        found = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
        if found:
            return names[found[0]]
    return known[0]


def _path(loc: Sequence[int | str], known: Sequence[str]) -> str:
    """The dotted key of a problem, without pydantic's names of alternatives (`list[int]`)."""
    path = ""
    for part in loc:
        longer = f"{path}.{part}".lstrip(".")
        free = path.split(".")[0] in ("sweeps", "presets") or path in (
            "model.args",
            "claims.expected_signs",
        )
        if longer not in known and not free:
            break
        path = longer
    return path


def _expected(problem: ErrorDetails) -> str:
    text = _EXPECTED.get(problem["type"], problem["msg"])
    return text.format(**problem.get("ctx", {})) if "{" in text else text
