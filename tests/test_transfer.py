"""Few-shot accuracy against plain loops on the same episodes; episodes, laws, messages."""

from __future__ import annotations

import json
import math

import laws
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import transfer as reference

from geocollapse import arrays as inputs
from geocollapse.charts import learning_curve_chart
from geocollapse.transfer import (
    LinearProbe,
    LogisticProbe,
    NearestNeighbours,
    NormalisedNearestMean,
    few_shot_accuracy,
    learning_curve,
    predicted_error,
    transfer,
)
from geocollapse.transfer.episodes import EpisodeSizes, draw_episodes
from geocollapse.transfer.few_shot import CLASSIFIERS as BY_NAME
from geocollapse.transfer.probes import RIDGE, solve_logistic

CLASSIFIERS = tuple(BY_NAME)
DEFAULT = ("nearest_mean", "linear_probe")


def classes(counts, p, *, seed=0, spread=0.7):
    """Gaussian classes (float64) with labels in random order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = spread * torch.randn(len(counts), p, generator=generator, dtype=torch.float64)
    return centres[labels] + torch.randn(
        len(labels), p, generator=generator, dtype=torch.float64
    ), labels


# references


@pytest.mark.parametrize(("n_way", "k_shot", "p"), [(2, 1, 3), (5, 1, 8), (3, 5, 2), (4, 3, 30)])
def test_nearest_mean_equals_the_loop_on_the_same_episodes(n_way, k_shot, p):
    x, y = classes((12, 20, 11, 30, 15), p)
    sizes = {"n_way": n_way, "k_shot": k_shot, "n_query": 6, "n_episodes": 30}
    found = few_shot_accuracy(x, y, seed=3, **sizes)
    episodes = draw_episodes(y, EpisodeSizes(**sizes), 3).rows
    expected = reference.accuracies(x, episodes, k_shot, reference.nearest_mean_accuracy)
    assert found.values.tolist() == expected
    assert 0.1 < found.value < 1.0


@pytest.mark.parametrize(("n_way", "k_shot", "p"), [(2, 1, 3), (5, 1, 8), (3, 5, 2), (4, 3, 30)])
def test_linear_probe_equals_the_ridge_classifier_on_the_same_episodes(n_way, k_shot, p):
    x, y = classes((12, 20, 11, 30, 15), p)
    sizes = {"n_way": n_way, "k_shot": k_shot, "n_query": 6, "n_episodes": 30}
    found = few_shot_accuracy(x, y, seed=3, classifier="linear_probe", **sizes)
    episodes = draw_episodes(y, EpisodeSizes(**sizes), 3).rows
    expected = reference.accuracies(
        x, episodes, k_shot, lambda s, q: reference.linear_probe_accuracy(s, q, RIDGE)
    )
    assert found.values.tolist() == expected


SETTINGS = {
    "normalised": (
        NormalisedNearestMean(centre=None),
        lambda s, q: reference.normalised_accuracy(s, q),
    ),
    "centred on the support": (
        NormalisedNearestMean(),
        lambda s, q: reference.normalised_accuracy(s, q, "support"),
    ),
    "centred on a point": (
        NormalisedNearestMean(centre=torch.full((6,), 0.2)),
        lambda s, q: reference.normalised_accuracy(s, q, np.full(6, np.float32(0.2))),
    ),
    "weak ridge": (
        LinearProbe(penalty=0.01),
        lambda s, q: reference.linear_probe_accuracy(s, q, 0.01),
    ),
    "logistic": (LogisticProbe(), lambda s, q: reference.logistic_accuracy(s, q, 1.0)),
    "weak logistic": (
        LogisticProbe(penalty=0.01),
        lambda s, q: reference.logistic_accuracy(s, q, 0.01),
    ),
    "1 neighbour": (NearestNeighbours(), lambda s, q: reference.knn_accuracy(s, q, 1)),
    "3 neighbours": (NearestNeighbours(3), lambda s, q: reference.knn_accuracy(s, q, 3)),
    "all neighbours": (NearestNeighbours(99), lambda s, q: reference.knn_accuracy(s, q, 99)),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("n_way", "k_shot"), [(5, 1), (3, 4)])
def test_classifiers_equal_their_references_on_the_same_episodes(name, n_way, k_shot):
    classifier, expected = SETTINGS[name]
    x, y = classes((12, 20, 11, 30, 15), 6)
    sizes = {"n_way": n_way, "k_shot": k_shot, "n_query": 6, "n_episodes": 15}
    found = few_shot_accuracy(x, y, seed=3, classifier=classifier, **sizes)
    episodes = draw_episodes(y, EpisodeSizes(**sizes), 3).rows
    assert found.values.tolist() == reference.accuracies(x, episodes, k_shot, expected)
    assert found.estimator == classifier.name


def test_neighbours_on_a_grid_of_equal_distances():
    """Votes and distances tie all the time: neither order nor rounding may decide."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (60, 2), generator=generator).double()
    y = torch.arange(60) % 3
    sizes = {"n_way": 3, "k_shot": 3, "n_query": 8, "n_episodes": 20}
    rows = draw_episodes(y, EpisodeSizes(**sizes), 0).rows
    for k in (1, 2, 4):
        found = few_shot_accuracy(x, y, classifier=NearestNeighbours(k), **sizes).values.tolist()
        expected = reference.accuracies(
            x, rows, 3, lambda s, q, k=k: reference.knn_accuracy(s, q, k)
        )
        assert found == expected


