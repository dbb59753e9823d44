"""Neural and geometric collapse of so many classes that pairs of them are sampled."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import laws
import pytest
import torch
from torch import Tensor

import geocollapse as geo
from gaussians import classes
from geocollapse.collapse import (
    ClassStatistics,
    LabelledFeatures,
    NeuralCollapse,
    geometric_collapse,
    many_classes,
    neural_collapse,
    poincare_ratios,
    sampled,
)
from geocollapse.collapse.decisions import NearestMeanErrors, NearestMeans
from geocollapse.collapse.sampled import PairSample, estimate_cdnv, estimate_directional_cdnv
from geocollapse.collapse.simplex import estimate_max_angle, estimate_uniformity
from geocollapse.estimate import Estimate

CPU = torch.device("cpu")
OF_PAIRS = {
    "cdnv",
    "cdnv_bias_corrected",
    "directional_cdnv",
    "nc2_max_angle",
    "hyperspherical_uniformity",
    "nc2_weight_max_angle",
}
OF_EXAMPLES = {"nearest_mean_error", "nc4"}


@contextmanager
def sampling(n_pairs: int, n_decisions: int = 1 << 27) -> Iterator[None]:
    """Sample ``n_pairs`` class pairs, however few classes there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampled, "MAX_PAIRS", 0)
        patch.setattr(sampled, "SAMPLED_PAIRS", n_pairs)
        patch.setattr(many_classes, "_MAX_DECISIONS", n_decisions)
        patch.setattr(many_classes, "_MIN_EXAMPLES", 1)
        yield


def forty_classes() -> tuple[Tensor, Tensor]:
    """40 classes in 6 dimensions, of which no two means are near."""
    features, labels = classes([5 + k % 4 for k in range(40)], 6)
    return features + 3.0 * torch.sin(1.7 * labels[:, None] * torch.arange(1.0, 7.0)), labels


def measured(features: Tensor, labels: Tensor) -> NeuralCollapse:
    weight = ClassStatistics.of(features, labels).centred_means().flip(1)
    return neural_collapse(
        features, labels, weight=weight, bias=torch.linspace(-1.0, 1.0, len(weight))
    )


class TestNeuralCollapse:
    def test_20_000_classes_take_seconds(self):
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(20_000, 64, generator=generator)
        features = means.repeat_interleave(3, 0)
        features += torch.randn(60_000, 64, generator=generator)
        labels = torch.arange(20_000).repeat_interleave(3)
        start = time.thread_time()
        found = neural_collapse(features, labels)
        assert time.thread_time() - start < 15.0
        assert set(found.sampled) == (OF_PAIRS | OF_EXAMPLES) - {"nc2_weight_max_angle", "nc4"}
        # over all pairs, which took a minute
        exact = {"cdnv": 0.2579283901, "directional_cdnv": 0.0040411980}
        for name, value in exact.items():
            estimate = found.sampled[name]
            assert abs(estimate.value - value) < 4.0 * estimate.stderr < 0.005 * value
        (note,) = (text for text in found.warnings if "class pairs" in text)
        assert "from 500,000 random class pairs of 199,990,000" in note

    def test_all_pairs_and_examples_drawn_give_the_exact_values(self):
        features, labels = forty_classes()
        exact = measured(features, labels)
        with sampling(780):
            got = measured(features, labels)
        for field in dataclasses.fields(NeuralCollapse):
            if field.name not in ("sampled", "warnings"):
                value = getattr(got, field.name)
                laws.assert_close(value, getattr(exact, field.name), rtol=1e-8, atol=2e-8)
        assert set(got.sampled) == OF_PAIRS | OF_EXAMPLES
        assert all(estimate.stderr == 0.0 for estimate in got.sampled.values())
        assert exact.sampled == {}

    def test_only_what_looks_at_pairs_or_examples_is_an_estimate(self):
        features, labels = forty_classes()
        exact = measured(features, labels)
        with sampling(200, n_decisions=40 * 100):
            got = measured(features, labels)
        for name, estimate in got.sampled.items():
            assert getattr(got, name) == estimate.value
            assert estimate.n_samples == (200 if name in OF_PAIRS else 100)
            assert abs(estimate.value - getattr(exact, name)) < 4.0 * estimate.stderr
        others = {field.name for field in dataclasses.fields(NeuralCollapse)}
        for name in others - OF_PAIRS - OF_EXAMPLES - {"sampled", "warnings"}:
            laws.assert_close(getattr(got, name), getattr(exact, name), rtol=1e-8, atol=2e-8)

    def test_the_json_form_holds_the_estimates(self):
        with sampling(200):
            found = measured(*forty_classes()).to_dict()
        assert found["sampled"]["cdnv"]["value"] == found["cdnv"]
        assert found["sampled"]["cdnv"]["n_samples"] == 200
        assert neural_collapse(*forty_classes()).to_dict()["sampled"] == {}

    def test_a_metric_says_that_it_sampled(self):
        features, labels = forty_classes()
        metric = geo.CollapseMetric()
        metric.update(features, labels)
        with sampling(200), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values = metric.compute()
        assert any("from 200 random class pairs of 780" in str(w.message) for w in caught)
        exact = neural_collapse(features, labels)
        assert float(values["cdnv"]) == pytest.approx(exact.cdnv, rel=0.5)
        assert float(values["nc2_equiangular"]) == pytest.approx(exact.nc2_equiangular, rel=1e-8)

    def test_two_equal_means_that_are_drawn_leave_nan_and_its_reason(self):
        features, labels = forty_classes()
        features[labels == 3] = features[labels == 7][:5].mean(dim=0)
        features[labels == 7] = features[labels == 3][0]
        with sampling(780):
            found = neural_collapse(features, labels)
        assert math.isnan(found.cdnv)
        assert math.isnan(found.directional_cdnv)
        assert any("cdnv: undefined for 1 of 780 drawn class pairs" in w for w in found.warnings)


