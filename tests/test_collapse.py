"""Laws, references, numerics and messages of the measures of collapse."""

from __future__ import annotations

import itertools
import math

import laws
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import collapse as reference

from geocollapse.collapse import (
    ClassStatistics,
    LabelledFeatures,
    cdnv,
    cdnv_estimate,
    directional_cdnv,
    distances_squared,
    geometric_collapse,
    geometric_collapse_of_distribution,
    largest_pairs,
    mean_cdnv,
    nc1_pooled,
    neural_collapse,
    pair_weights,
    poincare_ratios,
    sampled_cdnv,
)
from geocollapse.collapse.decisions import NearestMeans, nc4, nearest_mean_error
from geocollapse.collapse.projections import read
from geocollapse.collapse.sampled import draw_pairs
from geocollapse.collapse.variability import between_spectrum
from geocollapse.estimate import Estimate, GeocollapseWarning

FEATURE_MEASURES = (
    "cdnv",
    "cdnv_bias_corrected",
    "directional_cdnv",
    "nc1",
    "nc1_pooled",
    "nc1_trace_ratio",
    "nc2_equinorm",
    "nc2_equiangular",
    "nc2_max_angle",
    "hyperspherical_uniformity",
    "nearest_mean_error",
)
WEIGHT_MEASURES = (
    "nc2_weight_equinorm",
    "nc2_weight_equiangular",
    "nc2_weight_max_angle",
    "nc3",
    "self_duality_gram",
    "nc4",
)


