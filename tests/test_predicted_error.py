"""The predicted few-shot error: references, simulations, laws, intervals and real embeddings."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import laws
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import bounds as bounds_reference
from reference import predicted_error as reference
from scipy import stats

import geocollapse as geo
from geocollapse import data, models
from geocollapse.bounds.moments import DecisionMoments, Rivals, corrected_triples, triples
from geocollapse.collapse import LabelledFeatures
from geocollapse.measurement.collect import collect_features
from geocollapse.transfer import (
    few_shot_accuracy,
    predicted_error,
    predicted_errors,
    prediction,
    quick_prediction,
)
from geocollapse.transfer.class_sample import ClassSample, class_sets
from geocollapse.transfer.decision_law import positive_probability
from geocollapse.transfer.few_shot import EpisodeSizes, draw_episodes
from geocollapse.transfer.predicted_error import errors_of
from geocollapse.transfer.query_conditional import QueryTerms
from resampled import marks
from test_bounds import classes

FORMS = ("joint_normal", "query_conditional")


def all_rivals(k):
    """Every class against all others."""
    own = torch.arange(k)
    return Rivals(own, torch.tensor([[b for b in range(k) if b != a] for a in range(k)]))


def corrected(x, y):
    """Corrected moments of features, and D^T S D' of every class against all others."""
    sample = LabelledFeatures.of(x, y)
    moments = DecisionMoments.of(sample, stable_rank=False).corrected()
    rivals = all_rivals(len(moments.counts))
    return moments, corrected_triples(triples(sample, rivals), rivals, moments)


# references


@pytest.mark.parametrize("k_shot", [1, 5])
@pytest.mark.parametrize("method", FORMS)
def test_errors_equal_the_loop_reference(method, k_shot):
    x, y = classes((12, 30, 14, 9), 4, law="skewed")
    found = predicted_error(x, y, n_way=4, k_shot=k_shot, method=method)
    expected = getattr(reference, method)(x, y, k_shot)
    assert math.isclose(found.value, expected, abs_tol=1e-5 if method == FORMS[1] else 1e-3)


@pytest.mark.parametrize("k_shot", [1, 5])
def test_the_joint_law_equals_the_loop_reference(k_shot):
    x, y = classes((9, 30, 14), 4, law="skewed")
    moments, along = corrected(x, y)
    means, covariances = moments.joint(all_rivals(3), along, k_shot)
    rows = bounds_reference.by_class(x, y)
    for a in range(3):
        mean, covariance = reference.joint_law(rows, a, k_shot)
        laws.assert_close(means[a], mean)
        laws.assert_close(covariances[a], covariance)


def test_the_corrected_trace_is_a_u_statistic():
    x, y = classes((7, 6), 3, law="skewed")
    found = DecisionMoments.of(LabelledFeatures.of(x, y)).corrected().products.diagonal()
    for value, rows in zip(found, bounds_reference.by_class(x, y), strict=True):
        laws.assert_close(value, reference.unbiased_trace_squared(rows))


def test_leaving_out_a_group_equals_computing_without_it():
    x, y = classes((20, 23), 5, law="skewed")
    parts = [x[y == 0], x[y == 1]]
    kept = [torch.rand(len(part), 3, generator=torch.manual_seed(0)) < 0.8 for part in parts]
    queries = [torch.arange(4)[mask[:4].all(dim=1)] for mask in kept]
    whole = QueryTerms.of(parts, kept, queries)
    for r in range(3):
        few = [part[mask[:, r]] for part, mask in zip(parts, kept, strict=True)]
        rows = [
            (mask[:, r].cumsum(0) - 1)[query] for mask, query in zip(kept, queries, strict=True)
        ]
        alone = QueryTerms.of(few, [torch.ones(len(f), 1, dtype=torch.bool) for f in few], rows)
        for of_all, of_few in zip(whole.law(2).__dict__.values(), alone.law(2).__dict__.values()):
            laws.assert_close(of_all[r], of_few[0])


@pytest.mark.parametrize("k", [1, 2, 4, 19])
def test_positive_probability_equals_scipy(k):
    generator = np.random.default_rng(k)
    root = generator.standard_normal((3, k, k))
    covariance = root @ root.transpose(0, 2, 1) + 1.0
    mean = 3.0 * math.sqrt(k) * generator.random((3, k))
    found = positive_probability(torch.from_numpy(mean), torch.from_numpy(covariance))
    for value, m, c in zip(found, mean, covariance, strict=True):
        law = stats.multivariate_normal(cov=c, maxpts=10**5, abseps=1e-4)
        assert math.isclose(value, law.cdf(m), abs_tol=1e-3)


