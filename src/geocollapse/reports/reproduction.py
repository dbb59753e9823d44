"""The reproduction of a paper: its experiments beside the stored sweeps that repeat them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geocollapse.charts.chart import Chart
from geocollapse.experiments.results.convergence import LOST, endings
from geocollapse.experiments.results.tables import converged
from geocollapse.papers.collapse_transfer.experiments import EXPERIMENTS, Experiment
from geocollapse.papers.verdict import Verdict, View
from geocollapse.reports.sweep_report import SweepReport, read_report
from geocollapse.reports.wording import words

if TYPE_CHECKING:
    import pandas as pd

PRESET = "reduced"


@dataclass(frozen=True)
class Cost:
    """What the runs of a sweep took, in seconds of wall time on one worker.

    Attributes:
        training: steps.
        history: records during training.
        final: the last record, and the sampling study.
    """

    training: float
    history: float
    final: float

    @property
    def hours(self) -> float:
        """All of it, in hours."""
        return (self.training + self.history + self.final) / 3600

    @property
    def history_share(self) -> float | None:
        """Records during training, as a share of the time of the steps; None without any."""
        return self.history / self.training if self.training else None


@dataclass(frozen=True)
class Row:
    """One experiment and its stored sweep.

    Attributes:
        experiment: what the paper shows.
        preset: of its recipe.
        report: of the sweep; None if it is not stored, or not complete.
    """

    experiment: Experiment
    preset: str
    report: SweepReport | None

    @property
    def command(self) -> str:
        """The command that makes the sweep."""
        recipe = self.experiment.recipe
        seeds = self.experiment.seeds
        out = f"results/{recipe}/{self.preset}"
        return f"geocollapse sweep {recipe} --preset {self.preset} --seeds {seeds} --out {out}"

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The main verdicts with data on the claims of the experiment."""
        return self.of_view("main")

    def of_view(self, view: View) -> tuple[Verdict, ...]:
        """The verdicts of a view with data on the claims of the experiment."""
        passed = self.report.verdicts if self.report else ()
        claims = self.experiment.claims
        return tuple(v for v in passed if v.view == view and v.claim in claims and v.n_runs)

    def name_of(self, sweep: str) -> str:
        """A sweep in words: the recipe, and the sweep's own name where the recipe has several."""
        n_sweeps = len(self.report.results.sweeps) if self.report else 0
        if n_sweeps < 2 or sweep == "all runs":
            return self.experiment.recipe
        return f"{self.experiment.recipe} ({words(sweep)})"

    @property
    def charts(self) -> tuple[Chart, ...]:
        """The figures that show the answer: one for each sweep of the recipe."""
        drawn: Sequence[Chart] = self.report.charts if self.report else ()
        return tuple(chart for chart in drawn if chart.name.startswith(self.experiment.charts))

    @property
    def cost(self) -> Cost | None:
        """What its runs took."""
        if self.report is None:
            return None
        runs = self.report.results.runs
        spent = {
            part: float(runs[f"seconds_{part}"].astype(float).sum())
            for part in ("training", "history", "final", "sampling")
        }
        return Cost(spent["training"], spent["history"], spent["final"] + spent["sampling"])

    @property
    def machines(self) -> list[str]:
        """The machines that ran it, as the runs recorded them."""
        origins = self.report.results.provenance.values() if self.report else ()
        return list(dict.fromkeys(origin.get("machine", "") for origin in origins if origin))

    @property
    def convergence(self) -> str:
        """How many runs and settings converged, and why the others did not."""
        if self.report is None:
            return ""
        results = self.report.results
        reached = converged(results.runs)
        said = f"{len(reached)} of {len(results.runs)} runs converged"
        of_sweeps = [_settings(results.of_sweep(sweep)) for sweep in results.sweeps]
        if of_sweeps:
            said += f" ({', '.join(of_sweeps)})"
        if len(reached):
            accuracy = reached["train_accuracy"].astype(float).min()
            said += f", ending at a training accuracy of at least {100 * accuracy:.1f} %"
        n_failed = int((results.runs["status"] == "failed").sum())
        if n_failed:
            said += f"; {n_failed} failed"
        lost = results.runs[endings(results.runs) == LOST]
        if len(lost):
            accuracies = ", ".join(f"{100 * a:.1f} %" for a in lost["train_accuracy"].astype(float))
            runs = "1 run" if len(lost) == 1 else f"{len(lost)} runs"
            said += f"; {runs} reached its accuracy and lost it (ending at {accuracies})"
        return said