def classes(counts, p, seed=0, spread=3.0):
    """Gaussian classes with unequal covariances: features (n, p) float64 and labels 0..C - 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    scales = 0.2 + torch.rand(len(counts), p, generator=generator, dtype=torch.float64)
    centres = spread * torch.randn(len(counts), p, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), p, generator=generator, dtype=torch.float64)
    return centres[labels] + scales[labels] * noise, labels


def head(n_classes, p, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_classes, p, generator=generator).double(), torch.randn(
        n_classes, generator=generator
    ).double()


def simplex(n_classes, p, seed=0):
    """A simplex equiangular tight frame of C vectors in R^p, rotated."""
    frame = torch.zeros(n_classes, p, dtype=torch.float64)
    frame[:, :n_classes] = torch.eye(n_classes, dtype=torch.float64) - 1.0 / n_classes
    return frame @ laws.random_rotation(p, seed)


def measures_of(features, labels):
    measures = neural_collapse(features, labels)
    return torch.tensor([getattr(measures, name) for name in FEATURE_MEASURES], dtype=torch.float64)


data_sets = st.builds(
    classes,
    counts=st.lists(st.integers(4, 12), min_size=2, max_size=5),
    p=st.integers(5, 9),
    seed=st.integers(0, 10_000),
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
        variances, distance = ClassStatistics.of(features, labels).variances(), 6 * 81.0
        laws.assert_close(pairs[0, 1], variances[0] / (6 * distance))
        laws.assert_close(pairs[1, 0], variances[1] / (6 * distance))


class TestReferences:
    @settings(max_examples=25, deadline=None)
    @given(data=data_sets)
    def test_all_measures(self, data):
        features, labels = data
        n_classes, p = len(labels.unique()), features.shape[1]
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
        """True NC 0.875 of two Gaussian classes; the plug-in value of 5 examples a class is about
        half of it.
        """
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
        expected, share = 200 * n_pairs, n_pairs / 10
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
        """60 classes that every pair shares with 58 others; 400 samples of 100 pairs: about 0.95."""
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


class TestDecisions:
    """Decisions from float32 projections are those of exact arithmetic."""

    @staticmethod
    def lattice(seed=0, n_classes=8, p=5, n_pairs=32):
        """Whole numbers in pairs around whole class means; every sum and mean is exact."""
        generator = torch.Generator().manual_seed(seed)
        centres = 2 * torch.randint(-1, 2, (n_classes, p), generator=generator)
        noise = torch.randint(-2, 3, (n_classes, n_pairs, p), generator=generator)
        pairs = torch.cat([noise, -noise], dim=1) + centres[:, None]
        labels = torch.arange(n_classes).repeat_interleave(2 * n_pairs)
        return pairs.flatten(0, 1), labels, centres

    @pytest.mark.parametrize("many", [1, 1 << 40])  # float32, then float64 projections
    @pytest.mark.parametrize("limit", [1, 4096])
    def test_ties_are_errors_and_near_ties_are_not(self, monkeypatch, many, limit):
        monkeypatch.setattr("geocollapse.collapse.labelled._MANY_NUMBERS", many)
        monkeypatch.setattr("geocollapse.collapse.decisions.MAX_CLASSES", limit)
        features, labels, centres = self.lattice()
        distances = (features[:, None] - centres).square().sum(dim=2)
        own = distances.gather(1, labels[:, None]).squeeze(1)
        rivals = distances.scatter(1, labels[:, None], 1 << 30).amin(dim=1)
        assert int((rivals == own).sum()) > 20
        errors = float((rivals <= own).double().mean())
        assert neural_collapse(features.float(), labels).nearest_mean_error == errors
        nudged = features.float()
        nudged[rivals == own] += 1e-3 * (centres[labels] - features)[rivals == own]
        data = LabelledFeatures.of(nudged, labels)
        means = data.statistics.means
        exact = (nudged.double()[:, None] - means).square().sum(dim=2)
        own = exact.gather(1, labels[:, None]).squeeze(1)
        rivals = exact.scatter(1, labels[:, None], torch.inf).amin(dim=1)
        assert nearest_mean_error(data) == float((rivals <= own).double().mean())

    @pytest.mark.parametrize("many", [1, 1 << 40])
    def test_nc4_of_classifiers_that_are_nearly_tied(self, monkeypatch, many):
        monkeypatch.setattr("geocollapse.collapse.labelled._MANY_NUMBERS", many)
        features, labels, centres = self.lattice(seed=1)
        features = features.float() + 100.0
        data = LabelledFeatures.of(features, labels)
        means = data.statistics.means
        distances = (features.double()[:, None] - means).square().sum(dim=2)
        for weight, bias in (
            (means, -0.5 * means.square().sum(dim=1)),  # the nearest mean itself
            (means + 1e-6 * head(8, 5)[0], -0.5 * means.square().sum(dim=1)),
            (torch.zeros_like(means), torch.zeros(8).double()),  # all tied: the first class
        ):
            decided = (features.double() @ weight.T + bias).argmax(dim=1)
            clear = distances.sort(dim=1).values.diff(dim=1)[:, 0] > 0
            expected = (decided != distances.argmin(dim=1))[clear].double().sum() / len(labels)
            got = nc4(data, weight, bias)
            assert abs(got - float(expected)) <= float((~clear).double().mean())
            assert got == neural_collapse(features, labels, weight=weight, bias=bias).nc4

    def test_rounding_stays_within_its_bound(self, monkeypatch):
        monkeypatch.setattr("geocollapse.collapse.labelled._MANY_NUMBERS", 1)
        features, labels = classes([40] * 8, 30, spread=0.3)
        data = LabelledFeatures.of((features + 7.0).float(), labels)
        nearest, (exact, index) = NearestMeans(data), next(iter(data.residuals()))
        means = data.statistics.centred_means()
        steps = means - means[index][:, None]
        expected = (exact[:, None] * steps).sum(dim=2) - 0.5 * steps.square().sum(dim=2)
        seen = []

        class Checks:
            width = 8

            def add(self, chunk):
                assert chunk.residuals.dtype == torch.float32
                off = (nearest.margins(chunk).double() - expected[chunk.rows]).abs().amax(dim=1)
                seen.append(float((off / nearest.bound(chunk)).max()))

        for basis in (None, between_spectrum(means).basis):
            read(data, [Checks()], basis)
        assert all(0.0 < share < 0.5 for share in seen)

    def test_coarse_products_are_not_used(self, monkeypatch):
        monkeypatch.setattr("geocollapse.collapse.labelled._MANY_NUMBERS", 1)
        features, labels = classes([5, 6], 4)
        assert LabelledFeatures.of(features.float(), labels).projection_dtype is torch.float32
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")  # TF32: 3 digits
        try:
            assert LabelledFeatures.of(features.float(), labels).projection_dtype is torch.float64
        finally:
            torch.set_float32_matmul_precision(before)


class TestManyClasses:
    def test_nc1_of_more_classes_than_dimensions(self):
        """2,000 classes in 64 dimensions, 3 examples each: Sigma_B has rank 64, and no simplex
        exists.
        """
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
        """Counts 400, 200, 133, ..., down to single examples, in fewer dimensions than classes, and
        streamed.
        """
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
        """Four means on a line: Sigma_B has rank 1, and a pseudo-inverse of rank 3 would be off by
        many orders.
        """
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
        names = torch.tensor([1 << 40, -7, 12])
        stream = ClassStatistics.empty()
        for x, y in zip(features, labels):
            stream.update(x[None], names[y][None])
        assert stream.classes.tolist() == [-7, 12, 1 << 40]
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
        """float32 features of 40 classes, offset from 0: CDNV and both NC1 to 1e-8 of the float64
        reference.
        """
        features, labels = classes([60, 9, 30, 21] * 10, 48, spread=1.0)
        stored = (features + 50.0).float()
        got, stream = neural_collapse(stored, labels), ClassStatistics.empty(scatter=True)
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


class TestUndefined:
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


FEATURES, LABELS = classes([3, 3], 4)
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
            r"labels: expected integers, got torch.float32; do labels.long\(\)",
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
            r"labels: expected integers from 0 to 1 .* got -1",
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
        """10 classes of 400, 50 sampled from each, gamma values: 0.945 to 0.95 expected, 600 seeded
        repetitions.
        """
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
        assert got.stderr == pytest.approx(stderr, rel=1e-10)
        assert (got.population, got.n_samples) == ("distribution", 55)

    def test_cdnv_estimate_is_the_corrected_value(self):
        features, labels = classes([40, 30, 20], 6)
        assert cdnv_estimate(features, labels).value == pytest.approx(
            float(cdnv(features, labels, bias_corrected=True))
        )

    def test_interval_covers_the_population(self):
        """3 Gaussian classes of 60, g correlated with the features: about 0.95, 300 seeded
        repetitions.
        """
        generator = torch.Generator().manual_seed(0)
        centres = 3 * torch.eye(3, 8, dtype=torch.float64)
        labels = torch.repeat_interleave(torch.arange(3), 60)
        truth_gc, truth_nc = 8.0 / 18.0, 8.0 / 18.0  # E g = E ||z||^2 = 8, squared distance 18
        hits_gc = hits_nc = 0
        for _ in range(300):
            z = torch.randn(180, 8, generator=generator, dtype=torch.float64)
            features = centres[labels] + z
            g = z.square().sum(dim=1) + 2 * z[:, 0]
            low, high = geometric_collapse_of_distribution(g, features, labels).interval()
            hits_gc += low <= truth_gc <= high
            low, high = cdnv_estimate(features, labels).interval()
            hits_nc += low <= truth_nc <= high
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


def test_labelled_features_share_one_pass():
    features, labels = classes([5, 6], 4)
    data = LabelledFeatures.of(features, labels - 7)
    assert data.statistics is data.statistics
    assert data.index.tolist() == labels.tolist()
    residuals = torch.cat([z for z, _ in data.residuals()])
    laws.assert_close(residuals, features - data.statistics.means[labels])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_tensor_gives_the_same_numbers():
    features, labels = classes([30, 7, 12], 5)
    weight, bias = head(3, 5)
    on_cpu = neural_collapse(features, labels, weight=weight, bias=bias)
    on_gpu = neural_collapse(features.cuda(), labels.cuda(), weight=weight.cuda(), bias=bias.cuda())
    assert cdnv(features.cuda(), labels).device.type == "cuda"
    for name in (*FEATURE_MEASURES, *WEIGHT_MEASURES):
        assert getattr(on_gpu, name) == pytest.approx(getattr(on_cpu, name), rel=1e-10, abs=1e-13)
