"""The shipped recipes on one screen: by family, with what they cost."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from geocollapse.cli.catalogue_types import RecipeDict

WIDTH = 100  # columns
_SHORTEST = 10  # letters of a title that still says something
_BEGINNING = "Runs and costs of whole recipes, on 2 cores. * has a preset reduced as well."
_ENDING = (
    "geocollapse recipes show NAME prints one, sweep NAME runs one, sweep NAME --dry-run says what "
    "it costs here. A recipe of your own is a .yaml file."
)
_REDUCED = re.compile(r"reduced (\d+) minutes a seed")
_SMOKE = re.compile(r"(?:[;,] )?smoke (?P<time>\d+ s)(?: on 2 cores)?")


def recipe_list(recipes: Sequence[RecipeDict]) -> str:
    """The list as text: a few lines a family of the main paper, one line any other recipe."""
    lines = [_BEGINNING]
    for name, members in _families(recipes).items():
        is_family = members[0]["name"] != name
        lines += _family(name, members) if is_family else [_line(members[0])]
    return "\n".join([*lines, *textwrap.wrap(_ENDING, WIDTH)])


def _families(recipes: Sequence[RecipeDict]) -> dict[str, list[RecipeDict]]:
    """Recipes of the main paper by what is trained on which data; those of other papers alone."""
    from geocollapse.experiments.recipe import MAIN_PAPER

    families: dict[str, list[RecipeDict]] = {}
    for recipe in recipes:
        family = f"{recipe['data']}-{recipe['model']}"
        is_member = recipe["name"].startswith(f"{family}-") and recipe["papers"] == [MAIN_PAPER]
        families.setdefault(family if is_member else recipe["name"], []).append(recipe)
    return families


def _line(recipe: RecipeDict) -> str:
    """One recipe: its title, as far as there is room, and its cost."""
    name = _marked(recipe["name"], recipe)
    cost = f"{recipe['n_runs']} runs, {_cost_at_full_size(recipe)}".removesuffix(" on 2 cores")
    about = "; ".join([cost, *_other_parts(recipe)])
    room = WIDTH - len(f"{name}:  ({about})")
    if room < _SHORTEST:
        return f"{name}: {about}"
    return f"{name}: {textwrap.shorten(recipe['title'], room, placeholder='…')} ({about})"


def _family(name: str, members: Sequence[RecipeDict]) -> Iterator[str]:
    """The names of a family, and the presets that all of its members have, with their costs."""
    names = ", ".join(_marked(m["name"].removeprefix(f"{name}-"), m) for m in members)
    yield from _wrapped(f"{name}-: {names}", "")
    shared = [p for p in members[0]["presets"] if all(p in m["presets"] for m in members)]
    costs = {"paper": _full(name, members), "smoke": _smoke(members)}
    presets = [f"{p}: {costs[p]}" if costs.get(p) else p for p in shared if p != "reduced"]
    runs = _span(m["n_runs"] for m in members)
    yield from _wrapped("; ".join([f"{runs} runs", *presets, *_reduced(members)]), "    ")


def _full(name: str, members: Sequence[RecipeDict]) -> str:
    """The cost of the published size, with the members that it is the cost of."""
    groups: dict[str, list[str]] = {}
    for member in members:
        short = member["name"].removeprefix(f"{name}-")
        groups.setdefault(_cost_at_full_size(member), []).append(short)
    first, *others = groups
    if not others:
        return first
    named = [f"{cost} ({', '.join(groups[cost])})" for cost in others]
    return f"{', '.join(named)}, {first} (the others)"


def _smoke(members: Sequence[RecipeDict]) -> str:
    times = dict.fromkeys(found["time"] for m in members if (found := _SMOKE.search(m["cost"])))
    return ", ".join(times)


def _reduced(members: Sequence[RecipeDict]) -> Iterator[str]:
    """The cost of the preset `reduced`, over those members that have it and say it."""
    minutes = [int(found[1]) for m in members if (found := _REDUCED.search(m["cost"]))]
    if minutes:
        yield f"reduced: {_span(minutes)} minutes a seed, where marked"


def _cost_at_full_size(recipe: RecipeDict) -> str:
    return re.sub(r"^\d+ runs, ", "", recipe["cost"]).partition("; ")[0]


def _other_parts(recipe: RecipeDict) -> list[str]:
    return _SMOKE.sub("", recipe["cost"]).split("; ")[1:]


def _marked(name: str, recipe: RecipeDict) -> str:
    return f"{name}*" if "reduced" in recipe["presets"] else name


def _span(numbers: Iterable[int]) -> str:
    """Lowest to highest, or the one number."""
    found = sorted(set(numbers))
    return " to ".join(map(str, dict.fromkeys((found[0], found[-1]))))


def _wrapped(text: str, indent: str) -> list[str]:
    """A text over as many lines as it needs, those behind the first indented further."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
    )
