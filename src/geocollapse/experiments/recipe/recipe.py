"""A recipe: a base setting, the sweeps around it, and the runs that it plans."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self, cast

from pydantic import Field

from geocollapse.experiments.recipe.files import RecipeText, read_recipe
from geocollapse.experiments.recipe.game import GameRunConfig, GameSettings
from geocollapse.experiments.recipe.identity import run_id
from geocollapse.experiments.recipe.idle import check_effect
from geocollapse.experiments.recipe.moving import Positive, Threads
from geocollapse.experiments.recipe.names import check_name, check_signs
from geocollapse.experiments.recipe.network import fingerprinted
from geocollapse.experiments.recipe.plan import AnyRunConfig, PlannedRun
from geocollapse.experiments.recipe.settings import (
    ClaimsConfig,
    DataConfig,
    GameClaims,
    MeasuringConfig,
    ModelConfig,
    Part,
    RunConfig,
    Setting,
    TrainingConfig,
    TransferConfig,
    value_at,
)
from geocollapse.experiments.recipe.yaml_text import parse_yaml

_DESCRIBED = ("name", "title", "paper", "source", "cost")  # first in a file
_AROUND = ("sweeps", "claims", "presets")  # last in it


class Recipe(Part, ABC):
    """A base setting and the sweeps around it; a sweep is a grid over its dotted keys.

    Sweeps are run one at a time around the base setting. The key ``kind`` says what a run is:
    `supervised` training, the default, is a `SupervisedRecipe`, a `game` a `GameRecipe`.

    ``title``, ``paper``, ``source`` and ``cost`` are shown as they are, beside the ``name``. Every
    setting runs with the seeds 0 to ``seeds`` - 1, each run on ``threads`` CPU threads. ``sweeps``
    are grids by name, ``presets`` dotted keys with values by name.

    Source: definitions 8 and interface.md, "A sweep on disk".

    Examples:
        >>> recipe = load_recipe("demo").with_overrides(["training.batch_size=64"])
        >>> recipe.run_config().training.batch_size
        64
    """

    run_class: ClassVar[type[AnyRunConfig]]
    example_key: ClassVar[str]  # that can be swept

    name: str
    title: str
    paper: str = ""
    source: str = ""
    cost: str = ""
    seeds: Positive = 1
    threads: Threads = 1
    sweeps: dict[str, dict[str, Annotated[list[object], Field(min_length=1)]]] = Field(default={})
    claims: ClaimsConfig = ClaimsConfig()
    presets: dict[str, Setting] = Field(default={})

    @classmethod
    def of(cls, data: Mapping[str, object]) -> Self:
        """Validate plain data as a recipe of its kind, names and expected signs included.

        Raises:
            ValueError: as of `Part.of`; an unknown kind, or another than that of this class; a name
                that no file can have; an expected sign of nothing.
        """
        kind = _class_of(data.get("kind", RunConfig.kind), cls)
        own = data if "kind" in kind.model_fields else {k: data[k] for k in data if k != "kind"}
        recipe = super(Recipe, kind).of(own)
        check_name("name", recipe.name)
        for key, names in (("sweeps", recipe.sweeps), ("presets", recipe.presets)):
            for name in names:
                check_name(key, name)
        check_signs(recipe.claims.expected_signs, recipe.run_class)
        return cast("Self", recipe)

    @property
    @abstractmethod
    def subject(self) -> tuple[str, str]:
        """The names of the data and of the model, or of what stands for them."""

    @abstractmethod
    def _base(self, seed: int) -> AnyRunConfig:
        """The configuration of the base setting for one seed."""

    def to_dict(self) -> dict[str, object]:
        """The expanded recipe as plain data: `Recipe.of` of it gives an equal recipe."""
        values = self.model_dump(mode="json")
        of_run = ("seeds" if key == "seed" else key for key in self.run_class.model_fields)
        return {key: values[key] for key in (*_DESCRIBED, *of_run, *_AROUND)}

    def with_preset(self, name: str) -> Self:
        """The recipe with the values of one of its presets set.

        Raises:
            ValueError: no preset of that name.
        """
        if name not in self.presets:
            known = ", ".join(self.presets) or "none"
            remedy = (
                f"do --preset {next(iter(self.presets))}"
                if self.presets
                else "do leave --preset out"
            )
            raise ValueError(f"preset: expected one of {known}, got {name!r}; {remedy}")
        return self.with_values(self.presets[name])

    def with_overrides(self, overrides: Iterable[str]) -> Self:
        """The recipe with `key=value` pairs set: dotted keys, values read as YAML.

        Raises:
            ValueError: a pair without `=`, a value that is not YAML, or what `Recipe.of` refuses.
        """
        values: Setting = {}
        for pair in overrides:
            key, equals, text = pair.partition("=")
            if not equals or not key.strip():
                raise ValueError(
                    f"set: expected key=value, got {pair!r}; do {self.example_key}=0.1"
                )
            values[key.strip()] = parse_yaml(text, where=f"set: {key.strip()}")
        return self.with_values(values)

    def with_values(self, values: Mapping[str, object]) -> Self:
        """The recipe with dotted keys set to values."""
        data = self.to_dict()
        for key, value in values.items():
            _set(data, key, value)
        return type(self).of(data)

    def run_config(
        self, values: Mapping[str, object] | None = None, *, seed: int = 0
    ) -> AnyRunConfig:
        """The configuration of the base setting, with dotted keys set to values, for one seed."""
        changed = self.with_values(values) if values else self
        return changed._base(seed)

    def planned_runs(self, n_seeds: int | None = None) -> list[PlannedRun]:
        """The base setting, then every setting of every sweep, each with every seed.

        Settings that are equal, such as the base inside a sweep, are run once.

        Args:
            n_seeds: how many seeds, from 0 on; by default as many as the recipe says.

        Raises:
            ValueError: ``n_seeds`` below 1, or a sweep over an unknown key, over one without effect
                in a setting, or with a value that the recipe refuses.
        """
        if n_seeds is not None and n_seeds < 1:
            raise ValueError(f"n_seeds: expected 1 or more, got {n_seeds}; do n_seeds=1")
        base = self.run_config()
        planned: dict[str, PlannedRun] = {}
        for sweep, setting in self._settings():
            resolved = self._resolved(sweep, setting)
            if isinstance(resolved, RunConfig) and sweep:
                check_effect(sweep, self.sweeps[sweep], resolved)
            values = {key: value_at(resolved, key) for key in setting}
            changed = {key: value for key, value in values.items() if value != value_at(base, key)}
            for seed in range(self.seeds if n_seeds is None else n_seeds):
                config = resolved.model_copy(update={"seed": seed})
                run = PlannedRun(run_id=run_id(config), config=config, overrides=changed)
                run = planned.setdefault(run.run_id, run)
                if sweep:
                    run.sweeps[sweep] = values
        return list(planned.values())

    def _settings(self) -> Iterator[tuple[str, Setting]]:
        """The base setting, under no sweep, and the grid of each sweep."""
        yield "", {}
        for sweep, grid in self.sweeps.items():
            for values in itertools.product(*grid.values()):
                yield sweep, dict(zip(grid, values))

    def _resolved(self, sweep: str, setting: Setting) -> AnyRunConfig:
        """The configuration of one setting; only keys of a run's configuration can be swept."""
        for key in setting:
            if key.split(".")[0] not in self.run_class.model_fields or key in ("seed", "kind"):
                raise ValueError(
                    f"recipe: sweeps.{sweep}.{key}: expected a key of a run's configuration, got "
                    f"{key!r}; do sweep a key such as {self.example_key}"
                )
        return self.run_config(setting)


