"""`geocollapse train`: one run of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geocollapse.cli.answer import Answer, Display, table
from geocollapse.cli.options import (
    DataRoot,
    Device,
    DeviceOption,
    OutFolder,
    Preset,
    RecipeArgument,
    Seed,
    Settings,
)
from geocollapse.cli.output import check_folder
from geocollapse.runtime.progress import progress_bar

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import AnyRunConfig, Recipe
    from geocollapse.experiments.results.records import RunResult


def train(
    recipe: RecipeArgument,
    display: Display,
    settings: Settings = None,
    preset: Preset = None,
    seed: Seed = 0,
    device: DeviceOption = "auto",
    data_root: DataRoot = None,
    out: OutFolder = None,
) -> Answer:
    """Train and measure one run of a recipe, or play one of a game.

    The base setting of the recipe, changed by --set, in a folder under --out (default ./runs) that
    is named by its configuration. A run that was killed goes on from its checkpoint.
    """
    config = read_recipe(recipe, preset, settings).run_config(seed=seed)
    place = out or Path("runs")
    check_folder(place, "--out")
    folder, result = _train(config, place, device, data_root, is_shown=not display.quiet)
    failed = result["status"] == "failed"
    return Answer(
        {"schema_version": 1, "folder": str(folder), **result},
        _shown(folder, result),
        failed=failed,
    )


def read_recipe(name: str, preset: str | None, settings: list[str] | None) -> Recipe:
    """A recipe with its preset, then with the settings of ``--set``."""
    from geocollapse.experiments.recipe import load_recipe

    recipe = load_recipe(name)
    recipe = recipe.with_preset(preset) if preset else recipe
    return recipe.with_overrides(settings) if settings else recipe


def _train(
    config: AnyRunConfig, out: Path, device: Device, data_root: Path | None, *, is_shown: bool
) -> tuple[Path, RunResult]:
    """The folder of the run and the content of its result.json."""
    from geocollapse.cli.resolve import find_device, set_threads
    from geocollapse.experiments.kinds import kind_of
    from geocollapse.experiments.recipe import run_id
    from geocollapse.experiments.results.folders import RunFolder

    folder = RunFolder(out / run_id(config))
    set_threads(config.threads)
    with progress_bar("steps", shown=is_shown) as on_progress:
        result = kind_of(config).carry_out(
            config, folder, device=find_device(device), data_root=data_root, on_progress=on_progress
        )
    return folder.path, result


def _shown(folder: Path, result: RunResult) -> str:
    """The last measurements of a run and how it ended."""
    if result["final"] is None:
        return f"failed at step {result['failed_step']}: {result['error']}\nrun: {folder}"
    from geocollapse.experiments.results.tables import ACCURACY, GC, GCOL, NC, TARGET_NC, flatten

    values = flatten(result["final"])
    names = {
        "train loss": "train_loss",
        "train accuracy": "train_accuracy",
        "geometric complexity": GC,
        "geometric collapse": GCOL,
        "neural collapse (CDNV)": NC,
        "target neural collapse (CDNV)": TARGET_NC,
        "target 5-shot accuracy": ACCURACY,
        "distance from the equilibrium": "distance",
        "distance of the flow": "flow_distance",
        "lowest squared Fréchet distance": "lowest_frechet_distance",
        "late squared Fréchet distance": "late_frechet_distance",
    }
    rows = [
        (words, f"{value:.4g}")
        for words, name in names.items()
        if isinstance(value := values.get(name), int | float)
    ]
    shown = table(("measure", "value"), rows)
    return f"{shown}\n{_ending(result)}\nrun: {folder}"


def _ending(result: RunResult) -> str:
    """How a run that is done ended, and after how many steps or turns."""
    if "diverged" in (result["final"] or {}):
        ending = "not diverged" if result["converged"] else "diverged"
        return f"{ending} after {result['steps']} turns"
    ending = "converged" if result["converged"] else "not converged"
    return f"{ending} after {result['steps']} steps"
