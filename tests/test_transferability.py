"""Scores of transferability: known values, references, laws, undefined samples, and score_all."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import laws
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import transferability as reference
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_iris

import geocollapse as geo
from geocollapse.measures import MEASURES, SCORES, Measure
from geocollapse.ranking import COMPUTED, score_all
from geocollapse.transfer import NctiParts, ncti_of_models, ncti_parts
from geocollapse.transfer.h_score import WhitenedFeatures, collapse_index
from geocollapse.transfer.knn import nearest_neighbours
from geocollapse.transfer.label_free_errors import LeadingDirections
from geocollapse.transfer.leep import Mixture
from geocollapse.transfer.logme import LinearEvidence
from geocollapse.transfer.sample import Sample, class_standard_error, influences
from repeated_scores import errors_of_scores, gaussian
from resampled import marks

PAGE = Path(__file__).parents[1] / "docs" / "scores.md"
START = "<!-- list of scores, written by: python tests/test_transferability.py -->\n"
END = "<!-- end of the list of scores -->\n"


def plain_h_score(features, labels):
    return geo.h_score(features, labels, shrinkage=False)


def leep_of_features(features, labels):
    """LEEP with a head that is the features themselves."""
    return geo.leep(torch.as_tensor(features).double().softmax(dim=1), labels)


FUNCTIONS = {
    "logme": geo.logme,
    "h_score": geo.h_score,
    "h_score_plain": plain_h_score,
    "vci": geo.vci,
    "transrate": geo.transrate,
    "parc": geo.parc,
    "nleep": geo.nleep,
    "ncti": geo.ncti,
    "loo_knn_accuracy": geo.loo_knn_accuracy,
}
ALL = {**FUNCTIONS, "leep": leep_of_features}
EXACT = {
    "logme": (reference.logme, 1e-8),
    "h_score": (reference.shrunk_h_score, 1e-10),
    "h_score_plain": (reference.h_score, 1e-10),
    "vci": (reference.vci, 1e-10),
    "transrate": (reference.transrate, 1e-10),
    "parc": (reference.parc, 1e-10),
    "loo_knn_accuracy": (lambda x, y: reference.loo_knn_accuracy(x, y, 5), 0.0),
}


def classes(n=60, p=6, c=3, seed=0, gap=1.0, balanced=True):
    """Gaussian classes around Gaussian means."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % c
    if not balanced:
        labels = (torch.arange(n) ** 2 // n) * c // n
    means = gap * torch.randn(c, p, generator=generator, dtype=torch.float64)
    scales = torch.linspace(0.5, 2.0, p, dtype=torch.float64)
    return 1.0 + means[labels] + torch.randn(n, p, generator=generator).double() * scales, labels


def iris():
    return load_iris(return_X_y=True)


# known values


def test_logme_of_iris():
    """The published code stops early and adds 1e-5, which moves the 7th digit."""
    assert geo.logme(*iris()) == pytest.approx(-0.16006022033609904, rel=1e-6)
    assert geo.logme(*iris()) == pytest.approx(-0.16006024341738, rel=1e-10)


def test_h_score_of_iris():
    """The published number is the shrinkage form, of the data in float32."""
    x, y = iris()
    assert geo.h_score(x.astype(np.float32), y) == pytest.approx(1.177842480406727, rel=1e-9)
    assert geo.h_score(x, y) == pytest.approx(1.177842480406727, rel=1e-7)
    assert geo.h_score(x, y, shrinkage=False) == pytest.approx(1.19189882504, rel=1e-10)


@pytest.mark.parametrize(("k", "accuracy"), [(1, 0.96), (3, 0.96), (5, 0.96667), (13, 0.96667)])
def test_leave_one_out_neighbours_of_iris(k, accuracy):
    assert geo.loo_knn_accuracy(*iris(), k=k) == pytest.approx(accuracy, abs=1e-5)


def test_logme_is_the_evidence_at_its_best_precisions():
    x, y = classes(n=30, p=4)
    log_alphas = np.linspace(-5, 5, 41)
    best = [
        max(
            reference.log_evidence((y == c).double().numpy(), x.numpy(), np.exp(a), np.exp(b))
            for a in log_alphas
            for b in log_alphas
        )
        for c in range(3)
    ]
    grid = np.mean(best) / 30
    assert grid <= geo.logme(x, y) <= grid + 1e-2


def test_features_without_information_have_the_evidence_of_the_class_shares():
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)).double() * 1e-3
    y = torch.arange(2000) % 2
    x = x - torch.stack([x[y == c].mean(dim=0) for c in range(2)])[y]  # uncorrelated with them
    expected = 0.5 * (math.log(2.0) - 1.0 - math.log(2.0 * math.pi))
    assert geo.logme(x, y) == pytest.approx(expected, abs=1e-9)


