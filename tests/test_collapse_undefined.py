"""Undefined measures of collapse, and the messages of refused arguments."""

from __future__ import annotations

import math

import laws
import pytest
import torch

from gaussians import (
    FEATURE_MEASURES,
    FEATURES,
    LABELS,
    classes,
)
from geocollapse.collapse import (
    ClassStatistics,
    cdnv,
    directional_cdnv,
    geometric_collapse,
    largest_pairs,
    nc1_pooled,
    neural_collapse,
)
from geocollapse.estimate import GeocollapseWarning


class TestUndefined:
    @pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
    def test_means_that_differ_by_rounding_are_equal(self, scale):
        """The same examples in another order: CDNV was 3e30, without a warning."""
        features, _ = classes([50], 4)
        order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
        both = scale * (3.0 + torch.cat([features, features[order]]).double())
        labels = torch.arange(100) // 50
        with pytest.warns(GeocollapseWarning, match="two class means that are equal but for round"):
            assert math.isnan(float(cdnv(both, labels)))
        statistics = ClassStatistics.of(both, labels)
        gcol = geometric_collapse(
            torch.ones(2), statistics.means, rounding=statistics.rounding_squared()
        )
        assert math.isnan(float(gcol))

    def test_near_means_are_not_equal(self):
        features = torch.tensor([[0.0], [0.0], [1e-9], [1e-9], [1.0], [1.0]]).double()
        assert float(cdnv(features, torch.arange(6) // 2)) == 0.0

    def test_an_unseen_declared_class_is_nan_with_a_warning(self):
        features, labels = classes([5, 5], 4)
        with pytest.warns(GeocollapseWarning, match="cdnv: undefined for 2 of 3 class pairs"):
            assert math.isnan(float(cdnv(features, labels, num_classes=3)))
        with pytest.warns(GeocollapseWarning, match="directional_cdnv: undefined for 4 of 6"):
            assert math.isnan(float(directional_cdnv(features, labels, num_classes=3)))
        got = neural_collapse(
            features, labels, num_classes=3, weight=torch.ones(3, 4), bias=torch.zeros(3)
        )
        assert all(math.isnan(getattr(got, name)) for name in (*FEATURE_MEASURES, "nc3", "nc4"))
        assert "1 of 3 declared classes have no examples (2)" in got.warnings[0]
        assert got.to_dict()["cdnv"] is None

    def test_the_average_over_the_defined_pairs_is_the_callers_choice(self):
        features, labels = classes([5, 6, 1], 4)
        with pytest.warns(
            GeocollapseWarning, match="undefined for 2 of 3 class pairs .*; the average is NaN"
        ):
            assert math.isnan(float(cdnv(features, labels, bias_corrected=True)))
        with pytest.warns(GeocollapseWarning, match="over the others only"):
            selected = cdnv(features, labels, bias_corrected=True, reduction="nanmean")
        keep = labels < 2
        with pytest.warns(
            GeocollapseWarning,
            match="directional_cdnv: undefined for 6 of 12 .* over the others only",
        ):
            present = directional_cdnv(features, labels, reduction="nanmean", num_classes=4)
        laws.assert_close(present, directional_cdnv(features, labels))
        laws.assert_close(selected, cdnv(features[keep], labels[keep], bias_corrected=True))

    def test_a_corrected_distance_that_is_not_positive(self):
        features = torch.randn(4, 50, generator=torch.Generator().manual_seed(3))
        assert (
            "cdnv_bias_corrected: undefined"
            in neural_collapse(features, torch.tensor([0, 0, 1, 1])).warnings[-1]
        )

    def test_equal_means(self):
        features = torch.tensor([[-1.0], [1.0], [-2.0], [2.0]])
        got = neural_collapse(features, torch.tensor([0, 0, 1, 1]))
        assert math.isnan(got.cdnv)
        assert math.isnan(got.nc1)
        assert got.nc1_rank == 0
        assert got.nearest_mean_error == 1.0  # a tie is an error
        assert got.warnings

    def test_nc4_needs_a_bias(self):
        features, labels = classes([5, 5], 4)
        got = neural_collapse(
            features, labels, weight=torch.ones(2, 4) * torch.tensor([[1.0], [2.0]])
        )
        assert got.nc4 is None
        assert got.warnings == (
            "nc4: needs the bias, got None; do bias=torch.zeros(C) for a classifier without one",
        )


WITH_NAN = FEATURES.clone()
WITH_NAN[4, 2] = math.nan


@pytest.mark.parametrize(
    ("features", "labels", "kwargs", "error", "match"),
    [
        (
            FEATURES,
            LABELS.float(),
            {},
            TypeError,
            r"labels: expected integers, one class .*, got torch.float32; do labels.long\(\)",
        ),
        (
            FEATURES.long(),
            LABELS,
            {},
            TypeError,
            r"features: expected floating point numbers, got torch.int64",
        ),
        (
            FEATURES.tolist(),
            LABELS,
            {},
            TypeError,
            r"features: expected a torch.Tensor or numpy.ndarray, got list",
        ),
        (
            FEATURES[:, :, None],
            LABELS,
            {},
            ValueError,
            r"features: expected shape \(n, p\), got \(6, 4, 1\)",
        ),
        (FEATURES, LABELS[:5], {}, ValueError, r"labels: expected shape \(6,\), .* got \(5,\)"),
        (
            FEATURES,
            LABELS[:, None],
            {},
            ValueError,
            r"labels: expected shape \(6,\), .* got \(6, 1\)",
        ),
        (
            FEATURES,
            0 * LABELS + 3,
            {},
            ValueError,
            r"labels: expected at least two classes, got label 3 only",
        ),
        (
            FEATURES[:0],
            LABELS[:0],
            {},
            ValueError,
            r"labels: expected at least two classes, got no examples",
        ),
        (
            WITH_NAN,
            LABELS,
            {},
            ValueError,
            r"features: expected finite numbers, .* in 1 of 6 examples \(first at row 4\)",
        ),
        (
            FEATURES,
            LABELS + 1,
            {"num_classes": 2},
            ValueError,
            r"labels: expected integers from 0 to 1 .* got 2 \(3 of 6",
        ),
        (
            FEATURES,
            LABELS - 1,
            {"num_classes": 2},
            ValueError,
            r"labels: expected classes 0, 1, ..., got -1 for .*; do keep = labels != -1",
        ),
        (
            FEATURES,
            LABELS,
            {"num_classes": 0},
            ValueError,
            r"num_classes: expected a positive number or None, got 0",
        ),
    ],
)
@pytest.mark.parametrize("measure", [cdnv, directional_cdnv, neural_collapse])
def test_messages(measure, features, labels, kwargs, error, match):
    with pytest.raises(error, match=match):
        measure(features, labels, **kwargs)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: cdnv(FEATURES, LABELS, reduction="sum"),
            "reduction: expected 'mean', 'nanmean' or 'none', got 'sum'",
        ),
        (
            lambda: neural_collapse(FEATURES, LABELS, weight=torch.ones(3, 4)),
            r"weight: expected shape \(2, 4\), .*\(3, 4\)",
        ),
        (
            lambda: neural_collapse(FEATURES, LABELS, bias=torch.ones(2)),
            "weight: expected the classifier's weight",
        ),
        (
            lambda: neural_collapse(FEATURES, LABELS, weight=FEATURES[:2], bias=torch.ones(3)),
            r"bias: expected shape \(2,\)",
        ),
        (
            lambda: ClassStatistics.of(FEATURES, LABELS).update(FEATURES[:, :3], LABELS),
            "features: expected 4 columns",
        ),
        (
            lambda: ClassStatistics.empty(2).merge(ClassStatistics.empty(3)),
            "num_classes: expected 2, got 3",
        ),
        (
            lambda: ClassStatistics.empty(scatter=True).merge(ClassStatistics.empty()),
            "scatter: expected both parts",
        ),
        (
            lambda: nc1_pooled(ClassStatistics.of(FEATURES, LABELS)),
            "statistics: expected scatter, got None",
        ),
        (
            lambda: largest_pairs(ClassStatistics.of(FEATURES, LABELS), class_names=["a"]),
            "class_names: expected 2 names",
        ),
        (
            lambda: geometric_collapse(torch.ones(3), torch.ones(2, 4)),
            r"class_gc: expected shape \(2,\)",
        ),
        (
            lambda: geometric_collapse(torch.ones(1), torch.ones(1, 4)),
            "class_means: expected at least two classes",
        ),
    ],
)
def test_more_messages(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize(
    ("zero_rows", "note"),
    [
        (slice(None), "nc2_weight, nc3 and self_duality_gram: undefined, the classifier's weight"),
        (slice(1), "nc2_weight: no angles of 1 of 3 classifier rows, which are 0"),
    ],
)
def test_a_classifier_of_zeros_is_said(zero_rows, note):
    """Some are initialised to 0."""
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.ones(3, 5, dtype=torch.float64).tril()
    weight[zero_rows] = 0.0
    found = neural_collapse(x, torch.arange(60) % 3, weight=weight, bias=torch.zeros(3))
    assert math.isnan(found.nc2_weight_max_angle)
    assert math.isnan(found.nc3) == (zero_rows == slice(None))
    assert any(reason.startswith(note) for reason in found.warnings)


def test_equal_class_means_are_said_for_nc1_nc2_and_nc3():
    found = neural_collapse(torch.ones(60, 5), torch.arange(60) % 3)
    assert math.isnan(found.nc1)
    assert "nc1, nc2 and nc3: undefined, all class means are equal" in found.warnings