@dataclass(frozen=True)
class Reproduction:
    """All experiments, in the order of the paper.

    Attributes:
        folder: that holds RECIPE/PRESET.
        rows: one for each experiment.
    """

    folder: Path
    rows: tuple[Row, ...]

    @property
    def stored(self) -> tuple[Row, ...]:
        """The rows with a sweep."""
        return tuple(row for row in self.rows if row.report is not None)

    @property
    def hours(self) -> float:
        """What all stored runs took."""
        return sum(row.cost.hours for row in self.stored if row.cost)

    @property
    def machines(self) -> list[str]:
        """All machines, each in its longest spelling."""
        names = dict.fromkeys(machine for row in self.stored for machine in row.machines)
        return [name for name in names if not _longer(name, names)]

    def made(self, row: Row) -> str:
        """The time that the runs of a row took, and on what."""
        if row.cost is None:
            return ""
        spelled = (_longer(name, self.machines) or name for name in row.machines)
        machines = "; ".join(dict.fromkeys(spelled)) or "an unnamed machine"
        return f"{row.cost.hours:.2g} hours on {machines}, one thread a run"


def read_reproduction(
    folder: str | Path, *, preset: str = PRESET, only: Iterable[str] = ()
) -> Reproduction:
    """Read and judge the stored sweeps of every experiment.

    Args:
        folder: that holds RECIPE/PRESET for each stored sweep.
        preset: of the recipes.
        only: names of recipes; all by default.

    Raises:
        FileNotFoundError: ``folder`` holds no sweep of an experiment.
        ValueError: a name that no experiment has.
    """
    folder = Path(folder)
    chosen = chosen_experiments(only)
    rows = tuple(
        Row(experiment, preset, _stored(folder / experiment.recipe / preset))
        for experiment in chosen
    )
    found = Reproduction(folder, rows)
    if not found.stored:
        raise FileNotFoundError(
            f"results: expected sweeps in {folder}/RECIPE/{preset}, got none; do it in a checkout "
            "of the repository, which has them in results/, or with --from-scratch"
        )
    return found


def chosen_experiments(only: Iterable[str] = ()) -> tuple[Experiment, ...]:
    """The experiments of these recipes; all by default.

    Raises:
        ValueError: a name that no experiment has.
    """
    names = tuple(only)
    known = [experiment.recipe for experiment in EXPERIMENTS]
    for name in names:
        if name not in known:
            raise ValueError(
                f"only: expected recipes among {', '.join(known)}, got {name!r}; do only {known[0]}"
            )
    return tuple(e for e in EXPERIMENTS if not names or e.recipe in names)


def _settings(members: pd.DataFrame) -> str:
    """How many settings of a sweep have a run that converged."""
    reached = converged(members)["setting"].nunique()
    return f"{reached} of {members['setting'].nunique()} settings"


def _longer(name: str, names: Iterable[str]) -> str:
    """A name of the same machine with its processor, which earlier runs left out; or nothing."""
    return next((other for other in names if other.startswith(f"{name}, ")), "")


def _stored(folder: Path) -> SweepReport | None:
    """The report of a sweep folder; None if there is none, or runs of it are still to be done."""
    if not (folder / "sweep.yaml").is_file():
        return None
    report = read_report(folder)
    is_complete = (report.results.runs["status"] != "unfinished").all()
    return report if is_complete else None
