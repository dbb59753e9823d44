"""Where the numbers of a report come from: versions, machines, preprocessing, the command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from geocollapse.experiments.results.tables import SweepResults, flatten
from geocollapse.experiments.results.text import to_yaml
from geocollapse.reports.wording import number

_SHOWN = 4  # values of one key before the others are only counted


def provenance(results: SweepResults) -> list[tuple[str, str]]:
    """Versions, device, seeds and threads as the runs recorded them, all values of each."""
    said = _distinct(flatten(run) for run in results.provenance.values() if run)
    said |= {"seed": [str(seed) for seed in sorted(results.runs["seed"].dropna().unique())]}
    rows = [
        ("command", command(results)),
        ("this report", f"geocollapse report {results.folder.name}"),
    ]
    said |= _preprocessing(results)
    return rows + [(key, _few(values)) for key, values in said.items() if values]


def command(results: SweepResults) -> str:
    """The command that makes this sweep anew.

    It names a shipped recipe, with its preset, where the sweep has nothing else; otherwise a file
    with the expanded recipe of the page.
    """
    from geocollapse.experiments.recipe import load_recipe, recipe_names

    recipe = results.recipe
    n_seeds = results.runs["seed"].nunique()
    seeds = "" if n_seeds == recipe.get("seeds") else f" --seeds {n_seeds}"
    name = str(recipe.get("name"))
    ran = _completed(recipe)
    if name in recipe_names():
        shipped = load_recipe(name)
        if shipped.to_dict() == ran:
            return f"geocollapse sweep {name}{seeds}"
        for preset in shipped.presets:
            if shipped.with_preset(preset).to_dict() == ran:
                return f"geocollapse sweep {name} --preset {preset}{seeds}"
    return f"geocollapse sweep recipe.yaml{seeds}  # recipe.yaml: the expanded recipe below"


def recipe_text(recipe: Mapping[str, object]) -> str:
    """An expanded recipe as YAML."""
    return to_yaml(recipe).decode("utf-8")


def _completed(recipe: Mapping[str, object]) -> dict[str, object] | None:
    """A stored recipe with keys that were added since; None if it is not a recipe of today."""
    from geocollapse.experiments.recipe import Recipe

    try:
        return Recipe.of(recipe).to_dict()
    except ValueError:
        return None


def _preprocessing(results: SweepResults) -> dict[str, list[str]]:
    """The preprocessing of the source: GC is comparable only where it is the same."""
    prefix = "source.preprocessing."
    runs = results.runs[[name for name in results.runs.columns if name.startswith(prefix)]]
    rows = [row.dropna().map(number).to_dict() for _, row in runs.iterrows()]
    said = _distinct(
        {str(name).removeprefix(prefix): value for name, value in row.items()} for row in rows
    )
    return {f"preprocessing, {name}": values for name, values in said.items()}


def _distinct(mappings: Iterable[Mapping[str, object]]) -> dict[str, list[str]]:
    """Each key with its different values as text, in order of appearance."""
    seen: dict[str, list[str]] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            if value is not None and str(value) not in seen.setdefault(key, []):
                seen[key].append(str(value))
    return seen


def _few(values: list[str]) -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(values[:_SHOWN]) + more
