"""Label-free baselines: closed forms, references, laws, and undefined values."""

from __future__ import annotations

import json
import math

import laws
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import scores as reference
from torch import nn

import geocollapse as geo
from geocollapse.transfer import label_free as scores

SPECTRAL = {
    "rankme": geo.rankme,
    "rankme without epsilon": lambda x: geo.rankme(x, epsilon=0.0),
    "effective_rank": geo.effective_rank,
    "alpha_req": lambda x: geo.alpha_req(x, fit_range=(2, 5)),
}
MEASURES = {**SPECTRAL, "feature_norm": geo.feature_norm}
TRANSLATED = ("effective_rank", "alpha_req")  # what the covariance says
SHAPES = [(40, 7), (8, 8), (9, 8), (8, 30), (300, 20)]


def gaussian(n, p, seed=0, mean=2.0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0.2, 3.0, p, dtype=torch.float64)
    return mean + torch.randn(n, p, dtype=torch.float64, generator=generator) * scales


def with_spectrum(values, n, p, seed=0):
    """Make features (n, p) with mean 0 and these singular values, in random directions."""
    generator = np.random.default_rng(seed)
    k = len(values)
    left = np.linalg.qr(np.column_stack([np.ones(n), generator.standard_normal((n, k))]))[0][:, 1:]
    right = np.linalg.qr(generator.standard_normal((p, k)))[0]
    return torch.from_numpy(left * np.asarray(values, dtype=float) @ right.T)


def unlabelled(measure):
    """Turn a score into a measure of labelled features, for the laws."""
    return lambda features, labels: measure(features)


# closed forms


@pytest.mark.parametrize("shape", [(50, 12), (12, 50)])
@pytest.mark.parametrize("k", [1, 3, 11])
def test_k_equal_singular_values_have_rank_k(k, shape):
    x = with_spectrum([5.0] * k, *shape)
    assert geo.rankme(x, epsilon=0.0) == pytest.approx(k, rel=1e-12)
    assert geo.effective_rank(x) == pytest.approx(k, rel=1e-12)
    share = 1 / k + 1e-7
    published = math.exp(-k * share * math.log(share) - (12 - k) * 1e-7 * math.log(1e-7))
    assert geo.rankme(x) == pytest.approx(published, rel=1e-12)
    assert geo.rankme(x) == pytest.approx(k, rel=3e-5)


def test_two_directions_by_hand():
    x = with_spectrum([3.0, 1.0], 20, 6)
    assert geo.rankme(x, epsilon=0.0) == pytest.approx(4 / 3**0.75, rel=1e-12)  # shares 3/4, 1/4
    assert geo.effective_rank(x) == pytest.approx(10 / 9**0.9, rel=1e-12)  # shares 9/10, 1/10


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 6.0])
@pytest.mark.parametrize("shape", [(400, 120), (120, 400)])
def test_a_power_law_gives_its_exponent(exponent, shape):
    """At exponent 6 eigenvalue 100 keeps 4 digits in a Gram matrix, 10 in singular values."""
    x = with_spectrum(np.arange(1, 111) ** (-exponent / 2), *shape)
    assert geo.alpha_req(x) == pytest.approx(exponent, rel=1e-8, abs=1e-10)
    assert geo.alpha_req(x, fit_range=(1, 20)) == pytest.approx(exponent, rel=1e-8, abs=1e-10)


def test_the_fit_range_counts_from_1_and_includes_both_ends():
    x = with_spectrum([8.0, 4.0, 1.0, 0.9], 30, 6)
    assert geo.alpha_req(x, fit_range=(1, 2)) == pytest.approx(2 * math.log(2.0) / math.log(2.0))
    assert geo.alpha_req(x, fit_range=(2, 3)) == pytest.approx(2 * math.log(4.0) / math.log(1.5))


def test_feature_norm_by_hand():
    assert geo.feature_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -1.0]])) == 2.0


def test_a_common_offset_is_a_direction_to_rankme_alone():
    x = with_spectrum([1.0, 1.0], 50, 8)
    shifted = x + 1e3
    assert geo.effective_rank(shifted) == pytest.approx(2.0, rel=1e-9)
    assert geo.rankme(shifted, epsilon=0.0) < 1.01


# references


@pytest.mark.parametrize("shape", SHAPES)
def test_the_values_equal_the_references(shape):
    x = gaussian(*shape, seed=sum(shape))
    laws.assert_close(geo.rankme(x), reference.rankme(x, 1e-7))
    laws.assert_close(geo.rankme(x, epsilon=0.0), reference.rankme(x, 0.0))
    laws.assert_close(geo.effective_rank(x), reference.effective_rank(x))
    laws.assert_close(geo.alpha_req(x, fit_range=(2, 6)), reference.alpha_req(x, 2, 6))
    laws.assert_close(geo.feature_norm(x), reference.feature_norm(x))