def test_positive_probability_of_equal_correlations_of_a_half_is_one_in_k_plus_one():
    for k in (1, 4, 19):
        covariance = (torch.eye(k, dtype=torch.float64) + 1.0)[None]
        found = positive_probability(torch.zeros(1, k, dtype=torch.float64), covariance)
        assert math.isclose(float(found), 1 / (k + 1), rel_tol=5e-3)


def test_positive_probability_of_constants_and_of_indefinite_covariances():
    means = torch.tensor([[1.0, 2.0], [1.0, 0.0], [-1.0, 3.0]], dtype=torch.float64)
    assert positive_probability(means, torch.zeros(3, 2, 2).double()).tolist() == [1.0, 0.0, 0.0]
    indefinite = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]], dtype=torch.float64)
    assert 0.5 < float(positive_probability(means[:1], indefinite)) < 1.0


# simulations


@pytest.mark.parametrize("law", ["gaussian", "skewed"])
@pytest.mark.parametrize("k_shot", [1, 3])
def test_moments_of_the_decision_statistic_are_within_one_percent_of_simulation(law, k_shot):
    x, y = classes((40, 60, 50), 6, law=law, spread=0.7)
    sample = LabelledFeatures.of(x, y)
    rivals = all_rivals(3)
    moments = DecisionMoments.of(sample)
    means, covariances = moments.joint(rivals, triples(sample, rivals), k_shot)
    drawn = bounds_reference.drawn_statistics(x, y, k_shot, 600_000, seed=1)
    for a, others in zip(*(part.tolist() for part in rivals), strict=True):
        t = drawn[a, others]
        spread = np.sqrt(np.diag(np.cov(t)))
        noise = 4 / math.sqrt(t.shape[1])
        assert np.abs(means[a].numpy() - t.mean(axis=1)).max() < noise * spread.max()
        scale = np.outer(spread, spread)
        assert (np.abs(covariances[a].numpy() - np.cov(t)) / scale).max() < 0.01


