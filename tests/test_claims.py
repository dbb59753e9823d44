"""Verdicts on sweeps whose answer is known, and the laws of the statistics behind them."""

import math
from dataclasses import replace
from itertools import permutations as orders

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from geocollapse.experiments.results.tables import ACCURACY, GC, GCOL, NC, TARGET_NC, read_sweep
from geocollapse.multiple_tests import holm
from geocollapse.papers.collapse_transfer.judge import judge
from geocollapse.papers.matched import at_loss, at_matched_loss
from geocollapse.papers.statistics import (
    bootstrap_interval,
    permutation_p,
    spearman,
    wilson_interval,
)
from geocollapse.papers.verdict import count
from synthetic_sweep import run_folders, write_sweep

vectors = st.lists(st.integers(-20, 20), min_size=5, max_size=7).map(
    lambda v: np.array(v, dtype=float)
)


CORRELATIONS = ("complexity-collapse", "training-choices", "transfer")


def verdicts(folder, view="main", claim=None):
    return [v for v in judge(read_sweep(folder)) if v.view == view and claim in (None, v.claim)]


# The statistics


@given(vectors, st.randoms())
def test_spearman_is_unchanged_by_increasing_transforms(x, random):
    y = np.array(random.sample(range(100), len(x)), dtype=float)
    rho = spearman(x, y)
    assert spearman(np.exp(x / 10), y**3) == pytest.approx(rho, abs=1e-12, nan_ok=True)
    assert spearman(-x, y) == pytest.approx(-rho, abs=1e-12, nan_ok=True)


@given(vectors, st.randoms())
def test_spearman_agrees_with_scipy(x, random):
    y = np.array([random.gauss(0, 1) for _ in x])
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_the_correlation_of_a_constant_is_undefined():
    assert math.isnan(spearman(np.ones(5), np.arange(5.0)))
    assert math.isnan(permutation_p(np.ones(5), np.arange(5.0), sign=1))


def test_five_settings_in_perfect_order_have_p_1_in_120():
    x = np.arange(5.0)
    assert permutation_p(x, x**2, sign=1) == pytest.approx(1 / 120)
    assert permutation_p(x, -x, sign=-1) == pytest.approx(1 / 120)
    assert permutation_p(x, -x, sign=1) == 1.0
    assert permutation_p(x, -x, sign=0) == pytest.approx(2 / 120)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_the_exact_p_is_the_share_of_orders_at_least_as_far(values):
    x, y = np.arange(5.0), np.array(values, dtype=float)
    if len(set(values)) == 1:
        return
    observed = stats.spearmanr(x, y).statistic
    share = np.mean(
        [stats.spearmanr(x, y[list(o)]).statistic >= observed - 1e-9 for o in orders(range(5))]
    )
    assert permutation_p(x, y, sign=1) == pytest.approx(share)


def test_above_eight_settings_the_permutations_are_sampled_seeded_and_never_give_zero():
    x = np.arange(10.0)
    p = permutation_p(x, x, sign=1, seed=3)
    assert p == 1 / 20_001
    noisy = np.array([2.0, 0, 1, 5, 3, 4, 9, 7, 8, 6])
    assert permutation_p(x, noisy, sign=1, seed=3) == permutation_p(x, noisy, sign=1, seed=3)


def test_the_bootstrap_is_seeded_and_covers_a_perfect_order_with_a_point():
    x = np.arange(6.0)
    noisy = np.array([1.0, 0, 3, 2, 5, 4])
    assert bootstrap_interval(x, x) == (1.0, 1.0)
    assert bootstrap_interval(x, noisy, seed=1) == bootstrap_interval(x, noisy, seed=1)
    low, high = bootstrap_interval(x, noisy)
    assert low < spearman(x, noisy) <= high