@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_the_logistic_probe_finds_scikit_learns_optimum(penalty):
    x, _ = classes((40,), 7)
    support = x[:20].view(1, 5, 4, 7)
    model, centre, scale = reference.logistic(support[0].numpy(), penalty)
    z = (support.flatten(1, 2) - torch.from_numpy(centre)) / scale
    one_hot = torch.eye(5, dtype=torch.float64).repeat_interleave(4, dim=0)
    coefficients, intercept = solve_logistic(z @ z.mT, one_hot, penalty)
    weights = (z.mT @ coefficients)[0].T.numpy()
    assert np.abs(weights - model.coef_).max() < 1e-7 / penalty
    centred = model.intercept_ - model.intercept_.mean()
    assert np.abs(intercept[0, 0].numpy() - centred).max() < 1e-7 / penalty


def test_a_centre_changes_only_what_is_scaled_after_it():
    x, y = classes((20,) * 4, 5)
    sizes = {"n_way": 4, "k_shot": 2, "n_query": 5, "n_episodes": 30}
    plain = few_shot_accuracy(x, y, **sizes).values
    assert torch.equal(few_shot_accuracy(x - 0.7, y, **sizes).values, plain)
    centre = x.mean(dim=0)
    moved = few_shot_accuracy(x, y, classifier=NormalisedNearestMean(centre=centre), **sizes)
    same = few_shot_accuracy(x - centre, y, classifier="nearest_mean_normalised", **sizes)
    assert torch.equal(moved.values, same.values)


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("n", [40, 4000])
def test_scores_in_float32_decide_as_those_in_float64(spread, n):
    x, y = classes((n,) * 5, 64, spread=spread)
    x = (x + 100.0).float()
    x[y == 4] = x[y == 3][: int((y == 4).sum())]  # two classes with the same examples
    sizes = {"n_way": 4, "k_shot": 3, "n_query": 20, "n_episodes": 100}
    found = few_shot_accuracy(x, y, **sizes).values
    assert torch.equal(found, few_shot_accuracy(x.double(), y, **sizes).values)