class TestIntervals:
    @pytest.mark.parametrize(
        "name", ["cdnv", "directional_cdnv", "nc2_max_angle", "hyperspherical_uniformity"]
    )
    def test_cover_the_value_of_all_pairs(self, name):
        data = LabelledFeatures.of(*forty_classes())
        exact = getattr(neural_collapse(data.features, data.labels), name)
        means = data.statistics.centred_means()
        estimators = {
            "cdnv": lambda sample: estimate_cdnv(data.statistics, sample),
            "directional_cdnv": lambda sample: estimate_directional_cdnv(data, sample),
            "nc2_max_angle": lambda sample: estimate_max_angle("", means, sample),
            "hyperspherical_uniformity": lambda sample: estimate_uniformity(means, sample),
        }
        found = [
            estimators[name](PairSample.of(40, 150, seed=seed, device=CPU)).interval()
            for seed in range(200)
        ]
        assert 0.89 <= sum(low <= exact <= high for low, high in found) / 200 <= 0.995

    def test_cover_the_share_of_all_examples(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(2000) % 40
        features = torch.randn(2000, 6, generator=generator) + torch.randn(
            40, 6, generator=generator
        ).repeat(50, 1)
        nearest = NearestMeans(LabelledFeatures.of(features, labels))
        errors = NearestMeanErrors(nearest)
        exact = errors.estimate(2000)
        assert exact.stderr == 0.0
        found = [errors.estimate(200, seed=seed).interval() for seed in range(200)]
        assert 0.2 < exact.value < 0.8
        assert sum(low <= exact.value <= high for low, high in found) / 200 >= 0.9

    def test_a_share_of_0_has_an_error(self):
        features = torch.arange(60.0)[:, None] // 3
        nearest = NearestMeans(LabelledFeatures.of(features, torch.arange(60) // 3))
        found = NearestMeanErrors(nearest).estimate(30)
        assert found.value == 0.0
        assert 0.02 < found.stderr < 0.06


class TestGeometricCollapse:
    def gc(self, stderr: float = 0.0) -> list[Estimate]:
        return [Estimate(1.0 + k % 7, stderr, 50, dof=49) for k in range(40)]

    def test_all_pairs_drawn_give_the_exact_value(self):
        means = ClassStatistics.of(*forty_classes()).means
        exact = geometric_collapse(self.gc(0.1), means)
        with sampling(780):
            got = geometric_collapse(self.gc(0.1), means)
        laws.assert_close(got.value, exact.value)
        laws.assert_close(got.stderr, exact.stderr)
        assert "from 780 random class pairs of 780" in got.warnings[-1]

    def test_the_error_of_the_pairs_is_added(self):
        means = ClassStatistics.of(*forty_classes()).means
        exact = geometric_collapse(self.gc(), means)
        assert exact.stderr == 0.0
        with sampling(200):
            got = geometric_collapse(self.gc(), means)
        assert 0.0 < abs(got.value - exact.value) < 4.0 * got.stderr < exact.value

    def test_poincare_ratios_use_the_same_pairs(self):
        features, labels = forty_classes()
        statistics = ClassStatistics.of(features, labels)
        with sampling(200):
            ratios = poincare_ratios(statistics.variances(), self.gc(), statistics.means)
            gcol = geometric_collapse(self.gc(), statistics.means)
            nc = neural_collapse(features, labels).cdnv
        laws.assert_close(ratios["weighted_mean"], nc / gcol.value)

    def test_a_tensor_is_of_all_pairs(self):
        means = ClassStatistics.of(*forty_classes()).means
        gc = torch.tensor([float(e) for e in self.gc()])
        with sampling(200):
            got = geometric_collapse(gc, means)
        laws.assert_close(got, geometric_collapse(self.gc(), means).value)