def test_holm_steps_down_and_leaves_undefined_p_alone():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    corrected = holm([0.02, math.nan, 0.5])
    assert corrected[0] == pytest.approx(0.04)
    assert math.isnan(corrected[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p_values):
    for p, corrected in zip(p_values, holm(p_values)):
        assert p <= corrected <= min(1.0, len(p_values) * p) + 1e-12


def test_wilson_interval_agrees_with_scipy():
    reference = stats.binomtest(190, 200).proportion_ci(method="wilson")
    assert wilson_interval(190, 200) == pytest.approx((reference.low, reference.high), abs=1e-6)


# Correlations


def test_a_perfect_order_of_five_settings_holds(tmp_path):
    write_sweep(tmp_path)
    for verdict in (
        verdicts(tmp_path, claim="complexity-collapse")
        + verdicts(tmp_path, claim="training-choices")
        + verdicts(tmp_path, claim="transfer")
    ):
        assert verdict.verdict == "holds"
        by_page = verdict.claim == "training-choices"
        assert verdict.p == pytest.approx(1 / 120**2 if by_page else 1 / 120)
        assert abs(verdict.effect) == pytest.approx(1.0)
        assert abs(verdict.kendall) == pytest.approx(1.0)
        assert verdict.test == ("Page's L" if by_page else "permutation of the settings")
        assert abs(verdict.within_seeds) == pytest.approx(1.0 if by_page else math.nan, nan_ok=True)
    assert [v.p_holm for v in verdicts(tmp_path, claim="transfer")] == pytest.approx([2 / 120] * 2)


def test_four_settings_are_always_undecided(tmp_path):
    write_sweep(tmp_path, n_settings=4)
    for claim in CORRELATIONS:
        assert {v.verdict for v in verdicts(tmp_path, claim=claim)} == {"undecided"}
    assert "below 5" in verdicts(tmp_path, claim="complexity-collapse")[0].note


def test_a_reversed_sign_does_not_hold(tmp_path):
    write_sweep(tmp_path, effect="reversed")
    assert {v.verdict for v in verdicts(tmp_path, claim="training-choices")} == {"does not hold"}
    assert {v.verdict for v in verdicts(tmp_path, claim="complexity-collapse")} == {"holds"}


def test_every_pair_is_judged_by_its_own_sign(tmp_path):
    write_sweep(tmp_path, effect="opposed")
    outcome = {(v.claim, v.y): v.verdict for v in verdicts(tmp_path)}
    assert (
        outcome["complexity-collapse", GCOL]
        == outcome["complexity-collapse", NC]
        == outcome["transfer", TARGET_NC]
        == outcome["transfer", ACCURACY]
        == "does not hold"
    )
    assert outcome["training-choices", GC] == "holds"
    assert outcome["training-choices", GCOL] == "does not hold"


def test_noise_is_undecided(tmp_path):
    write_sweep(tmp_path, effect="noise")
    assert {v.verdict for v in verdicts(tmp_path) if v.claim in CORRELATIONS} == {"undecided"}


def test_a_smaller_batch_is_expected_to_lower_gc(tmp_path):
    write_sweep(tmp_path, sweeps=("batch_size",))
    first = verdicts(tmp_path, claim="training-choices")[0]
    assert first.effect == pytest.approx(1.0)
    assert first.verdict == "holds"
    assert first.statement.startswith("smaller batch size lowers")


def test_sweeps_are_judged_apart(tmp_path):
    write_sweep(tmp_path, sweeps=("learning_rate", "weight_decay"))
    judged = verdicts(tmp_path, claim="complexity-collapse")
    assert [v.sweep for v in judged] == ["learning_rate"] * 2 + ["weight_decay"] * 2
    assert {v.n_settings for v in judged} == {5}
    assert {v.p_holm for v in judged} == {2 / 120}


def test_holm_over_all_sweeps_is_said_where_it_would_undecide(tmp_path):
    three = write_sweep(tmp_path / "3", sweeps=("learning_rate", "batch_size", "weight_decay"))
    assert not any("all sweeps" in v.note for v in verdicts(three, claim="transfer"))
    four = write_sweep(
        tmp_path / "4", sweeps=("learning_rate", "batch_size", "weight_decay", "gc_penalty")
    )
    assert all("p = 0.067" in v.note for v in verdicts(four, claim="transfer"))
    assert not any("all sweeps" in v.note for v in verdicts(four, claim="training-choices"))


def test_runs_that_did_not_converge_are_left_out_and_the_verdict_is_repeated_with_them(tmp_path):
    write_sweep(tmp_path, unconverged=[0, 1], sampling=5)
    main, repeated = verdicts(tmp_path), verdicts(tmp_path, "with non-converged runs")
    assert [v.n_settings for v in main if v.claim in CORRELATIONS] == [4] * 7
    assert [v.n_settings for v in repeated if v.claim in CORRELATIONS] == [5] * 7
    assert {v.n_runs for v in repeated} == {10}
    assert {v.n_runs for v in main} == {8}


def test_a_failed_run_is_judged_nowhere(tmp_path):
    write_sweep(tmp_path, failed=[3])
    assert {v.n_runs for v in judge(read_sweep(tmp_path)) if v.claim != "sampling"} == {9}


def test_matched_loss_interpolates_at_the_lowest_loss_that_all_runs_reach(tmp_path):
    write_sweep(tmp_path, n_settings=2, n_seeds=1)
    results = read_sweep(tmp_path)
    first, second = results.runs["run_id"]
    history = results.history.copy()
    history.loc[history["run_id"] == first, "train_loss"] += 0.05
    matched = at_matched_loss(results.runs, history, [GC]).set_index("run_id")[GC]
    of_second = history[history["run_id"] == second]
    level = history[history["run_id"] == first]["train_loss"].min()
    losses = -np.log(of_second["train_loss"])
    expected = np.interp(-math.log(level), losses, np.log(of_second[GC]))
    assert matched[second] == pytest.approx(math.exp(expected))
    assert matched[first] == pytest.approx(history[history["run_id"] == first][GC].iloc[-1])


@given(power=st.floats(0.2, 4.0), ratio=st.floats(1.2, 30.0), level=st.floats(1e-3, 0.9))
def test_a_power_of_the_loss_is_matched_exactly_however_far_apart_the_records(power, ratio, level):
    """Interpolated linearly, a gradient norm of a stored sweep was 450 times too large."""
    losses = ratio ** -np.arange(40.0)
    run = pd.DataFrame({"step": range(40), "train_loss": losses, "norm": 100.0 * losses**power})
    found = at_loss(run, level, ["norm"])
    assert found[0] == pytest.approx(100.0 * level**power, rel=1e-9, abs=0.0)


def test_values_that_are_not_positive_are_matched_linearly_in_log_loss():
    run = pd.DataFrame({"step": [0, 1], "train_loss": [1.0, 0.01], "a": [0.0, 2.0], "b": [-1, 1]})
    assert at_loss(run, 0.1, ["a", "b"]).tolist() == pytest.approx([1.0, 0.0])


def test_gc_is_also_compared_per_feature_variance(tmp_path):
    write_sweep(tmp_path)
    judged = verdicts(tmp_path, "GC divided by feature variance")
    assert {"source.gc_per_variance"} <= {v.x for v in judged} | {v.y for v in judged}
    assert len(judged) == 5


def test_the_part_whole_correlation_is_said_beside_gc_and_gcol(tmp_path):
    write_sweep(tmp_path, effect="noise")
    note = verdicts(tmp_path, claim="complexity-collapse")[0].note
    assert "GC is the numerator of GCol" in note
    assert "permuted distances" in note


def test_both_signs_of_nc_are_shown_beside_target_nc(tmp_path):
    write_sweep(tmp_path, effect="opposed")
    note = verdicts(tmp_path, claim="transfer")[0].note
    assert "source GC with source NC -1.00" in note
    assert "source NC with target NC +1.00" in note


def test_what_was_not_recorded_is_named_and_undecided(tmp_path):
    write_sweep(tmp_path, target=False)
    for verdict in verdicts(tmp_path, claim="transfer"):
        assert verdict.verdict == "undecided"
        assert verdict.note.startswith(f"Not recorded: {verdict.y}.")
        assert math.isnan(verdict.p)


def test_a_quantity_that_does_not_vary_is_undecided_and_said(tmp_path):
    write_sweep(tmp_path)
    results = read_sweep(tmp_path)
    saturated = replace(results, runs=results.runs.assign(**{ACCURACY: 1.0}))
    verdict = next(v for v in judge(saturated) if v.y == ACCURACY)
    assert verdict.verdict == "undecided"
    assert verdict.note == "The same value at every setting has no correlation."


def test_a_sweep_of_one_run_is_undecided_and_does_not_crash(tmp_path):
    write_sweep(tmp_path, n_settings=1, n_seeds=1)
    judged = judge(read_sweep(tmp_path))
    assert {v.verdict for v in judged if v.y != "nearest-mean error"} == {"undecided"}


# Thresholds


def set_final(folder, number, **source):
    import json

    path = run_folders(folder)[number] / "result.json"
    result = json.loads(path.read_text())
    result["final"]["source"] |= source
    path.write_text(json.dumps(result))


def test_the_poincare_ratio_may_vary_by_the_stated_factor(tmp_path):
    write_sweep(tmp_path)
    assert verdicts(tmp_path, claim="poincare-bound")[0].verdict == "holds"
    set_final(tmp_path, 0, poincare_ratio={"max": 0.12 * 3.1})
    ratio = verdicts(tmp_path, claim="poincare-bound")[0]
    assert ratio.verdict == "does not hold"
    assert ratio.effect == pytest.approx(3.1)


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(math.inf, "does not hold"), (math.nan, "undecided"), (0.0, "undecided")]
)
def test_a_run_without_a_finite_ratio_keeps_the_claim_from_holding(tmp_path, ratio, verdict):
    """Such runs were once dropped, and the claim held for the others."""
    write_sweep(tmp_path)
    results = read_sweep(tmp_path)
    runs = results.runs.copy()
    runs.loc[0, "source.poincare_ratio.max"] = ratio
    judged = next(v for v in judge(replace(results, runs=runs)) if v.claim == "poincare-bound")
    assert judged.verdict == verdict
    set_final(tmp_path, 0, poincare_ratio={"max": None})
    assert verdicts(tmp_path, claim="poincare-bound")[0].verdict == "undecided"
    assert "Runs without a positive, finite ratio: 1" in (
        verdicts(tmp_path, claim="poincare-bound")[0].note
    )


