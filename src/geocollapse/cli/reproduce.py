"""`geocollapse reproduce`: the paper's experiments beside what was measured here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from geocollapse.cli.answer import Answer, Display
from geocollapse.cli.options import DataRoot, DeviceOption, OutFolder
from geocollapse.cli.output import check_folder

if TYPE_CHECKING:
    from geocollapse.cli.schemas import ExperimentDict, ReproductionDict
    from geocollapse.reports.reproduction import Reproduction, Row


@dataclass(frozen=True)
class ReproduceOptions:
    """What is reproduced, and where its sweeps are."""

    results: Annotated[
        Path, Option(metavar="DIR", help="Folder of stored sweeps, DIR/RECIPE/PRESET.")
    ] = Path("results")
    preset: Annotated[str, Option(metavar="NAME", help="Preset of the recipes.")] = "reduced"
    only: Annotated[
        list[str] | None, Option(metavar="RECIPE", help="Only this experiment; repeatable.")
    ] = None
    markdown: Annotated[
        Path | None,
        Option(metavar="FILE", help="Also write the page as Markdown, with figures beside it."),
    ] = None


@dataclass(frozen=True)
class TrainOptions:
    """How the runs of --from-scratch are carried out."""

    from_scratch: Annotated[
        bool, Option("--from-scratch", help="Train what is not stored in --results yet.")
    ] = False
    workers: Annotated[
        int | None, Option(metavar="N", help="Processes at a time; default cores.")
    ] = None
    device: DeviceOption = "auto"
    data_root: DataRoot = None


def reproduce(
    options: ReproduceOptions, training: TrainOptions, display: Display, out: OutFolder = None
) -> Answer:
    """Show the paper's experiments beside what was measured.

    Reads the stored sweeps of --results and writes reproduction.html, one file with all it needs,
    into --out (default .). With --from-scratch it first trains the runs that are not stored.
    """
    from geocollapse.reports.reproduction import chosen_experiments, read_reproduction
    from geocollapse.reports.reproduction_page import ReproductionPage

    folder = out or Path()
    chosen_experiments(options.only or ())
    check_folder(folder, "--out")
    n_failed = _train(options, training, display) if training.from_scratch else 0
    found = read_reproduction(options.results, preset=options.preset, only=options.only or ())
    page = ReproductionPage.of(found)
    html = folder / "reproduction.html"
    page.write_html(html)
    if options.markdown:
        file = options.markdown
        page.write_markdown(file, file.parent / "figures" / file.stem)
    result: ReproductionDict = {
        "schema_version": 1,
        "answer": [*page.answer, *page.details],
        "lessons": page.lessons,
        "experiments": [_experiment(row) for row in found.rows],
        "hours": found.hours,
        "machines": found.machines,
        "page": str(html),
    }
    return Answer(
        dict(result),
        _text(found, [*page.answer, *page.details], html),
        rows=[dict(row) for row in result["experiments"]],
        failed=n_failed > 0,
    )


def _train(options: ReproduceOptions, training: TrainOptions, display: Display) -> int:
    """Train the missing runs of every experiment; the number of those that failed."""
    from geocollapse.cli.resolve import find_device
    from geocollapse.experiments.engines.ending import signals_raised
    from geocollapse.experiments.recipe import load_recipe
    from geocollapse.experiments.sweep import run_sweep
    from geocollapse.reports.reproduction import chosen_experiments
    from geocollapse.reports.writing import write_report

    n_failed = 0
    device = str(find_device(training.device))
    with signals_raised():
        for experiment in chosen_experiments(options.only or ()):
            if not display.quiet:
                print(experiment.recipe, file=sys.stderr)
            folder = options.results / experiment.recipe / options.preset
            summary = run_sweep(
                load_recipe(experiment.recipe).with_preset(options.preset),
                folder,
                workers=training.workers,
                n_seeds=None if options.preset == "smoke" else experiment.seeds,
                device=device,
                data_root=training.data_root,
                progress=not display.quiet,
            )
            write_report(folder)
            n_failed += summary.n_failed
    return n_failed


def _experiment(row: Row) -> ExperimentDict:
    from geocollapse.papers.verdict import to_json

    cost = row.cost
    return {
        "recipe": row.experiment.recipe,
        "question": row.experiment.question,
        "published": row.experiment.published,
        "command": row.command,
        "stored": row.report is not None,
        "convergence": row.convergence,
        "verdicts": [to_json(verdict) for verdict in row.verdicts],
        "hours": cost.hours if cost else None,
        "history_share": cost.history_share if cost else None,
    }


def _text(found: Reproduction, answered: list[str], page: Path) -> str:
    missing = [row.experiment.recipe for row in found.rows if row.report is None]
    lines = [*answered, f"{len(found.stored)} of {len(found.rows)} experiments are stored."]
    if missing:
        lines.append(f"not stored: {', '.join(missing)}")
    return "\n".join([*lines, f"page: {page.resolve()}"])
