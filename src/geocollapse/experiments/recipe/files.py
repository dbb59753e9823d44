"""Recipes as YAML: the shipped ones by name, your own by path, merged over what they extend."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from geocollapse.experiments.recipe.yaml_text import parse_yaml

RecipeText = dict[str, object]

_WHOLE = ("sweeps",)  # a recipe that extends another replaces these keys and is merged elsewhere


def recipe_names() -> list[str]:
    """Names of the shipped recipes, the demo first; files named `_*` are only extended."""
    files = (item.name for item in _shipped().iterdir())
    names = sorted(
        name.removesuffix(".yaml") for name in files if name.endswith(".yaml") and name[0] != "_"
    )
    return sorted(names, key=lambda name: name != "demo")


def read_recipe(name_or_path: str) -> RecipeText:
    """A recipe as plain data, merged over what it extends, not yet validated."""
    file, folder = _find(name_or_path, Path())
    return _extended(file, folder, ())


def recipe_texts(name_or_path: str) -> dict[str, str]:
    """The text of a recipe and of each that it extends, with comments, by the name of the file."""
    texts: dict[str, str] = {}
    left = [_find(name_or_path, Path())]
    while left:
        file, folder = left.pop(0)
        if file.name not in texts:
            texts[file.name] = file.read_text(encoding="utf-8")
            content = parse_yaml(texts[file.name], where=file.name)
            extends = content.get("extends", []) if isinstance(content, Mapping) else []
            parents = [extends] if isinstance(extends, str) else extends
            left += [_find(parent, folder) for parent in parents]
    return texts


def _shipped() -> Traversable:
    return resources.files("geocollapse.experiments") / "recipes"


def _find(name_or_path: str, folder: Path) -> tuple[Traversable, Path]:
    """The file of a recipe, and the folder that paths in it are relative to."""
    if name_or_path.endswith((".yaml", ".yml")):
        path = folder / name_or_path
        if not path.is_file():
            raise FileNotFoundError(
                f"recipe: expected a file at {path}, got none; do geocollapse recipes for names"
            )
        return path, path.parent
    shipped = _shipped() / f"{name_or_path}.yaml"
    if shipped.is_file():
        return shipped, folder
    names = recipe_names()
    near = (difflib.get_close_matches(name_or_path, names, n=1, cutoff=0.0) or names)[0]
    raise ValueError(
        f"recipe: expected a path ending in .yaml or one of {', '.join(names)}, got "
        f"{name_or_path!r}; do {near}"
    )


def _extended(file: Traversable, folder: Path, seen: tuple[str, ...]) -> RecipeText:
    """A recipe merged over what it extends; ``seen`` are the files that led to it."""
    if str(file) in seen:
        raise ValueError(
            f"recipe: extends: expected a recipe that does not lead back, got {file.name}; "
            "do remove it"
        )
    own = parse_yaml(file.read_text(encoding="utf-8"), where=f"recipe {file.name}")
    if not isinstance(own, dict) or not all(isinstance(key, str) for key in own):
        raise ValueError(
            f"recipe {file.name}: expected keys with values, got {type(own).__name__}; "
            "do see the demo's"
        )
    own.setdefault("name", file.name.rpartition(".")[0])
    extends = own.pop("extends", [])
    parents = [extends] if isinstance(extends, str) else extends
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ValueError(
            f"recipe: extends: expected names of recipes, got {extends!r}; do extends: demo"
        )
    under: RecipeText = {}
    for parent in parents:
        under = merged(under, _extended(*_find(parent, folder), (*seen, str(file))))
    return merged(under, own)


def merged(under: RecipeText, over: RecipeText, *, whole: tuple[str, ...] = _WHOLE) -> RecipeText:
    """``over`` merged into ``under``, mapping by mapping; keys in ``whole`` are replaced.

    A key of ``under`` that is null in ``over`` is dropped, so that it has its default again.
    """
    result = copy.deepcopy(under)
    for key, value in over.items():
        inner = result.get(key)
        if key in result and value is None:
            del result[key]
        elif isinstance(inner, dict) and isinstance(value, dict) and key not in whole:
            result[key] = merged(inner, value, whole=())
        else:
            result[key] = copy.deepcopy(value)
    return result
