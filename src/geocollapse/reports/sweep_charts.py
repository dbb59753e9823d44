"""The figures of a sweep, made from its tables; a quantity that no run recorded has no panel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.charts.chart import Chart
from geocollapse.experiments.results.tables import ACCURACY, GC, GCOL, NC, TARGET_NC, SweepResults
from geocollapse.papers.collapse_transfer.poincare import RATIO
from geocollapse.papers.registry import claims_of, papers_of
from geocollapse.reports.bound_charts import bound, bounds_through_training
from geocollapse.reports.panels import (
    BAND,
    HOLLOW,
    SETTINGS,
    by_sweep,
    histories,
    ordinal,
    run_lines,
    scatter,
    scatters,
)
from geocollapse.reports.paper_charts import paper_charts
from geocollapse.reports.sampling_chart import sampling
from geocollapse.reports.wording import words

if TYPE_CHECKING:
    import pandas as pd

_HISTORIES = ("curves", "training", "bounds-through-training")  # shown for any paper


def charts(results: SweepResults) -> list[Chart]:
    """Every figure that the sweep has data for, of the claims of its papers and of training."""
    papers = papers_of(results.recipe)
    of_claims = (name for claim in claims_of(papers).values() for name in claim.figures)
    shown = (*of_claims, *_HISTORIES)
    found = [*_charts(results), *paper_charts(papers, results)]
    return [chart for chart in found if chart.panels and chart.name.startswith(shown)]


def _charts(results: SweepResults) -> list[Chart]:
    """The figures of geometry and transfer: sweep by sweep, then those over all runs."""
    done = results.runs[results.runs["status"] == "done"]
    found: list[Chart] = []
    for sweep in results.sweeps:
        members = results.of_sweep(sweep)
        members = members[members["status"] == "done"]
        found += [
            gc_and_collapse(sweep, members),
            settings(sweep, members),
            transfer(sweep, members),
            target(sweep, members),
            curves(sweep, members, results.history),
            training(sweep, members, results.history),
        ]
    found += [
        poincare(done, results),
        bound(done, results.history),
        sampling(results.sampling, done),
    ]
    if not results.sweeps:
        found.append(bounds_through_training(done, results.history))
    return found


def gc_and_collapse(sweep: str, runs: pd.DataFrame) -> Chart:
    """GC against GCol and NC, one point per run."""
    return Chart(
        f"gc-and-collapse-{sweep}",
        f"GC against geometric and neural collapse: {words(sweep)}",
        f"One point per run, at the end of training. {HOLLOW}",
        scatters(runs, (GC, GCOL), (GC, NC)),
    )


def settings(sweep: str, runs: pd.DataFrame) -> Chart:
    """GC, GCol and NC over the swept values in their order."""
    swept = [name for name in runs.columns if name.startswith("swept.")]
    panels = [panel for key in swept for y in (GC, GCOL, NC) for panel in ordinal(runs, key, y)]
    return Chart(
        f"settings-{sweep}",
        f"What the {words(sweep)} does to GC, GCol and NC",
        SETTINGS,
        tuple(panels),
    )


def transfer(sweep: str, runs: pd.DataFrame) -> Chart:
    """Source GC against target NC and few-shot accuracy, and source NC against target NC."""
    return Chart(
        f"transfer-{sweep}",
        f"Source geometry against transfer: {words(sweep)}",
        f"One point per run, at the end of training; bars: 95 % interval over episodes. {HOLLOW}",
        scatters(runs, (GC, TARGET_NC), (GC, ACCURACY), (NC, TARGET_NC)),
    )


def target(sweep: str, runs: pd.DataFrame) -> Chart:
    """Source NC, target NC and few-shot accuracy over the swept values; empty without targets."""
    swept = [name for name in runs.columns if name.startswith("swept.")]
    columns = (NC, TARGET_NC, ACCURACY) if TARGET_NC in runs else ()
    panels = [panel for key in swept for y in columns for panel in ordinal(runs, key, y)]
    return Chart(
        f"target-{sweep}",
        f"Source NC and transfer over {words(sweep)}",
        "One point per run, at the end of training; swept values in their order, not to scale; "
        f"bars: 95 % interval over episodes. {HOLLOW}",
        tuple(panels),
    )


def curves(sweep: str, runs: pd.DataFrame, history: pd.DataFrame) -> Chart:
    """GC, GCol and NC through training."""
    return Chart(
        f"curves-{sweep}",
        f"GC, geometric collapse and NC through training: {words(sweep)}",
        BAND,
        histories(runs, history, (GC, GCOL, NC)),
    )


def training(sweep: str, runs: pd.DataFrame, history: pd.DataFrame) -> Chart:
    """Training loss, learning-path flatness and few-shot accuracy through training."""
    return Chart(
        f"training-{sweep}",
        f"Training loss, flatness and transfer through training: {words(sweep)}",
        BAND,
        histories(runs, history, ("train_loss", "learning_path_flatness", ACCURACY)),
    )


def poincare(runs: pd.DataFrame, results: SweepResults) -> Chart:
    """The largest Poincaré ratio through training, and NC against GCol with c from these runs."""
    groups = by_sweep(runs, results.settings)
    against = scatter(groups, GCOL, NC)
    if against and RATIO in runs and runs[RATIO].notna().any():
        c = float(runs[RATIO].max())
        gcol = np.array([runs[GCOL].min(), runs[GCOL].max()])
        against = [replace(against[0], curve=(gcol, c * gcol, f"NC = c GCol, c = {c:.3g}"))]
    panels = [*run_lines(groups, results.history, RATIO), *against]
    return Chart(
        "poincare-ratio",
        "Does one Poincaré constant serve all runs?",
        "First the largest Var/GC of a class, a line per run; then NC against GCol, a point per "
        "run, with c the largest ratio of these runs, so that no point can lie above the line. "
        f"{HOLLOW}",
        tuple(panels),
    )