def test_an_infinite_ratio_read_from_disk_does_not_hold(tmp_path):
    """Strict JSON has null for it, and the claim was once undecided."""
    write_sweep(tmp_path)
    set_final(tmp_path, 0, poincare_ratio={"max": None, "infinite": ["class 3"]})
    set_final(tmp_path, 1, poincare_ratio={"max": 0.12, "infinite": []})
    ratio = verdicts(tmp_path, claim="poincare-bound")[0]
    assert ratio.verdict == "does not hold"
    assert ratio.effect == math.inf
    assert "Runs with an infinite ratio, from a class with GC 0: 1." in ratio.note


def test_without_an_expected_sign_the_numbers_are_reported_and_nothing_holds(tmp_path):
    write_sweep(tmp_path)
    path = tmp_path / "sweep.yaml"
    recipe = yaml.safe_load(path.read_text())
    del recipe["claims"]
    path.write_text(yaml.safe_dump(recipe))
    for verdict in verdicts(tmp_path, claim="training-choices"):
        assert verdict.verdict == "undecided"
        assert verdict.effect == pytest.approx(-1.0)
        assert verdict.interval == pytest.approx((-1.0, -1.0))
        assert verdict.p_two_sided == pytest.approx(2 / 120**2)
        assert math.isnan(verdict.p)
        assert "no claims.expected_signs.training.learning_rate" in verdict.note


