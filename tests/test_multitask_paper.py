"""The paper `multitask` on sweeps whose answers are put in, also the reversed ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from geocollapse.charts.paper import draw
from geocollapse.experiments.results.tables import SweepResults
from geocollapse.multiple_tests import holm
from geocollapse.papers.multitask.claims import DIRECTION, FORGETTING, ORDER_EFFECT, WHICH_ORDER
from geocollapse.papers.multitask.judge import column
from geocollapse.papers.registry import judge, papers
from geocollapse.papers.statistics import spearman
from geocollapse.papers.verdict import Verdict
from geocollapse.papers.within_runs import record_correlations, seed_means
from geocollapse.reports.record_points import matches
from geocollapse.reports.sweep_charts import charts
from test_sibling_papers import Row, made_up, noise

STEPS = (1, 4, 16)
PAIRS = ("a", "b")
RECORDS = (0, 2, 10, 50, 200, 800)
Measured = Callable[[str, int, float], float]


def study(
    *,
    sign: int = 1,
    cosine: Callable[[int], float] = lambda m: 1.0 - 0.01 * m,
    scatter: float = 0.1,
    n_seeds: int = 3,
) -> SweepResults:
    """A study whose measured values go with the predicted ones (sign 1), or against them (-1).

    The gradients shrink through training, and the predictions move about beside that.
    """

    def records(row: Row) -> list[Row]:
        lines = []
        for place, step in enumerate(RECORDS):
            draw = noise("draw", row["run_id"], step) * 50.0
            line: Row = {
                "step": step,
                "train_loss": 1.0 / (1 + step),
                "order_effect.gradient_norm": 1.0 / (1 + place),
                "order_effect.other_gradient_norm": 1.0,
            }
            for m in STEPS:
                near = scatter * 5.0 * noise(row["run_id"], step, m)
                size = (0.01 * m) ** 2
                line |= {
                    column(m, "predicted_norm"): size * np.exp(draw),
                    column(m, "norm"): size * np.exp(sign * (draw + near)),
                    column(m, "cosine"): cosine(m) + noise(row["run_id"], m) / 10,
                }
                for name in ("gap", "total_gap"):
                    line[column(m, f"predicted_{name}")] = size * draw
                    line[column(m, name)] = sign * size * (draw + near)
                line[column(m, "forgetting")] = 0.01 * m * (sign * draw + near)
                line[column(m, "forgetting_second_order")] = 0.01 * m * draw
                line[column(m, "forgetting_first_order")] = 0.01 * m * noise("first", step)
            lines.append(line)
        return lines

    rows = [{"training.learning_rate": 0.1 * (1 + i)} for i in range(len(PAIRS))]
    return made_up("multitask", {"pair": rows}, records, n_seeds=n_seeds)


def found(results: SweepResults, claim: str) -> list[Verdict]:
    return [verdict for verdict in judge(results) if verdict.claim == claim]


@pytest.mark.parametrize(("sign", "expected"), [(1, "holds"), (-1, "does not hold")])
@pytest.mark.parametrize("claim", [WHICH_ORDER.name, FORGETTING.name])
def test_losses_that_go_with_or_against_the_prediction(
    claim: str, sign: int, expected: str
) -> None:
    verdicts = found(study(sign=sign), claim)
    assert len(verdicts) == 2 * len(STEPS)
    assert {verdict.verdict for verdict in verdicts} == {expected}
    assert all(verdict.n_runs == 6 for verdict in verdicts)


@pytest.mark.parametrize(("sign", "expected"), [(1, "holds"), (-1, "does not hold")])
def test_sizes_are_judged_within_a_number_of_steps_and_over_all(sign: int, expected: str) -> None:
    pooled, *apart = found(study(sign=sign), ORDER_EFFECT.name)
    assert {verdict.verdict for verdict in apart} == {expected}
    assert [verdict.x for verdict in apart] == [column(m, "predicted_norm") for m in STEPS]
    assert pooled.note.startswith("Strong by arithmetic")
    assert pooled.verdict == expected if sign > 0 else pooled.effect > apart[0].effect


def test_over_all_steps_sizes_grow_together_by_arithmetic() -> None:
    """Sizes that have nothing to do with each other at one m are correlated over all m."""
    results = study()
    rng = np.random.default_rng(0)
    for m in STEPS:
        size = (0.01 * m) ** 2
        draws = rng.normal(0.0, 0.3, len(results.history))
        results.history[column(m, "norm")] = size * np.exp(draws)
    pooled, *apart = found(results, ORDER_EFFECT.name)
    assert pooled.verdict == "holds"
    assert pooled.effect > 0.7
    assert "holds" not in {verdict.verdict for verdict in apart}


def test_few_seeds_and_mixed_signs_are_undecided() -> None:
    for results in (study(n_seeds=2), study(scatter=60.0)):
        verdicts = [v for c in (WHICH_ORDER, FORGETTING) for v in found(results, c.name)]
        assert {verdict.verdict for verdict in verdicts} == {"undecided"}
    two = found(study(n_seeds=2), FORGETTING.name)
    assert {verdict.verdict for verdict in two} == {"undecided"}
    assert "2 seeds" in two[0].note


def test_the_effect_is_the_mean_over_seeds_of_the_mean_over_runs() -> None:
    results = study(scatter=3.0)
    (verdict,) = (v for v in found(results, WHICH_ORDER.name) if v.y == column(4, "gap"))
    rhos: dict[int, list[float]] = {}
    for run_id, seed in zip(results.runs["run_id"], results.runs["seed"], strict=True):
        record = results.history[results.history["run_id"] == run_id]
        values = (record[column(4, n)].to_numpy(dtype=float) for n in ("predicted_gap", "gap"))
        rhos.setdefault(int(seed), []).append(spearman(*values))
    assert verdict.effect == pytest.approx(np.mean([np.mean(rho) for rho in rhos.values()]))
    assert verdict.remark.startswith(f"{verdict.effect:+.2f} (")
    assert "over 2 pairs of tasks)" in verdict.remark


def test_a_pair_that_fails_is_named_and_the_statement_speaks_of_the_average() -> None:
    results = study()
    pair = results.settings.groupby("setting")["run_id"].agg(set)
    own = results.history["run_id"].isin(pair.iloc[1])
    results.history.loc[own, column(4, "gap")] *= np.where(results.history["step"] > 40, 1, -1)[own]
    (verdict,) = (v for v in found(results, WHICH_ORDER.name) if v.y == column(4, "gap"))
    lowest = float(verdict.remark.partition("(")[2].partition(" to ")[0])
    assert lowest < 0.3 < verdict.effect
    assert verdict.statement.endswith(", on average over pairs of tasks")
    for claim in (ORDER_EFFECT, WHICH_ORDER, FORGETTING):
        assert "on average over pairs of tasks" in claim.statement


def test_signs_stand_beside_the_commoner_sign() -> None:
    results = study()
    results.history[column(1, "gap")] = results.history[column(1, "gap")].abs() + 1e-9
    first = found(results, WHICH_ORDER.name)[0]
    positive = (results.history[column(1, "predicted_gap")] > 0).mean()
    assert first.remark.endswith(f"; sign right in {positive:.0%}, commoner sign 100%")


def test_intervals_of_correlations_stay_within_their_range() -> None:
    for scatter in (0.1, 1.0, 5.0):
        for verdict in judge(study(scatter=scatter)):
            if verdict.claim != DIRECTION.name:
                low, high = verdict.interval
                assert -1.0 <= low <= high <= 1.0


def test_holm_counts_the_verdicts_of_a_claim() -> None:
    for claim in (ORDER_EFFECT, WHICH_ORDER, FORGETTING):
        verdicts = found(study(scatter=5.0), claim.name)
        assert [v.p_holm for v in verdicts] == holm([v.p for v in verdicts])
        assert {v.test for v in verdicts} == {"Student's t"}
        for verdict in verdicts:
            holds = verdict.interval[0] > 0.0 and verdict.p_holm <= 0.05
            assert (verdict.verdict == "holds") == holds
    assert any("after the first results were seen" in text for text in ORDER_EFFECT.cautions)


@pytest.mark.parametrize(
    ("cosine", "expected"),
    [
        (lambda m: 1.0 - 0.01 * m, ("holds", "holds")),
        (lambda m: 0.5 + 0.01 * m, ("does not hold", "does not hold")),
        (lambda m: 0.9, ("undecided", "undecided")),
    ],
)
def test_the_cosine_has_a_margin_at_one_step_and_falls(
    cosine: Callable[[int], float], expected: tuple[str, str]
) -> None:
    first, fall = found(study(cosine=cosine), DIRECTION.name)
    assert (first.verdict, fall.verdict) == expected
    assert first.effect == pytest.approx(cosine(1), abs=0.01)
    assert fall.effect == pytest.approx(cosine(1) - cosine(16), abs=0.01)
    assert "after one step on each task" in first.statement
    assert fall.remark.startswith("cosine by m 1: ")


def test_a_folder_without_the_study_is_not_judged() -> None:
    results = made_up(
        "multitask",
        {"pair": [{"training.learning_rate": 0.1}]},
        lambda row: [{"step": step, "train_loss": 1.0} for step in RECORDS],
    )
    verdicts = judge(results)
    assert {verdict.claim for verdict in verdicts} == set(claim_names())
    assert {verdict.n_runs for verdict in verdicts} == {0}
    assert all("measuring.order_effect" in verdict.note for verdict in verdicts)
    assert not charts(results) or not any(c.name.startswith("order") for c in charts(results))


def claim_names() -> list[str]:
    return [claim.name for claim in papers()["multitask"].claims]


def test_null_records_are_left_out_and_short_histories_do_not_count() -> None:
    history = pd.DataFrame(
        {"run_id": ["r"] * 5 + ["s"] * 3, "x": [1, 2, 3, 4, None, 1, 2, 3], "y": range(8)}
    )
    runs = pd.DataFrame({"run_id": ["r", "s"], "seed": [0, 1]})
    kept = record_correlations(runs, history, "x", "y")
    assert kept["run_id"].tolist() == ["r"]
    assert seed_means(kept).tolist() == [1.0]
    assert record_correlations(runs, history, "x", "z").empty


# Figures


def test_every_claim_names_figures_of_its_paper() -> None:
    paper = papers()["multitask"]
    drawn = {figure.name for figure in paper.figures}
    assert drawn == {name for claim in paper.claims for name in claim.figures}
    assert all(claim.cautions for claim in paper.claims)
    assert paper.rules


def test_figures_have_a_series_or_a_panel_for_each_number_of_steps() -> None:
    drawn = {chart.name: chart for chart in charts(study())}
    sizes = drawn["order-effect-pair"].panels[0]
    assert [series.label for series in sizes.series] == [f"m = {m}" for m in STEPS]
    assert all(len(series.x) == 2 * 3 * len(RECORDS) for series in sizes.series)
    assert (sizes.x_scale, sizes.y_scale) == ("log", "log")
    assert sizes.curve is not None
    assert sizes.curve[2] == "measured = predicted"
    assert drawn["order-effect-pair"].panels[1].y_scale == "linear"
    for name, n_panels in (("order-cosine-pair", 3), ("order-loss-pair", 3)):
        assert len(drawn[name].panels) == n_panels
        assert len(drawn[name].panels[0].series) == len(PAIRS)
    gaps = drawn["order-loss-pair"].panels
    assert [panel.x_label.split(", m = ")[1].split(" ")[0] for panel in gaps] == ["1", "4", "16"]
    assert (gaps[0].x_scale, gaps[0].y_scale) == ("linear", "linear")
    assert "order-forgetting-pair" in drawn


def test_small_numbers_are_written_at_the_ticks_without_a_common_factor() -> None:
    (chart,) = (c for c in charts(study()) if c.name == "order-loss-pair")
    figure = draw(chart)
    figure.draw_without_rendering()
    axes = [ax for ax in figure.axes if ax.get_visible()]
    assert len(axes) == len(STEPS)
    assert {axis.get_offset_text().get_text() for ax in axes for axis in (ax.xaxis, ax.yaxis)} == {
        ""
    }


def test_a_star_stands_for_one_part_of_a_name() -> None:
    table = pd.DataFrame(columns=["a.16.b", "a.4.b", "a.4.c", "a.4.5.b", "x.4.b"])
    assert matches("a.*.b", table) == ["4", "16"]
    assert matches("a.*.d", table) == []
