"""A sweep that goes on: its recipe may grow, and may not turn into another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geocollapse.experiments.recipe.plan import PlanEntry
    from geocollapse.experiments.recipe.recipe import Recipe

# Keys that change no run and no verdict, and those that are compared in their own way.
_FREE = ("name", "title", "paper", "source", "cost", "presets")
_GROWING = ("seeds", "sweeps")


def difference(before: Recipe, now: Recipe) -> str | None:
    """The first key in which a recipe is another one than before, in words; None if it only grew.

    Names and descriptions may change, seeds are compared by `fewer_seeds`, and sweeps may gain
    values. A sweep may also be new.
    """
    old = before.to_dict()
    new = now.to_dict()
    apart = (*_FREE, *_GROWING)
    one_fixed, other_fixed = ({k: r[k] for k in r if k not in apart} for r in (old, new))
    for key, one, two in _differences(one_fixed, other_fixed):
        return f"{key} is {two!r}, and was {one!r}"
    for name, grid in before.sweeps.items():
        grown = now.sweeps.get(name, {})
        if set(grid) != set(grown):
            return f"sweeps.{name} is over {_keys(grown)}, and was over {_keys(grid)}"
        for key, values in grid.items():
            lost = [value for value in values if value not in grown[key]]
            if lost:
                return f"sweeps.{name}.{key} is {grown[key]}, without {lost[0]!r}"
    return None


def fewer_seeds(before: Sequence[PlanEntry], now: Sequence[PlanEntry]) -> str | None:
    """The loss of seeds, in words; None if there are as many as before or more."""
    n_before, n_now = (1 + max((run["seed"] for run in runs), default=-1) for runs in (before, now))
    return f"seeds is {n_now}, and was {n_before}" if n_now < n_before else None


def _differences(
    old: Mapping[str, object], new: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, object, object]]:
    """Dotted keys with the values that differ."""
    for key in dict.fromkeys((*old, *new)):
        one = old.get(key)
        two = new.get(key)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            yield from _differences(one, two, f"{prefix}{key}.")
        elif one != two:
            yield f"{prefix}{key}", one, two


def _keys(grid: Mapping[str, object]) -> str:
    return ", ".join(grid) or "nothing"