class SupervisedRecipe(Recipe):
    """A recipe whose runs train a classifier and measure it; the kind `supervised`.

    ``keep_checkpoints`` `schedule` keeps the weights of every record, `last` those of the last one.
    """

    run_class: ClassVar[type[AnyRunConfig]] = RunConfig
    example_key: ClassVar[str] = "training.learning_rate"

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    measuring: MeasuringConfig
    transfer: TransferConfig = TransferConfig()
    keep_checkpoints: Literal["last", "schedule"] = "last"

    @property
    def subject(self) -> tuple[str, str]:
        """The name of the data set, and that of the network or of its factory."""
        return self.data.name, self.model.name or str(self.model.factory)

    def _base(self, seed: int) -> RunConfig:
        shared = {key: getattr(self, key) for key in RunConfig.model_fields if key != "seed"}
        return RunConfig(**shared | {"model": fingerprinted(self.model)}, seed=seed)


class GameRecipe(Recipe, GameSettings):
    """A recipe whose runs play a game of two players; the kind `game`."""

    run_class: ClassVar[type[AnyRunConfig]] = GameRunConfig
    example_key: ClassVar[str] = "cancel_weight"

    claims: GameClaims = GameClaims()

    @property
    def subject(self) -> tuple[str, str]:
        """The digits, or nothing for a game of two numbers, and the name of the game."""
        return "digits" if self.game == "digits-gan" else "none", self.game

    def _base(self, seed: int) -> GameRunConfig:
        shared = {key: getattr(self, key) for key in GameRunConfig.model_fields if key != "seed"}
        return GameRunConfig(**shared, seed=seed)


_KINDS: Mapping[str, type[Recipe]] = {"supervised": SupervisedRecipe, "game": GameRecipe}


def _class_of(kind: object, wanted: type[Recipe]) -> type[Recipe]:
    """The class of a kind of recipe, which must be ``wanted`` or extend it."""
    known = {name: found for name, found in _KINDS.items() if issubclass(found, wanted)}
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(
            f"recipe: kind: expected {' or '.join(known)}, got {kind!r}; "
            f"do kind: {next(iter(known))}"
        )
    return known[kind]


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or your own by its path, which ends in .yaml or .yml.

    A recipe that `extends` another is merged over it; its `sweeps` replace the other's, and a key
    that is null in it is dropped.

    Raises:
        ValueError: no recipe of that name (the message has the nearest), text that is not YAML, or
            what `Recipe.of` refuses.
        FileNotFoundError: no file at that path.

    Examples:
        >>> load_recipe("demo").subject
        ('digits', 'mlp')
    """
    return Recipe.of(read_recipe(str(name_or_path)))


def _set(data: RecipeText, key: str, value: object) -> None:
    """Set a dotted key; below `sweeps.<name>` and `claims.expected_signs` the rest is one key.

    A sweep that is set to nothing is left out.
    """
    parts = key.split(".")
    if parts[0] == "sweeps" and len(parts) == 2 and value is None:
        cast("dict[str, object]", data["sweeps"]).pop(parts[1], None)
        return
    if parts[0] == "sweeps" or parts[:2] == ["claims", "expected_signs"]:
        parts = [*parts[:2], *filter(None, [".".join(parts[2:])])]
    for depth, part in enumerate(parts[:-1]):
        if data.get(part) is None:
            data[part] = {}
        inner = data[part]
        if not isinstance(inner, dict):
            parent = ".".join(parts[: depth + 1])
            raise ValueError(f"recipe: {key}: unknown key; do {parent}")
        data = inner
    data[parts[-1]] = copy.deepcopy(value)
