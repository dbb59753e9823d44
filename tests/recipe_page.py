"""docs/recipe_keys.md: every key of a recipe, made from the classes that read them."""

import inspect
import json
import re
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from geocollapse.experiments.recipe.recipe import GameRecipe, SupervisedRecipe
from geocollapse.experiments.recipe.settings import Part
from stored_blocks import ROOT

PAGE = ROOT / "docs" / "recipe_keys.md"
HEAD = """# The keys of a recipe

Every key of a recipe's YAML, with what it takes and its default; a key without a default must be
given. Change one on the command line by its dotted name: `--set training.learning_rate=0.05`.
[Sweeps](sweeps.md) shows a recipe of your own.

"""
_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", object: "any"}
_SIGNS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


def page() -> str:
    """The whole page."""
    sections = [
        *_sections(SupervisedRecipe, "A recipe", ""),
        *_sections(GameRecipe, "A recipe of a game (`kind: game`)", ""),
    ]
    return HEAD + "\n".join(dict.fromkeys(sections))


def _sections(model: type[BaseModel], title: str, prefix: str) -> list[str]:
    parts = parts_of(model)
    rows = [
        f"| `{prefix}{name}` | {_shown(field)} | {_default(field)} |"
        for name, field in model.model_fields.items()
        if name not in parts
    ]
    text = documented(model).partition("\nSource:")[0].partition("\nExamples:")[0].strip()
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    table = "\n".join(["| key | takes | default |", "|---|---|---|", *rows]) if rows else ""
    own = "\n\n".join(filter(None, [f"## {title}", text, table])) + "\n"
    found = [own]
    for name, part in parts.items():
        found += _sections(part, f"`{prefix}{name}`", f"{prefix}{name}.")
    return found


def documented(model: type[BaseModel]) -> str:
    """The docstrings of a class of keys and of those that it extends."""
    own = [part for part in model.__mro__ if issubclass(part, Part) and part is not Part]
    return "\n\n".join(inspect.getdoc(part) or "" for part in own or [model])


def parts_of(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The fields that have keys of their own."""
    return {
        name: part
        for name, field in model.model_fields.items()
        for part in (get_args(field.annotation) or (field.annotation,))
        if isinstance(part, type) and issubclass(part, BaseModel)
    }


def _shown(field) -> str:
    bounds = [
        f"{sign} {getattr(entry, name):g}"
        for entry in field.metadata
        for kind, (sign, name) in _SIGNS.items()
        if isinstance(entry, kind)
    ]
    return " ".join([_words(field.annotation), *bounds]).replace("|", "\\|")


def _words(kind: object) -> str:
    if get_origin(kind) is Annotated:
        inner, *metadata = get_args(kind)
        bounds = [
            f"{sign} {getattr(entry, name):g}"
            for field in metadata
            for entry in getattr(field, "metadata", [field])
            for what, (sign, name) in _SIGNS.items()
            if isinstance(entry, what)
        ]
        return " ".join([_words(inner), *bounds])
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_words(part) for part in get_args(kind) if part is not NoneType)
    if get_origin(kind) in (list, tuple):
        inner = [part for part in get_args(kind) if part is not Ellipsis]
        return f"a list of: {_words(inner[0])}"
    if get_origin(kind) is dict:
        key, value = get_args(kind)
        return f"keys ({_words(key)}) with: {_words(value)}"
    return _NAMES.get(kind, getattr(kind, "__name__", "any").lower())


def _default(field) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "must be given"
    if isinstance(value, BaseModel):
        value = value.model_dump()
    return "none" if value in (None, "") else f"`{json.dumps(value)}`"