def test_features_that_overflow_float32_squares_are_scored_in_float64():
    x, y = classes((20,) * 4, 5)
    sizes = {"n_way": 4, "k_shot": 2, "n_query": 5, "n_episodes": 30}
    expected = few_shot_accuracy(x.float().double(), y, **sizes).values
    for factor in (1e30, 1e-30):
        scaled = (factor * x.float().double()).float()
        again = few_shot_accuracy(scaled.double(), y, **sizes).values
        assert torch.equal(few_shot_accuracy(scaled, y, **sizes).values, again)
        assert (again - expected).abs().mean() < 0.01


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_chunks_do_not_matter(monkeypatch, classifier):
    x, y = classes((20, 25, 30), 5)
    sizes = {"n_way": 3, "n_query": 7, "n_episodes": 50, "classifier": classifier}
    whole = few_shot_accuracy(x, y, **sizes)
    monkeypatch.setattr(inputs, "CHUNK_NUMBERS", 1)
    assert torch.equal(few_shot_accuracy(x, y, **sizes).values, whole.values)


# episodes


def test_an_episode_has_distinct_classes_and_distinct_examples():
    y = torch.tensor([7] * 9 + [-2] * 8 + [4] * 12)[
        torch.randperm(29, generator=torch.Generator().manual_seed(0))
    ]
    episodes = draw_episodes(y, EpisodeSizes(2, 3, 5, 200), 0).rows
    assert episodes.shape == (200, 2, 8)
    drawn = y[episodes]
    assert (drawn == drawn[:, :, :1]).all()
    assert (drawn[:, 0, 0] != drawn[:, 1, 0]).all()
    assert all(len(set(rows)) == 16 for rows in episodes.flatten(1).tolist())


def test_classes_and_examples_are_drawn_uniformly():
    y = torch.arange(30) % 3
    episodes = draw_episodes(y, EpisodeSizes(2, 1, 2, 20_000), 1).rows
    for position in range(3):  # each of the 30 examples equally often at each position
        share = torch.bincount(episodes[:, :, position].flatten(), minlength=30) / 40_000
        assert (share - 1 / 30).abs().max() < 5 * math.sqrt(1 / 30 / 40_000)


def test_a_class_can_be_used_up():
    episodes = draw_episodes(torch.arange(12) % 2, EpisodeSizes(2, 2, 4, 50), 0).rows
    assert all(sorted(rows) == list(range(12)) for rows in episodes.flatten(1).tolist())


def test_episodes_depend_on_labels_sizes_and_seed_alone():
    x, y = classes((30, 30, 30), 4)
    one = few_shot_accuracy(x, y, n_way=3, seed=5)
    assert torch.equal(few_shot_accuracy(x, y, n_way=3, seed=5).values, one.values)
    assert not torch.equal(few_shot_accuracy(x, y, n_way=3, seed=6).values, one.values)
    paired = (
        few_shot_accuracy(x + 0.3 * torch.randn_like(x), y, n_way=3, seed=5).values - one.values
    )
    assert paired.std() < 0.8 * one.values.std() * math.sqrt(2)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    few_shot_accuracy(*classes((30, 30), 4), n_way=2)
    assert torch.equal(torch.get_rng_state(), before)


# values


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_separated_classes_give_one(classifier):
    x, y = classes((30,) * 6, 16, spread=50.0)
    found = few_shot_accuracy(x, y, k_shot=1, classifier=classifier)
    assert found.value == 1.0
    assert found.interval() == (1.0, 1.0)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_tie_is_an_error(classifier):
    y = torch.arange(100) % 5
    assert (
        few_shot_accuracy(torch.full((100, 7), 0.3), y, classifier=classifier, n_episodes=20).value
        == 0.0
    )


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_identical_classes_tie_whatever_the_rounding(classifier, scale):
    """Two classes of the same feature beside a third: rounding decided, .667 for 1/3."""
    y = torch.arange(90) % 3
    x = scale * torch.tensor([[0.1, 0.7], [0.1, 0.7], [0.3, -0.2]], dtype=torch.float64)[y]
    found = few_shot_accuracy(x, y, n_way=3, k_shot=3, classifier=classifier, n_episodes=20)
    assert found.value == pytest.approx(1 / 3)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e8 / 3])