def test_one_error_above_its_bound_is_found(tmp_path):
    write_sweep(tmp_path)
    bound = verdicts(tmp_path, claim="poincare-bound")[1]
    assert bound.verdict == "holds"
    assert "bound vacuous at the end in" in bound.remark
    set_final(
        tmp_path,
        2,
        nearest_mean_error=0.2,
        nearest_mean_bound={"inf": {"best": 0.1, "vacuous": False}},
    )
    bound = verdicts(tmp_path, claim="poincare-bound")[1]
    assert bound.verdict == "does not hold"
    assert bound.effect == pytest.approx(2.0)


def test_sampling_is_undecided_below_200_intervals(tmp_path):
    write_sweep(tmp_path / "few", sampling=19)
    write_sweep(tmp_path / "many", sampling=20)
    (few,), (many,) = (
        verdicts(tmp_path / "few", claim="sampling"),
        verdicts(tmp_path / "many", claim="sampling"),
    )
    assert few.verdict == "undecided"
    assert many.verdict == "holds"
    assert many.interval[0] < many.effect < many.interval[1]


def test_intervals_that_miss_or_errors_that_are_large_do_not_hold():
    import pandas as pd

    from geocollapse.papers.collapse_transfer.sampling import judge_sampling

    rows = {"run_id": "a", "method": "outputs", "n_samples": 64, "n_probes": 1, "full": 1.0}
    wide = pd.DataFrame([rows | {"value": 1.2, "low": 0.5, "high": 2.0}] * 200)
    narrow = pd.DataFrame([rows | {"value": 1.01, "low": 1.005, "high": 1.02}] * 200)
    for table in (wide, narrow):
        (verdict,) = judge_sampling(table, coverage=0.93, relative_error=0.05)
        assert verdict.verdict == "does not hold"


def test_no_sampling_study_is_said(tmp_path):
    write_sweep(tmp_path)
    (verdict,) = verdicts(tmp_path, claim="sampling")
    assert verdict.verdict == "undecided"
    assert verdict.note == "No run has a sampling study."


def test_every_verdict_is_counted(tmp_path):
    write_sweep(tmp_path, unconverged=[0])
    judged = judge(read_sweep(tmp_path))
    assert sum(count(judged).values()) == len(judged) == 7 + 3 + 7 + 3 + 7 + 5
