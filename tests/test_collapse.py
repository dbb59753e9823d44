"""Laws and references of the measures of collapse."""

from __future__ import annotations

import math

import laws
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import collapse as reference

from gaussians import (
    FEATURE_MEASURES,
    WEIGHT_MEASURES,
    classes,
    data_sets,
    head,
    measures_of,
    simplex,
)
from geocollapse.collapse import (
    ClassStatistics,
    cdnv,
    directional_cdnv,
    distances_squared,
    geometric_collapse,
    largest_pairs,
    nc1_pooled,
    neural_collapse,
    pair_weights,
)


class TestLaws:
    @settings(max_examples=25, deadline=None)
    @given(data=data_sets, seed=st.integers(0, 100))
    def test_every_measure_is_invariant(self, data, seed):
        laws.assert_permutation_invariant(measures_of, *data, seed=seed)
        laws.assert_relabelling_invariant(measures_of, *data, rtol=1e-9)
        laws.assert_translation_invariant(measures_of, *data, rtol=1e-9)
        laws.assert_rotation_invariant(measures_of, *data, seed=seed, rtol=1e-9)
        laws.assert_homogeneous(measures_of, *data, degree=0, rtol=1e-9)

    @settings(max_examples=25, deadline=None)
    @given(data=data_sets, value=st.floats(0.1, 10.0))
    def test_geometric_collapse_scales_as_gc_over_squared_distance(self, data, value):
        def measure(features, labels):
            means = ClassStatistics.of(features, labels).means
            return geometric_collapse(torch.full((len(means),), value), means)

        laws.assert_homogeneous(measure, *data, degree=-2)
        laws.assert_translation_invariant(measure, *data, rtol=1e-9)
        laws.assert_rotation_invariant(measure, *data, rtol=1e-9)

    @settings(max_examples=25, deadline=None)
    @given(data=data_sets)
    def test_directional_is_at_most_the_whole_variance(self, data):
        assert float(directional_cdnv(*data)) <= float(cdnv(*data)) * (1 + 1e-12)

    def test_directional_of_isotropic_classes_is_a_share_one_over_p(self):
        corners = torch.cat([torch.eye(6), -torch.eye(6)]).double()
        features = torch.cat([corners, 2 * corners + 9.0])
        labels = torch.repeat_interleave(torch.arange(2), 12)
        pairs = directional_cdnv(features, labels, reduction="none")
        variances = ClassStatistics.of(features, labels).variances()
        distance = 6 * 81.0
        laws.assert_close(pairs[0, 1], variances[0] / (6 * distance))
        laws.assert_close(pairs[1, 0], variances[1] / (6 * distance))