def test_a_pair_of_identical_classes_is_a_tie_in_every_episode(classifier, value):
    """Their mean may miss them by a rounding error, which no classifier may amplify."""
    y = torch.arange(90) % 3
    other = torch.tensor([value, -value, 0.7 * value], dtype=torch.float64)
    x = torch.stack([other, other, -0.3 * other.flip(0)])[y]
    found = few_shot_accuracy(x, y, n_way=2, k_shot=3, classifier=classifier, n_episodes=40)
    is_pair = (found.ways < 2).all(dim=1)
    assert is_pair.any()
    assert found.values.tolist() == torch.where(is_pair, 0.0, 1.0).tolist()


def test_all_classes_can_be_in_every_episode():
    x, y = classes((12,) * 30, 8)
    found = few_shot_accuracy(x, y, n_way=30, k_shot=2, n_query=10, n_episodes=5)
    assert 1 / 30 < found.value < 1.0
    assert (found.ways.sort().values == torch.arange(30)).all()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_features_without_information_are_at_chance(classifier):
    x, y = classes((60,) * 5, 8, spread=0.0)
    found = few_shot_accuracy(x, y, classifier=classifier)
    assert abs(found.value - 0.2) < 0.02


def test_the_estimate_is_the_mean_over_episodes():
    found = few_shot_accuracy(*classes((30,) * 5, 8), n_episodes=40)
    values = found.values.numpy()
    assert values.dtype == np.float64
    assert values.shape == (40,)
    assert found.value == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(40))
    assert (found.dof, found.n_samples, found.scale, found.estimator) == (
        39,
        40,
        "linear",
        "nearest_mean",
    )


def test_precision_and_container_do_not_matter():
    x, y = classes((30,) * 5, 8)
    single = x.float()
    expected = few_shot_accuracy(single.double(), y, n_episodes=50).values
    assert torch.equal(few_shot_accuracy(single.numpy(), y.numpy(), n_episodes=50).values, expected)
    assert few_shot_accuracy(single.half(), y.int(), n_episodes=50).value == pytest.approx(
        float(expected.mean()), abs=0.01
    )


# laws


@given(
    seed=st.integers(0, 99),
    p=st.integers(1, 9),
    k_shot=st.integers(1, 4),
    classifier=st.sampled_from(CLASSIFIERS),
)
def test_laws(seed, p, k_shot, classifier):
    x, y = classes((12, 9, 10), p, seed=seed)

    def accuracy(features, labels):
        sizes = {"n_way": 2, "k_shot": k_shot, "n_query": 5, "n_episodes": 10}
        return few_shot_accuracy(features, labels, classifier=classifier, **sizes).values

    if classifier != "nearest_mean_normalised":
        laws.assert_translation_invariant(accuracy, x, y)
    laws.assert_rotation_invariant(accuracy, x, y)
    laws.assert_homogeneous(accuracy, x, y, 0.0)
    laws.assert_close(accuracy(x, 3 * y + 7), accuracy(x, y))  # other names in the same order


def test_a_far_origin_does_not_cost_precision():
    x, y = classes((30,) * 5, 8)
    far = x + 2.0**26
    near = few_shot_accuracy(far - 2.0**26, y, n_episodes=50).values
    assert torch.equal(few_shot_accuracy(far, y, n_episodes=50).values, near)


# transfer