def gaussian_law(k, p, sigma, seed, n_directions=None):
    """Means (k, p) in some directions, and the same variances (k, p) along other axes each.

    (sum v)^2/sum v^2 is about p exp(-sigma^2).
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(k, p, generator=generator, dtype=torch.float64)
    if n_directions is not None:
        means[:, n_directions:] = 0.0
    places = (torch.arange(p, dtype=torch.float64) + 0.5) / p
    variances = (sigma * torch.special.ndtri(places)).exp()
    orders = torch.rand(k, p, generator=generator).argsort(dim=1)
    return means, (variances / variances.mean())[orders]


def population_error(means, variances, k_shot):
    """Joint normal prediction from the moments of the law itself."""
    k = len(means)
    difference = means[:, None] - means
    zeros = torch.zeros(k, k, dtype=torch.float64)
    moments = DecisionMoments(
        distances=difference.square().sum(dim=2),
        traces=variances.sum(dim=1),
        along=torch.einsum("abp,ap->ab", difference.square(), variances),
        products=variances @ variances.T,
        excess=torch.zeros(k, dtype=torch.float64),
        skew=zeros,
        stable_rank=math.nan,
        counts=torch.full((k,), math.inf, dtype=torch.float64),
    )
    rivals = all_rivals(k)
    d = difference[rivals.own[:, None], rivals.others]
    along = torch.einsum("abp,acp,ap->abc", d, d, variances)
    right = positive_probability(*moments.joint(rivals, along, k_shot))
    return 1.0 - float(right.mean())


def with_error_of(target, means, variances, k_shot):
    """Means scaled so that about ``target`` of the queries are classified wrong."""
    low, high = 0.0, 40.0
    for _ in range(16):
        middle = (low + high) / 2
        is_too_hard = population_error(middle * means, variances, k_shot) > target
        low, high = (middle, high) if is_too_hard else (low, middle)
    return high * means


def simulated_error(means, variances, k_shot, n_draws, n_way=None):
    """Error of the nearest-mean classifier on fresh draws, and its standard error."""
    generator = torch.Generator().manual_seed(99)
    k, p = means.shape
    sd = variances.sqrt()
    errors = []
    for size in [250] * (n_draws // 250):
        x = means + sd * torch.randn(size, k, p, generator=generator, dtype=torch.float64)
        noise = torch.randn(size, k, p, generator=generator, dtype=torch.float64)
        centres = means + sd * noise / math.sqrt(k_shot)
        distances = torch.cdist(x, centres)
        own = distances.diagonal(dim1=1, dim2=2)
        if n_way is None:
            errors.append((distances.argmin(dim=2) != torch.arange(k)).double().mean(dim=1))
        else:
            farther = (distances > own[..., None]).double().sum(dim=2)
            right = farther.double()
            total = torch.ones_like(right)
            for i in range(n_way - 1):
                total = total * (right - i).clamp(min=0.0) / (k - 1 - i)
            errors.append(1.0 - total.mean(dim=1))
    values = torch.cat(errors)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("k_shot", [1, 5, 20])
@pytest.mark.parametrize("k", [2, 5, 20])
@pytest.mark.parametrize(("p", "sigma", "tolerance"), [(512, 0.95, 0.005), (64, 0.85, 0.02)])
def test_the_normal_approximation_on_gaussian_classes(p, sigma, tolerance, k, k_shot):
    means, variances = gaussian_law(k, p, sigma, seed=k, n_directions=3)
    dimension = variances.sum(dim=1).square() / variances.square().sum(dim=1)
    assert dimension.min() > (25 if p == 64 else 200)
    means = with_error_of(0.15, means, variances, k_shot)
    error, noise = simulated_error(means, variances, k_shot, 3000 if p == 512 else 10000)
    found = population_error(means, variances, k_shot)
    assert abs(found - error) < tolerance + 3 * noise


@pytest.mark.parametrize(("p", "sigma", "most"), [(512, 0.95, 0.03), (64, 0.85, 0.05)])
def test_many_rivals_at_equal_distances_are_predicted_too_high(p, sigma, most):
    means, variances = gaussian_law(20, p, sigma, seed=20)
    means = with_error_of(0.15, means, variances, 1)
    error, noise = simulated_error(means, variances, 1, 3000)
    assert 3 * noise < population_error(means, variances, 1) - error < most


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("k_shot", [1, 5, 20])
def test_both_forms_from_examples_of_gaussian_classes(k_shot, method):
    means, variances = gaussian_law(4, 64, 0.7, seed=2)
    means = with_error_of(0.15, means, variances, k_shot)
    x, y = drawn(means, variances, 300, seed=0)
    error, noise = simulated_error(means, variances, k_shot, 20000)
    found = predicted_error(x, y, n_way=4, k_shot=k_shot, method=method)
    assert abs(found.value - error) < 0.02 + 3 * math.hypot(noise, found.stderr)


def drawn(means, variances, n, seed):
    """n examples of each Gaussian class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(len(means)).repeat_interleave(n)
    noise = torch.randn(len(y), means.shape[1], generator=generator, dtype=torch.float64)
    return means[y] + variances.sqrt()[y] * noise, y


@pytest.mark.parametrize("n", [20, 50])
@pytest.mark.parametrize("method", FORMS)
def test_few_examples_do_not_bias_the_prediction(method, n):
    means, variances = gaussian_law(5, 64, 0.5, seed=3)
    means = with_error_of(0.16, means, variances, 1)
    expected = population_error(means, variances, 1)
    found = []
    plug_in = []
    for seed in range(20):
        x, y = drawn(means, variances, n, seed)
        found.append(predicted_error(x, y, k_shot=1, method=method).value)
        sample = LabelledFeatures.of(x, y)
        rivals = all_rivals(5)
        law = DecisionMoments.of(sample).joint(rivals, triples(sample, rivals), 1)
        plug_in.append(1.0 - float(positive_probability(*law).mean()))
    noise = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 0.01 + 3 * noise
    if n == 20:
        assert np.mean(plug_in) - expected > 0.015 + 3 * noise


# the interval


