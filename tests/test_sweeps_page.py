"""The tables of docs/sweeps.md that are made from recipes and stored sweeps.

`REWRITE_PAGES=1 pytest tests/test_sweeps_page.py` makes them anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pandas as pd
import pytest

from geocollapse.experiments.recipe import Recipe, load_recipe, recipe_names
from test_stored_sweeps import ABOVE_SHARE, ROOT

PAGE = ROOT / "docs" / "sweeps.md"
BASE = {"training.learning_rate": "rate", "training.batch_size": "batch"}


def grids() -> Iterator[str]:
    """The published grid beside the reduced one, for every recipe that has both presets."""
    yield "| recipe | varied | `paper` | `reduced` |"
    yield "|---|---|---|---|"
    for name in recipe_names():
        recipe = load_recipe(name)
        if "reduced" in recipe.presets:
            paper = recipe.with_preset("paper") if "paper" in recipe.presets else recipe
            yield from _of_recipe(paper, recipe.with_preset("reduced"))


def _of_recipe(paper: Recipe, reduced: Recipe) -> Iterator[str]:
    for sweep in paper.sweeps or [""]:
        one = _grid(paper, sweep)
        other = _grid(reduced, sweep)
        grid = paper.sweeps.get(sweep, {})
        varied = ", ".join(map(_last, (key for key in grid if len(grid[key]) > 1)))
        cells = (f"`{paper.name}`", varied or "seeds", one, other if other != one else "the same")
        yield f"| {' | '.join(cells)} |"


def _grid(recipe: Recipe, sweep: str) -> str:
    """The values of a sweep, each key in its order, and what else it sets, the rate and batch."""
    grid = recipe.sweeps.get(sweep, {})
    fixed = {key: column[0] for key, column in grid.items() if len(column) == 1}
    swept = [column for key, column in grid.items() if key not in fixed]
    values = " x ".join(", ".join(map(_shown, column)) for column in swept)
    at = [f"{_last(key)} {_shown(value)}" for key, value in fixed.items()]
    training = recipe.to_dict().get("training")
    if isinstance(training, dict):
        at += [f"{word} {training[_last(key)]}" for key, word in BASE.items() if key not in grid]
    return f"{values or recipe.seeds} at {', '.join(at)}" if at else values


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"({', '.join(map(_shown, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def records() -> Iterator[str]:
    """The stored sweeps whose records take more than a quarter of the time of the steps."""
    yield "| recipe | runs above 25 % | median run | cause |"
    yield "|---|---|---|---|"
    for name, (n_above, cause) in ABOVE_SHARE.items():
        table = pd.read_csv(ROOT / "results" / name / "reduced" / "table.csv")
        median = (table["seconds_history"] / table["seconds_training"]).median()
        yield f"| `{name}` | {n_above} of {len(table)} | {100 * median:.0f} % | {cause} |"


@pytest.mark.parametrize("block", [grids, records], ids=lambda block: str(block.__name__))
def test_the_table_is_made_from_the_recipes_and_the_stored_sweeps(block) -> None:
    name = block.__name__
    page = PAGE.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- table: {name} -->\n)(.*?)(<!-- end of {name} -->)", re.DOTALL)
    found = marked.search(page)
    assert found
    made = "\n".join(block()) + "\n"
    if os.environ.get("REWRITE_PAGES"):
        PAGE.write_text(marked.sub(lambda m: m[1] + made + m[3], page), encoding="utf-8")
    else:
        assert found[2] == made