def test_transfer_holds_the_single_accuracies():
    x, y = classes((20,) * 4, 8)
    sizes = {"n_way": 3, "n_query": 5, "n_episodes": 20, "seed": 2}
    found = transfer(x, y, k_shots=(1, 4), **sizes)
    assert list(found["accuracy"]) == list(DEFAULT)
    for name in DEFAULT:
        assert list(found["accuracy"][name]) == ["1", "4"]
        for k_shot, entry in found["accuracy"][name].items():
            single = few_shot_accuracy(x, y, k_shot=int(k_shot), classifier=name, **sizes)
            assert (entry["value"], entry["stderr"]) == (single.value, single.stderr)
            assert tuple(entry["ci95"]) == single.interval()
    for k_shot, entry in found["predicted_error_intervals"].items():
        single = predicted_error(x, y, n_way=3, k_shot=int(k_shot), n_episodes=20, seed=2)
        assert found["predicted_error"][k_shot] == entry["value"] == single.value
        assert entry["stderr"] == single.stderr
    assert list(found["predicted_error"]) == list(found["predicted_error_intervals"]) == ["1", "4"]
    assert any("approximate below 5 shots" in note for note in found["warnings"])
    assert (found["n_way"], found["n_query"], found["n_episodes"], found["n_classes"]) == (
        3,
        5,
        20,
        4,
    )
    json.dumps(found, allow_nan=False)


def test_transfer_gives_the_values_of_episodes_and_names_them():
    x, y = classes((20,) * 4, 8)
    sizes = {"n_way": 3, "n_query": 5, "n_episodes": 20, "seed": 2}
    found = transfer(x, y, k_shots=(2,), episode_values=True, full_data=False, **sizes)
    single = few_shot_accuracy(x, y, k_shot=2, **sizes)
    assert found["episode_values"]["accuracy"]["nearest_mean"]["2"] == single.values.tolist()
    assert found["episode_values"]["classes"]["2"] == single.ways.tolist()
    assert (found["episodes"], found["full_data"]) == ({"2": single.episodes}, None)
    assert transfer(x, y, k_shots=(2,), **sizes)["episode_values"] is None


def test_ways_of_all_classes_leave_nothing_to_say_about_others():
    x, y = classes((20,) * 4, 8)
    found = transfer(x, y, n_way=4, n_query=5, n_episodes=20, full_data=False)
    assert found["accuracy"]["nearest_mean"]["5"]["classes_ci95"] == (None, None)
    assert found["warnings"][0].startswith("classes_ci95: every episode holds all 4 classes")


# learning curves


def test_a_learning_curve_holds_the_single_accuracies():
    x, y = classes((30,) * 4, 8)
    sizes = {"n_way": 3, "n_query": 5, "n_episodes": 20, "seed": 2}
    curve = learning_curve(x, y, k_shots=(4, 1), classifiers=("knn", "nearest_mean"), **sizes)
    assert curve.k_shots == (4, 1)
    for name, by_shots in curve.accuracy.items():
        for k, found in by_shots.items():
            assert found == few_shot_accuracy(x, y, k_shot=k, classifier=name, **sizes)
    frame = curve.to_frame()
    assert frame["classifier"].tolist() == ["knn", "knn", "nearest_mean", "nearest_mean"]
    first = curve.accuracy["knn"][4]
    assert tuple(frame.loc[0, ["low", "high"]]) == first.interval()
    assert tuple(frame.loc[0, ["classes_low", "classes_high"]]) == first.classes_interval()


def test_episodes_of_more_shots_hold_those_of_fewer():
    y = torch.arange(120) % 6
    few, many = (draw_episodes(y, EpisodeSizes(3, k, 4, 30), 7) for k in (2, 9))
    assert torch.equal(few.ways, many.ways)
    assert torch.equal(few.rows[:, :, :2], many.rows[:, :, :2])


def test_the_chart_of_learning_curves():
    x, y = classes((30,) * 4, 8)
    sizes = {"n_way": 3, "n_query": 5, "n_episodes": 20, "k_shots": (1, 2)}
    curve = learning_curve(x, y, classifiers=("nearest_mean", "linear_probe"), **sizes)
    (panel,) = learning_curve_chart({"a": curve, "b": curve}).panels
    assert [series.label for series in panel.series] == [
        "a nearest mean",
        "a linear probe",
        "b nearest mean",
        "b linear probe",
    ]
    low, high = curve.accuracy["linear_probe"][2].interval()
    assert (panel.series[1].low[1], panel.series[1].high[1]) == (low, high)
    other = learning_curve(x, y, **{**sizes, "n_way": 2})
    with pytest.raises(ValueError, match=r"curves: expected curves of one number of ways"):
        learning_curve_chart({"a": curve, "b": other})


