"""Recipes: what is refused and how, presets and overrides, what is planned, and names of runs that
never change.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from geocollapse.experiments.recipe import (
    ClaimsConfig,
    PlannedRun,
    Recipe,
    RunConfig,
    SupervisedRecipe,
    identity,
    load_recipe,
    parse_yaml,
    recipe_names,
    run_id,
    value_at,
)
from geocollapse.experiments.recipe.settings import TrainingConfig, known_keys
from geocollapse.experiments.results.text import read_yaml, to_yaml
from geocollapse.models import MODELS
from geocollapse.papers.collapse_transfer.expectations import Expectations

PAPER = [
    f"{network}-{sweep}"
    for network in (
        "cifar10-vgg13",
        "mnist-vgg11",
        "fashion-mnist-vgg11",
        "cifar100-vgg13",
        "cifar100-resnet18",
        "cifar-fs-resnet18",
        "mini-imagenet-resnet18",
    )
    for sweep in ("learning-rate", "batch-size", "weight-decay")
] + ["cifar10-vgg13-gc-penalty", "cifar10-vgg13-bound", "cifar10-vgg13-sampling"]
PAPER += ["cifar-fs-resnet18-gc-penalty", "cifar10-vgg13-squared-loss", "banking77-text"]
SIBLINGS = (
    *("cifar10-vgg13-corridors", "cifar10-edge-of-stability", "cifar10-implicit-sgd"),
    *("cifar10-resnet18-margin", "cifar100-resnet18-margin"),
    *("cifar10-vgg13-regularisers", "cifar10-mlp-width"),
    *("mnist-continual", "cifar10-continual"),
    *("bilinear-game", "dirac-gan", "digits-gan-drift"),
)
# experiments without a sign that the paper expects
OPEN = ["cifar-fs-resnet18-n-classes", "cifar10-vgg13-variants"]
REDUCED = [
    *(f"cifar10-vgg13-{s}" for s in ("learning-rate", "batch-size", "weight-decay", "gc-penalty")),
    *(f"cifar-fs-resnet18-{s}" for s in ("learning-rate", "batch-size", "weight-decay")),
    *("cifar-fs-resnet18-gc-penalty", "cifar-fs-resnet18-n-classes", "banking77-text"),
    *("fashion-mnist-vgg11-learning-rate", "mnist-vgg11-weight-decay"),
    *("cifar10-vgg13-bound", "cifar10-vgg13-sampling"),
]

MINIMAL = {
    "name": "small",
    "title": "A small one",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "args": {"hidden": [8]}},
    "training": {"learning_rate": 0.1, "batch_size": 16, "max_steps": 10},
    "measuring": {"points": 2},
}
SWEEPS = {
    "learning_rate": {"training.learning_rate": [0.05, 0.1, 0.2]},
    "batch_size": {"training.batch_size": [8, 16]},
}


@pytest.fixture
def recipe():
    return Recipe.of(
        MINIMAL | {"sweeps": SWEEPS, "seeds": 2, "presets": {"smoke": {"training.max_steps": 3}}}
    )


def message(call, *args):
    with pytest.raises(ValueError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (
            "training.learning_rat=1",
            "recipe: training.learning_rat: unknown key; do training.learning_rate",
        ),
        ("learning_rate=1", "recipe: learning_rate: unknown key; do training.learning_rate"),
        (
            "training.gc_penalty.wieght=1",
            "recipe: training.gc_penalty.wieght: unknown key; do training.gc_penalty.weight",
        ),
        ("model.width=4", "recipe: model.width: unknown key; do model."),
        (
            "training.batch_size.x=4",
            "recipe: training.batch_size.x: unknown key; do training.batch_size",
        ),
        (
            "training.learning_rate=fast",
            "recipe: training.learning_rate: expected a number, got 'fast' (str); do set "
            "training.learning_rate to a number",
        ),
        (
            "training.batch_size=1.5",
            "recipe: training.batch_size: expected a whole number, got 1.5 (float); do set",
        ),
        (
            "training.batch_size=0",
            "recipe: training.batch_size: expected at least 1, got 0 (int); do set",
        ),
        (
            "training.batch_size=true",
            "recipe: training.batch_size: expected a whole number, got True (bool); do set",
        ),
        (
            "training.schedule=linear",
            "recipe: training.schedule: expected 'constant', 'cosine' or 'step', got 'linear'",
        ),
        (
            "measuring.n_probes=many",
            "recipe: measuring.n_probes: expected a whole number or 'auto', got 'many' (str)",
        ),
        (
            "data.source_classes={a: 1}",
            "recipe: data.source_classes: expected a list or text, got {'a': 1} (dict)",
        ),
        (
            "measuring.every=5",
            "recipe: measuring: expected one of points and every, got points=2, every=5; do set "
            "one",
        ),
        (
            "sweeps.learning_rate.training.learning_rate=[]",
            "recipe: sweeps.learning_rate.training.learning_rate: expected",
        ),
        ("data=digits", "recipe: data: expected keys with values, got 'digits' (str)"),
        (
            "training.learning_rate",
            "set: expected key=value, got 'training.learning_rate'; do training.learning_rate=0.1",
        ),
        ("data.pad_to=[3", "set: data.pad_to: expected YAML, got "),
    ],
)
def test_a_bad_value_is_refused_in_one_line(recipe, pair, expected):
    assert message(recipe.with_overrides, [pair]).startswith(expected)


def test_a_missing_key_is_named():
    without = {key: value for key, value in MINIMAL.items() if key != "training"}
    assert (
        message(Recipe.of, without)
        == "recipe: training: expected a value, got none; do add training"
    )


def test_unknown_names_name_the_nearest(recipe):
    assert message(load_recipe, "cifar10-vgg13-weight-decy").endswith(
        "; do cifar10-vgg13-weight-decay"
    )
    named = message(load_recipe, "nope")
    assert "demo, banking77-text, bilinear-game, cifar-fs-resnet18-batch-size" in named
    assert (
        message(recipe.with_preset, "smke")
        == "preset: expected one of smoke, got 'smke'; do --preset smoke"
    )
    assert message(Recipe.of(MINIMAL).with_preset, "smoke").endswith("do leave --preset out")


def test_overrides_are_read_as_yaml_and_leave_the_recipe_alone(recipe):
    changed = recipe.with_overrides(
        [
            "training.learning_rate=1e-4",
            "model.args.hidden=[4, 4]",
            "data.source_classes=0-4",
            "data.subset=null",
        ]
    )
    assert changed.training.learning_rate == 1e-4
    assert changed.model.args == {"hidden": [4, 4]}
    assert changed.data.source_classes == "0-4"
    assert recipe.training.learning_rate == 0.1


def test_the_key_of_a_sweep_may_hold_dots(recipe):
    changed = recipe.with_overrides(["sweeps.batch_size.training.batch_size=[4, 8]"])
    assert changed.sweeps["batch_size"] == {"training.batch_size": [4, 8]}


def test_a_preset_and_then_an_override(recipe):
    smoke = recipe.with_preset("smoke")
    assert smoke.training.max_steps == 3
    assert smoke.with_overrides(["training.max_steps=4"]).training.max_steps == 4


def test_the_plan_sweeps_one_at_a_time_and_runs_what_is_equal_once(recipe):
    runs = recipe.planned_runs()
    assert len(runs) == 2 * (3 + 2 - 1)
    assert len({run.run_id for run in runs}) == len(runs)
    base = runs[0]
    assert base.sweeps == {
        "learning_rate": {"training.learning_rate": 0.1},
        "batch_size": {"training.batch_size": 16},
    }
    assert base.overrides == {}
    faster = next(run for run in runs if run.config.training.learning_rate == 0.2)
    assert faster.overrides == faster.sweeps["learning_rate"] == {"training.learning_rate": 0.2}
    assert faster.config.training.batch_size == 16
    assert [run.config.seed for run in runs[:2]] == [0, 1]


def test_the_number_of_seeds_can_be_given(recipe):
    assert len(recipe.planned_runs(1)) == 4
    assert message(recipe.planned_runs, 0) == "n_seeds: expected 1 or more, got 0; do n_seeds=1"


def test_a_base_outside_its_sweeps_is_run_too():
    runs = Recipe.of(
        MINIMAL | {"sweeps": {"rate": {"training.learning_rate": [1, 2]}}}
    ).planned_runs()
    assert [run.sweeps for run in runs] == [
        {},
        {"rate": {"training.learning_rate": 1.0}},
        {"rate": {"training.learning_rate": 2.0}},
    ]


def test_a_sweep_over_two_keys_is_their_grid():
    grid = {"training.learning_rate": [0.1, 0.2], "training.batch_size": [8, 16]}
    assert len(Recipe.of(MINIMAL | {"sweeps": {"both": grid}}).planned_runs()) == 4


def test_a_sweep_over_an_unknown_key_or_a_bad_value_is_refused():
    def planned(grid):
        return Recipe.of(MINIMAL | {"sweeps": {"s": grid}}).planned_runs()

    assert "training.learning_rat: unknown key; do training.learning_rate" in message(
        planned, {"training.learning_rat": [1]}
    )
    assert "expected a whole number" in message(planned, {"training.batch_size": ["many"]})
    assert "expected a key of a run's configuration, got 'seeds'" in message(
        planned, {"seeds": [1]}
    )


def test_the_name_of_a_run_is_pinned():
    config = RunConfig.of({key: MINIMAL[key] for key in ("data", "model", "training", "measuring")})
    assert run_id(config) == "f99b958a3165"
    assert run_id(config.model_copy(update={"seed": 1})) != run_id(config)
    assert run_id(config.model_copy(update={"threads": 2})) != run_id(config)
    assert run_id(RunConfig.of(config.model_dump(mode="json"))) == run_id(config)


# What these presets were when the names were stored.
DEMO_OF_VERSION_1 = {
    "measuring.points": 8,
    "measuring.sampling.repeats": 8,
    "seeds": 2,
    "sweeps.learning_rate.training.learning_rate": [0.0125, 0.025, 0.05, 0.1, 0.2],
    "sweeps.batch_size.training.batch_size": [8, 16, 32, 64, 128],
    "sweeps.weight_decay.training.weight_decay": [0.0, 0.003, 0.01, 0.03, 0.1],
}
GRIDS_OF_VERSION_1 = {
    "cifar10-vgg13-weight-decay smoke": {
        "data.subset": 400,
        "training.max_steps": 700,
        "measuring.points": 6,
        "measuring.max_samples": 100,
        "seeds": 2,
        "sweeps.weight_decay.training.weight_decay": [0.0, 0.003, 0.006, 0.012, 0.02],
    },
    "demo": DEMO_OF_VERSION_1,
    "demo smoke": DEMO_OF_VERSION_1 | {"measuring.points": 3, "seeds": 1},
}


def test_runs_have_the_names_that_version_1_gave_them():
    names = yaml.safe_load((Path(__file__).parent / "fixtures" / "run-ids.yaml").read_text())
    assert len(names) == 5
    for key, expected in names.items():
        name, _, preset = key.partition(" ")
        recipe = load_recipe(name).with_preset(preset) if preset else load_recipe(name)
        if key in GRIDS_OF_VERSION_1:
            recipe = recipe.with_values(GRIDS_OF_VERSION_1[key])
        assert [run.run_id for run in recipe.planned_runs()] == expected


class LongerTraining(TrainingConfig):
    """A configuration that some later version has."""

    warm_up: int = 5


class LaterRun(RunConfig):
    training: LongerTraining
    tag: str = "none"


def later(**training):
    """The minimal run of a later version."""
    parts = {key: MINIMAL[key] for key in ("data", "model", "measuring")}
    return LaterRun.of(parts | {"training": MINIMAL["training"] | training})


@pytest.mark.parametrize("pinned", [{}, {"training.warm_up": 5, "tag": "none"}])
def test_a_key_that_is_added_with_a_default_renames_no_run(pinned, monkeypatch):
    monkeypatch.setattr(identity, "LATER", identity.LATER | pinned)
    assert run_id(later()) == "f99b958a3165"
    assert run_id(later(warm_up=5)) == "f99b958a3165"
    assert run_id(later(warm_up=6)) != "f99b958a3165"
    assert run_id(later().model_copy(update={"tag": "mine"})) != "f99b958a3165"


def test_a_default_that_changes_later_renames_no_run(monkeypatch):
    monkeypatch.setattr(identity, "LATER", identity.LATER | {"training.warm_up": 4, "tag": "none"})
    assert run_id(later(warm_up=4)) == "f99b958a3165"
    assert run_id(later(warm_up=5)) != "f99b958a3165"


def test_every_key_is_of_version_1_or_has_its_first_default_pinned():
    """A new key needs a line in `identity.LATER`, with the default that it comes with."""
    of_version_1 = {
        f"{part}.{key}".lstrip(".") for part, keys in identity.VERSION_1.items() for key in keys
    }
    assert set(known_keys(RunConfig)) - of_version_1 == set(identity.LATER)
    assert of_version_1 <= set(known_keys(RunConfig))


def test_momentum_is_refused_with_adamw(recipe):
    adamw = recipe.with_overrides(["training.optimizer=adamw"])
    assert run_id(adamw.run_config()) != run_id(recipe.run_config())
    assert message(adamw.with_overrides, ["training.momentum=0.9"]) == (
        "recipe: training: momentum: expected 0 with the optimizer adamw, got 0.9; "
        "do training.momentum=0"
    )
    assert message(recipe.with_overrides, ["training.optimizer=adam"]).startswith(
        "recipe: training.optimizer: expected 'sgd', 'adamw', 'corridor' or 'dal', got 'adam' "
    )


def test_what_a_machine_decides_is_no_part_of_a_run():
    assert not {"device", "workers", "data_root", "out", "version"} & set(RunConfig.model_fields)


def test_a_recipe_is_its_own_expansion(recipe):
    text = yaml.safe_dump(recipe.to_dict())
    assert Recipe.of(yaml.safe_load(text)) == recipe


def test_a_recipe_of_ones_own_extends_a_shipped_one(tmp_path):
    (tmp_path / "parent.yaml").write_text("extends: demo\nseeds: 1\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "extends: parent.yaml\ntitle: Mine\nsweeps: {rate: {training.learning_rate: [1e-2]}}\n"
    )
    recipe = load_recipe(str(mine))
    assert (recipe.name, recipe.title, recipe.seeds, recipe.data.name) == (
        "mine",
        "Mine",
        1,
        "digits",
    )
    assert recipe.sweeps == {"rate": {"training.learning_rate": [0.01]}}


def test_a_recipe_file_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(
        FileNotFoundError, match=r"recipe: expected a file at .*mine.yaml, got none; do"
    ):
        load_recipe(str(path))
    for text, expected in (
        ("- a list", "recipe mine.yaml: expected keys with values, got list"),
        ("a: [1", "recipe mine.yaml: expected YAML, got "),
        (
            "extends: mine.yaml",
            "recipe: extends: expected a recipe that does not lead back, got mine.yaml",
        ),
        ("extends: 3", "recipe: extends: expected names of recipes, got 3"),
        ("extends: dmo", "recipe: expected a path ending in .yaml or one of"),
    ):
        path.write_text(text)
        assert message(load_recipe, str(path)).startswith(expected)


def test_the_papers_experiments_are_shipped():
    assert recipe_names()[0] == "demo"
    assert set(recipe_names()) == {"demo", *PAPER, *OPEN, *SIBLINGS}


@pytest.mark.parametrize("name", REDUCED)
def test_a_reduced_preset_has_grids_that_verdicts_can_be_passed_on(name):
    recipe = load_recipe(name).with_preset("reduced")
    assert recipe.seeds >= 3
    for sweep, grid in recipe.sweeps.items():
        (values,) = grid.values()
        assert len(values) >= (3 if sweep == "training_time" else 7)
        settings = {run.run_id for run in recipe.planned_runs(1) if sweep in run.sweeps}
        assert len(settings) == len(values)
    of_base = [run for run in recipe.planned_runs(1) if recipe.sweeps and not run.sweeps]
    assert not of_base  # the base setting is one of the grid: no run is trained for nothing


@pytest.mark.parametrize("name", PAPER)
def test_the_preset_of_the_paper_is_the_published_setting(name):
    recipe = load_recipe(name)
    if "paper" in recipe.presets:
        paper = recipe.with_preset("paper")
        assert (paper.sweeps, paper.seeds) == (recipe.sweeps, 5)
        assert (paper.data, paper.model, paper.training) == (
            recipe.data,
            recipe.model,
            recipe.training,
        )
    else:
        assert name == "banking77-text"


@pytest.mark.parametrize("name", ["demo", *PAPER, *OPEN])
def test_a_shipped_recipe_expands(name):
    recipe = load_recipe(name)
    assert recipe.title
    assert recipe.paper
    assert recipe.source
    assert recipe.cost
    assert recipe.model.name in MODELS
    for expanded in (recipe, recipe.with_preset("smoke")):
        for run in expanded.planned_runs(1):
            assert isinstance(run, PlannedRun)
            for setting in run.sweeps.values():
                assert all(value_at(run.config, key) == value for key, value in setting.items())
        assert all(run.sweeps for run in expanded.planned_runs(1) if expanded.sweeps)


@pytest.mark.parametrize("name", [*PAPER, "demo"])
def test_the_claims_of_a_recipe_are_what_the_verdicts_read(name):
    recipe = load_recipe(name)
    expected = Expectations.of(recipe.to_dict())
    assert {field.name for field in dataclasses.fields(expected)} - {"signs"} == set(
        type(recipe.claims).model_fields
    ) - {"expected_signs", "papers"}
    assert (expected.poincare_factor, expected.coverage, expected.relative_error) == (
        3.0,
        0.93,
        0.05,
    )
    signed = name != "cifar10-vgg13-sampling"  # over training time no claim has a sign
    for grid in recipe.sweeps.values():
        signs = {bool(hypothesis.sign) for hypothesis in expected.hypotheses(list(grid))}
        assert signs == {signed}


def test_the_published_settings():
    rates = load_recipe("cifar10-vgg13-learning-rate")
    assert rates.sweeps["learning_rate"]["training.learning_rate"] == [
        0.001,
        0.0025,
        0.005,
        0.01,
        0.025,
        0.1,
    ]
    assert (rates.training.batch_size, rates.seeds, rates.model.args["width"]) == (512, 5, 64)
    batches = load_recipe("cifar10-vgg13-batch-size")
    assert batches.sweeps["batch_size"]["training.batch_size"] == [8, 16, 32, 64, 128, 256]
    decay = load_recipe("cifar10-vgg13-weight-decay")
    assert decay.sweeps["weight_decay"]["training.weight_decay"] == [
        0.0,
        0.00025,
        0.0005,
        0.001,
        0.0025,
    ]
    assert (decay.training.learning_rate, decay.training.batch_size) == (0.01, 256)
    penalty = load_recipe("cifar10-vgg13-gc-penalty")
    assert penalty.sweeps["gc_penalty"]["training.gc_penalty.weight"] == [0.0, 1e-7, 1e-6, 1e-4]
    assert all(run.config.model.args["batch_norm"] is False for run in penalty.planned_runs(1))


@pytest.mark.parametrize("name", ["../../x", "a/b", "x" * 300, "a$b$", "", ".hidden", "a\nb", "a "])
@pytest.mark.parametrize("key", ["name", "sweeps", "presets"])
def test_a_name_that_no_file_can_have_is_refused_before_training(key, name):
    """A recipe's name once led out of ./runs, and a sweep's name failed when all was trained."""
    named = {"name": name, "sweeps": {name: SWEEPS["batch_size"]}, "presets": {name: {}}}
    text = message(Recipe.of, MINIMAL | {key: named[key]})
    assert text.startswith(f"recipe: {key}: expected a name of 1 to 100 bytes that a file can have")


def test_names_of_other_scripts_and_with_spaces_are_taken():
    sweeps = {"Größe der Stapel (2)": SWEEPS["batch_size"], "学習率": SWEEPS["learning_rate"]}
    assert list(Recipe.of(MINIMAL | {"sweeps": sweeps}).sweeps) == list(sweeps)


def test_a_misspelt_expected_sign_is_refused_with_the_nearest():
    def signs(**keys):
        return Recipe.of(MINIMAL | {"claims": {"expected_signs": keys}})

    assert message(lambda: signs(gc_gcoll=1)) == (
        "recipe: claims.expected_signs.gc_gcoll: unknown key; do gc_gcol"
    )
    misspelt = {"training.learning_rat": -1}
    assert message(lambda: signs(**misspelt)).endswith("unknown key; do training.learning_rate")
    known = {"gc_nc": 1, "training.gc_penalty.weight": -1, "model.args.width": 1}
    assert signs(**known).claims.expected_signs == known


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "sweeps: {}\ntitle: a\nsweeps: {}\n",
            "expected each key once, got 'sweeps' again in line 3",
        ),
        ("data: {name: a, name: b}", "expected each key once, got 'name' again in line 1"),
        ("a: &a [*a]", "expected values, got one inside itself in line 1"),
        ("[" * 5000, "expected YAML of a few levels, got deeper ones"),
        (
            "\n".join(
                ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
                + [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(9)]
            ),
            "got aliases that multiply to more",
        ),
    ],
)
def test_yaml_that_says_something_twice_or_without_end_is_refused(tmp_path, text, expected):
    """A second `sweeps:` once won, and ten lines of aliases took more than 100 s."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert expected in message(load_recipe, str(path))


