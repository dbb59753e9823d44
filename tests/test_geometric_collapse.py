"""Geometric collapse of the data set and of the distribution behind it."""

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
    cdnv_estimate,
    geometric_collapse,
    geometric_collapse_of_distribution,
    pair_weights,
    poincare_ratios,
)
from geocollapse.estimate import Estimate


class TestGeometricCollapse:
    means = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]], dtype=torch.float64)

    def test_tensor_and_reference(self):
        gc = torch.tensor([1.0, 2.0, 5.0])
        expected = reference.geometric_collapse(gc.double().numpy(), self.means.numpy())
        laws.assert_close(geometric_collapse(gc, self.means), expected)
        laws.assert_close((pair_weights(self.means) * gc).sum(), expected)

    def test_estimates_carry_their_errors(self):
        estimates = [
            Estimate(v, s, n, dof=n - 1, largest_share=0.1)
            for v, s, n in [(1.0, 0.1, 30), (2.0, 0.2, 20), (5.0, 0.3, 10)]
        ]
        got = geometric_collapse(estimates, self.means)
        w = pair_weights(self.means).tolist()
        variances = [(a * e.stderr) ** 2 for a, e in zip(w, estimates)]
        assert got.stderr == pytest.approx(math.sqrt(sum(variances)))
        assert got.dof == pytest.approx(
            sum(variances) ** 2 / sum(v * v / e.dof for v, e in zip(variances, estimates))
        )
        assert got.value == pytest.approx(
            float(geometric_collapse(torch.tensor([1.0, 2.0, 5.0]), self.means))
        )
        assert (got.n_samples, got.population) == (60, "dataset")
        shares = [0.1 * a * e.value / got.value for a, e in zip(w, estimates)]
        assert got.largest_share == pytest.approx(max(shares))

    def test_undefined_is_said(self):
        got = geometric_collapse(
            [Estimate(1.0, math.nan, 1), Estimate(1.0, 0.1, 9, dof=8)], self.means[:2]
        )
        assert math.isnan(got.stderr)
        assert "no standard error" in got.warnings[0]
        same = geometric_collapse([Estimate(1.0, 0.1, 9), Estimate(1.0, 0.1, 9)], torch.zeros(2, 3))
        assert math.isnan(same.value)
        assert "undefined" in same.warnings[0]

    def test_a_heavy_example_is_said(self):
        estimates = [Estimate(1.0, 0.1, 200, largest_share=0.5, dof=199) for _ in range(3)]
        assert "one example carries" in geometric_collapse(estimates, self.means).warnings[0]

    def test_estimates_of_the_distribution_are_refused(self):
        estimates = [Estimate(1.0, 0.1, 9, population="distribution")] * 3
        with pytest.raises(ValueError, match="do geometric_collapse_of_distribution"):
            geometric_collapse(estimates, self.means)
        with pytest.raises(TypeError, match="class_gc: expected Estimates or a tensor"):
            geometric_collapse([1.0, 2.0, 3.0], self.means)

    def test_poincare_ratios(self):
        features, labels = classes([5, 6, 7], 4)
        statistics = ClassStatistics.of(features, labels)
        gc = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
        ratios = poincare_ratios(statistics.variances(), gc, statistics.means)
        laws.assert_close(ratios["per_class"], statistics.variances() / gc)
        collapse = geometric_collapse(gc, statistics.means)
        assert ratios["weighted_mean"] == pytest.approx(float(cdnv(features, labels) / collapse))
        assert float(cdnv(features, labels)) <= ratios["max"] * float(collapse)

    def test_interval_covers_the_data_set(self):
        """10 classes of 400, 50 sampled from each: coverage of 600 seeded repetitions near 0.95."""
        generator = np.random.default_rng(0)
        population = generator.gamma(4.0, size=(10, 400)) * np.linspace(1, 3, 10)[:, None]
        means = torch.from_numpy(generator.normal(size=(10, 6)))
        truth = float(geometric_collapse(torch.from_numpy(population.mean(axis=1)), means))
        hits = 0
        for _ in range(600):
            sample = np.stack([generator.choice(row, 50, replace=False) for row in population])
            errors = np.sqrt(sample.var(axis=1, ddof=1) / 50 * (1 - 50 / 400))
            estimates = [
                Estimate(float(v), float(s), 50, dof=49)
                for v, s in zip(sample.mean(axis=1), errors)
            ]
            low, high = geometric_collapse(estimates, means).interval()
            hits += low <= truth <= high
        assert 0.92 <= hits / 600 <= 0.975


class TestDistribution:
    def test_reference_on_a_subset(self):
        features, labels = classes([40, 30, 20], 6)
        rows = torch.cat([torch.arange(5, 25), torch.arange(45, 60), torch.arange(70, 90)])
        g = torch.rand(len(rows), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        got = geometric_collapse_of_distribution(g, features, labels, rows=rows)
        value, stderr = reference.delta_method(
            g.numpy(), features.numpy(), labels.numpy(), rows.numpy()
        )
        assert got.value == pytest.approx(value, rel=1e-10)
        assert got.stderr == pytest.approx(stderr, rel=1e-10, abs=0.0)
        assert (got.population, got.n_samples) == ("distribution", 55)

    def test_cdnv_estimate_is_the_corrected_value(self):
        features, labels = classes([40, 30, 20], 6)
        assert cdnv_estimate(features, labels).value == pytest.approx(
            float(cdnv(features, labels, bias_corrected=True))
        )

    def test_interval_covers_the_population(self):
        """3 Gaussian classes of 60, g correlated with the features: coverage near 0.95."""
        generator = torch.Generator().manual_seed(0)
        centres = 3 * torch.eye(3, 8, dtype=torch.float64)
        labels = torch.repeat_interleave(torch.arange(3), 60)
        truth = 8.0 / 18.0  # of both: E g = E ||z||^2 = 8, squared distance 18
        hits_gc = 0
        hits_nc = 0
        for _ in range(300):
            z = torch.randn(180, 8, generator=generator, dtype=torch.float64)
            features = centres[labels] + z
            g = z.square().sum(dim=1) + 2 * z[:, 0]
            low, high = geometric_collapse_of_distribution(g, features, labels).interval()
            hits_gc += low <= truth <= high
            low, high = cdnv_estimate(features, labels).interval()
            hits_nc += low <= truth <= high
        assert 0.91 <= hits_gc / 300 <= 0.985
        assert 0.91 <= hits_nc / 300 <= 0.985

    def test_undefined_and_refused(self):
        features, labels = classes([3, 1], 4)
        assert (
            "undefined"
            in geometric_collapse_of_distribution(torch.ones(4), features, labels).warnings[0]
        )
        with pytest.raises(
            ValueError, match="squared_norms: expected one number for each of 4 rows"
        ):
            geometric_collapse_of_distribution(torch.ones(3), features, labels)
        with pytest.raises(ValueError, match="squared_norms: expected finite numbers"):
            geometric_collapse_of_distribution(
                torch.tensor([1.0, math.nan, 1.0, 1.0]), features, labels
            )
        with pytest.raises(ValueError, match="rows: expected distinct positions from 0 to 3"):
            geometric_collapse_of_distribution(
                torch.ones(2), features, labels, rows=torch.tensor([1, 1])
            )
