"""Page's test within seeds: exact values, laws, its null and its power."""

import math
import sys
from itertools import permutations as orders
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from geocollapse.papers.statistics import kendall, partial_spearman, permutation_p
from geocollapse.papers.trends import mean_rank_correlation, page_p

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from verdict_power import power

distinct = st.permutations(range(5)).map(lambda order: np.array(order, dtype=float))


def table(rows):
    """x, y and blocks of the rows of a (seeds, settings) table."""
    rows = np.asarray(rows, dtype=float)
    n_seeds, n_settings = rows.shape
    x = np.tile(np.arange(float(n_settings)), n_seeds)
    return x, rows.ravel(), np.repeat(np.arange(n_seeds), n_settings)


@settings(max_examples=20)
@given(st.lists(distinct, min_size=2, max_size=4))
def test_page_agrees_with_scipys_exact_test(rows):
    reference = stats.page_trend_test(np.array(rows), method="exact").pvalue
    assert page_p(*table(rows), sign=1) == pytest.approx(reference, abs=1e-9)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=2, max_size=2))
def test_ties_and_both_sides_are_counted_over_all_orders_of_the_blocks(rows):
    if any(len(set(row)) == 1 for row in rows):
        return
    ranked = [stats.rankdata(row) for row in rows]
    x = np.arange(1.0, 5.0)
    sums = np.array(
        [sum(x @ row[list(o)] for row, o in zip(ranked, pair)) for pair in
         product(orders(range(4)), repeat=2)]
    )  # fmt: skip
    observed = sum(x @ row for row in ranked)
    center = sums.mean()
    assert page_p(*table(rows), sign=1) == pytest.approx(np.mean(sums >= observed - 1e-9))
    assert page_p(*table(rows), sign=-1) == pytest.approx(np.mean(sums <= observed + 1e-9))
    both = np.mean(np.abs(sums - center) >= abs(observed - center) - 1e-9)
    assert page_p(*table(rows), sign=0) == pytest.approx(both)


@settings(max_examples=20)
@given(st.lists(distinct, min_size=2, max_size=3), st.lists(st.integers(-99, 99), min_size=3))
def test_page_sees_the_order_within_a_seed_only(rows, levels):
    x, y, blocks = table(rows)
    moved = y + np.array(levels)[blocks]
    assert page_p(x, moved, blocks, sign=1) == page_p(x, y, blocks, sign=1)
    assert page_p(np.exp(x), y, blocks, sign=1) == page_p(x, y, blocks, sign=1)
    assert page_p(x, -y, blocks, sign=-1) == pytest.approx(page_p(x, y, blocks, sign=1))


@given(distinct)
def test_with_one_seed_page_is_the_permutation_test_of_the_settings(row):
    x, y, blocks = table([row])
    assert page_p(x, y, blocks, sign=1) == pytest.approx(permutation_p(x, y, sign=1))
    assert mean_rank_correlation(x, y, blocks) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_a_seed_may_lack_settings_and_one_without_order_adds_nothing():
    x, y, blocks = table([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    kept = np.arange(10) != 7
    assert page_p(x[kept], y[kept], blocks[kept], sign=1) == pytest.approx(1 / (120 * 24))
    y[blocks == 1] = 3.0
    assert page_p(x, y, blocks, sign=1) == pytest.approx(1 / 120)
    assert math.isnan(page_p(x, np.zeros(10), blocks, sign=1))
    assert math.isnan(mean_rank_correlation(x, np.zeros(10), blocks))


def test_above_eight_settings_orders_are_sampled_seeded_and_never_give_zero():
    x, y, blocks = table([np.arange(10.0)] * 3)
    assert page_p(x, y, blocks, sign=1, seed=3) == 1 / 20_001
    noisy = np.random.default_rng(0).normal(size=30)
    exact = stats.page_trend_test(noisy.reshape(3, 10), method="exact").pvalue
    assert page_p(x, noisy, blocks, sign=1, seed=3) == page_p(x, noisy, blocks, sign=1, seed=3)
    assert page_p(x, noisy, blocks, sign=1) == pytest.approx(exact, abs=0.02)


def test_a_true_null_is_rejected_at_its_level_and_page_finds_more_than_means():
    """Five settings, three seeds; 0.05 after Holm's factor of 3, so 0.017 under the null."""
    by_means, by_page, with_interval = power(5, 3, 0.0, trials=400)
    assert max(by_means, by_page, with_interval) < 0.035
    by_means, by_page, with_interval = power(5, 3, 1.0, trials=60)
    assert with_interval > by_means + 0.2
    assert by_page >= with_interval > 0.9


def test_kendall_counts_pairs_in_the_same_order():
    x = np.array([1.0, 2, 3, 4, 5])
    assert kendall(x, np.array([1.0, 2, 3, 5, 4])) == pytest.approx(0.8)
    assert math.isnan(kendall(x, np.ones(5)))
    assert math.isnan(kendall(x[:1], x[:1]))


def test_a_partial_correlation_removes_what_both_follow():
    rng = np.random.default_rng(0)
    common = rng.normal(size=2000)
    x = common + 0.5 * rng.normal(size=2000)
    y = common + 0.5 * rng.normal(size=2000)
    assert stats.spearmanr(x, y).statistic > 0.7
    assert abs(partial_spearman(x, y, common)) < 0.1
    assert partial_spearman(x, x + 0.01 * y, common) > 0.9
    assert math.isnan(partial_spearman(x, y, np.exp(x)))
    assert math.isnan(partial_spearman(x, np.ones(2000), common))


def test_a_partial_correlation_is_that_of_the_residuals_of_the_ranks():
    rng = np.random.default_rng(1)
    x, y, z = rng.normal(size=(3, 12))
    rx, ry, rz = (stats.rankdata(v) for v in (x, y, z))
    residual = [r - np.polyval(np.polyfit(rz, r, 1), rz) for r in (rx, ry)]
    assert partial_spearman(x, y, z) == pytest.approx(np.corrcoef(*residual)[0, 1])