def test_collapsed_and_equal_classes():
    y = torch.arange(40) % 4
    noise = 1e-4 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double()
    x = torch.eye(6).double()[y] + noise
    assert plain_h_score(x, y) == pytest.approx(3.0, abs=1e-4)
    assert geo.vci(x, y) == pytest.approx(0.0, abs=1e-4)
    assert geo.loo_knn_accuracy(x, y) == 1.0
    share = 4 * 45 / 780
    assert geo.parc(x, y) == pytest.approx(math.sqrt(3 * share * (1 - share)), rel=1e-3)
    equal = noise - torch.stack([noise[y == c].mean(dim=0) for c in range(4)])[y]
    assert plain_h_score(equal, y) == pytest.approx(0.0, abs=1e-10)


def test_vci_is_the_h_score_on_balanced_classes():
    x, y = classes()
    assert geo.vci(x, y) == pytest.approx(1.0 - plain_h_score(x, y) / 2.0, rel=1e-10)


def test_leep_of_a_head_that_knows_the_classes_and_of_one_that_knows_nothing():
    y = torch.tensor([0, 0, 0, 1])
    assert geo.leep(torch.eye(2)[y], y) == 0.0
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert geo.leep(torch.full((4, 5), 0.2), y) == pytest.approx(-entropy, rel=1e-6)


def test_ncti_of_models_is_the_published_total():
    parts = [NctiParts(3.0, 0.5, 2.0), NctiParts(5.0, 0.7, 1.0), NctiParts(4.0, 0.9, 3.0)]
    assert ncti_of_models(parts) == pytest.approx([0.0 - 0.5, 1.0 + 0.5 - 0.0, 0.5 + 1.0 - 1.0])
    with pytest.raises(ValueError, match=r"parts: expected at least two models, got 1; do ncti"):
        ncti_of_models(parts[:1])


