"""Judges and figures of the sibling papers, on sweeps whose answers are put in."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from geocollapse.experiments.results.tables import SweepResults
from geocollapse.papers.claims import Figure
from geocollapse.papers.implicit.ratio import share_between
from geocollapse.papers.margins import LARGEST_RHO, Margin, Scale, corrected, worst
from geocollapse.papers.ordered import Trend, judge_trends
from geocollapse.papers.registry import judge, papers
from geocollapse.papers.statistics import mean_interval
from geocollapse.papers.verdict import Verdict
from geocollapse.reports.sweep_charts import charts

GC = "source.geometric_complexity.value"
SIBLINGS = ("corridors", "principal-flow", "implicit")
STEPS = (0, 10, 30, 100, 200)

Row = dict[str, object]
Records = Callable[[Row], list[Row]]


def made_up(
    paper: str, sweeps: Mapping[str, Sequence[Row]], records: Records, *, n_seeds: int = 3
) -> SweepResults:
    """A sweep whose runs have the given columns; those named `training.*` are also swept."""
    runs = []
    settings = []
    history = []
    for sweep, rows in sweeps.items():
        for position, row in enumerate(rows):
            for seed in range(n_seeds):
                values = {key: make(seed) if callable(make) else make for key, make in row.items()}
                run = {**_RUN, "run_id": f"r{len(runs)}", "seed": seed, **values}
                lines = records(run)
                runs.append({**run, **{k: v for k, v in lines[-1].items() if k not in run}})
                history += [{"run_id": run["run_id"], **line} for line in lines]
                swept = {k: v for k, v in row.items() if k.startswith("training.")}
                settings.append(
                    {
                        "sweep": sweep,
                        "position": position,
                        "setting": ", ".join(f"{k} = {v}" for k, v in swept.items()),
                        "run_id": run["run_id"],
                        **{f"swept.{k}": v for k, v in swept.items()},
                    }
                )
    return SweepResults(
        folder=Path("made-up"),
        recipe={"name": "made-up", "title": "made up", "claims": {"papers": [paper]}},
        runs=pd.DataFrame(runs),
        history=pd.DataFrame(history),
        settings=pd.DataFrame(settings),
        sampling=pd.DataFrame(columns=["run_id", "method", "full", "value", "low", "high"]),
        provenance={},
        problems=(),
    )


_LARGEST = "training.corridor.max_learning_rate"
_RUN: Row = {
    "status": "done",
    "converged": True,
    "training.optimizer": "sgd",
    "training.schedule": "constant",
    "training.learning_rate": 0.01,
    "training.batch_size": 32,
    "training.max_steps": 1000,
    "training.gradient_penalty.weight": 0.0,
    _LARGEST: math.nan,
    "stop_step": 100.0,
    "steps": 200.0,
    "seconds_training": 20.0,
}


def noise(*key: object) -> float:
    """A small number that is a function of ``key``."""
    return float(np.random.default_rng(zlib.crc32(str(key).encode())).normal(0.0, 0.01))


def outcomes(results: SweepResults, claim: str) -> dict[str, str]:
    """Outcome of each main verdict on a claim, by its x and y."""
    return {
        f"{v.x} {v.y}": v.verdict for v in judge(results) if v.claim == claim and v.view == "main"
    }


UNDECIDED = Verdict("c", "s", "all runs", "x", "y", "undecided", 2, "f")

# Corridors


def corridors(factor: float, gain: float, *, sign: int = 1, reaches: bool = True) -> SweepResults:
    """The corridor rate takes ``factor`` times the steps of the best rate, and gains accuracy."""

    def run(steps: float, accuracy: float, **values: object) -> Row:
        return {
            "stop_step": lambda seed: steps * math.exp(noise(steps, seed)),
            "test_accuracy": lambda seed: accuracy + 0.1 * noise(accuracy, seed),
            **values,
        }

    corridor: Row = {"training.optimizer": "corridor", "seconds_training": 22.0}
    if not reaches:
        corridor["stop_step"] = math.nan
    return made_up(
        "corridors",
        {
            "constant": [
                run(200.0, 0.5, **{"training.learning_rate": 0.01}),
                run(100.0, 0.6, **{"training.learning_rate": 0.1}),
                {"stop_step": lambda seed: math.nan if seed else 10.0, "test_accuracy": 0.9}
                | {"training.learning_rate": 1.0},
            ],
            "corridor": [
                run(100.0 * factor, 0.6 + gain) | corridor,
                run(100.0, 0.6) | {"training.optimizer": "corridor", _LARGEST: 0.1},
                run(200.0, 0.6) | {"training.optimizer": "corridor", _LARGEST: 1.0},
            ],
        },
        lambda row: [
            {
                "step": step,
                "train_loss": 2.0 / (1 + step),
                "dynamics.drift_ratio": 0.1 + step / 100 + noise(row["run_id"], step),
                "dynamics.linearity_defect": sign * step / 50 + noise(row["run_id"], -step),
            }
            for step in STEPS
        ],
    )


@pytest.mark.parametrize(
    ("factor", "expected"), [(0.8, "holds"), (1.25, "undecided"), (2.0, "does not hold")]
)
def test_steps_of_the_corridor_rate_are_judged_against_the_best_rate(
    factor: float, expected: str
) -> None:
    """The rate 1.0 is faster with one seed and fails with the others: it is not the best."""
    found = outcomes(corridors(factor, 0.0), "corridor-steps")
    assert found["SGD, constant rate at 0.1 stop_step"] == expected
    assert found["ALI-G, largest rate at 0.1 stop_step"] == expected
    assert found["SGD, cosine rate stop_step"] == "undecided"


def test_a_rival_without_a_rate_that_reaches_the_goal_is_named() -> None:
    notes = {v.note for v in judge(corridors(1.0, 0.0)) if v.x == "SGD, cosine rate"}
    assert any(n.startswith("No rate of the rival reaches the goal with every seed") for n in notes)


def test_a_corridor_run_that_misses_the_goal_cannot_hold() -> None:
    found = judge(corridors(0.8, 0.0, reaches=False))
    verdicts = [v for v in found if v.claim in ("corridor-steps", "corridor-time") and v.n_runs]
    assert len(verdicts) == 4  # SGD and ALI-G; the limit of 1000 steps is ten times theirs
    assert all(v.verdict == "does not hold" for v in verdicts)
    assert all("missed the goal: 3" in v.note for v in verdicts)


@pytest.mark.parametrize(("factor", "expected"), [(0.8, "holds"), (2.0, "does not hold")])
def test_time_is_judged_beside_the_steps(factor: float, expected: str) -> None:
    """A step of the corridor rate takes 1.1 times the seconds of one of SGD."""
    found = {
        v.claim: v for v in judge(corridors(factor, 0.0)) if v.x == "SGD, constant rate at 0.1"
    }
    steps, time = found["corridor-steps"], found["corridor-time"]
    assert time.effect == pytest.approx(1.1 * steps.effect)
    assert time.interval == pytest.approx([1.1 * end for end in steps.interval])
    assert time.verdict == expected


@pytest.mark.parametrize(
    ("gain", "expected"), [(0.01, "holds"), (-0.01, "holds"), (-0.05, "does not hold")]
)
def test_test_accuracy_of_the_corridor_rate_has_a_margin(gain: float, expected: str) -> None:
    found = outcomes(corridors(1.0, gain), "corridor-test-accuracy")
    assert found["SGD, constant rate at 0.1 test_accuracy"] == expected


@pytest.mark.parametrize(("sign", "expected"), [(1, "holds"), (-1, "does not hold")])
def test_drift_and_defect_are_correlated_over_records(sign: int, expected: str) -> None:
    found = outcomes(corridors(1.0, 0.0, sign=sign), "corridor-linear-fall")
    assert list(found.values()) == [expected]


# The edge of stability

RATES = (0.01, 0.02, 0.03, 0.05, 0.08)


def edge(
    height: float = 1.0, *, effect: int = -1, stays: float = 1.0, growth: float = 0.1
) -> SweepResults:
    """Sharpness rises to ``height`` of the edge and goes on at ``stays`` of that; GC moves with the
    rate, and by ``growth`` in the logarithm a record.
    """

    def records(row: Row) -> list[Row]:
        rate = float(str(row["training.learning_rate"]))
        moved = effect * math.log(rate)
        lines = []
        for place, step in enumerate(STEPS):
            ratio = (0.2, 0.5, height, height * stays, height * stays)[place]
            power = float(str(row.get("training.dal.power", 1.0)))
            bump = 1.0 if (place == 2 and power < 0.6) or (place == 3 and power < 0.9) else 0.0
            lines.append(
                {
                    "step": step,
                    "train_loss": 2.0 - 0.3 * place + bump,
                    "dynamics.edge_ratio": ratio + noise(row["run_id"], step),
                    "dynamics.sharpness": ratio * rate**effect + noise(row["run_id"], step),
                    GC: math.exp(moved + growth * place + noise(row["run_id"], step)),
                    "test_accuracy": 0.5 - 0.1 * power + noise(row["run_id"]) / 10,
                }
            )
        return lines

    return made_up(
        "principal-flow",
        {
            "learning_rate": [{"training.learning_rate": rate} for rate in RATES],
            "dal": [
                {"training.optimizer": "dal", "training.dal.power": p} for p in (0.5, 0.75, 1.0)
            ],
        },
        records,
    )


@pytest.mark.parametrize(("height", "expected"), [(1.05, "holds"), (0.5, "does not hold")])
def test_the_sharpness_must_reach_the_edge(height: float, expected: str) -> None:
    assert outcomes(edge(height), "sharpness-reaches-edge")["peak dynamics.edge_ratio"] == expected


@pytest.mark.parametrize(("stays", "expected"), [(1.0, "holds"), (0.3, "does not hold")])
def test_the_sharpness_must_stay_at_the_edge(stays: float, expected: str) -> None:
    """Up to the step of the stopping rule, 100: two records, of which one has fallen."""
    found = outcomes(edge(1.0, stays=stays), "sharpness-reaches-edge")
    assert found["middle dynamics.edge_ratio"] == expected


@pytest.mark.parametrize(("growth", "expected"), [(-0.5, "holds"), (0.5, "does not hold")])
def test_complexity_is_followed_from_the_edge_to_the_stop(growth: float, expected: str) -> None:
    """Of the records, the third is the first at the edge and the fourth that of the stop."""
    found = judge(edge(growth=growth))
    (verdict,) = (v for v in found if v.claim == "edge-complexity")
    assert verdict.verdict == expected
    assert verdict.effect == pytest.approx(math.exp(growth), rel=0.3)
    never = judge(edge(0.5, growth=growth))
    (verdict,) = (v for v in never if v.claim == "edge-complexity")
    assert (verdict.verdict, verdict.n_runs) == ("undecided", 0)


def test_runs_of_one_seed_at_one_rate_count_once() -> None:
    """Two seeds at three batch sizes are two values a rate, not six."""
    results = edge()
    own = results.runs[results.runs["seed"] < 2]
    copies = [own.assign(run_id=own["run_id"] + f"-{n}") for n in range(3)]
    of_copies = {
        name: pd.concat(
            [frame[frame["run_id"].isin(own["run_id"])].copy() for _ in copies], keys=range(3)
        )
        for name, frame in (("history", results.history), ("settings", results.settings))
    }
    for frame in of_copies.values():
        frame["run_id"] += "-" + frame.index.get_level_values(0).astype(str)
    results = replace(results, runs=pd.concat(copies), **of_copies)
    found = outcomes(results, "sharpness-reaches-edge")
    assert set(found.values()) == {"undecided"}


@pytest.mark.parametrize(("effect", "expected"), [(-1, "holds"), (1, "does not hold")])
def test_sharpness_and_complexity_fall_with_the_rate(effect: int, expected: str) -> None:
    found = outcomes(edge(effect=effect), "edge-rate")
    assert found == {
        "swept.training.learning_rate peak_sharpness": expected,
        f"swept.training.learning_rate {GC}": expected,
    }
    views = {v.view for v in judge(edge(effect=effect)) if v.claim == "edge-rate"}
    assert views == {"main", "at matched training loss"}


def test_a_smaller_power_is_less_stable_and_more_accurate() -> None:
    found = outcomes(edge(), "dal-power")
    assert found == {
        "swept.training.dal.power loss_rises": "holds",
        "swept.training.dal.power test_accuracy": "holds",
    }


def test_runs_that_did_not_converge_are_judged_only_on_their_power() -> None:
    results = edge()
    results.runs["converged"] = False
    verdicts = judge(results)
    assert {v.verdict for v in verdicts if v.claim != "dal-power"} == {"undecided"}
    assert {v.n_runs for v in verdicts if v.claim != "dal-power"} == {0}
    assert {v.n_runs for v in verdicts if v.claim == "dal-power"} == {9}


# Implicit regularisation


def grid(effect: float = -1.0, *, by_ratio: bool = True, gain: float = 0.05) -> SweepResults:
    """Gradient norm and GC move with the ratio of rate and batch, or each with its own noise."""

    def records(row: Row) -> list[Row]:
        rate = float(str(row["training.learning_rate"]))
        batch = float(str(row["training.batch_size"]))
        weight = float(str(row["training.gradient_penalty.weight"]))
        ratio = math.log(rate / batch)
        level = effect * ratio if by_ratio else 3.0 * noise("level", rate, batch)
        strength = weight / 0.01
        return [
            {
                "step": step,
                "train_loss": 2.0 / (1 + step),
                "dynamics.mini_batch_norm": math.exp(level - strength + noise(row["run_id"], step)),
                GC: math.exp(level + 0.1 * place + noise(row["run_id"], step)),
                "test_accuracy": 0.5
                - 0.05 * (level if by_ratio else 10 * level)
                + gain * strength
                + noise(row["run_id"]) / 10,
            }
            for place, step in enumerate(STEPS)
        ]

    return made_up(
        "implicit",
        {
            "rate_and_batch": [
                {"training.learning_rate": rate, "training.batch_size": batch}
                for rate in (0.01, 0.02, 0.04)
                for batch in (16, 32, 64)
            ],
            "gradient_norm": [
                {"training.gradient_penalty.weight": w} for w in (0.0, 0.0025, 0.005, 0.01, 0.02)
            ],
        },
        records,
    )


@pytest.mark.parametrize(("effect", "expected"), [(-1.0, "holds"), (1.0, "does not hold")])
def test_rate_and_batch_are_judged_within_blocks_of_the_other(effect: float, expected: str) -> None:
    found = outcomes(grid(effect), "implicit-gradient-norm")
    assert set(found) == {
        "training.learning_rate dynamics.mini_batch_norm",
        f"training.learning_rate {GC}",
        f"training.batch_size {GC}",
        "training.learning_rate test_accuracy",
    }
    assert set(found.values()) == {expected}


def test_the_ratio_of_rate_and_batch_explains_what_moves_with_it() -> None:
    verdicts = [v for v in judge(grid()) if v.claim == "implicit-rate-over-batch"]
    assert [v.verdict for v in verdicts] == ["holds", "holds"]
    assert all(v.effect > 0.95 for v in verdicts)
    unrelated = outcomes(grid(by_ratio=False), "implicit-rate-over-batch")
    assert "holds" not in unrelated.values()


@pytest.mark.parametrize(
    ("gain", "expected"), [(0.05, "holds"), (0.0, "undecided"), (-0.05, "does not hold")]
)
def test_the_explicit_penalty_is_compared_with_the_largest_rate(gain: float, expected: str) -> None:
    """The largest rate at batch 32 is 0.04, whose weight is 0.01."""
    found = judge(grid(gain=gain))
    (verdict,) = (v for v in found if v.x == "penalty")
    assert verdict.verdict == expected
    assert verdict.effect == pytest.approx(gain, abs=0.005)
    assert verdict.note.startswith("Weight 0.01 at rate 0.01, beside rate 0.04")
    assert verdict.remark.startswith("rate 0.04 gains +0.0")
    share = re.search(r", (-?\d+)% \[(-?\d+)%, (-?\d+)%\] of it$", verdict.remark)
    mean, low, high = map(int, share.groups())
    assert low <= mean <= high
    assert low <= 100 * gain / (0.05 * math.log(4)) <= high  # four times the rate


# What they share


def test_three_settings_in_order_with_three_seeds_have_p_1_in_216() -> None:
    runs = pd.DataFrame(
        [{"x": x, "y": -x, "seed": seed, "status": "done"} for x in range(3) for seed in range(3)]
    )
    trend = Trend("c", "x", "y", -1, "y falls", "f")
    (verdict,) = judge_trends("s", runs, [trend])
    assert verdict.verdict == "holds"
    assert verdict.p == pytest.approx(1 / 216)
    assert verdict.effect == -1.0
    (one_seed,) = judge_trends("s", runs[runs["seed"] == 0], [trend])
    assert one_seed.verdict == "undecided"
    assert "nothing is decided" in one_seed.note


def test_the_mean_interval_is_students() -> None:
    values = np.array([0.1, 0.4, 0.2, 0.35])
    mean, interval = mean_interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean == pytest.approx(values.mean())
    assert interval == pytest.approx((expected.low, expected.high))
    assert all(map(math.isnan, mean_interval(np.ones(1))[1]))


def test_a_margin_needs_three_seeds() -> None:
    judged = Margin(0.0, 1).judged(UNDECIDED, np.array([1.0, 1.0]))
    assert judged.verdict == "undecided"
    assert "2 seeds" in judged.note


@pytest.mark.parametrize(
    ("scale", "at", "transform"),
    [("linear", 0.2, lambda x: x), ("ratio", 1.25, np.log), ("correlation", 0.3, np.arctanh)],
)
def test_a_margin_is_tested_by_student_on_its_scale(
    scale: Scale, at: float, transform: Callable[[object], np.ndarray]
) -> None:
    """For a single verdict p and interval say the same."""
    for shift in np.linspace(-0.3, 0.4, 15):
        values = at + shift * (1.0 if scale != "ratio" else 2.0) + np.array([0.05, -0.02, 0.08])
        (judged,) = corrected([Margin(at, 1, scale).judged(UNDECIDED, values)])
        expected = stats.ttest_1samp(transform(values), transform(at), alternative="greater")
        assert judged.p == judged.p_holm == pytest.approx(expected.pvalue)
        assert judged.p_opposite == pytest.approx(1.0 - expected.pvalue)
        assert (judged.verdict == "holds") == (judged.p <= 0.025) == (judged.interval[0] > at)
        assert (judged.verdict == "does not hold") == (judged.interval[1] < at)
        (reverse,) = corrected([Margin(at, -1, scale).judged(UNDECIDED, values)])
        assert (reverse.p, reverse.p_opposite) == pytest.approx((judged.p_opposite, judged.p))


def test_correlations_near_one_have_an_interval_below_one() -> None:
    judged = Margin(0.0, 1, "correlation").judged(UNDECIDED, np.array([0.9, 0.5, 1.0]))
    assert judged.effect == pytest.approx(0.8)
    assert judged.interval[0] < 0.0
    assert 0.99 < judged.interval[1] < 1.0
    assert judged.verdict == "undecided"
    certain = Margin(0.0, 1, "correlation").judged(UNDECIDED, np.ones(3))
    assert certain.interval == pytest.approx((LARGEST_RHO, LARGEST_RHO))
    assert (certain.p, certain.p_opposite, certain.verdict) == (0.0, 1.0, "holds")


def test_of_many_margins_one_that_holds_alone_may_not_hold() -> None:
    alone = Margin(0.0, 1).judged(UNDECIDED, np.array([1.0, 1.2, 0.5]))
    noise = [Margin(0.0, 1).judged(UNDECIDED, np.array([1.0, -0.9, 0.1]))] * 9
    assert (alone.verdict, corrected([alone])[0].verdict) == ("holds", "holds")
    of_ten = corrected([alone, *noise])[0]
    assert of_ten.p_holm == pytest.approx(10 * alone.p)
    assert of_ten.verdict == "undecided"
    other = replace(alone, claim="another")
    assert corrected([other, *noise])[0].verdict == "holds"


def test_what_cannot_hold_has_a_p_of_1() -> None:
    bounds = Margin(0.0, 1).judged(UNDECIDED, np.array([1.0, 1.1, 0.9]), can_hold=False)
    assert (bounds.verdict, bounds.p) == ("undecided", 1.0)


def test_the_worst_of_settings_fails_by_a_corrected_p() -> None:
    """One of ten rates at which the claim fails by 0.02 is what chance gives."""
    fails = Margin(0.0, 1).judged(UNDECIDED, -np.array([1.0, 1.2, 0.5]))
    holds = Margin(0.0, 1).judged(UNDECIDED, np.array([1.0, 1.1, 0.9]))
    assert fails.p_opposite == pytest.approx(0.02, abs=0.005)
    both = worst([holds, fails])
    assert (both.verdict, both.effect, both.p) == ("does not hold", fails.effect, fails.p)
    assert both.p_opposite == pytest.approx(2 * fails.p_opposite)
    many = worst([holds] * 9 + [fails])
    assert (many.verdict, many.effect) == ("undecided", fails.effect)
    assert worst([holds, holds]).p == holds.p


def test_the_share_between_groups_is_that_of_an_analysis_of_variance() -> None:
    values = np.array([1.0, 1.2, 3.0, 2.9, 5.0])
    groups = np.array([0, 0, 1, 1, 2])
    parts = [values[groups == g] for g in range(3)]
    f = stats.f_oneway(*parts).statistic
    expected = f * 2 / (f * 2 + 2)  # 2 and 2 degrees of freedom
    assert share_between(values, groups) == pytest.approx(expected)


@pytest.mark.parametrize("name", SIBLINGS)
def test_every_claim_names_figures_of_its_paper(name: str) -> None:
    paper = papers()[name]
    drawn = {figure.name for figure in paper.figures}
    for claim in paper.claims:
        assert set(claim.figures) <= drawn
        assert claim.cautions
    assert drawn == {figure for claim in paper.claims for figure in claim.figures}
    assert paper.rules


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (corridors(1.0, 0.0), {"corridor-steps", "corridor-diagnostics-constant"}),
        (edge(), {"edge-training-dal", "edge-settings-learning_rate", "edge-settings-dal"}),
        (grid(), {"implicit-training-rate_and_batch", "implicit-settings-gradient_norm"}),
    ],
    ids=SIBLINGS,
)
def test_figures_are_drawn_from_their_description(
    results: SweepResults, expected: set[str]
) -> None:
    drawn = {chart.name: chart for chart in charts(results)}
    assert expected <= set(drawn)
    assert not {name for name in drawn if name.startswith(("gc-and-collapse", "transfer"))}
    for chart in drawn.values():
        assert chart.panels
        assert "  " not in chart.caption


def test_a_level_is_a_grey_line_as_long_as_the_series() -> None:
    (chart,) = (c for c in charts(edge()) if c.name == "edge-training-learning_rate")
    x, y, name = chart.panels[0].curve or (None, None, "")
    assert name == "edge of stability"
    assert x is not None
    assert (x.tolist(), y.tolist()) == ([1.0, 201.0], [1.0, 1.0])


def test_a_column_that_was_not_recorded_has_no_panel() -> None:
    whole = edge()
    results = replace(whole, history=whole.history.drop(columns=["dynamics.sharpness"]))
    (chart,) = (c for c in charts(results) if c.name == "edge-training-learning_rate")
    assert len(chart.panels) == 3


def test_figures_are_plain_data() -> None:
    """A new paper needs no change in the reports."""
    for name in SIBLINGS:
        assert all(isinstance(figure, Figure) for figure in papers()[name].figures)
