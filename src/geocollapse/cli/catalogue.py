"""`geocollapse recipes`, `data` and `models`: lists with cost and source of each entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument

from geocollapse.cli.answer import SCHEMA_VERSION, Answer, table
from geocollapse.cli.options import DataRoot
from geocollapse.cli.recipe_list import recipe_list

if TYPE_CHECKING:
    from geocollapse.cli.catalogue_types import (
        DataDict,
        FormDict,
        ModelDict,
        ModelsDict,
        RecipeDict,
        RecipesDict,
        RecipeTextDict,
        SourceDict,
    )
    from geocollapse.data import DataSource
    from geocollapse.experiments.recipe import Recipe
    from geocollapse.models import Architecture


ShowArgument = Annotated[
    Literal["show"] | None,
    Argument(metavar="show", help="Print one recipe with its comments.", show_default=False),
]
NameArgument = Annotated[
    str | None,
    Argument(metavar="NAME", help="Of the recipe to show, or a .yaml file.", show_default=False),
]
_FORMS: tuple[FormDict, ...] = (
    {
        "form": "DIR",
        "description": "a run folder of train or sweep, with its weights",
        "source": "this project",
    },
    {
        "form": "FILE.py:FACTORY",
        "description": "made by a function of a file; --model-arg KEY=VALUE are its arguments",
        "source": "your own",
    },
    {
        "form": "PACKAGE.MODULE:FACTORY",
        "description": "made by a function of an installed package, as in column MODEL above",
        "source": "your own",
    },
    {
        "form": "timm:NAME",
        "description": "pretrained, with its own preprocessing; also NAME.TAG and hf-hub:ID",
        "source": "huggingface.co/timm",
    },
    {
        "form": "torchvision:NAME",
        "description": "a classifier of images with its default weights and their preprocessing",
        "source": "download.pytorch.org",
    },
    {
        "form": "hf:ID, hf:DIR",
        "description": "a transformers model as its configuration says, with image processor or "
        "tokenizer",
        "source": "huggingface.co",
    },
    {
        "form": "NAME@random",
        "description": "the architecture of a timm:, torchvision: or hf: name, untrained; hf: "
        "takes a model type too",
        "source": "no file",
    },
    {
        "form": "MODEL@FILE",
        "description": "any of them with weights of your own, as --weights FILE",
        "source": "FILE",
    },
    {
        "form": "features:FILE",
        "description": "features and labels of measure --save-features, or of another program; no "
        "DATA",
        "source": "FILE",
    },
)


def data(data_root: DataRoot = None) -> Answer:
    """List the named data sets."""
    from geocollapse.data import SOURCES
    from geocollapse.data.loading import find_root

    root = find_root(data_root)
    sources: list[SourceDict] = []
    for source in SOURCES.values():
        is_here = all((root / file).exists() for file in source.files)
        sources.append(_source(source, is_here))
    columns = ("name", "what", "splits", "classes", "MB", "here")
    rows = [_source_row(source) for source in sources]
    ending = (
        f"folder:PATH reads an ImageFolder, parquet:GLOB columns image and label, csv:FILE columns "
        f"text and label. Data folder: {root}"
    )
    found: DataDict = {
        "schema_version": SCHEMA_VERSION,
        "data": sources,
        "data_root": str(root),
    }
    return Answer(found, f"{table(columns, rows)}\n{ending}", rows=sources)


def models() -> Answer:
    """List the models that come with the package, and the forms of MODEL."""
    from geocollapse.models import MODELS

    models = [_model(entry) for entry in MODELS.values()]
    columns = ("name", "what", "parameters", "MODEL")
    rows = [
        (m["name"], f"{m['description']}\n{m['source']}", m["n_parameters"], m["model"])
        for m in models
    ]
    forms = table(
        ("form", "what", "from"),
        [(form["form"], form["description"], form["source"]) for form in _FORMS],
    )
    found: ModelsDict = {
        "schema_version": SCHEMA_VERSION,
        "models": models,
        "forms": list(_FORMS),
    }
    return Answer(found, f"{table(columns, rows)}\n\n{forms}", rows=models)


def recipes(show: ShowArgument = None, name: NameArgument = None) -> Answer:
    """List the shipped recipes, or show one with its comments: recipes show NAME."""
    if show is not None:
        return _shown(name)
    from geocollapse.experiments.recipe import load_recipe, recipe_names

    recipes = [_recipe(load_recipe(name)) for name in recipe_names()]
    found: RecipesDict = {"schema_version": SCHEMA_VERSION, "recipes": recipes}
    return Answer(found, recipe_list(recipes), rows=recipes)


def _shown(name: str | None) -> Answer:
    """The text of a recipe, and of those that it extends."""
    from geocollapse.experiments.recipe import recipe_names, recipe_texts

    if name is None:
        raise ValueError(
            f"NAME: expected a recipe to show, got none; do recipes show {recipe_names()[0]}"
        )
    files = recipe_texts(name)
    found: RecipeTextDict = {"schema_version": SCHEMA_VERSION, "name": name, "files": files}
    parts = [f"# {file}\n{text.rstrip()}" for file, text in files.items()]
    rows = [{"file": file, "text": text} for file, text in files.items()]
    return Answer(found, "\n\n".join(parts), rows=rows)


def _recipe(recipe: Recipe) -> RecipeDict:
    data, model = recipe.subject
    return {
        "name": recipe.name,
        "kind": recipe.run_config().kind,
        "title": recipe.title,
        "paper": recipe.paper,
        "papers": recipe.claims.papers,
        "source": recipe.source,
        "cost": recipe.cost,
        "data": data,
        "model": model,
        "sweeps": {name: list(grid) for name, grid in recipe.sweeps.items()},
        "presets": list(recipe.presets),
        "n_runs": len(recipe.planned_runs()),
    }


def _source(source: DataSource, is_here: bool) -> SourceDict:
    return {
        "name": source.name,
        "description": source.description,
        "splits": list(source.splits),
        "n_classes": source.n_classes,
        "shape": list(source.shape),
        "size_mb": source.size_mb,
        "is_here": is_here,
        "source": source.source,
        "licence": source.licence,
        "citation": source.citation,
    }


def _source_row(source: SourceDict) -> tuple[str | int | None, ...]:
    what = f"{source['description']}\n{source['source']}; licence: {source['licence']}"
    here = "yes" if source["is_here"] else "no"
    return (
        source["name"],
        what,
        ", ".join(source["splits"]),
        source["n_classes"],
        source["size_mb"] or None,
        here,
    )


def _model(entry: Architecture) -> ModelDict:
    import torch

    with torch.device("meta"):  # shapes without memory
        n_parameters = sum(parameter.numel() for parameter in entry.factory().parameters())
    return {
        "name": entry.name,
        "model": f"{entry.factory.__module__}:{entry.factory.__qualname__}",
        "description": entry.description,
        "n_parameters": n_parameters,
        "source": entry.source,
    }