# errors


def message(**changes):
    x, y = classes((20, 8, 30), 4)
    sizes = {"n_way": 3, "k_shot": 2, "n_query": 5, "n_episodes": 4, **changes}
    with pytest.raises((ValueError, TypeError)) as caught:
        few_shot_accuracy(sizes.pop("features", x), sizes.pop("labels", y), **sizes)
    return str(caught.value)


def test_sizes_are_checked():
    assert message(n_way=4) == "n_way: expected at most 3 classes, got 4; do n_way=3"
    assert message(n_way=1).startswith("n_way: expected a whole number of at least 2, got 1")
    assert message(k_shot=0).startswith("k_shot: expected a whole number of at least 1, got 0")
    assert message(n_query=0).startswith("n_query: expected a whole number of at least 1, got 0")
    assert message(n_episodes=1).startswith(
        "n_episodes: expected a whole number of at least 2, got 1"
    )


def test_a_class_with_too_few_examples_is_named():
    found = message(n_query=7)
    assert found == (
        "n_query: expected k_shot + n_query = 9 examples of each class, got 8 of class 1; "
        "do n_query=6"
    )
    assert message(k_shot=8).endswith(
        "got 8 of class 1; do k_shot=1 and n_query=5, or drop the class"
    )
    assert message(n_query=2.5).startswith(
        "n_query: expected a whole number of at least 1, got 2.5"
    )


def test_several_classes_with_too_few_examples_are_counted_and_named():
    x, y = classes((20, 8, 9), 4)
    sizes = {"k_shots": (1, 9), "n_way": 2, "n_query": 5, "n_episodes": 4}
    with pytest.raises(ValueError, match=r"got 8 of class 'dog' and too few of 1 more; do k_shot"):
        transfer(x, y, class_names=["cat", "dog", "eel"], **sizes)


def test_settings_of_classifiers_are_checked():
    for make, start in (
        (lambda: LinearProbe(penalty=0.0), "penalty: expected a positive number, got 0.0"),
        (lambda: LogisticProbe(penalty=math.nan), "penalty: expected a positive number, got nan"),
        (lambda: NearestNeighbours(0), "n_neighbours: expected a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=start):
            make()
    assert message(classifier=NormalisedNearestMean(centre=torch.zeros(3))) == (
        "centre: expected shape (4,), a number for each feature, got (3,); do "
        "centre=features.mean(dim=0)"
    )
    x, y = classes((20, 20), 4)
    with pytest.raises(ValueError, match="classifiers: expected one of each name, got knn, knn"):
        learning_curve(x, y, n_way=2, classifiers=(NearestNeighbours(1), NearestNeighbours(3)))
    with pytest.raises(ValueError, match="k_shots: expected at least one, got none"):
        transfer(x, y, n_way=2, k_shots=())


def test_features_and_labels_are_checked():
    x, y = classes((20, 8, 30), 4)
    assert message(labels=0 * y).startswith(
        "labels: expected at least two classes, got label 0 only"
    )
    assert message(labels=y.float()).startswith("labels: expected integers")
    assert message(labels=y[1:]).startswith("labels: expected shape (58,)")
    assert message(features=x / 0.0).startswith("features: expected finite numbers")
    assert message(features=x.long()).startswith("features: expected floating point numbers")
    assert message(classifier="svm") == (
        "classifier: expected nearest_mean, nearest_mean_normalised, nearest_mean_centred, "
        "linear_probe, logistic_probe or knn, got 'svm'; do classifier='nearest_mean'"
    )