@pytest.mark.parametrize("shape", [(300, 9), (9, 300)])
def test_many_blocks_are_one(shape, monkeypatch):
    x = gaussian(*shape)
    whole = {name: measure(x) for name, measure in MEASURES.items()}
    monkeypatch.setattr(scores, "_BLOCK_ROWS", 1)
    monkeypatch.setattr("geocollapse.arrays.CHUNK_NUMBERS", 50)
    for name, measure in MEASURES.items():
        laws.assert_close(measure(x), whole[name], rtol=1e-12)


def test_float32_features_far_from_0_lose_no_digits():
    x = (gaussian(500, 6) + 1e5).float()
    laws.assert_close(geo.effective_rank(x), reference.effective_rank(x))
    laws.assert_close(geo.alpha_req(x, fit_range=(1, 6)), reference.alpha_req(x, 1, 6))


def test_numpy_and_a_tensor_with_gradient_are_features_too():
    x = gaussian(20, 4)
    assert geo.rankme(x.numpy()) == geo.rankme(x.clone().requires_grad_()) == geo.rankme(x)


# laws

EXAMPLES = st.builds(gaussian, st.integers(9, 40), st.integers(6, 25), st.integers(0, 10**6))
LABELS = torch.arange(40)


@pytest.mark.parametrize("name", MEASURES)
@given(x=EXAMPLES, seed=st.integers(0, 100))
def test_invariant_under_permutation_and_rotation(name, x, seed):
    measure = unlabelled(MEASURES[name])
    laws.assert_permutation_invariant(measure, x, LABELS[: len(x)], seed)
    laws.assert_rotation_invariant(measure, x, LABELS[: len(x)], seed)


@pytest.mark.parametrize("name", MEASURES)
@given(x=EXAMPLES)
def test_degree_of_scale(name, x):
    laws.assert_homogeneous(
        unlabelled(MEASURES[name]), x, LABELS[: len(x)], degree=float(name == "feature_norm")
    )


@pytest.mark.parametrize("name", TRANSLATED)
@given(x=EXAMPLES)
def test_the_covariance_knows_no_translation(name, x):
    laws.assert_translation_invariant(unlabelled(MEASURES[name]), x, LABELS[: len(x)])


@given(x=EXAMPLES)
def test_ranks_are_between_1_and_the_smaller_side(x):
    n, p = x.shape
    assert 1.0 <= geo.rankme(x, epsilon=0.0) <= min(n, p)
    assert geo.rankme(x, epsilon=0.0) <= geo.rankme(x) <= min(n, p) * (1 + 2e-6 * min(n, p))
    assert 1.0 <= geo.effective_rank(x) <= min(n - 1, p)
    assert geo.alpha_req(x, fit_range=(1, 5)) >= 0.0


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"rankme"}))
@given(x=EXAMPLES)
def test_the_same_examples_twice_change_nothing(name, x):
    """Also where fewer examples than features become more; RankMe's epsilon counts zeros, too."""
    laws.assert_close(MEASURES[name](torch.cat([x, x])), MEASURES[name](x))


@given(x=EXAMPLES)
def test_rankme_does_not_tell_rows_from_columns(x):
    laws.assert_close(geo.rankme(x), geo.rankme(x.T))


# undefined, and bad input


@pytest.mark.parametrize(
    ("measure", "features", "error", "message"),
    [
        (
            geo.rankme,
            torch.zeros(5, 3),
            ValueError,
            "features: expected numbers that are not all 0, got only zeros",
        ),
        (
            geo.effective_rank,
            torch.full((5, 3), 0.1),
            ValueError,
            "features: expected examples that differ by more",
        ),
        (
            geo.effective_rank,
            torch.ones(1, 3),
            ValueError,
            "features: expected examples that differ by more than",
        ),
        (
            geo.alpha_req,
            gaussian(200, 64),
            ValueError,
            r"fit_range: expected a range within the 64 eigenvalues above rounding, got \(11, "
            r"100\); do choose one",
        ),
        (
            geo.feature_norm,
            torch.ones(2, 3).long(),
            TypeError,
            "features: expected floating point numbers, got",
        ),
        (
            geo.rankme,
            torch.ones(2, 3, 4),
            ValueError,
            r"features: expected shape \(n, p\), got \(2, 3, 4\)",
        ),
        (
            geo.rankme,
            torch.ones(0, 3),
            ValueError,
            r"features: expected at least one example, got shape \(0, 3\)",
        ),
        (
            geo.alpha_req,
            torch.tensor([[math.nan]]),
            ValueError,
            "features: expected finite numbers, got NaN",
        ),
        (
            geo.rankme,
            [[1.0]],
            TypeError,
            "features: expected a torch.Tensor or numpy.ndarray, got list",
        ),
        (
            geo.effective_rank,
            torch.zeros(1, 1).expand(4097, 4097),
            ValueError,
            r"features: expected at most 4096 examples or features .* got shape \(4097, 4097\); do "
            r"pass features\[:4096\]",
        ),
    ],
)
def test_bad_features(measure, features, error, message):
    with pytest.raises(error, match=message):
        measure(features)