# references


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("name", EXACT)
def test_the_values_equal_the_references(name, balanced):
    x, y = classes(balanced=balanced, gap=0.7)
    expected, tolerance = EXACT[name]
    laws.assert_close(ALL[name](x, y), expected(x, y), rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("name", ["logme", "h_score", "transrate", "parc", "loo_knn_accuracy"])
def test_more_features_than_examples(name):
    x, y = classes(n=24, p=60)
    expected, tolerance = EXACT[name]
    laws.assert_close(ALL[name](x, y), expected(x, y), rtol=max(tolerance, 1e-9), atol=1e-12)


def test_leep_equals_the_reference():
    x, y = classes()
    theta = x.softmax(dim=1)
    theta[:, 2] = 0.0  # a source class without probability
    theta /= theta.sum(dim=1, keepdim=True)
    laws.assert_close(geo.leep(theta, y), reference.leep(theta, y))


@pytest.mark.parametrize("p", [6, 90])
def test_parts_of_ncti_equal_scikit_learn(p):
    x, y = classes(n=120, p=p)
    laws.assert_close(ncti_parts(x, y), reference.ncti_parts(x, y, 64), rtol=1e-8)


def test_ncti_of_one_model_is_made_of_its_parts():
    x, y = classes(balanced=False)
    parts = ncti_parts(x, y)
    counts = torch.bincount(y).double()
    expected = (
        math.log(parts.seli / (math.sqrt(60.0) * 2))
        + parts.nearest_centre
        - parts.variability
        + math.log(float(counts.sqrt().sum()))
    )
    assert geo.ncti(x, y) == pytest.approx(expected, rel=1e-12)


def test_nleep_is_leep_of_the_mixture():
    x, y = classes()
    theta = Mixture.of(Sample.of(x, y), 4, seed=3).posteriors
    assert theta.shape == (60, 4)
    assert geo.nleep(x, y, n_components=4, seed=3) == geo.leep(theta, y)


@pytest.mark.parametrize("name", ["parc", "loo_knn_accuracy"])
def test_many_blocks_are_one(name, monkeypatch):
    x, y = classes(n=50)
    whole = ALL[name](x, y)
    for module in ("knn", "parc"):
        monkeypatch.setattr(sys.modules[f"geocollapse.transfer.{module}"], "_BLOCK", 7)
    assert ALL[name](x, y) == pytest.approx(whole, rel=1e-12)


def test_ties_of_neighbours_follow_the_stated_rule():
    """On a grid of integers most distances are equal; ties of votes go to the nearest voter."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 4, (80, 3), generator=generator).double()
    y = torch.randint(0, 3, (80,), generator=generator)
    for k in (1, 2, 4, 7):
        assert geo.loo_knn_accuracy(x, y, k=k) == reference.loo_knn_accuracy(x, y, k)


@pytest.mark.parametrize("kind", ["gaussian", "integers", "copies", "outlier"])
def test_a_shortlist_in_float32_changes_no_neighbour(kind, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=generator).double()
    if kind == "integers":
        x = x.round()
    elif kind == "copies":  # more of each than the shortlist is long, and some 1e-9 apart
        x = x[:10].repeat(30, 1) + 1e-9 * torch.randn(300, 5, generator=generator)
    elif kind == "outlier":
        x[7] *= 1e6
    sample = Sample.of(x, torch.arange(300) % 2)
    exact = nearest_neighbours(sample, 4)
    monkeypatch.setattr(sys.modules["geocollapse.transfer.knn"], "_MANY", 10)
    assert torch.equal(nearest_neighbours(sample, 4), exact)


def test_parc_counts_ties_with_mean_ranks():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (20, 4), generator=generator).double() + torch.eye(4).double()[0]
    x = x[x.std(dim=1) > 0]
    y = torch.arange(len(x)) % 2
    laws.assert_close(geo.parc(x, y), reference.parc(x, y))


def test_parc_from_groups_agrees_with_all_pairs():
    x, y = classes(n=3000, p=16, c=10, gap=0.5)
    exact = geo.parc(x, y)
    estimate = geo.parc_sampled(x, y, group_size=200, seed=1)
    assert estimate.n_samples == 15
    low, high = estimate.interval(0.999)
    assert low < exact < high
    assert estimate.stderr < 0.05 * exact


def test_parc_from_groups_covers_its_value():
    values = []
    for seed in range(100):
        x, y = classes(n=240, p=8, c=2, gap=0.0, seed=seed)
        low, high = geo.parc_sampled(x, y, group_size=40).interval()
        values.append(low <= 0.0 <= high)  # without classes PARC is 0
    assert sum(values) >= 88


# laws

SAMPLES = st.builds(
    classes,
    n=st.integers(24, 40),
    p=st.integers(2, 6),
    c=st.integers(2, 3),
    seed=st.integers(0, 10**6),
    gap=st.sampled_from([0.0, 1.0]),
    balanced=st.booleans(),
)
LOOSE = {"nleep": {"rtol": 1e-6}, "logme": {"rtol": 1e-8}}
ROTATED = sorted(name for name in FUNCTIONS if "rotation" in SCORES[name].invariant_to)
TRANSLATED = sorted(name for name in FUNCTIONS if "translation" in SCORES[name].invariant_to)


def tolerance(name):
    return {"rtol": 1e-9, "atol": 1e-10} | LOOSE.get(name, {})


@pytest.mark.parametrize("name", sorted(set(ALL) - {"nleep"}))
@given(data=SAMPLES)
def test_invariant_under_permutation_and_relabelling(name, data):
    laws.assert_permutation_invariant(ALL[name], *data, **tolerance(name))
    laws.assert_relabelling_invariant(ALL[name], *data, **tolerance(name))


@given(data=SAMPLES)
def test_nleep_does_not_see_the_names_of_classes(data):
    laws.assert_relabelling_invariant(geo.nleep, *data, **tolerance("nleep"))


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"nleep"}))
@given(data=SAMPLES)
def test_invariant_under_scaling(name, data):
    laws.assert_homogeneous(ALL[name], *data, degree=0.0, **tolerance(name))


@pytest.mark.parametrize("name", sorted(set(ROTATED) - {"nleep"}))
@given(data=SAMPLES)
def test_invariant_under_rotation(name, data):
    laws.assert_rotation_invariant(ALL[name], *data, **tolerance(name))


@pytest.mark.parametrize("name", sorted(set(TRANSLATED) - {"nleep"}))
@given(data=SAMPLES)
def test_invariant_under_translation(name, data):
    laws.assert_translation_invariant(ALL[name], *data, **tolerance(name))


@pytest.mark.parametrize("law", ["translation", "rotation", "homogeneous"])
def test_nleep_changes_by_no_more_than_rounding(law):
    x, y = classes(n=200, gap=3.0)
    check = getattr(laws, f"assert_{law}" + ("" if law == "homogeneous" else "_invariant"))
    check(geo.nleep, x, y, **({"degree": 0.0} if law == "homogeneous" else {}), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_what_is_not_invariant_changes(name):
    x, y = classes()
    invariant = SCORES[name].invariant_to
    for change, changed in (
        ("rotation", x @ laws.random_rotation(6, 1)),
        ("translation", x + torch.linspace(-3.0, 5.0, 6)),
    ):
        if change not in invariant:
            assert abs(ALL[name](changed, y) - ALL[name](x, y)) > 1e-3


@given(data=SAMPLES)
def test_ranges(data):
    x, y = data
    n_classes = len(y.unique())
    assert 0.0 <= plain_h_score(x, y) <= n_classes - 1
    assert 0.0 <= geo.vci(x, y) <= 1.0 + 1e-12
    assert geo.transrate(x, y) >= -1e-9
    assert -1.0 <= geo.parc(x, y) <= 1.0
    assert geo.nleep(x, y) <= 0.0
    shares = torch.bincount(y).double() / len(y)
    assert -float((-shares * shares.log()).sum()) - 1e-9 <= leep_of_features(x, y) <= 0.0
    floor = 0.5 * (float((-shares.log()).mean()) - 1.0 - math.log(2.0 * math.pi))
    assert geo.logme(x, y) >= floor - 1e-9


# samples that break peers


@pytest.mark.parametrize("name", ALL)
def test_gaps_in_the_labels_change_nothing(name):
    x, y = classes()
    gaps = torch.tensor([3, 17, 40])[y]
    laws.assert_close(ALL[name](x, gaps), ALL[name](x, y), rtol=1e-12)


def test_a_5_way_5_shot_support_set():
    """25 examples of 64 features have rank 24: the plain scores do not see the labels."""
    x, y = classes(n=25, p=64, c=5)
    scores = score_all(x, y, head_outputs=x, names=[*FUNCTIONS, "leep"])
    invalid = {name for name, score in scores.items() if not score.valid}
    assert invalid == {"h_score_plain", "vci"}
    for name in invalid:
        assert math.isnan(scores[name].value)
        assert "expected a rank below the examples less one, got rank 24" in scores[name].reason
    assert all(math.isfinite(score.value) for score in scores.values() if score.valid)
    with pytest.raises(ValueError, match=r"rank 24 of 25 examples, where the score does not"):
        plain_h_score(x, y)


def test_shuffled_labels_take_the_scores_to_their_null():
    x, y = classes(n=200, p=8, c=4, gap=2.0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(7))
    true = score_all(x, y, head_outputs=x, names=ALL)
    shuffled = score_all(x, y[order], head_outputs=x, names=ALL, n_nulls=40)
    for name, score in true.items():
        by_chance = shuffled[name]
        assert SCORES[name].oriented(score.value - score.null.mean) > 8 * score.null.sd, name
        assert abs(by_chance.value - by_chance.null.mean) < 4 * by_chance.null.sd, name


@pytest.mark.parametrize("name", ALL)
def test_nan_features_are_refused(name):
    x, y = classes()
    x[3, 1] = math.nan
    with pytest.raises(ValueError, match=r"features: expected finite numbers, got NaN"):
        FUNCTIONS.get(name, geo.leep)(x, y)
    with pytest.raises(ValueError, match=r"features: expected finite numbers, got NaN"):
        score_all(x, y)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_constant_features(name):
    x = torch.full((20, 3), 0.1)
    y = torch.arange(20) % 2
    with pytest.raises(ValueError, match=r"features: expected"):
        FUNCTIONS[name](x, y)
    score = score_all(x, y, names=[name])[name]
    assert not score.valid
    assert score.reason.startswith("features: expected")
    assert score.to_dict()["value"] is None


def test_constant_features_leave_the_other_scores_alone():
    scores = score_all(torch.ones(20, 3), torch.arange(20) % 2, head_outputs=torch.ones(20, 4))
    assert [name for name, score in scores.items() if score.valid] == ["leep", "label_free.rankme"]


def test_a_constant_feature_beside_others_is_no_direction():
    x, y = classes()
    wide = torch.cat([x, torch.full((60, 2), 3.0)], dim=1)
    for name in ("h_score_plain", "vci", "ncti", "loo_knn_accuracy"):
        laws.assert_close(ALL[name](wide, y), ALL[name](x, y), rtol=1e-9)


def test_repeated_features_are_no_directions():
    x, y = classes()
    assert plain_h_score(torch.cat([x, x], dim=1), y) == pytest.approx(plain_h_score(x, y))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_repeated_examples(name):
    x, y = classes()
    value = FUNCTIONS[name](torch.cat([x, x]), torch.cat([y, y]))
    assert math.isfinite(value)
    if name in ("h_score_plain", "vci", "transrate"):
        laws.assert_close(value, FUNCTIONS[name](x, y), rtol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_two_classes(name):
    x, y = classes(c=2, gap=2.0)
    assert math.isfinite(FUNCTIONS[name](x, y))
    with pytest.raises(
        ValueError, match=r"labels: expected at least two classes, got label 4 only"
    ):
        FUNCTIONS[name](x, torch.full_like(y, 4))


def test_a_thousand_classes():
    x, y = classes(n=2000, p=8, c=1000, gap=3.0)
    scores = score_all(x, y, head_outputs=x, n_nulls=2)
    invalid = {name for name, score in scores.items() if not score.valid}
    assert invalid == {"label_free.alpha_req"}  # of 8 eigenvalues
    assert geo.parc(x, y) > 0.02


def test_a_class_of_one_example_has_values_without_errors():
    x, y = classes()
    y[0] = 9
    score = score_all(x, y, names=["logme"])["logme"]
    assert score.valid
    assert math.isnan(score.estimate.stderr)
    assert score.to_dict()["ci95"] == (None, None)


def test_collapsed_examples_have_evidence_without_bound():
    x = torch.eye(5).double()[torch.arange(40) % 3]
    with pytest.raises(ValueError, match=r"got 3 that are, so the evidence has no bound"):
        geo.logme(x, torch.arange(40) % 3)


def test_names_of_classes_are_labels():
    x, y = iris()
    names = np.array(["setosa", "versicolor", "virginica"])
    assert geo.logme(x, names[y]) == geo.logme(x, y)
    with pytest.raises(TypeError, match="names alone, .* got 'setosa' beside 0"):
        geo.logme(x, ["setosa", *y[1:].tolist()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_never_modified(dtype):
    x, y = classes(n=80, p=90)
    x = x.to(dtype)
    head = x[:, :7].clone()
    before = [tensor.clone() for tensor in (x, y, head)]
    for function in ALL.values():
        try:
            function(x, y)
        except ValueError:
            assert function in (plain_h_score, geo.vci)
    score_all(x, y, head_outputs=head)
    for tensor, copy in zip((x, y, head), before, strict=True):
        assert torch.equal(tensor, copy)


def test_numpy_and_tensors_with_gradient_are_features_too():
    x, y = classes()
    assert geo.logme(x.numpy(), y.numpy()) == geo.logme(x.clone().requires_grad_(), y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: geo.loo_knn_accuracy(x, y, k=60), r"k: expected 1 to 59 \(n - 1\)"),
        (lambda x, y: geo.loo_knn_accuracy(x, y, k=0), r"k: expected 1 to 59 .* got 0; do k=1"),
        (lambda x, y: geo.transrate(x, y, epsilon=0.0), "epsilon: expected a positive number"),
        (lambda x, y: geo.nleep(x, y, n_components=1), "n_components: expected 2 to 60"),
        (lambda x, y: geo.leep(x, y), "probabilities: expected rows of numbers from 0 that sum"),
        (lambda x, y: geo.parc_sampled(x, y), r"3 groups of 500, got 60; do parc\(features"),
        (lambda x, y: geo.parc(x[:2], torch.tensor([0, 1])), "labels: expected pairs within a"),
        (lambda x, y: geo.parc(x[:, :1], y), "features: expected entries that differ within each"),
        (lambda x, y: geo.ncti(x[:3], y[:3]), "features: expected at least two examples more"),
        (
            lambda x, y: score_all(x, y, names=["nope"]),
            "names: expected some of cdnv, .* got 'nope",
        ),
        (lambda x, y: score_all(x, y, names=["leep"]), "do pass head_outputs"),
        (lambda x, y: score_all(x, y, n_nulls=-1), "n_nulls: expected a number from 0, got -1"),
        (
            lambda x, y: score_all(x, y, head_outputs=x[:5]),
            r"head_outputs: expected shape \(60, k\), one row an example, got \(5, 6\)",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(*classes())


def test_equal_class_means_have_no_vci():
    with pytest.raises(ValueError, match=r"features: expected class means that differ"):
        geo.vci(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.tensor([0, 0, 1, 1]))


# errors


# mean standard error over the standard deviation of 100 samples, of 16 and of 120 features
ERROR_RATIOS = {
    "cdnv": (1.05, 1.02),
    "directional_cdnv": (1.05, 1.17),
    "logme": (0.99, 1.29),
    "h_score": (1.01, 1.16),
    "h_score_plain": (1.03, 1.42),
    "vci": (1.03, 1.42),
    "transrate": (1.24, 0.84),
    "parc": (1.08, 1.18),
    "nleep": (1.39, 1.04),
    "ncti": (1.05, 1.24),
    "loo_knn_accuracy": (1.59, 1.62),
    "leep": (0.93, 1.02),
    "label_free.rankme": (0.94, 0.99),
    "label_free.alpha_req": (math.nan, 1.49),
}


@pytest.mark.parametrize(("p", "column"), [(16, 0), (120, 1)])
def test_intervals_contain_the_mean_of_repeated_samples(p, column):
    """In at least 95 % of them, less two binomial errors; a third of the error is found out."""
    repeats = 100
    found = errors_of_scores(gaussian(300, p, 5), repeats)
    expected = {name: ratios[column] for name, ratios in ERROR_RATIOS.items()}
    assert set(found) == {name for name, ratio in expected.items() if not math.isnan(ratio)}
    assert set(expected) == set(COMPUTED)
    least, _ = marks(0.95, 0.95, repeats)
    for name, errors in found.items():
        assert errors.ratio == pytest.approx(expected[name], rel=0.1), name
        assert errors.coverage >= least, name
        assert errors.coverage_of_a_third < least, name


def test_alpha_req_without_some_examples_is_that_of_the_others():
    x, y = gaussian(300, 120, 5)(0)
    rows = torch.arange(300)[torch.arange(300) % 10 != 3]
    directions = LeadingDirections.of(Sample.of(x, y))
    assert directions.alpha_req(rows) == pytest.approx(geo.alpha_req(x[rows]), rel=1e-5)
    x, y = gaussian(400, 300, 5)(0)  # 200 directions hold all but little of the last ones fitted
    directions = LeadingDirections.of(Sample.of(x, y))
    assert directions.alpha_req(rows) == pytest.approx(geo.alpha_req(x[rows]), rel=0.05)


def test_alpha_req_has_no_error_where_a_group_leaves_too_few_directions():
    x, y = gaussian(105, 120, 5)(0)
    score = score_all(x, y, names=["label_free.alpha_req"])["label_free.alpha_req"]
    assert score.valid
    assert math.isnan(score.estimate.stderr)


def test_the_error_of_nleep_knows_that_another_start_gives_another_value():
    x, y = gaussian(300, 120, 5)(0)
    starts = [geo.nleep(x, y, seed=seed) for seed in range(3)]
    score = score_all(x, y, names=["nleep"], n_nulls=0)["nleep"]
    assert score.value == pytest.approx(starts[0], rel=1e-9)
    assert score.estimate.stderr > np.std(starts, ddof=1)


def test_leaving_out_an_example_changes_logme_by_its_influence():
    x, y = classes(n=40)
    sample = Sample.of(x, y)
    found = 40 * LinearEvidence.of(sample).influences(sample) + geo.logme(x, y)
    exact = []
    for i in range(40):
        keep = torch.arange(40) != i
        exact.append(40 * geo.logme(x, y) - 39 * geo.logme(x[keep], y[keep]))
    laws.assert_close(found, exact, rtol=0.0, atol=0.1)
    assert np.corrcoef(found, exact)[0, 1] > 0.99


def test_influences_on_the_h_score_have_a_closed_form():
    x, y = classes(balanced=False)
    sample = Sample.of(x, y)
    whitened = WhitenedFeatures.of(sample, shrinkage=False)

    def value(weights):
        counts = sample.class_sums(weights)
        z = sample.features - weights @ sample.features / weights.sum()
        means = sample.class_sums(weights[:, None] * z) / counts[:, None]
        total = z.T @ (weights[:, None] * z)
        return torch.linalg.solve(total, means.T @ (counts[:, None] * means)).trace()

    slopes = influences(value, sample)
    laws.assert_close(whitened.influences(sample) * (1.0 - sample.leverages), slopes, rtol=1e-9)


@pytest.mark.parametrize("balanced", [True, False])
def test_vci_of_balanced_classes_takes_the_short_way(balanced):
    x, y = classes(balanced=balanced)
    score = score_all(x, y, names=["vci"])["vci"]
    assert score.value == pytest.approx(geo.vci(x, y), rel=1e-12)
    slow = influences(lambda w: collapse_index(Sample.of(x, y), w), Sample.of(x, y))
    spare = 1.0 - Sample.of(x, y).leverages
    expected = class_standard_error(slow / spare, Sample.of(x, y))
    # as weights move, so do the shares of the classes, which VCI does not see
    assert score.estimate.stderr == pytest.approx(expected, rel=1e-2 if balanced else 1e-9)


# the registry and the results


def test_scores_are_no_measures_of_a_layer():
    assert not {"logme", "leep", "source.cdnv"} & set(MEASURES)
    assert all(isinstance(score, Measure) for score in SCORES.values())


def test_each_score_has_its_name_direction_source_and_caution():
    for name, score in SCORES.items():
        assert name == score.name
        assert score.source
        assert score.caution.endswith(".")
        assert score.better is not None or name == "label_free.alpha_req"
        assert score.under in ("", "geometric_complexity")
    shorts = [score.short for score in SCORES.values()]
    assert len(set(shorts)) == len(shorts)


def test_what_needs_no_target_comes_last():
    needs = [score.needs for score in SCORES.values()]
    assert needs == sorted(needs, key=("labels", "head", "nothing").index)


def test_the_sign_of_a_score():
    assert SCORES["logme"].oriented(2.0) == 2.0
    assert SCORES["cdnv"].oriented(2.0) == -2.0
    assert math.isnan(SCORES["label_free.alpha_req"].oriented(2.0))


def test_score_all_gives_the_values_of_the_functions():
    x, y = classes(n=120, p=5)
    scores = score_all(x, y, head_outputs=x)
    assert list(scores) == [name for name in SCORES if name in COMPUTED]
    for name, function in ALL.items():
        assert scores[name].value == pytest.approx(function(x, y), rel=1e-9), name
    assert scores["cdnv"].value == pytest.approx(float(geo.cdnv(x, y)))
    assert scores["directional_cdnv"].value == pytest.approx(float(geo.directional_cdnv(x, y)))
    assert scores["label_free.rankme"].value == pytest.approx(geo.rankme(x))


def test_scores_are_the_same_for_the_same_seed_and_leave_the_global_state_alone():
    x, y = classes()
    torch.manual_seed(3)
    first = score_all(x, y, seed=5)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after)
    assert {k: s.to_dict() for k, s in score_all(x, y, seed=5).items()} == {
        k: s.to_dict() for k, s in first.items()
    }


def test_the_json_form_is_strict():
    x, y = classes()
    scores = {name: score.to_dict() for name, score in score_all(x, y).items()}
    text = json.dumps(scores, allow_nan=False)
    assert json.loads(text)["logme"]["null"]["n_shuffles"] == 10
    assert scores["label_free.rankme"]["null"] is None
    assert scores["label_free.alpha_req"]["valid"] is False


def test_many_examples_have_parc_from_groups():
    x, y = classes(n=2100, p=4, c=2)
    score = score_all(x, y, names=["parc"], n_nulls=2)["parc"]
    assert score.value == geo.parc_sampled(x, y).value
    assert score.estimate.stderr == geo.parc_sampled(x, y).stderr


def test_many_classes_have_parc_from_all_pairs():
    x, y = classes(n=2100, p=4, c=200)  # groups of 1,000 would be two
    score = score_all(x, y, names=["parc"], n_nulls=2)["parc"]
    assert score.value == pytest.approx(geo.parc(x, y), rel=1e-10)


# the page


def as_markdown():
    """The list of scores as a table of the page."""
    lines = ["| score | better | needs | source | it misleads |", "|---|---|---|---|---|"]
    for name, score in SCORES.items():
        cells = (f"`{name}`", score.better or "", score.needs, score.source, score.caution)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rewritten(page):
    """The page with the list of scores as it is now."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{as_markdown()}\n{END}{after}"


def test_the_page_lists_the_scores():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(START) == page.count(END) == 1
    assert page == rewritten(page), (
        "docs/scores.md is behind: run python tests/test_transferability.py"
    )


def test_the_page_names_every_function():
    page = PAGE.read_text(encoding="utf-8")
    for name in ("logme", "h_score", "vci", "transrate", "parc", "leep", "nleep", "ncti"):
        assert re.search(rf"`geo\.{name}", page), name


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


@pytest.mark.parametrize(
    "x",
    [
        torch.eye(2)[torch.arange(20) % 2],
        torch.randn(30, 1, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(5, 1),
        torch.eye(3)[torch.arange(21) % 3] @ torch.randn(3, 8),
    ],
    ids=["two points", "one feature", "corners", "three points in 8"],
)
def test_h_score_of_singular_and_of_round_covariances_is_that_of_scikit_learn(x):
    """The covariance of collapsed classes needs no shrinkage, and has no inverse outside them."""
    y = torch.arange(len(x)) % 2 if x.shape[1] < 3 else torch.arange(len(x)) % 3
    z = (x.double() - x.double().mean(dim=0)).numpy()
    estimate = LedoitWolf(assume_centered=True).fit(z)
    means = np.stack([z[y.numpy() == label].mean(axis=0) for label in y.unique().tolist()])
    counts = y.bincount().numpy()
    between = (means.T * counts) @ means / (len(z) - 1)
    inverse = np.linalg.pinv(estimate.covariance_, hermitian=True)
    expected = (1.0 - estimate.shrinkage_) * np.trace(inverse @ between)
    assert geo.h_score(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_scores_of_classes_of_one_example_have_a_reason():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    found = geo.score_all(x, torch.arange(60), n_nulls=2)
    assert not found["parc"].valid
    assert "expected a class of two examples" in found["parc"].reason


def test_features_of_the_other_byte_order_are_the_same():
    """As FITS and HDF5 files hold them."""
    x = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    y = np.arange(60) % 3
    assert geo.logme(x.astype(">f4"), y) == geo.logme(x, y)
    assert geo.cdnv(x.astype(">f4"), y.astype(">i8")) == geo.cdnv(x, y)