class TestReferences:
    @settings(max_examples=25, deadline=None)
    @given(data=data_sets)
    def test_all_measures(self, data):
        features, labels = data
        n_classes = len(labels.unique())
        p = features.shape[1]
        weight, bias = head(n_classes, p)
        got = neural_collapse(features, labels, weight=weight, bias=bias)
        x, y, w = features.numpy(), labels.numpy(), weight.numpy()
        m = reference.centred_means(x, y)
        expected = {
            "cdnv": reference.cdnv(x, y),
            "cdnv_bias_corrected": reference.cdnv(x, y, bias_corrected=True),
            "directional_cdnv": np.nanmean(reference.directional_cdnv_matrix(x, y)),
            "nc1": reference.nc1(x, y),
            "nc1_pooled": reference.nc1(x, y, pooled=True),
            "nc1_rank": n_classes - 1,
            "nc1_trace_ratio": reference.trace_ratio(x, y),
            **dict(zip(("nc2_equinorm", "nc2_equiangular", "nc2_max_angle"), reference.nc2(m))),
            **dict(zip(WEIGHT_MEASURES, reference.nc2(w))),
            "hyperspherical_uniformity": reference.hyperspherical_uniformity(m),
            "nearest_mean_error": reference.nearest_mean_error(x, y),
            "nc3": reference.nc3(w, m),
            "nc3_squared": reference.nc3(w, m) ** 2,
            "self_duality_gram": reference.self_duality_gram(w, m),
            "nc4": reference.nc4(x, y, w, bias.numpy()),
        }
        for name, value in expected.items():
            assert getattr(got, name) == pytest.approx(
                value, rel=1e-9 if name.startswith("nc1") else 1e-10, abs=1e-12
            )

    @pytest.mark.parametrize("bias_corrected", [False, True])
    def test_pairs(self, bias_corrected):
        features, labels = classes([5, 9, 2, 30], 6)
        pairs = cdnv(features, labels, bias_corrected=bias_corrected, reduction="none")
        laws.assert_close(
            pairs, reference.cdnv_matrix(features.numpy(), labels.numpy(), bias_corrected)
        )
        laws.assert_close(pairs, pairs.T)
        directional = directional_cdnv(features, labels, reduction="none")
        laws.assert_close(
            directional, reference.directional_cdnv_matrix(features.numpy(), labels.numpy())
        )

    def test_the_correction_moves_towards_the_population_value(self):
        """Two Gaussian classes with NC 0.875: 5 examples a class give a plug-in value of half."""
        p, d2 = 20, 20 / 0.875
        generator = torch.Generator().manual_seed(0)
        plug_in, corrected = [], []
        for _ in range(400):
            x = torch.randn(40, p, generator=generator, dtype=torch.float64)
            x[:20, 0] += math.sqrt(d2)
            labels = torch.repeat_interleave(torch.arange(2), 20)
            plug_in.append(float(cdnv(x, labels)))
            corrected.append(float(cdnv(x, labels, bias_corrected=True)))
        assert np.mean(plug_in) == pytest.approx(0.77, abs=0.02)
        assert np.mean(corrected) == pytest.approx(0.886, abs=0.02)

    def test_distances_of_near_means_keep_their_digits(self):
        means = torch.randn(6, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        means[1] = means[0]
        means[1, 3] += 1e-7
        got = distances_squared(means)
        assert float(got[0, 1]) == pytest.approx(float((means[0, 3] - means[1, 3]) ** 2), rel=1e-8)
        laws.assert_close(got, (means[:, None] - means).square().sum(dim=2))

    def test_tiles_of_pairs_equal_one_tile(self, monkeypatch):
        features, labels = classes([3] * 11, 5)
        whole = measures_of(features, labels)
        weights = pair_weights(ClassStatistics.of(features, labels).means)
        top = largest_pairs(ClassStatistics.of(features, labels), 7)
        directional = directional_cdnv(features, labels, reduction="none")
        monkeypatch.setattr("geocollapse.collapse.distances.TILE", 4)
        monkeypatch.setattr("geocollapse.collapse.directional.BLOCK_NUMBERS", 44)  # 4 of 11 columns
        laws.assert_close(directional_cdnv(features, labels, reduction="none"), directional)
        laws.assert_close(measures_of(features, labels), whole)
        laws.assert_close(pair_weights(ClassStatistics.of(features, labels).means), weights)
        assert largest_pairs(ClassStatistics.of(features, labels), 7) == top

    def test_row_chunks_equal_one_chunk(self, monkeypatch):
        features, labels = classes([30, 7, 12], 5)
        whole = measures_of(features, labels)
        monkeypatch.setattr("geocollapse.arrays.CHUNK_NUMBERS", 16)
        laws.assert_close(measures_of(features, labels), whole)


class TestManyClasses:
    def test_nc1_of_more_classes_than_dimensions(self):
        """2,000 classes of 3 examples in 64 dimensions: rank 64, and no simplex exists."""
        features, labels = classes([3] * 2000, 64)
        got = neural_collapse(features, labels)
        x, y = features.numpy(), labels.numpy()
        assert got.nc1_rank == 64
        assert got.nc1 == pytest.approx(reference.nc1(x, y), rel=1e-9)
        m = reference.centred_means(x, y)
        units = torch.from_numpy(m / np.linalg.norm(m, axis=1, keepdims=True))
        expected = -torch.nn.functional.pdist(units).log().mean()
        assert got.hyperspherical_uniformity == pytest.approx(float(expected), rel=1e-9)
        assert any("read hyperspherical_uniformity" in text for text in got.warnings)

    def test_nc1_of_a_long_tail(self):
        """Counts 400, 200, 133, ..., 1 in fewer dimensions than classes, kept and streamed."""
        counts = [max(1, 400 // k) for k in range(1, 41)] + [1] * 10
        features, labels = classes(counts, 24)
        got = neural_collapse(features, labels)
        x, y = features.numpy(), labels.numpy()
        assert got.nc1_rank == 24
        assert got.nc1 == pytest.approx(reference.nc1(x, y), rel=1e-9)
        assert got.nc1_pooled == pytest.approx(reference.nc1(x, y, pooled=True), rel=1e-9)
        assert abs(got.nc1_pooled / got.nc1 - 1.0) > 0.01
        stream = ClassStatistics.empty(scatter=True)
        for rows in torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).split(
            64
        ):
            stream.update(features[rows], labels[rows])
        assert nc1_pooled(stream) == (pytest.approx(got.nc1_pooled, rel=1e-9), 24)

    def test_remainder_tiles_of_the_real_size(self):
        """1,537 classes: two whole tiles a side and one class left over."""
        features, labels = classes([2] * 1537, 6)
        matrix = cdnv(features, labels, reduction="none")
        means = ClassStatistics.of(features, labels).means
        variances = ClassStatistics.of(features, labels).variances()
        squared = (means[:, None] - means).square().sum(dim=2)
        laws.assert_close(
            matrix, ((variances[:, None] + variances) / (2 * squared)).fill_diagonal_(torch.nan)
        )
        laws.assert_close(cdnv(features, labels), matrix.nanmean())
        inverse = squared.reciprocal().fill_diagonal_(0.0)
        laws.assert_close(pair_weights(means), inverse.sum(dim=1) / (1537 * 1536))


class TestSimplex:
    @pytest.mark.parametrize(("n_classes", "p"), [(2, 3), (4, 4), (10, 30)])
    def test_collapsed_simplex_has_nc_zero(self, n_classes, p):
        frame = simplex(n_classes, p)
        features, labels = frame.repeat(5, 1), torch.arange(n_classes).repeat(5)
        got = neural_collapse(features, labels, weight=3 * frame, bias=torch.zeros(n_classes))
        for name in (
            "cdnv",
            "directional_cdnv",
            "nc1",
            "nc1_pooled",
            "nc1_trace_ratio",
            "nc4",
            "nearest_mean_error",
        ):
            assert getattr(got, name) == pytest.approx(0.0, abs=1e-28)
        for name in (
            "nc2_equinorm",
            "nc2_equiangular",
            "nc2_max_angle",
            "nc2_weight_max_angle",
            "nc3",
            "self_duality_gram",
        ):
            assert getattr(got, name) == pytest.approx(0.0, abs=1e-14)
        assert got.nc1_rank == n_classes - 1
        assert got.hyperspherical_uniformity == pytest.approx(
            -0.5 * math.log(2 * n_classes / (n_classes - 1))
        )
        assert got.warnings == ()

    def test_more_classes_than_a_simplex_can_hold(self):
        features, labels = classes([3] * 9, 4)
        assert any(
            "hyperspherical_uniformity" in text
            for text in neural_collapse(features, labels).warnings
        )

    def test_nc3_sees_the_gauge_unless_the_weight_is_centred(self):
        frame = simplex(4, 6)
        features, labels = frame.repeat(3, 1), torch.arange(4).repeat(3)
        shifted = frame + 2.0
        assert neural_collapse(features, labels, weight=shifted).nc3 > 0.5
        assert neural_collapse(
            features, labels, weight=shifted, centre_weight=True
        ).nc3 == pytest.approx(0.0, abs=1e-14)


class TestRank:
    def test_a_direction_that_only_rounding_fills_is_cut(self):
        """Four means on a line: rank 1, where a pseudo-inverse of rank 3 is off by many orders."""
        generator = torch.Generator().manual_seed(0)
        line = torch.randn(30, generator=generator, dtype=torch.float64)
        noise = torch.randn(5, 30, generator=generator, dtype=torch.float64)
        features = torch.cat(
            [k * line + sign * z for k in range(4) for z in noise for sign in (1.0, -1.0)]
        ).reshape(-1, 30)
        labels = torch.repeat_interleave(torch.arange(4), 10)
        got = neural_collapse(features, labels)
        assert got.nc1_rank == 1
        direction = line / line.norm()
        expected = ((noise @ direction) ** 2).mean() / (line.norm() ** 2 * (1.5**2 + 0.5**2) * 2)
        assert got.nc1 == pytest.approx(float(expected), rel=1e-9)

    def test_class_weights_matter_under_imbalance(self):
        features, labels = classes([200, 20, 5, 3], 10)
        got = neural_collapse(features, labels)
        assert got.nc1 == pytest.approx(reference.nc1(features.numpy(), labels.numpy()), rel=1e-9)
        assert abs(got.nc1_pooled - got.nc1) > 0.01 * got.nc1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_tensor_gives_the_same_numbers():
    features, labels = classes([30, 7, 12], 5)
    weight, bias = head(3, 5)
    on_cpu = neural_collapse(features, labels, weight=weight, bias=bias)
    on_gpu = neural_collapse(features.cuda(), labels.cuda(), weight=weight.cuda(), bias=bias.cuda())
    assert cdnv(features.cuda(), labels).device.type == "cuda"
    for name in (*FEATURE_MEASURES, *WEIGHT_MEASURES):
        assert getattr(on_gpu, name) == pytest.approx(getattr(on_cpu, name), rel=1e-10, abs=1e-13)
