"""A sweep folder and its run folders: the only file I/O of runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from geocollapse.data import Normalisation
from geocollapse.experiments.results import checkpoints
from geocollapse.experiments.results.checkpoints import WEIGHTS, DamagedFileError, State
from geocollapse.experiments.results.run_folder import RunFolder as RunFolder
from geocollapse.experiments.results.tensors import check_kept, unpack_weights
from geocollapse.experiments.results.text import json_object, read_yaml, to_yaml
from geocollapse.experiments.results.training_record import training_record
from geocollapse.experiments.results.versions import check_version, unversioned, versioned
from geocollapse.models import LoadedModel
from geocollapse.runtime.files import remove_partial, write_whole
from geocollapse.runtime.locks import locked

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import PlanEntry, PlannedRun, Recipe, RunConfig

_PATIENCE = 2.0  # seconds: a sweep that was killed is about to end
_log = logging.getLogger("geocollapse")


@dataclass(frozen=True)
class LoadedRun(LoadedModel):
    """The model of a run folder, with the configuration it was trained by."""

    config: RunConfig | None = None


class SweepFolder:
    """A sweep on disk: the expanded recipe, its runs, and what the report makes of them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def run(self, run_id: str) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.path / "runs" / run_id)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other sweeps out of this folder; what a killed one left is cleared.

        Raises:
            InUseError: another process sweeps here.
        """
        lock = self.path / "sweep.lock"
        with locked(lock, what=f"sweep in {self.path}", patience=_PATIENCE):
            remove_partial(self.path, self.path / "figures")
            yield

    def write_recipe(self, recipe: Recipe, runs: Iterable[PlannedRun]) -> None:
        """Write sweep.yaml: the expanded recipe and the list of its runs.

        A recipe that is there already may grow: more seeds, sweeps and values. A sweep.yaml that
        cannot be read is set aside as sweep.yaml.corrupt.

        Raises:
            ValueError: the folder is of another recipe, or of a newer version.
        """
        planned = [run.entry() for run in runs]
        self._refuse_another(recipe, planned)
        content = recipe.to_dict() | {"runs": planned}
        write_whole({self.path / "sweep.yaml": to_yaml(versioned("sweep.yaml", content))})

    def recipe(self) -> Recipe:
        """The recipe in sweep.yaml.

        Raises:
            FileNotFoundError: there is no sweep.yaml.
            ValueError: it cannot be read as a recipe, or is of a newer version.
        """
        from geocollapse.experiments.recipe import Recipe

        content = unversioned(self._content())
        return Recipe.of({key: value for key, value in content.items() if key != "runs"})

    def entries(self) -> list[PlanEntry]:
        """The runs that sweep.yaml lists."""
        return cast("list[PlanEntry]", self._content().get("runs") or [])

    def _refuse_another(self, recipe: Recipe, planned: list[PlanEntry]) -> None:
        """Raise a ValueError if runs that this folder is for are not among the planned ones."""
        from geocollapse.experiments.recipe.growth import difference, fewer_seeds

        path = self.path / "sweep.yaml"
        if not path.is_file():
            return
        try:
            content = read_yaml(path)
        except ValueError as error:
            self._set_recipe_aside(error)
            return
        check_version(content, path)
        try:
            before = self.recipe()
        except ValueError as error:
            self._set_recipe_aside(error)
            return
        found = difference(before, recipe) or fewer_seeds(self.entries(), planned)
        if found is not None:
            raise ValueError(
                f"out: expected the recipe of {path}, got another one: {found}; "
                "do take another folder"
            )

    def _set_recipe_aside(self, error: ValueError) -> None:
        path = self.path / "sweep.yaml"
        aside = path.with_name(path.name + ".corrupt")
        path.replace(aside)
        _log.warning(f"{path.name} set aside as {aside.name}: {error}")

    def _content(self) -> dict[str, object]:
        path = self.path / "sweep.yaml"
        content = read_yaml(path)
        check_version(content, path)
        return content


def load_model(folder: str | Path, *, step: int | None = None) -> LoadedRun:
    """The trained model of a run folder, in evaluation mode.

    Args:
        folder: of the run.
        step: of a checkpoint that the run kept; None for the last one.

    The weights are those that state.json, or the kept file itself, describes by their SHA-256,
    and of the run of config.yaml. A file that does not say is taken at its word.

    Raises:
        FileNotFoundError: no configuration or no weights in ``folder``.
        ValueError: one of them cannot be read, is damaged, or is of another run; the run failed
            and no ``step`` is named.
    """
    from geocollapse.experiments.recipe import build_network

    run = RunFolder(folder)
    config = supervised_config(run)
    if step is None:
        _refuse_failed(run)
    path = run.file(WEIGHTS) if step is None else run.kept_checkpoint(step)
    if not path.is_file():
        kept = ", ".join(map(str, run.kept_steps())) or "none"
        remedy = (
            "do geocollapse train for this run"
            if step is None
            else f"do one of its steps: {kept} (keep_checkpoints: schedule keeps them)"
        )
        raise FileNotFoundError(f"MODEL: expected weights at {path}, got none; {remedy}")
    try:
        content = _described(run, config) if step is None else _kept(path, config)
        weights, sizes = unpack_weights(content)
    except ValueError as error:
        raise ValueError(
            f"MODEL: expected weights at {path}, got a file where {error}; "
            "do remove result.json and train it again"
        ) from None
    model = build_network(config.model, **sizes)
    model.load_state_dict(weights)
    images = config.data
    own = Normalisation(images.mean, images.std, images.pad_to, images.image_size)
    return LoadedRun(
        model.eval(),
        str(folder),
        str(path),
        normalisation=own,
        classes=_trained_classes(run),
        record=training_record(run, step),
        config=config,
    )


def _refuse_failed(run: RunFolder) -> None:
    """Refuse a run that failed: its last weights are those before it went wrong."""
    result = run.result_as_it_is() or {}
    if result.get("status") == "failed":
        kept = ", ".join(map(str, run.kept_steps()))
        remedy = f"do {run.path}@STEP with a step it kept ({kept})" if kept else "do name another"
        raise ValueError(
            f"MODEL: expected a run that did not fail, got {run.path}, which failed at step "
            f"{result.get('failed_step')}; {remedy}"
        )


def supervised_config(run: RunFolder) -> RunConfig:
    """The configuration of a run that trained a model.

    Raises:
        ValueError: the run is a game.
    """
    config = run.config()
    if config.kind == "supervised":
        return config
    raise ValueError(
        f"MODEL: expected a run that trained a model, got the game {config.game} in {run.path}, "
        "whose players are not kept; do name another run"
    )


def _trained_classes(run: RunFolder) -> tuple[str, ...]:
    """The classes that a run was trained on, as its records name them; none without records."""
    for line in run.history_text().splitlines():
        source = (json_object(line) or {}).get("source")
        if isinstance(source, dict):
            return tuple(map(str, source.get("classes", ())))
    return ()


def _kept(path: Path, config: RunConfig) -> bytes:
    """The file of a checkpoint that was kept.

    Raises:
        ValueError: it is no safetensors file, it is damaged, or it is of another run.
    """
    from geocollapse.experiments.recipe import run_id

    content = path.read_bytes()
    check_kept(content, run_id(config))
    return content


def _described(run: RunFolder, config: RunConfig) -> bytes:
    """The file of the weights, checked against state.json where there is one.

    Raises:
        ValueError: it is no safetensors file, it is damaged, or it is of another run.
    """
    from geocollapse.experiments.recipe import run_id

    content = run.file(WEIGHTS).read_bytes()
    state = State.read(run.path)
    if state is None:
        return content
    of_run = state.info.get("run_id")
    if of_run not in (None, run_id(config)):
        raise DamagedFileError(run.file(WEIGHTS), f"it is of run {of_run}, not that of config.yaml")
    return checkpoints.part(run.path, WEIGHTS, state)