@pytest.mark.parametrize(("n_classes", "n_way", "n", "k_shot"), [(5, 5, 50, 5), (7, 3, 30, 2)])
def test_the_interval_covers_the_true_error(n_classes, n_way, n, k_shot):
    """In 94 to 98 % of samples; half and twice the standard error are found out."""
    means, variances = gaussian_law(n_classes, 128, 0.2, seed=4)
    means = with_error_of(0.2, means, variances, k_shot)
    truth, _ = simulated_error(means, variances, k_shot, 20000, n_way)
    repeats = 400
    hits = {0.5: 0, 1.0: 0, 2.0: 0}
    for seed in range(repeats):
        x, y = drawn(means, variances, n, seed)
        found = predicted_error(x, y, n_way=n_way, k_shot=k_shot, seed=seed)
        for factor in hits:
            low, high = replace(found, stderr=factor * found.stderr).interval()
            hits[factor] += low <= truth <= high
    half, whole, twice = (count / repeats for count in hits.values())
    low, high = marks(0.94, 0.98, repeats)
    assert low <= whole <= high
    assert half < low
    assert twice > high


def test_values_belong_to_the_classes_of_the_episodes():
    x, y = classes((40, 30, 35, 50, 45, 38), 12, spread=0.6)
    found = predicted_error(x, y, n_way=3, n_episodes=30, seed=5)
    assert found.n_samples == len(found.values) == 30
    laws.assert_close(found.values.mean(), found.value)
    episodes = draw_episodes(y, EpisodeSizes(3, 5, 15, 30), 5).ways
    for ways, value in zip(episodes[:6], found.values, strict=False):
        rows = torch.isin(y, ways)
        alone = predicted_error(x[rows], y[rows], n_way=3, seed=5)
        assert math.isclose(alone.value, value, abs_tol=1e-6)
    ways, episode = class_sets(y, 3, 30, 5)
    assert torch.equal(ways[episode], episodes.sort(dim=1).values)


def test_several_shots_are_the_single_ones():
    x, y = classes((40, 30, 35), 12)
    shots = (1, 5, 60)
    found = predicted_errors(x, y, n_way=3, k_shots=shots)
    assert found == [predicted_error(x, y, n_way=3, k_shot=m) for m in shots]
    assert [e.estimator for e in found] == [FORMS[1], FORMS[1], FORMS[0]]
    for more, less in itertools.pairwise(found):
        assert more.value > less.value


# laws


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(10, 25), min_size=2, max_size=4),
    p=st.integers(2, 6),
    seed=st.integers(0, 99),
    method=st.sampled_from(FORMS),
)
def test_laws(counts, p, seed, method):
    x, y = classes(counts, p, seed=seed, law="skewed")

    def error(features, labels):
        sizes = EpisodeSizes(len(counts), 2, 1, 2)
        sample = ClassSample.of(features, labels, sizes, seed=0).whole()
        return errors_of(sample, [2], method)[0].value

    tol = {"rtol": 1e-5, "atol": 1e-6}
    laws.assert_permutation_invariant(error, x, y, **tol)
    laws.assert_translation_invariant(error, x, y, **tol)
    laws.assert_rotation_invariant(error, x, y, **tol)
    laws.assert_homogeneous(error, x, y, 0.0, **tol)


@pytest.mark.parametrize("method", FORMS)
def test_collapsed_classes_have_error_zero_and_equal_classes_error_one(method):
    y = torch.arange(60) % 3
    x = 0.1 + torch.randn(3, 7, generator=torch.manual_seed(0))
    assert predicted_error(x[y], y, n_way=3, method=method).value == 0.0
    same = x[:1].expand(60, 7)
    assert predicted_error(same, y, n_way=3, method=method).value == 1.0


def test_random_state_and_inputs_are_left_alone():
    x, y = classes((20, 20), 4)
    before = torch.random.get_rng_state(), x.clone()
    first = predicted_error(x, y, n_way=2)
    assert first == predicted_error(x, y, n_way=2)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.equal(x, before[1])


# what a reader must know


def test_warnings_name_few_shots_few_dimensions_and_few_examples():
    x, y = classes((20, 20), 4)
    notes = " ".join(predicted_error(x, y, n_way=2, k_shot=1).warnings)
    assert "approximate below 5 shots" in notes
    assert "is below 25" in notes
    wide = torch.randn(400, 300, generator=torch.manual_seed(0)), torch.arange(400) % 2
    assert predicted_error(*wide, n_way=2).warnings == ()
    few = predicted_error(*classes((4, 9), 4), n_way=2)
    assert math.isnan(few.stderr)
    assert any("no standard error" in note for note in few.warnings)