def test_a_few_aliases_and_merged_keys_are_fine(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: demo\nsweeps:\n  one: &grid {training.batch_size: [8, 16]}\n"
        "  two: {<<: *grid, training.batch_size: [32]}\n"
    )
    assert load_recipe(str(path)).sweeps["two"] == {"training.batch_size": [32]}


def test_a_run_whose_name_reads_as_a_number_keeps_it(tmp_path):
    """Once `35090385e703` was read back as infinity."""
    content = {"run_id": "35090385e703", "rate": 1e-5, "text": "1e5"}
    path = tmp_path / "a.yaml"
    path.write_bytes(to_yaml(content))
    assert read_yaml(path) == content
    assert parse_yaml(path.read_text(), where="a") == content
    path.write_text("run_id: 35090385e703\nrate: 1.0e-05\n")  # as version 1 wrote it
    assert read_yaml(path) == {"run_id": "35090385e703", "rate": 1e-5}


def test_a_recipe_drops_a_key_of_the_one_it_extends(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: demo\nclaims: null\nmeasuring: {sampling: null}\nsweeps: null\n")
    recipe = load_recipe(str(path))
    assert recipe.claims == ClaimsConfig()
    assert recipe.measuring.sampling is None
    assert recipe.measuring.points == 5
    assert recipe.sweeps == {}


def test_classes_have_numbers_or_names(recipe):
    named = recipe.with_overrides(["data.source_classes=[cat, 3]", "data.image_size=64"])
    assert named.data.source_classes == ["cat", 3]
    assert named.data.image_size == 64
    assert run_id(recipe.with_overrides(["data.image_size=null"]).run_config()) == run_id(
        recipe.run_config()
    )


# ---- keys of the siblings on every recipe

SUPERVISED = [name for name in recipe_names() if isinstance(load_recipe(name), SupervisedRecipe)]
GIVEN_RATES = {"training.learning_rate", "training.schedule", "training.momentum"}


def without_given_rates(recipe: Recipe) -> Recipe:
    """The recipe without sweeps over what an optimizer with a rate of its own does not read."""
    names = [name for name, grid in recipe.sweeps.items() if GIVEN_RATES & set(grid)]
    return recipe.with_overrides([f"sweeps.{name}=null" for name in names])


@pytest.mark.parametrize("name", SUPERVISED)
@pytest.mark.parametrize("optimizer", ["corridor", "dal"])
def test_every_recipe_takes_an_optimizer_with_a_rate_of_its_own(name: str, optimizer: str) -> None:
    constant = load_recipe(name).with_overrides(["training.momentum=0"])
    recipe = without_given_rates(constant).with_overrides([f"training.optimizer={optimizer}"])
    configs = [run.config.model_dump(mode="json") for run in recipe.planned_runs(1)]
    for config in configs:
        del config["training"]["learning_rate"]
    assert len({json.dumps(config, sort_keys=True) for config in configs}) == len(configs)


@pytest.mark.parametrize("name", SUPERVISED)
def test_every_recipe_takes_a_gradient_penalty(name: str) -> None:
    recipe = load_recipe(name).with_overrides(["training.gradient_penalty.weight=0.01"])
    assert len(recipe.planned_runs(1)) > 0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.optimizer=dal"], "as the optimizer dal sets its own rate; do"),
        (["sweeps.learning_rate.training.dal.power=[0.5, 1.0]"], "as the optimizer is sgd"),
        (["sweeps.learning_rate.training.milestones=[[1], [2]]"], "the schedule is constant"),
        (["sweeps.learning_rate.data.random_labels_seed=[0, 1]"], "no label is random"),
    ],
)
def test_a_sweep_over_a_key_without_effect_is_refused(
    recipe: Recipe, overrides: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=f"recipe: sweeps.learning_rate.*without effect.*{words}"):
        recipe.with_overrides(overrides).planned_runs()
    left = recipe.with_overrides([*overrides, "sweeps.learning_rate=null"])
    assert set(left.sweeps) == {"batch_size"}
    assert len(left.planned_runs()) == 4
