"""The page of a recipe's keys: complete, and made from the classes."""

import os

import pytest
from pydantic import BaseModel

import recipe_page
from geocollapse.experiments.recipe.recipe import GameRecipe, SupervisedRecipe


def classes(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A class of keys and those of its parts."""
    found = [model]
    for part in recipe_page.parts_of(model).values():
        found += classes(part)
    return found


ALL = list(dict.fromkeys([*classes(SupervisedRecipe), *classes(GameRecipe)]))


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_every_key_is_named_where_it_is_read(model: type[BaseModel]) -> None:
    said = recipe_page.documented(model)
    parts = recipe_page.parts_of(model)
    missing = [name for name in model.model_fields if name not in parts and name not in said]
    assert missing == []


def test_the_page_is_up_to_date() -> None:
    """``REWRITE_PAGES=1`` writes it."""
    if os.environ.get("REWRITE_PAGES"):
        recipe_page.PAGE.write_text(recipe_page.page(), encoding="utf-8")
    assert recipe_page.PAGE.read_text(encoding="utf-8") == recipe_page.page()
