"""References and laws of the nearest-mean bounds, and simulations that could violate them."""

from __future__ import annotations

import itertools
import json
import math

import laws
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import bounds as reference

from geocollapse.bounds import DecisionMoments, moments, nearest_mean_bound, nearest_mean_bounds
from geocollapse.collapse import LabelledFeatures, cdnv, directional_cdnv, neural_collapse
from geocollapse.estimate import Estimate
from geocollapse.numerics import largest_eigenvalue

NAMES = ("general", "published", "directional")
SHOTS = (math.inf, 1, 5)


def classes(counts, p, *, seed=0, spread=1.0, law="gaussian"):
    """Classes of unequal scales; ``heavy`` is Student's t of 5 degrees, ``skewed`` exponential."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    draw = {
        "gaussian": generator.standard_normal,
        "heavy": lambda size: generator.standard_t(5, size),
        "skewed": lambda size: generator.exponential(size=size) - 1.0,
    }[law]
    noise = draw((len(labels), p)) * (0.5 + generator.random((len(counts), p)))[labels]
    return torch.from_numpy(
        spread * generator.standard_normal((len(counts), p))[labels] + noise
    ), torch.from_numpy(labels)


# references


@pytest.mark.parametrize("k_shot", SHOTS)
@pytest.mark.parametrize("p", [1, 3, 40, 60])
def test_bounds_equal_the_loop_reference(p, k_shot):
    x, y = classes((7, 30, 2, 12), p, seed=p, law="skewed")
    found = nearest_mean_bound(x, y, k_shot=k_shot)
    expected = reference.bounds(x, y, k_shot)
    for name in NAMES:
        laws.assert_close(getattr(found, name), expected[name])
    laws.assert_close(found.stable_rank, reference.stable_rank(reference.by_class(x, y)))


@pytest.mark.parametrize("k_shot", [1, 2, 20])
def test_moments_equal_the_loop_reference(k_shot):
    x, y = classes((9, 30, 14), 4, law="skewed")
    found = DecisionMoments.of(LabelledFeatures.of(x, y))
    rows = reference.by_class(x, y)
    for a, b in itertools.permutations(range(3), 2):
        mean, variance = reference.decision_moments(rows[a], rows[b], k_shot)
        laws.assert_close(found.mean(k_shot)[a, b], mean)
        laws.assert_close(found.variance(k_shot)[a, b], variance)


@pytest.mark.parametrize("counts", [(30, 40, 20), (5, 6, 4)])
def test_bounds_do_not_depend_on_how_the_covariances_are_read(monkeypatch, counts):
    x, y = classes(counts, 20, law="skewed")
    whole = nearest_mean_bounds(x, y)
    monkeypatch.setattr(moments, "_COVARIANCE_BYTES", 3 * 8 * 20 * 7)
    for few, all_ in zip(nearest_mean_bounds(x, y), whole, strict=True):
        for name in (*NAMES, "stable_rank"):
            laws.assert_close(getattr(few, name), getattr(all_, name))


def test_stable_rank_of_many_features_and_many_examples_is_never_overestimated(monkeypatch):
    x, y = classes((30, 40), 8)
    exact = nearest_mean_bound(x, y).stable_rank
    monkeypatch.setattr(moments, "_MAX_EIGENVALUES", 7)
    safe = nearest_mean_bound(x, y).stable_rank
    assert 1.0 <= safe < exact


def test_many_features_and_more_examples_form_no_square_matrix(monkeypatch):
    x, y = classes((30, 40, 20), 37)
    data = LabelledFeatures.of(x, y)
    expected = DecisionMoments.of(data).products
    monkeypatch.setattr(moments, "_MAX_EIGENVALUES", 7)
    with laws.Shapes() as shapes:
        laws.assert_close(DecisionMoments.of(data).products, expected)
    assert (37, 7) in shapes.made
    assert not any(shape.count(37) > 1 for shape in shapes.made)


def test_a_class_without_variance_puts_no_constraint_on_the_stable_rank():
    x, y = classes((30, 40), 6)
    constant = torch.full((3, 6), 9.0, dtype=x.dtype)
    with_constant = nearest_mean_bound(
        torch.cat([x, constant]), torch.cat([y, torch.full((3,), 2)])
    )
    laws.assert_close(with_constant.stable_rank, nearest_mean_bound(x, y).stable_rank)


@given(seed=st.integers(0, 99), rank=st.integers(1, 7), scale=st.sampled_from([1e-150, 1.0, 1e9]))
def test_the_largest_eigenvalue_of_several_matrices_is_that_of_one_by_one(seed, rank, scale):
    """Also of equal matrices and of those without full rank, in any order."""
    factors = scale * np.random.default_rng(seed).standard_normal((5, 6, rank)) / rank
    grams = torch.from_numpy(factors @ factors.transpose(0, 2, 1))[[0, 1, 2, 2, 3, 0, 4]]
    largest = 0.0
    for gram in grams:
        largest = largest_eigenvalue(gram, largest)
    expected = float(np.linalg.eigvalsh(grams)[:, -1].max())
    assert largest == pytest.approx(expected, rel=1e-12, abs=0.0)


def test_collapsed_classes_have_bounds_zero():
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    for bound in nearest_mean_bounds(x, torch.tensor([0, 0, 1, 1])):
        assert [getattr(bound, name) for name in NAMES] == [0.0, 0.0, 0.0]
        assert not bound.vacuous


def test_equal_class_means_leave_the_directional_bound_alone_and_vacuous():
    x = torch.tensor([[-1.0], [1.0], [-1.0], [1.0], [99.0], [101.0]], dtype=torch.float64)
    bound = nearest_mean_bound(x, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert math.isnan(bound.general)
    assert math.isnan(bound.published)
    assert bound.best == bound.directional >= 2 / 3
    assert bound.to_dict()["general"] is None


# what the fields mean


def test_without_sampling_the_directional_bound_is_below_the_directional_cdnv():
    x, y = classes((40, 50, 30), 6, spread=2.0)
    found = nearest_mean_bound(x, y, k_shot=math.inf).directional
    v = directional_cdnv(x, y, reduction="none")
    laws.assert_close(found, (4 * v / (1 + 4 * v)).nansum() / 3)
    assert found <= 4 * 2 * float(directional_cdnv(x, y)) <= 4 * 2 * float(cdnv(x, y))


def test_best_is_the_least_guarantee_and_leaves_out_the_empirical_one():
    x, y = classes((40, 50), 6, spread=9.0)
    bound = nearest_mean_bound(x, y, class_gc=[1.0, 1.0])
    assert bound.best == min(bound.general, bound.published, bound.directional) < 1.0
    assert not bound.vacuous
    assert nearest_mean_bound(*classes([40] * 5, 6, spread=0.3)).vacuous


@given(gc=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3))
def test_the_bound_in_gc_is_never_below_the_general_one(gc):
    x, y = classes((40, 50, 30), 6)
    for bound in nearest_mean_bounds(x, y, class_gc=gc):
        assert bound.gc_empirical >= bound.general * (1 - 1e-12)
    estimates = [Estimate(value=value, stderr=0.0, n_samples=10) for value in gc]
    assert nearest_mean_bounds(x, y, class_gc=estimates) == nearest_mean_bounds(
        x, y, class_gc=torch.tensor(gc, dtype=torch.float64)
    )


def test_the_bound_in_gc_is_the_general_one_when_gc_is_proportional_to_the_variance():
    x, y = classes((40, 50, 30), 6)
    variances = LabelledFeatures.of(x, y).statistics.variances()
    bound = nearest_mean_bound(x, y, class_gc=variances / 7)
    laws.assert_close(bound.gc_empirical, bound.general)


def test_json_is_strict_and_complete():
    x, y = classes((4, 5), 3)
    found = nearest_mean_bound(x, y, k_shot=math.inf).to_dict()
    assert list(found) == ["general", "published", "directional", "gc_empirical", "best", "vacuous"]
    assert found["gc_empirical"] is None
    json.dumps(found, allow_nan=False)


def test_several_shots_are_the_single_ones():
    x, y = classes((14, 15, 9), 3)
    assert nearest_mean_bounds(x, y, SHOTS) == [nearest_mean_bound(x, y, k_shot=m) for m in SHOTS]


# laws


@given(
    counts=st.lists(st.integers(1, 12), min_size=2, max_size=4).filter(lambda c: sum(c) > len(c)),
    p=st.integers(1, 6),
    seed=st.integers(0, 99),
    k_shot=st.sampled_from(SHOTS),
    name=st.sampled_from(NAMES),
)
def test_laws(counts, p, seed, k_shot, name):
    x, y = classes(counts, p, seed=seed, law="skewed")

    def bound(features, labels):
        return getattr(nearest_mean_bound(features, labels, k_shot=k_shot), name)

    tol = {"rtol": 1e-8, "atol": 1e-10}
    laws.assert_permutation_invariant(bound, x, y, **tol)
    laws.assert_relabelling_invariant(bound, x, y, **tol)
    laws.assert_translation_invariant(bound, x, y, **tol)
    laws.assert_rotation_invariant(bound, x, y, **tol)
    laws.assert_homogeneous(bound, x, y, 0.0, **tol)


@given(seed=st.integers(0, 99), p=st.integers(1, 6))
def test_stable_rank_is_between_1_and_p_and_more_shots_help(seed, p):
    x, y = classes((30, 20), p, seed=seed)
    found = nearest_mean_bounds(x, y, (1, 2, 5, 50, math.inf))
    assert 1.0 - 1e-12 <= found[0].stable_rank <= p * (1 + 1e-12)
    for less, more in itertools.pairwise(found):
        assert more.general < less.general
        assert more.published <= less.published


# simulations: shots and queries drawn with replacement from the empirical laws


@pytest.mark.parametrize("law", ["gaussian", "skewed"])
@pytest.mark.parametrize(("p", "k_shot"), [(1, 1), (6, 1), (6, 2), (40, 5)])
def test_moments_agree_with_simulation(law, p, k_shot):
    x, y = classes((60, 50), p, seed=3, law=law)
    found = DecisionMoments.of(LabelledFeatures.of(x, y))
    drawn = reference.drawn_statistics(x, y, k_shot, 400_000 if p < 40 else 100_000, seed=1)
    for a, b in ((0, 1), (1, 0)):
        variance = float(found.variance(k_shot)[a, b])
        assert abs(float(found.mean(k_shot)[a, b]) - drawn[a, b].mean()) < 0.01 * math.sqrt(
            variance
        )
        assert variance == pytest.approx(drawn[a, b].var(), rel=0.02)


def test_a_skewed_law_needs_its_third_and_fourth_moments():
    x, y = classes((60, 50), 1, seed=3, law="skewed")
    found = DecisionMoments.of(LabelledFeatures.of(x, y))
    gaussian = DecisionMoments(
        **{**vars(found), "skew": 0 * found.skew, "excess": 0 * found.excess}
    )
    assert abs(float(gaussian.variance(1)[0, 1] / found.variance(1)[0, 1]) - 1.0) > 0.1


@pytest.mark.parametrize("law", ["gaussian", "heavy"])
@pytest.mark.parametrize(("n_classes", "p"), [(2, 2), (5, 2), (5, 64), (12, 16)])
def test_bounds_hold_in_simulation(law, n_classes, p):
    x, y = classes([40] * n_classes, p, spread=2.0, law=law)
    for bound in nearest_mean_bounds(x, y, (1, 5)):
        error = reference.error(reference.drawn_statistics(x, y, bound.k_shot, 2_000, seed=2))
        for name in NAMES:
            assert error <= getattr(bound, name)


def test_the_directional_bound_is_informative_where_the_others_are_vacuous():
    x, y = classes([60] * 3, 64, spread=2.0)
    bound = nearest_mean_bound(x, y, k_shot=5)
    assert bound.directional < 0.2 * min(bound.general, bound.published)
    assert bound.directional < 0.5 < bound.general


def three_points(share, width):
    """Two classes on a line, at 0 and 1: 1 - share at the centre, share / 2 at each of +-width."""
    n = 1000
    outside = round(share * n / 2)
    law = torch.tensor(
        [0.0] * (n - 2 * outside) + [-width] * outside + [width] * outside, dtype=torch.float64
    )
    return torch.cat([law, 1.0 + law])[:, None], torch.arange(2).repeat_interleave(n)


def test_three_point_laws_come_near_the_bounds():
    shares = []
    for share, width in itertools.product((0.02, 0.1), (0.52, 0.7, 1.01)):
        x, y = three_points(share, width)
        for bound in nearest_mean_bounds(x, y, (1, 5, 100)):
            error = reference.error(reference.drawn_statistics(x, y, bound.k_shot, 10_000, seed=4))
            noise = 4 * math.sqrt(error / 20_000)
            assert all(error <= getattr(bound, name) + noise for name in NAMES)
            shares.append(error / bound.general)
    assert max(shares) > 0.4  # a bound 2.5 times smaller would fail


def test_a_two_point_law_attains_the_directional_bound():
    x = torch.tensor([0.0, 0.0, 0.0, 4.0, 8.0, 8.0, 8.0, 4.0])[
        :, None
    ]  # the two at 4 are ties, so errors
    y = torch.arange(2).repeat_interleave(4)
    laws.assert_close(nearest_mean_bound(x, y, k_shot=math.inf).directional, 0.25)
    laws.assert_close(neural_collapse(x, y).nearest_mean_error, 0.25)


def test_noise_along_the_line_violates_the_bound_that_assumes_symmetry():
    p, m = 512, 1000
    line, y = three_points(0.046, 0.52)
    x = torch.cat([line, torch.zeros(len(line), p - 1, dtype=line.dtype)], dim=1)
    bound = nearest_mean_bound(x, y, k_shot=m)
    error = reference.error(reference.drawn_statistics(line, y, m, 10_000, seed=5))
    symmetric = 16 * (1 / m + 1 / p) * float(cdnv(x, y))
    assert bound.stable_rank == pytest.approx(1.0)
    assert symmetric < 0.5 * error
    assert all(error <= getattr(bound, name) for name in NAMES)


# errors


@pytest.mark.parametrize("k_shot", [0, -1, 0.5, 2.5, math.nan])
def test_number_of_shots_is_checked(k_shot):
    with pytest.raises(
        ValueError, match=r"k_shot: expected a whole number of at least 1 or math\.inf, got .*; do"
    ):
        nearest_mean_bound(*classes((4, 5), 3), k_shot=k_shot)


def test_arguments_are_checked():
    x, y = classes((4, 5), 3)
    with pytest.raises(ValueError, match=r"class_gc: expected shape \(2,\)"):
        nearest_mean_bound(x, y, class_gc=[1.0])
    with pytest.raises(ValueError, match="labels: expected at least two classes"):
        nearest_mean_bound(x, 0 * y)
    with pytest.raises(TypeError, match="labels: expected integers"):
        nearest_mean_bound(x, y.double())
    with pytest.raises(ValueError, match="features: expected finite numbers"):
        nearest_mean_bound(x / 0.0, y)


def test_numpy_and_single_precision_are_read_as_float64():
    x, y = classes((30, 25), 4, spread=3.0)
    single = nearest_mean_bound(x.float().numpy(), y.numpy())
    assert single == nearest_mean_bound(x.float().double(), y)


def test_many_classes_keep_the_bounds_that_need_no_moments(monkeypatch):
    x, y = classes((20, 30, 40), 6)
    whole = nearest_mean_bound(x, y)
    monkeypatch.setattr("geocollapse.bounds.nearest_mean.MAX_MOMENT_CLASSES", 2)
    few = nearest_mean_bound(x, y)
    assert few.general == whole.general
    assert math.isnan(few.directional)
    assert few.stable_rank == 1.0
    assert few.published >= whole.published
    assert few.best == min(few.general, few.published)