def message(**changes):
    x, y = classes((20, 8, 30), 4)
    settings = {"n_way": 3, "k_shot": 2, **changes}
    with pytest.raises((ValueError, TypeError)) as caught:
        predicted_error(settings.pop("features", x), settings.pop("labels", y), **settings)
    return str(caught.value)


def test_bad_input_is_named():
    x, y = classes((20, 3, 30), 4)
    few = message(features=x, labels=y)
    assert few.startswith("labels: expected at least 4 examples of each class, got 3 of class 1")
    assert message(n_way=4).startswith("n_way: expected at most 3 classes, got 4")
    assert message(n_way=1).startswith("n_way: expected a whole number of at least 2")
    assert message(k_shot=0).startswith("k_shot: expected a whole number of at least 1")
    assert message(method="exact").startswith("method: expected auto, joint_normal or")
    needs_more = message(k_shot=7, method="query_conditional")
    assert needs_more.startswith("k_shot: expected at most 5 for method='query_conditional'")
    assert message(features=x.long()).startswith("features: expected floating point")
    assert message(labels=torch.zeros(58).long()).startswith("labels: expected at least two")
    assert message(labels=y[:-1]).startswith("labels: expected shape (58,)")
    x[3, 1] = math.nan
    assert message(features=x, labels=y).startswith("features: expected finite numbers")


def test_measure_gives_a_reason_where_a_class_has_too_few_examples():
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    inputs = torch.randn(43, 6, generator=torch.manual_seed(0))
    m = geo.measure(model, (inputs, torch.tensor([0, 1] * 20 + [2] * 3)))
    assert m.predicted_error == {"1": None, "5": None}
    notes = m.to_dict()["warnings"]
    assert any(note.startswith("predicted_error: undefined, class 2") for note in notes)


def test_the_interval_of_measure_covers_the_true_error_from_a_part_of_the_queries():
    means, variances = gaussian_law(12, 128, 0.2, seed=4)
    means = with_error_of(0.2, means, variances, 5)
    truth, _ = simulated_error(means, variances, 5, 20000, 5)
    covered, values, errors = [], [], []
    for seed in range(50):
        found = quick_prediction(*drawn(means, variances, 80, seed), (5,), seed, with_errors=True)
        low, high = found.errors[0].interval()
        covered.append(low <= truth <= high)
        values.append(found.errors[0].value)
        errors.append(found.errors[0].stderr)
    assert np.mean(covered) >= 0.86  # 95 % and three standard deviations
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)


def test_measure_leaves_out_an_interval_that_would_take_minutes(monkeypatch):
    x, y = classes((6, 6, 6), 8)  # too few examples for the form that is given the queries
    whole = quick_prediction(x, y, (5,), 0)
    found = quick_prediction(x, y, (5,), 0, with_errors=True)
    assert found.errors[0].stderr > 0.0
    assert found.values == whole.values
    monkeypatch.setattr(prediction, "_REPEATED_PRODUCTS", 0.0)
    left_out = quick_prediction(x, y, (5,), 0, with_errors=True)
    assert left_out.values == whole.values
    assert left_out.intervals["5"]["ci95"] == (None, None)
    assert left_out.warnings[-1].startswith("predicted_error: no interval, too many features")


# real embeddings


@pytest.mark.data
def test_public_resnet_on_unseen_classes(data_root, checkpoints):
    """Five of the 20 CIFAR-FS test classes, which no training of this network saw."""
    network = models.load(
        "examples/cifar_resnet.py:resnet20", weights=checkpoints / "resnet20-12fca82f.th"
    ).model
    scale = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    images = data.load("cifar-fs:test", data_root=data_root, subset=3000, **scale)
    found = collect_features(network, images)
    x, y = found.features, found.labels
    for k_shot, tolerance in ((1, 0.06), (5, 0.02), (20, 0.02)):
        measured = 1.0 - few_shot_accuracy(x, y, k_shot=k_shot, n_episodes=2000).value
        predicted = predicted_error(x, y, k_shot=k_shot)
        assert predicted.estimator == "query_conditional"
        assert abs(predicted.value - measured) < tolerance
        assert predicted.stderr < 0.015