@pytest.mark.parametrize("fit_range", [(0, 5), (5, 5), (6, 5)])
def test_a_bad_fit_range(fit_range):
    with pytest.raises(
        ValueError, match=r"fit_range: expected 1 <= first < last, got .*; do fit_range=\(11, 100\)"
    ):
        geo.alpha_req(gaussian(20, 8), fit_range=fit_range)


@pytest.mark.parametrize("epsilon", [-1e-9, math.nan])
def test_a_bad_epsilon(epsilon):
    with pytest.raises(
        ValueError, match="epsilon: expected a number from 0, got .*; do epsilon=1e-07"
    ):
        geo.rankme(gaussian(20, 8), epsilon=epsilon)


def test_an_eigenvalue_of_rounding_is_none():
    """Float32 features of rank 3 have 8 nonzero eigenvalues, but 3 above their rounding."""
    x = with_spectrum([5.0, 2.0, 1.0], 60, 8).float()
    assert float(torch.linalg.svdvals(x.double() - x.double().mean(dim=0))[3]) > 0.0
    assert geo.alpha_req(x, fit_range=(1, 3)) > 0.0
    with pytest.raises(ValueError, match=r"within the 3 eigenvalues above rounding, got \(1, 4\)"):
        geo.alpha_req(x, fit_range=(1, 4))


# in the measurement


@pytest.fixture
def narrow():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)), (
        torch.randn(240, 12),
        torch.arange(240) % 3,
    )


def test_measure_holds_them_all(narrow):
    m = geo.measure(*narrow)
    free = json.loads(m.to_json())["label_free"]
    assert free["rankme"] == geo.rankme(m.features)
    assert free["effective_rank"] == geo.effective_rank(m.features)
    assert free["feature_norm"] == geo.feature_norm(m.features)
    assert free["alpha_req"] is None
    assert math.isnan(m.label_free.alpha_req)
    (note,) = [
        note for note in m.warnings if note.startswith("alpha_req: fit_range: expected a range")
    ]
    rank = int((torch.linalg.svdvals(m.features - m.features.mean(dim=0)) > 1e-4).sum())
    assert f"within the {rank} eigenvalues above rounding, got (11, 100)" in note
    for name in ("RankMe", "effective rank", "alpha-ReQ", "feature norm"):
        assert name in str(m)
    assert m.to_frame().loc[0, "label_free.rankme"] == free["rankme"]


def test_a_wide_layer_gives_alpha_req():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(150, 130), nn.Linear(130, 2))
    m = geo.measure(model, (torch.randn(400, 150), torch.arange(400) % 2))
    assert m.label_free.alpha_req == geo.alpha_req(m.features)
    assert not any(note.startswith("alpha_req") for note in m.warnings)


def test_a_layer_too_large_for_singular_values_says_so(narrow, monkeypatch):
    monkeypatch.setattr(scores, "MAX_SCATTER_FEATURES", 8)
    m = geo.measure(*narrow)
    free = m.to_dict()["label_free"]
    assert [free[name] for name in ("rankme", "effective_rank", "alpha_req")] == [None] * 3
    assert free["feature_norm"] == geo.feature_norm(m.features)
    assert any(
        note.startswith("rankme, effective_rank, alpha_req: features: expected at most 8")
        for note in m.warnings
    )


def test_more_than_4096_features_use_the_side_of_the_examples(monkeypatch):
    widths = []
    qr = torch.linalg.qr
    monkeypatch.setattr(
        torch.linalg, "qr", lambda a, mode: widths.append(a.shape[1]) or qr(a, mode)
    )
    x = gaussian(30, 5000)
    laws.assert_close(geo.rankme(x), reference.rankme(x, 1e-7))
    laws.assert_close(geo.effective_rank(x), reference.effective_rank(x))
    assert set(widths) == {31}
