"""Streaming class statistics: splits, merges, offsets, precision, equal examples."""

from __future__ import annotations

import itertools

import laws
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import collapse as reference

from gaussians import (
    classes,
    data_sets,
    measures_of,
)
from geocollapse.collapse import (
    ClassStatistics,
    LabelledFeatures,
    cdnv,
    mean_cdnv,
    nc1_pooled,
    neural_collapse,
)


class TestStatistics:
    @settings(max_examples=25, deadline=None)
    @given(
        data=data_sets,
        cuts=st.lists(st.integers(0, 60), max_size=5),
        declared=st.booleans(),
        seed=st.integers(0, 1000),
    )
    def test_any_split_merged_in_any_order_equals_the_whole(self, data, cuts, declared, seed):
        features, labels = data
        generator = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(len(labels), generator=generator)
        num_classes = int(labels.max()) + 1 if declared else None
        bounds = [0, *sorted(min(c, len(labels)) for c in cuts), len(labels)]
        parts = [
            ClassStatistics.of(features[rows], labels[rows], num_classes, scatter=True)
            for a, b in itertools.pairwise(bounds)
            for rows in [shuffled[a:b]]
        ]
        while len(parts) > 1:  # a random binary tree
            i = int(torch.randint(len(parts) - 1, (), generator=generator))
            parts[i : i + 2] = [parts[i + 1].merge(parts[i])]
        whole = ClassStatistics.of(features, labels, num_classes, scatter=True)
        laws.assert_close(parts[0].within_scatter(), whole.within_scatter())
        for name in ("classes", "counts", "means", "sum_squares"):
            laws.assert_close(getattr(parts[0], name), getattr(whole, name))
        laws.assert_close(mean_cdnv(parts[0])[0], cdnv(features, labels))
        laws.assert_close(
            nc1_pooled(parts[0])[0], neural_collapse(features, labels).nc1_pooled, rtol=1e-9
        )

    @pytest.mark.parametrize("p", [5, 96, 230])
    def test_the_scatter_is_the_whole_matrix_for_any_width(self, p):
        features, labels = classes([7, 9, 4], p)
        stream = ClassStatistics.empty(scatter=True)
        for rows in torch.randperm(20, generator=torch.Generator().manual_seed(0)).split(6):
            stream.update(features[rows], labels[rows])
        z = features - stream.means[labels]
        laws.assert_close(stream.within_scatter(), z.T @ z)

    def test_merge_leaves_both_parts_alone(self):
        features, labels = classes([5, 5], 3)
        a, b = (
            ClassStatistics.of(features[::2], labels[::2]),
            ClassStatistics.of(features[1::2], labels[1::2]),
        )
        before = a.means.clone(), b.means.clone()
        a.merge(b)
        laws.assert_close(a.means, before[0])
        laws.assert_close(b.means, before[1])

    def test_labels_are_any_integers_and_discovered_late(self):
        features, labels = classes([4, 6, 3], 5)
        names = torch.tensor([1 << 40, 7, 12])
        stream = ClassStatistics.empty()
        for x, y in zip(features, labels):
            stream.update(x[None], names[y][None])
        assert stream.classes.tolist() == [7, 12, 1 << 40]
        assert stream.counts.tolist() == [6.0, 3.0, 4.0]
        laws.assert_close(
            stream.means, reference.means(features, names[labels].numpy()).astype(float)
        )

    @pytest.mark.parametrize("batch", [7, 64, 400])
    def test_float64_offset_of_a_million_deviations(self, batch):
        features, labels = classes(
            [100] * 4, 8, spread=1.0
        )  # 1e-9 is promised; 1e-12 pins the origin
        features = features + 1e6
        stream = ClassStatistics.empty(scatter=True)
        for start in range(0, 400, batch):
            stream.update(features[start : start + batch], labels[start : start + batch])
        x, y = features.numpy(), labels.numpy()
        assert float(mean_cdnv(stream)[0]) == pytest.approx(reference.cdnv(x, y), rel=1e-12)
        assert nc1_pooled(stream)[0] == pytest.approx(reference.nc1(x, y, pooled=True), rel=1e-12)
        assert neural_collapse(features, labels).nc1 == pytest.approx(
            reference.nc1(x, y), rel=1e-12
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_low_precision_features_give_the_float64_value_of_the_same_numbers(self, dtype):
        features, labels = classes([100] * 4, 8, spread=1.0)
        stored = (features + 1e3).to(dtype)
        got = neural_collapse(stored, labels)
        assert got.cdnv == pytest.approx(
            reference.cdnv(stored.double().numpy(), labels.numpy()), rel=1e-5
        )
        assert got.nc1 == pytest.approx(
            reference.nc1(stored.double().numpy(), labels.numpy()), rel=1e-5
        )

    def test_float32_features_keep_eight_digits(self):
        """Float32 features of 40 classes, offset from 0: within 1e-8 of the float64 reference."""
        features, labels = classes([60, 9, 30, 21] * 10, 48, spread=1.0)
        stored = (features + 50.0).float()
        got = neural_collapse(stored, labels)
        stream = ClassStatistics.empty(scatter=True)
        for rows in torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).split(
            100
        ):
            stream.update(stored[rows], labels[rows])
        x, y = stored.double().numpy(), labels.numpy()
        assert got.cdnv == pytest.approx(reference.cdnv(x, y), rel=1e-8)
        assert got.nc1 == pytest.approx(reference.nc1(x, y), rel=1e-8)
        assert nc1_pooled(stream)[0] == pytest.approx(reference.nc1(x, y, pooled=True), rel=1e-8)

    @pytest.mark.parametrize("batch", [1, 2, 14])
    def test_equal_examples_have_variance_exactly_zero(self, batch):
        features = torch.tensor([[0.1, 0.7, 1e3], [0.3, -0.2, 7.0]], dtype=torch.float64).repeat(
            7, 1
        )
        stream = ClassStatistics.empty()
        for x, y in zip(features.split(batch), torch.arange(14).remainder(2).split(batch)):
            stream.update(x, y)
        assert stream.variances().tolist() == [0.0, 0.0]
        assert all(
            bool((z == 0.0).all())
            for z, _ in LabelledFeatures.of(features, torch.arange(14) % 2).residuals()
        )

    def test_parts_of_a_large_array_equal_one_part(self, monkeypatch):
        features, labels = classes([30, 7, 12], 5)
        whole = measures_of(features, labels)
        monkeypatch.setattr("geocollapse.collapse.statistics.PART_NUMBERS", 40)
        laws.assert_close(measures_of(features, labels), whole)

    def test_collapsed_classes_far_apart_keep_their_variance(self):
        generator = torch.Generator().manual_seed(0)
        noise = 1e-6 * torch.randn(200, 4, generator=generator, dtype=torch.float64)
        labels = torch.arange(2).repeat(100)
        features = noise + 1e3 * labels[:, None]
        stream = ClassStatistics.empty()
        for start in range(0, 200, 8):
            stream.update(features[start : start + 8], labels[start : start + 8])
        expected = [float(v) for v in reference.variances(features.numpy(), labels.numpy())]
        assert stream.variances().tolist() == pytest.approx(expected, rel=1e-9)

    def test_long_features_refuse_the_scatter_and_not_nc1(self):
        features, labels = classes([4, 4, 4], 4100)
        with pytest.raises(
            ValueError,
            match=r"scatter: expected at most 4096 features .* got 4100; do scatter=False",
        ):
            ClassStatistics.of(features, labels, scatter=True)
        assert neural_collapse(features, labels).nc1 > 0.0

    def test_numpy_is_as_good_as_a_tensor(self, tmp_path):
        features, labels = classes([5, 6], 4)
        np.save(tmp_path / "features.npy", features.numpy())
        mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
        assert float(cdnv(mapped, labels.numpy())) == float(cdnv(features, labels))


def test_labelled_features_share_one_pass():
    features, labels = classes([5, 6], 4)
    data = LabelledFeatures.of(features, labels + 7)
    assert data.statistics is data.statistics
    assert data.index.tolist() == labels.tolist()
    residuals = torch.cat([z for z, _ in data.residuals()])
    laws.assert_close(residuals, features - data.statistics.means[labels])
