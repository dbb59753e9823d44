"""JSON and YAML of the files of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from geocollapse.estimate import strict_json


def to_json(value: object, *, indent: int | None = None) -> bytes:
    """Strict JSON that ends a line; undefined numbers become null."""
    return (json.dumps(strict_json(value), allow_nan=False, indent=indent) + "\n").encode("utf-8")


def json_object(content: bytes) -> dict[str, object] | None:
    """The object that a JSON text holds; None for anything else."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def to_yaml(content: Mapping[str, object]) -> bytes:
    """YAML in the order of the keys."""
    import yaml

    from geocollapse.experiments.recipe import RecipeDumper

    text = yaml.dump(
        dict(content), Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=120
    )
    return str(text).encode("utf-8")


def read_yaml(path: Path) -> dict[str, object]:
    """The keys and values of a YAML file.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it does not hold keys with values.
    """
    from geocollapse.experiments.recipe import parse_stored_yaml

    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name}: expected a file at {path}, got none; do check the folder"
        )
    try:
        content: object = parse_stored_yaml(path.read_text(encoding="utf-8"), where=str(path))
    except UnicodeDecodeError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys with values, got none; do compute it anew")
    return content
