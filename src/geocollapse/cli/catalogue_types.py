"""The types of what `recipes`, `data` and `models` print with `--json`."""

from __future__ import annotations

from typing_extensions import TypedDict


class RecipeDict(TypedDict):
    """One recipe of ``recipes --json``.

    Attributes:
        name: by which `sweep` and `train` find it.
        kind: of experiment, `supervised` or `game`.
        title: the experiment in a few words.
        paper: that it belongs to.
        papers: names of the papers whose claims judge it.
        source: of its settings.
        cost: time and machine for all runs.
        data: name of its data set; `none` for a game of two numbers.
        model: name of its network, or of its game.
        sweeps: the keys that each sweep varies, by its name.
        presets: names of its presets, such as smoke.
        n_runs: number of runs.
    """

    name: str
    kind: str
    title: str
    paper: str
    papers: list[str]
    source: str
    cost: str
    data: str
    model: str
    sweeps: dict[str, list[str]]
    presets: list[str]
    n_runs: int


class RecipeTextDict(TypedDict):
    """``recipes show NAME --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        name: of the recipe.
        files: text of its file, and of each that it extends, by name, with comments.
    """

    schema_version: int
    name: str
    files: dict[str, str]


class RecipesDict(TypedDict):
    """``recipes --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        recipes: each shipped recipe.
    """

    schema_version: int
    recipes: list[RecipeDict]


class SourceDict(TypedDict):
    """One data set of ``data --json``.

    Attributes:
        is_here: true if its files lie in the data folder.
    """

    name: str
    description: str
    splits: list[str]
    n_classes: int
    shape: list[int]
    size_mb: int
    is_here: bool
    source: str
    licence: str
    citation: str


class DataDict(TypedDict):
    """``data --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        data: each named data set.
        data_root: the data folder.
    """

    schema_version: int
    data: list[SourceDict]
    data_root: str


class ModelDict(TypedDict):
    """One model of ``models --json``.

    Attributes:
        name: by which recipes know it.
        model: by which `measure` and `transfer` know it.
        description: its architecture in a few words.
        n_parameters: for 10 classes and default settings.
        source: who published it, and where.
    """

    name: str
    model: str
    description: str
    n_parameters: int
    source: str


class FormDict(TypedDict):
    """One form of MODEL.

    Attributes:
        form: as it is written.
        description: what it stands for.
        source: where its weights come from.
    """

    form: str
    description: str
    source: str


class ModelsDict(TypedDict):
    """``models --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        models: each model of the package.
        forms: each form of MODEL.
    """

    schema_version: int
    models: list[ModelDict]
    forms: list[FormDict]


class CacheEntryDict(TypedDict):
    """One file of the cache of features.

    Attributes:
        file: its name.
        holds: `features`, or the `results` that a ranking computed from them.
        model: whose features they are; null where the file does not tell.
        data: of which data set.
        split: the part of it.
        layer: of the features.
        n_bytes: size of the file.
        last_used: time in UTC.
    """

    file: str
    holds: str | None
    model: str | None
    data: str | None
    split: str | None
    layer: str | None
    n_bytes: int
    last_used: str


class CacheDict(TypedDict):
    """``cache --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        folder: of the files.
        n_bytes: of all files that are there.
        n_removed: files that were removed.
        files: the last used first.
    """

    schema_version: int
    folder: str
    n_bytes: int
    n_removed: int
    files: list[CacheEntryDict]
