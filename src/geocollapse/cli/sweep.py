"""`geocollapse sweep` and `demo`: all runs of a recipe, and their report."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from geocollapse.cli.answer import Answer, Display
from geocollapse.cli.options import (
    DataRoot,
    DeviceOption,
    OutFolder,
    Preset,
    RecipeArgument,
    Settings,
)
from geocollapse.cli.output import check_folder

if TYPE_CHECKING:
    from geocollapse.experiments.cost import Cost
    from geocollapse.experiments.recipe import Recipe
    from geocollapse.experiments.sweep import SweepSummary
    from geocollapse.reports.sweep_report import FailedRun


_FOR_A_GPU = "paper"  # the preset at the size of the paper


@dataclass(frozen=True)
class SweepOptions:
    """How the runs of a sweep are carried out."""

    workers: Annotated[
        int | None,
        Option(metavar="N", help="Processes at a time; default cores // the recipe's threads."),
    ] = None
    seeds: Annotated[
        int | None, Option(metavar="N", help="Seeds 0 to N-1; default the recipe's.")
    ] = None
    device: DeviceOption = "auto"
    data_root: DataRoot = None
    out: OutFolder = None

    @property
    def torch_device(self) -> str:
        """The device as torch names it."""
        from geocollapse.cli.resolve import find_device

        return str(find_device(self.device))


def sweep(
    recipe: RecipeArgument,
    options: SweepOptions,
    display: Display,
    settings: Settings = None,
    preset: Preset = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Only list the runs and estimate the time.")
    ] = False,
    yes: Annotated[
        bool, Option("--yes", help="Run --preset paper without a GPU, however long it takes.")
    ] = False,
) -> Answer:
    """Carry out all runs of a recipe and report.

    Into --out (default ./runs/RECIPE), where runs that are done are skipped and a killed one goes
    on from its checkpoint, or plays its game anew. Prints the verdicts and the path of report.html.
    """
    from geocollapse.cli.train import read_recipe

    planned = read_recipe(recipe, preset, settings)
    folder = options.out or Path("runs") / "-".join(filter(None, (planned.name, preset)))
    if dry_run:
        return _plan(planned, folder, options, display)
    if preset == _FOR_A_GPU and not yes and options.torch_device == "cpu":
        raise ValueError(_unasked(planned, options, display))
    return _run(planned, folder, options, display)


def demo(options: SweepOptions, display: Display, preset: Preset = None) -> Answer:
    """The main job, on data that is installed.

    Sweeps learning rate, batch size and L2 on handwritten digits into --out (default
    ./geocollapse-demo). Prints the verdicts and the path of report.html.
    """
    from geocollapse.cli.train import read_recipe

    folder = options.out or Path("geocollapse-demo")
    return _run(read_recipe("demo", preset, None), folder, options, display)


def _plan(recipe: Recipe, folder: Path, options: SweepOptions, display: Display) -> Answer:
    """The runs of a recipe and their cost, without running them."""
    cost = _cost(recipe, options, display)
    runs = [run.entry() for run in recipe.planned_runs(options.seeds)]
    return Answer(
        {"schema_version": 1, "folder": str(folder), **asdict(cost), "runs": runs},
        _plan_text(recipe, folder, cost),
        rows=[dict(run) for run in runs],
    )


def _cost(recipe: Recipe, options: SweepOptions, display: Display) -> Cost:
    """What a sweep would cost here."""
    from geocollapse.experiments.cost import estimate_cost

    if not display.quiet:
        print("timing a few steps and one measurement of the base setting", file=sys.stderr)
    return estimate_cost(
        recipe,
        workers=options.workers,
        n_seeds=options.seeds,
        device=options.torch_device,
        data_root=options.data_root,
    )


def _unasked(recipe: Recipe, options: SweepOptions, display: Display) -> str:
    """The refusal of a sweep of the paper without a GPU, with the hours that it would take."""
    cost = _cost(recipe, options, display)
    return (
        f"preset: expected a GPU for {_FOR_A_GPU}, got none, and {cost.n_runs} runs would take up "
        f"to {cost.seconds / 3600:,.0f} hours here; do --yes to start all the same, or another "
        "preset"
    )


def _plan_text(recipe: Recipe, folder: Path, cost: Cost) -> str:
    lines = [f"{recipe.name}: {recipe.title}"]
    for name, grid in recipe.sweeps.items():
        lines += [
            f"  {name}: {key} = {', '.join(map(str, values))}" for key, values in grid.items()
        ]
    lines += [
        f"{cost.n_runs} runs, {cost.workers} at a time, into {folder}",
        f"about {_duration(cost.seconds)} here if no run ends early, "
        f"{_duration(cost.seconds_per_run)} a run "
        f"({cost.seconds_per_step * 1000:.3g} ms a step, {cost.seconds_per_record:.3g} s a record)",
    ]
    return "\n".join(lines)


def _run(recipe: Recipe, folder: Path, options: SweepOptions, display: Display) -> Answer:
    """Carry out the runs that are not done yet, then write the report."""
    from geocollapse.cli.report import report_json, report_text
    from geocollapse.experiments.engines.ending import signals_raised
    from geocollapse.experiments.sweep import run_sweep
    from geocollapse.papers.registry import find_papers
    from geocollapse.reports.writing import write_report

    check_folder(folder, "--out")
    kind = recipe.run_config().kind
    find_papers(recipe.claims.papers, kind)  # one that is unknown ends the sweep here, not later
    with signals_raised():  # from the first run to the report: exit code 143 for SIGTERM
        try:
            summary = run_sweep(
                recipe,
                folder,
                workers=options.workers,
                n_seeds=options.seeds,
                device=options.torch_device,
                data_root=options.data_root,
                progress=not display.quiet,
            )
        except (KeyboardInterrupt, SystemExit):
            print(f"interrupted; the same command goes on in {folder}", file=sys.stderr)
            raise
        if not display.quiet:
            print("writing the report", file=sys.stderr)
        written = write_report(folder)
    failures = written.failures
    result = {
        "schema_version": 1,
        "folder": str(folder),
        "n_runs": summary.n_runs,
        "n_done": summary.n_done,
        "n_skipped": summary.n_skipped,
        "n_failed": summary.n_failed,
        "seconds": summary.seconds,
        "failures": failures,
        "report": report_json(written),
    }
    text = [_summary_text(summary), *map(_failure_text, failures), report_text(written)]
    return Answer(result, "\n".join(text), failed=summary.n_failed > 0)


def _summary_text(summary: SweepSummary) -> str:
    skipped = f", {summary.n_skipped} done before" if summary.n_skipped else ""
    failed = f", {summary.n_failed} failed" if summary.n_failed else ""
    seconds = _duration(summary.seconds)
    return f"{summary.n_done} of {summary.n_runs} runs done{skipped}{failed}, in {seconds}"


def _failure_text(failure: FailedRun) -> str:
    step = "" if failure["failed_step"] is None else f" at step {failure['failed_step']}"
    return f"run {failure['run_id']} failed{step}: {failure['error']}"


def _duration(seconds: float) -> str:
    """Whole seconds in the two largest units.

    Examples:
        >>> _duration(42), _duration(150), _duration(7260)
        ('42 s', '2 min 30 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
