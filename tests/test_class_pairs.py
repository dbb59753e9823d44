"""CDNV of sampled class pairs, and the pairs of largest CDNV."""

from __future__ import annotations

import math

import laws
import numpy as np
import pytest
import torch
from reference import collapse as reference

from gaussians import (
    classes,
)
from geocollapse.collapse import (
    ClassStatistics,
    cdnv,
    largest_pairs,
    mean_cdnv,
    sampled_cdnv,
)
from geocollapse.collapse.sampled import draw_pairs


class TestSampledPairs:
    def test_all_pairs_are_the_exact_mean(self):
        statistics = ClassStatistics.of(*classes([5, 9, 3, 30, 4], 6))
        for bias_corrected in (False, True):
            got = sampled_cdnv(statistics, 10, bias_corrected=bias_corrected)
            laws.assert_close(got.value, mean_cdnv(statistics, bias_corrected=bias_corrected)[0])
            assert got.stderr == 0.0

    def test_value_and_error_are_those_of_the_drawn_pairs(self):
        features, labels = classes([4] * 12, 5)
        got = sampled_cdnv(ClassStatistics.of(features, labels), 20, seed=3)
        drawn = [tuple(pair) for pair in draw_pairs(12, 20, seed=3).tolist()]
        assert len(set(drawn)) == 20
        matrix = reference.cdnv_matrix(features.numpy(), labels.numpy())
        values = np.array([matrix[i, j] for i, j in drawn])
        assert got.value == pytest.approx(values.mean(), rel=1e-10)
        assert got.stderr == pytest.approx(
            math.sqrt(values.var(ddof=1) / 20 * (1 - 20 / 66)), rel=1e-10
        )
        assert (got.n_samples, got.dof, got.population, got.estimator) == (
            20,
            19,
            "dataset",
            "pairs",
        )

    @pytest.mark.parametrize(
        "n_pairs", [3, 8]
    )  # below and above half of the 10 pairs: two ways to draw
    def test_every_pair_is_drawn_equally_often(self, n_pairs):
        counts = torch.zeros(5, 5)
        for seed in range(2000):
            i, j = draw_pairs(5, n_pairs, seed).unbind(dim=1)
            counts[i, j] += 1
        expected = 200 * n_pairs
        share = n_pairs / 10
        assert (counts.tril() == 0).all()
        upper = counts[torch.triu_indices(5, 5, 1).unbind()]
        assert ((upper - expected).abs() < 4.5 * math.sqrt(2000 * share * (1 - share))).all()

    def test_pair_numbers_of_many_classes_stay_exact(self):
        i, j = draw_pairs(3_000_000, 1000, seed=0).unbind(dim=1)
        assert bool(((i >= 0) & (i < j) & (j < 3_000_000)).all())
        assert float(j.double().mean()) == pytest.approx(
            2_000_000, rel=0.05
        )  # E max of two uniform numbers

    def test_the_interval_covers_the_mean_over_all_pairs_of_these_classes(self):
        """60 classes, each in 59 pairs; 400 samples of 100 pairs cover at a rate of about 0.95."""
        generator = torch.Generator().manual_seed(0)
        features, labels = classes([6] * 60, 16, spread=2.0)
        features = (
            features * (0.5 + torch.rand(60, 1, generator=generator, dtype=torch.float64))[labels]
        )
        statistics = ClassStatistics.of(features, labels)
        truth = float(mean_cdnv(statistics)[0])
        intervals = [sampled_cdnv(statistics, 100, seed=seed).interval() for seed in range(400)]
        assert 0.92 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.98

    def test_undefined_and_refused(self):
        statistics = ClassStatistics.of(*classes([5, 6, 1, 4], 4))
        got = sampled_cdnv(statistics, 6, bias_corrected=True)
        assert math.isnan(got.value)
        assert "undefined for 3 of 6 drawn class pairs" in got.warnings[0]
        for n_pairs in (1, 7):
            with pytest.raises(
                ValueError, match=f"n_pairs: expected 2 to 6, the pairs of 4 classes, got {n_pairs}"
            ):
                sampled_cdnv(statistics, n_pairs)


class TestLargestPairs:
    def test_by_name_and_in_order(self):
        features, labels = classes([5, 6, 7, 8], 4)
        statistics = ClassStatistics.of(features, labels)
        pairs = largest_pairs(statistics, 3, class_names=["ant", "bee", "cat", "dog"])
        matrix = cdnv(features, labels, reduction="none")
        order = matrix.triu(1).flatten().sort(descending=True).values[:3]
        assert [pair.cdnv for pair in pairs] == pytest.approx(order.tolist())
        i, j = divmod(int(matrix.triu(1).argmax()), 4)
        assert (pairs[0].first, pairs[0].second) == (
            "abcd"[i] + pairs[0].first[1:],
            "abcd"[j] + pairs[0].second[1:],
        )
        assert pairs[0].distance == pytest.approx(
            float((statistics.means[i] - statistics.means[j]).norm())
        )
        assert len(largest_pairs(statistics, 100)) == 6
