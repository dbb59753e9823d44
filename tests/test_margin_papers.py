"""The papers `margin` and `complexity` on sweeps with known answers, also the reversed one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from geocollapse.charts.chart import Series
from geocollapse.experiments.recipe import load_recipe
from geocollapse.experiments.results.tables import GC, SweepResults
from geocollapse.papers.complexity.claims import DOUBLE_DESCENT, REGULARISERS
from geocollapse.papers.margin.claims import (
    EXCESS,
    GAP,
    GENERALISATION,
    LOGITS_GC,
    MARGIN_GC,
    RANDOM_LABELS,
)
from geocollapse.papers.registry import judge, papers
from geocollapse.papers.verdict import Verdict
from geocollapse.reports.paper_charts import paper_charts

SEEDS = (0, 1, 2)
SHARES = [0.0, 0.25, 0.5, 0.75, 1.0]
NOISE = [0.0, 0.1, 0.2, 0.3, 0.4]


def sweep(
    recipe: dict[str, Any],
    key: str,
    values: list[float],
    levels: dict[str, list[float]],
    *,
    unconverged: tuple[int, ...] = (),
    noise: float = 0.01,
    name: str = "swept",
) -> SweepResults:
    """One sweep over ``key`` whose columns have these levels at its settings, with a little noise.

    ``unconverged`` are positions of settings whose runs did not converge. In the history each
    measure grows to its level while the loss falls to the same end in every run.
    """
    rng = np.random.default_rng(0)
    runs, settings, history = [], [], []
    for position, value in enumerate(values):
        for seed in SEEDS:
            run_id = f"{name}-{position}-{seed}"
            measures = {
                column: level[position] * float(np.exp(rng.normal(0.0, noise)))
                for column, level in levels.items()
            }
            converged = position not in unconverged
            head = {"run_id": run_id, "status": "done", "converged": converged, "seed": seed}
            runs.append(head | {"train_loss": 0.01} | measures)
            settings.append(
                {
                    "sweep": name,
                    "position": position,
                    "setting": f"{key} = {value}",
                    "run_id": run_id,
                    f"swept.{key}": value,
                }
            )
            for step, part in ((0, 0.1), (10, 0.5), (100, 1.0)):
                grown = {column: part * found for column, found in measures.items()}
                row = {"run_id": run_id, "step": step, "train_loss": 10.0 ** (-2 * part)}
                history.append(row | grown)
    return SweepResults(
        folder=Path(),
        recipe=recipe,
        runs=pd.DataFrame(runs),
        history=pd.DataFrame(history),
        settings=pd.DataFrame(settings),
        sampling=pd.DataFrame(columns=["run_id"]),
        provenance={},
        problems=(),
    )


def joined(*sweeps: SweepResults) -> SweepResults:
    """One folder with the sweeps of several."""
    tables = {
        name: pd.concat([getattr(results, name) for results in sweeps])
        for name in ("runs", "settings", "history")
    }
    return replace(sweeps[0], **tables)


def found(results: SweepResults, claim: str, view: str = "main") -> list[Verdict]:
    return [v for v in judge(results) if v.claim == claim and v.view == view]


def outcomes(verdicts: list[Verdict]) -> set[str]:
    return {verdict.verdict for verdict in verdicts}


# The margin bound

MARGIN = load_recipe("cifar10-resnet18-margin").to_dict()
RISING = [1.0, 2.0, 3.0, 4.0, 5.0]
FALLING = RISING[::-1]


def margins(complexity: list[float], **settings: Any) -> SweepResults:
    gap = [0.1 * level for level in RISING]
    levels = {MARGIN_GC: complexity, LOGITS_GC: complexity, GAP: gap, EXCESS: gap}
    return sweep(MARGIN, "data.random_labels", SHARES, levels, **settings)


def test_a_complexity_that_rises_with_the_gap_holds() -> None:
    for claim in (GENERALISATION, RANDOM_LABELS):
        verdicts = found(margins(RISING), claim.name)
        assert len(verdicts) == 4
        assert outcomes(verdicts) == {"holds"}
        assert {v.figure.removesuffix("-swept") for v in verdicts} <= set(claim.figures)


def test_a_complexity_that_falls_as_the_gap_rises_does_not_hold() -> None:
    verdicts = found(margins(FALLING), GENERALISATION.name)
    assert outcomes(verdicts) == {"does not hold"}
    of_trends = {v.y: v.verdict for v in found(margins(FALLING), RANDOM_LABELS.name)}
    assert of_trends == {
        MARGIN_GC: "does not hold",
        LOGITS_GC: "does not hold",
        GAP: "holds",
        EXCESS: "holds",
    }


def test_a_complexity_without_order_is_undecided() -> None:
    verdicts = found(margins([3.0, 1.0, 4.0, 2.0, 3.5]), GENERALISATION.name)
    assert outcomes(verdicts) == {"undecided"}


def test_runs_that_did_not_converge_count_only_in_their_own_view() -> None:
    results = margins(RISING, unconverged=(4,))
    main = found(results, GENERALISATION.name)
    assert outcomes(main) == {"undecided"}  # four settings are too few
    assert {v.n_settings for v in main} == {4}
    again = found(results, GENERALISATION.name, "with non-converged runs")
    assert outcomes(again) == {"holds"}


def test_a_sweep_over_something_else_has_no_verdict_on_random_labels() -> None:
    levels = {MARGIN_GC: RISING, LOGITS_GC: RISING, GAP: RISING, EXCESS: RISING}
    results = sweep(MARGIN, "training.learning_rate", SHARES, levels)
    assert found(results, RANDOM_LABELS.name) == []
    assert len(found(results, GENERALISATION.name)) == 4


def test_without_an_expected_sign_nothing_is_decided() -> None:
    recipe = MARGIN | {"claims": {"papers": ["margin"], "expected_signs": {}}}
    levels = {MARGIN_GC: RISING, LOGITS_GC: RISING, GAP: RISING, EXCESS: RISING}
    results = sweep(recipe, "data.random_labels", SHARES, levels)
    assert outcomes(found(results, GENERALISATION.name)) == {"undecided"}
    assert found(results, RANDOM_LABELS.name) == []


def test_margins_that_were_not_recorded_are_named() -> None:
    results = sweep(MARGIN, "data.random_labels", SHARES, {GAP: RISING})
    notes = [v.note for v in found(results, GENERALISATION.name) if v.x == MARGIN_GC]
    assert notes[0].startswith(f"Not recorded: {MARGIN_GC}")


@pytest.mark.parametrize("n_sweeps", [1, 2])
def test_a_verdict_that_needs_holm_within_its_sweep_says_so(n_sweeps: int) -> None:
    """Perfect orders of five settings have p = 1/120: four survive together, eight do not."""
    sweeps = [margins(RISING, name=f"sweep-{n}") for n in range(n_sweeps)]
    for view in ("main", "with non-converged runs"):
        if view != "main":
            sweeps.append(margins(RISING, name="failed", unconverged=(0, 1)))
        for verdict in found(joined(*sweeps), GENERALISATION.name, view):
            assert verdict.verdict == "holds"
            expected = n_sweeps > 1 or view != "main"
            assert ("Undecided if Holm counts all sweeps" in verdict.note) == expected


# The regularisers

REGULARISED = load_recipe("cifar10-vgg13-regularisers").to_dict()


@pytest.mark.parametrize(
    ("levels", "outcome"),
    [(FALLING, "holds"), (RISING, "does not hold"), ([3.0, 1.0, 4.0, 2.0, 3.5], "undecided")],
)
@pytest.mark.parametrize("view", ["main", "at matched training loss"])
def test_noise_that_lowers_complexity_holds(levels: list[float], outcome: str, view: str) -> None:
    both = {LOGITS_GC: levels, GC: levels}
    results = sweep(REGULARISED, "training.input_noise", NOISE, both)
    verdicts = found(results, REGULARISERS.name, view)
    assert len(verdicts) == 2
    assert outcomes(verdicts) == {outcome}
    assert verdicts[0].statement == "larger input noise lowers GC of the logits"


def test_an_initial_scale_is_expected_to_raise_complexity() -> None:
    scales = [0.9, 0.95, 1.0, 1.1, 1.2]
    both = {LOGITS_GC: RISING, GC: RISING}
    verdicts = found(sweep(REGULARISED, "model.initial_scale", scales, both), REGULARISERS.name)
    assert outcomes(verdicts) == {"holds"}
    assert verdicts[0].statement == "smaller initial scale lowers GC of the logits"


def test_at_a_matched_loss_complexity_that_only_grows_with_progress_has_no_order() -> None:
    """Runs that went further have a higher complexity at their end, and the same at one loss."""
    levels = {LOGITS_GC: [4.0] * 5, GC: [4.0] * 5}
    results = sweep(REGULARISED, "training.input_noise", NOISE, levels, noise=0.0)
    further = results.history["step"] == 100
    last = results.history["run_id"].str.split("-").str[1].astype(float)
    history = results.history.copy()
    history.loc[further, "train_loss"] = 10.0 ** (-2.0 - (4.0 - last[further]))
    grown = 1.0 + 0.5 * (4.0 - last[further])
    for column in (LOGITS_GC, GC):
        history.loc[further, column] *= grown
    history.loc[further & (last == 4.0), "train_loss"] = 0.1
    runs = results.runs.copy()
    position = runs["run_id"].str.split("-").str[1].astype(float)
    for column in (LOGITS_GC, GC):
        runs[column] *= 1.0 + 0.5 * (4.0 - position)
    changed = SweepResults(**{**vars(results), "runs": runs, "history": history})
    assert outcomes(found(changed, REGULARISERS.name)) == {"holds"}
    matched = found(changed, REGULARISERS.name, "at matched training loss")
    assert "holds" not in outcomes(matched)


def test_every_swept_key_of_the_recipe_has_an_expected_sign() -> None:
    recipe = load_recipe("cifar10-vgg13-regularisers")
    swept = {key for grid in recipe.sweeps.values() for key in grid}
    assert all(recipe.claims.expected_signs[key] for key in swept)
    assert all(len(values) >= 5 for grid in recipe.sweeps.values() for values in grid.values())


def test_every_base_value_is_in_its_sweep() -> None:
    """Else a sweep would not share its base runs, and `effects` would compare other runs."""
    for preset in (None, "reduced"):
        recipe = load_recipe("cifar10-vgg13-regularisers")
        recipe = recipe.with_preset(preset) if preset else recipe
        base = [run for run in recipe.planned_runs() if not run.overrides]
        assert len(base) == recipe.seeds
        assert set(base[0].sweeps) == set(recipe.sweeps)


# Double descent

WIDTHS = load_recipe("cifar10-mlp-width").to_dict()
PEAK = [1.0, 3.0, 5.0, 4.0, 2.0]


def widths(
    complexity: list[float], name: str = "swept", *, errors: list[float] = PEAK, noise: float = 0.01
) -> SweepResults:
    error = [0.1 * level for level in errors]
    levels = {LOGITS_GC: complexity, "margin.test_error": error, "test_loss": error}
    sizes = [2.0**n for n in range(len(errors))]
    everything = tuple(range(len(errors)))
    key = "model.args.hidden.0"
    return sweep(WIDTHS, key, sizes, levels, unconverged=everything, noise=noise, name=name)


def test_a_complexity_that_peaks_with_the_test_error_holds_for_runs_that_never_converge() -> None:
    verdicts = found(widths(PEAK), DOUBLE_DESCENT.name)
    assert len(verdicts) == 2
    assert outcomes(verdicts) == {"holds"}


@pytest.mark.parametrize("n_sweeps", [1, 3, 4])
def test_double_descent_in_many_sweeps_is_noted(n_sweeps: int) -> None:
    results = joined(*(widths(PEAK, name=f"sweep-{n}") for n in range(n_sweeps)))
    for verdict in found(results, DOUBLE_DESCENT.name):
        assert verdict.verdict == "holds"
        assert ("Undecided if Holm counts all sweeps" in verdict.note) == (n_sweeps > 3)


def test_a_complexity_that_dips_where_the_error_peaks_does_not_hold() -> None:
    verdicts = found(widths([6.0 - level for level in PEAK]), DOUBLE_DESCENT.name)
    assert outcomes(verdicts) == {"does not hold"}


NINE = [float(level) for level in range(9, 0, -1)]


@pytest.mark.parametrize("errors", [FALLING, RISING, NINE, [5.0, 2.0, 1.0, 3.0, 6.0]])
def test_without_a_peak_of_the_error_there_is_nothing_to_mirror(errors: list[float]) -> None:
    """Negative control: a monotone error or a valley goes with the same complexity, rho = 1."""
    verdicts = found(widths(errors, errors=errors), DOUBLE_DESCENT.name)
    assert outcomes(verdicts) == {"undecided"}
    assert [v.effect for v in verdicts] == pytest.approx([1.0, 1.0], abs=0.02)
    assert [v.remark for v in verdicts] == [
        "no peak of the test error: nothing to mirror",
        "no peak of the test loss: nothing to mirror",
    ]


def test_a_peak_within_the_noise_of_the_seeds_is_none() -> None:
    nearly = [3.0, 3.02, 3.05, 3.03, 3.01]
    verdicts = found(widths(nearly, errors=nearly, noise=0.1), DOUBLE_DESCENT.name)
    assert outcomes(verdicts) == {"undecided"}
    assert all(verdict.remark.startswith("no peak") for verdict in verdicts)


def test_a_complexity_that_only_falls_mirrors_no_peak() -> None:
    """A peak near the smallest width: rho is high although complexity does not rise to it."""
    early = [7.0, 8.0, 9.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    verdicts = found(widths(NINE, errors=early), DOUBLE_DESCENT.name)
    assert all(verdict.effect > 0.9 and not verdict.remark for verdict in verdicts)
    assert outcomes(verdicts) == {"undecided"}
    assert outcomes(found(widths(early, errors=early), DOUBLE_DESCENT.name)) == {"holds"}


# Papers and their figures


@pytest.mark.parametrize("name", ["margin", "complexity"])
def test_a_paper_says_what_a_report_needs(name: str) -> None:
    paper = papers()[name]
    drawn = {figure.name for figure in paper.figures}
    for claim in paper.claims:
        assert claim.cautions
        assert set(claim.figures) <= drawn
    assert "p ≤ 0.05" in paper.rules


def regularised(**levels: list[float]) -> SweepResults:
    """Two sweeps: noise and, with the mirrored levels, the initial scale."""
    both = {LOGITS_GC: levels["logits"], GC: levels["embedding"]}
    noise = sweep(REGULARISED, "training.input_noise", NOISE, both, noise=0.0, name="noise")
    scales = [0.9, 0.95, 1.0, 1.1, 1.2]
    rising = {column: level[::-1] for column, level in both.items()}
    scale = sweep(REGULARISED, "model.initial_scale", scales, rising, noise=0.0, name="scale")
    return joined(noise, scale)


HALVED = [1.0, 0.5, 0.25, 0.125, 0.0625]


def over_sweeps(results: SweepResults, name: str) -> list[dict[str, Series]]:
    charts = {chart.name: chart for chart in paper_charts([papers()["complexity"]], results)}
    return [{series.label: series for series in panel.series} for panel in charts[name].panels]


def test_the_figure_of_all_regularisers_is_relative_to_the_weakest_setting() -> None:
    panels = over_sweeps(regularised(logits=HALVED, embedding=FALLING), "complexity-effects")
    assert len(panels) == 4
    for logits in panels[::2]:  # at the end, and at matched training loss
        assert set(logits) == {"noise", "scale"}
        np.testing.assert_allclose(logits["noise"].y, HALVED)
        # from the largest scale, the weakest setting, to the smallest
        np.testing.assert_allclose(logits["scale"].y, HALVED)
    np.testing.assert_allclose(panels[1]["noise"].y, [1.0, 0.8, 0.6, 0.4, 0.2])


def test_at_matched_loss_the_effect_is_that_of_the_same_stage_of_training() -> None:
    """Every run has the same complexity at the same loss; the weak settings only train longer."""
    results = regularised(logits=[4.0] * 5, embedding=[4.0] * 5)
    runs, history = results.runs.copy(), results.history.copy()
    longest = runs["run_id"].str.contains("noise-[0123]-")
    runs.loc[longest, LOGITS_GC] *= 2.0
    more = history[(history["step"] == 100) & history["run_id"].str.contains("noise-[0123]-")]
    more = more.assign(step=200, train_loss=1e-3, **{LOGITS_GC: 8.0})
    changed = replace(results, runs=runs, history=pd.concat([history, more]))
    end, _, matched, _ = over_sweeps(changed, "complexity-effects")
    np.testing.assert_allclose(end["noise"].y, [1.0, 1.0, 1.0, 1.0, 0.5])
    np.testing.assert_allclose(matched["noise"].y, np.ones(5))


def test_a_path_goes_from_the_loss_of_initialisation_to_the_lowest_that_both_ends_reach() -> None:
    results = regularised(logits=HALVED, embedding=FALLING)
    history = results.history.copy()
    history.loc[history["step"] == 0, [LOGITS_GC, GC]] = 0.1  # the same at initialisation
    logits, embedding = over_sweeps(replace(results, history=history), "complexity-paths")
    for lines, strongest in ((logits, 1.0 / 16.0), (embedding, 0.2)):
        assert set(lines) == {"noise", "scale"}
        for line in lines.values():
            assert line.x[0] == pytest.approx(10.0**-0.2)
            assert line.x[-1] == pytest.approx(0.01)
            assert line.y[0] == pytest.approx(1.0)
            assert line.y[-1] == pytest.approx(strongest)
            assert (np.diff(line.y) <= 1e-12).all()


def test_without_records_through_training_there_are_no_paths() -> None:
    results = regularised(logits=HALVED, embedding=FALLING)
    few = results.history.drop(columns=[LOGITS_GC, GC])
    assert over_sweeps(replace(results, history=few), "complexity-paths") == []
    panels = over_sweeps(replace(results, history=few), "complexity-effects")
    assert len(panels) == 2  # those of the end
