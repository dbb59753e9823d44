"""Rankings: accuracy with its error, ties, agreement, advice, and what goes wrong."""

import json
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import geocollapse as geo
from geocollapse.estimate import Estimate
from geocollapse.ranking.accuracy import (
    Draws,
    EpisodeSettings,
    half_samples,
    sampled_accuracy,
)
from geocollapse.ranking.advice import examples_needed
from geocollapse.ranking.agreement import agreement
from geocollapse.ranking.candidate import Candidate, FeatureSettings, Opened
from geocollapse.ranking.order import RankSettings, rank_features
from geocollapse.ranking.run import rank_candidates
from geocollapse.ranking.ties import compare_all, with_tests
from geocollapse.store.cache import FeatureCache
from resampled import marks

FEW = EpisodeSettings(n_episodes=100)


def sample(n_a_class=40, n_classes=8, p=16, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(n_classes, p, generator=generator, dtype=torch.float64)
    y = torch.arange(n_classes).repeat_interleave(n_a_class)
    z = torch.randn(len(y), p, generator=generator, dtype=torch.float64)
    return means[y] + noise * z, y


class Blurred(nn.Module):
    """Inputs with fixed noise that their own numbers decide."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise
        self.turn = nn.Linear(16, 16, dtype=torch.float64)

    def forward(self, x):
        return x + self.noise * torch.sin(1000.0 * x @ self.turn.weight)


def blurred(noise):
    torch.manual_seed(0)
    return Blurred(noise)


# --- the error over examples


def test_half_samples_are_halves_of_each_class_and_seeded():
    y = torch.tensor([0] * 11 + [3] * 8 + [7] * 4)[torch.randperm(23)]
    halves = half_samples(y, seed=1)
    for rows in halves:
        assert torch.bincount(y[rows], minlength=8).tolist() == [5, 0, 0, 4, 0, 0, 0, 2]
        assert len(rows.unique()) == len(rows)
    again = half_samples(y, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(halves, again, strict=True))
    assert not torch.equal(halves[0], half_samples(y, seed=2)[0])


def test_episodes_are_those_of_few_shot_accuracy_and_examples_average_to_them():
    x, y = sample()
    found = sampled_accuracy(x, y, FEW)
    expected = geo.few_shot_accuracy(x, y, n_episodes=100)
    assert torch.equal(found.over_episodes.values, expected.values)
    assert float(found.examples.nan_to_num().min()) >= 0.0
    queried = ~found.examples.isnan()
    mean = float(found.examples[queried].mean())
    assert mean == pytest.approx(expected.value, abs=0.02)  # examples are drawn unequally often


def test_the_interval_covers_the_accuracy_of_the_population():
    big_x, big_y = sample(n_a_class=4000, noise=1.4)
    truth = geo.few_shot_accuracy(big_x, big_y, n_episodes=20_000).value
    generator = torch.Generator().manual_seed(5)
    n_covered = 0
    for _ in range(60):
        rows = torch.cat(
            [c * 4000 + torch.randperm(4000, generator=generator)[:30] for c in range(8)]
        )
        found = sampled_accuracy(big_x[rows], big_y[rows], EpisodeSettings()).estimate()
        low, high = found.interval()
        n_covered += low <= truth <= high
        assert found.stderr > found.values.std() / math.sqrt(600)
    assert n_covered >= 52  # of 60 at 95 %: fewer in one case of 10,000


EQUAL = EpisodeSettings(n_way=3, k_shot=1, n_query=5, n_episodes=200)


def equal_models(n_models, repeats, mixed=0.0):
    """Pairs of models of one law on the same 160 examples, in each of many samples.

    Also the differences of these pairs over episodes. ``mixed`` is the share of a noise common to
    all models.
    """
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    y = torch.arange(4).repeat_interleave(40)
    draws = Draws.of(y, EQUAL)
    own = math.sqrt(1.0 - mixed**2)
    for _ in range(repeats):
        shared = torch.randn(len(y), 4, generator=generator, dtype=torch.float64)
        models = {}
        for label in range(n_models):
            z = torch.randn(len(y), 4, generator=generator, dtype=torch.float64)
            x = means[y] + mixed * shared + own * z
            models[str(label)] = sampled_accuracy(x, y, EQUAL, draws)
        pairs = compare_all(models)
        yield pairs, [(models[p.first] - models[p.second]).over_episodes for p in pairs]


@pytest.mark.parametrize("mixed", [0.0, 0.8])
def test_equal_models_are_told_apart_at_the_nominal_rate(mixed):
    """Two models of one law on the same examples; with shared noise and without."""
    repeats = 500
    n_apart = 0
    n_by_episodes = 0
    for (pair,), (difference,) in equal_models(2, repeats, mixed):
        n_apart += not pair.is_tie
        low, high = difference.interval()
        n_by_episodes += not low <= 0.0 <= high
    low, high = marks(0.05, 0.05, repeats)
    assert low <= n_apart / repeats <= high
    # the interval over episodes speaks about these examples alone
    assert n_by_episodes / repeats > 1 / 3


def test_any_two_of_four_equal_models_are_told_apart_at_most_at_the_nominal_rate():
    """Without Holm's correction of the six pairs they would be three times as often."""
    repeats = 400
    n_apart = 0
    n_uncorrected = 0
    for pairs, _ in equal_models(4, repeats):
        assert len(pairs) == 6
        n_apart += any(not pair.is_tie for pair in pairs)
        n_uncorrected += any(pair.p <= 0.05 for pair in pairs)
    low, high = marks(0.025, 0.05, repeats)
    assert low <= n_apart / repeats <= high
    assert n_uncorrected / repeats > 2 * high


def test_models_of_different_noise_are_told_apart():
    x, y = sample()
    noisy = x + 2.0 * torch.randn_like(x, generator=torch.Generator().manual_seed(1))
    found = {"clear": sampled_accuracy(x, y, FEW), "noisy": sampled_accuracy(noisy, y, FEW)}
    (pair,) = compare_all(found)
    assert not pair.is_tie
    assert pair.difference.value > 0.0
    assert pair.p_holm < 1e-6


def test_a_model_is_tied_with_itself_and_with_its_rotation():
    x, y = sample()
    turn = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))[0]
    found = {name: sampled_accuracy(z, y, FEW) for name, z in (("a", x), ("b", 3.0 * x @ turn))}
    (pair,) = compare_all(found)
    assert pair.is_tie
    assert pair.p == 1.0


def test_small_classes_have_no_error_over_examples_and_are_tied():
    x, y = sample(n_a_class=8)
    settings = EpisodeSettings(k_shot=5, n_query=3, n_episodes=50)
    found = {name: sampled_accuracy(z, y, settings) for name, z in (("a", x), ("b", -x.abs()))}
    assert math.isnan(found["a"].estimate().stderr)
    (pair,) = compare_all(found)
    assert pair.is_tie
    assert math.isnan(pair.p)


def test_pairs_are_corrected_for_their_number():
    stderr = math.hypot(0.01, 0.01)
    differences = {("a", "b"): 0.03, ("a", "c"): 0.13, ("b", "c"): 0.1}
    found = with_tests(
        list(differences),
        [Estimate(d, stderr, 100, dof=39, scale="linear") for d in differences.values()],
    )
    pairs = {(p.first, p.second): p for p in found}
    t = 0.03 / stderr
    assert pairs["a", "b"].p == pytest.approx(2 * stats.t.sf(t, 39))
    assert pairs["a", "b"].p_holm == pytest.approx(2 * stats.t.sf(t, 39))  # the last of three
    assert pairs["a", "c"].p_holm > pairs["a", "c"].p


# --- agreement


def measured_as(values):
    found = {}
    for name, value in values.items():
        x, y = sample(seed=hash(name) % 100)
        base = sampled_accuracy(x, y, FEW)
        episodes = Estimate(value, 0.01, 100)
        found[name] = type(base)(episodes, base.halves * 0.0 + value, base.examples)
    return found


def test_tau_is_kendalls_tau_b():
    accuracies = measured_as({"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8})
    scores = {"a": 1.0, "b": 1.0, "c": 3.0, "d": 2.0}
    found = agreement(
        {name: (value, 0.0) for name, value in scores.items()}, accuracies, higher_is_better=True
    )
    expected = stats.kendalltau([1.0, 1.0, 3.0, 2.0], [0.5, 0.6, 0.7, 0.8]).statistic
    assert found.tau == pytest.approx(expected)
    assert found.interval == pytest.approx((expected, expected))
    assert (found.picked, found.regret) == ("c", pytest.approx(0.1))


def test_tau_turns_for_scores_of_which_less_is_better_and_errors_widen_it():
    accuracies = measured_as({"a": 0.5, "b": 0.6, "c": 0.7})
    scores = {"a": (3.0, 1.0), "b": (2.0, 1.0), "c": (1.0, 1.0)}
    found = agreement(scores, accuracies, higher_is_better=False)
    assert found.tau == pytest.approx(1.0)
    assert found.interval[0] < 0.5


def test_one_model_has_no_agreement():
    found = agreement({"a": (1.0, 0.1)}, measured_as({"a": 0.5}), higher_is_better=True)
    assert math.isnan(found.tau)
    assert found.n_models == 1


# --- how many examples would do


def test_the_number_of_examples_gives_the_power_that_is_said():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(5).repeat_interleave(50)
    outcomes = 0.3 * torch.randn(250, generator=generator, dtype=torch.float64)
    outcomes += 0.02 - outcomes.mean()
    stderr = float(outcomes.std()) / math.sqrt(250)
    needed = examples_needed(outcomes, y, Estimate(0.02, stderr, 600))
    draws = np.random.default_rng(1).normal(0.02, float(outcomes.std()), size=(4000, 5 * needed))
    t = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / math.sqrt(5 * needed))
    assert np.mean(np.abs(t) > stats.t.isf(0.025, 5 * needed - 5)) == pytest.approx(0.8, abs=0.05)


def test_no_difference_and_a_tiny_one_need_more_than_any_number():
    y = torch.arange(5).repeat_interleave(50)
    outcomes = torch.randn(250, dtype=torch.float64)
    assert examples_needed(outcomes, y, Estimate(0.0, 0.01, 600)) is None
    assert examples_needed(outcomes, y, Estimate(1e-6, 0.05, 600)) is None
    assert examples_needed(outcomes * 0.0, y, Estimate(0.1, 0.0, 600)) is None


# --- rank


def test_models_come_best_first_with_ties_and_advice():
    x, y = sample()
    models = {"noisy": blurred(4.0), "same": blurred(0.0), "clear": blurred(0.0)}
    ranking = geo.rank(models, (x, y), layer="", n_episodes=200)
    assert [model.label for model in ranking.models] == ["same", "clear", "noisy"]
    found = ranking.to_dict()
    assert [model["tied_with"] for model in found["models"]] == [["clear"], ["same"], []]
    assert "cannot be told apart from clear with 40 examples a class" in ranking.advice
    assert "same and clear have the same features" in " ".join(ranking.warnings)
    assert found["agreement"]["cdnv"]["tau"] > 0.5
    json.dumps(found, allow_nan=False)
    assert str(ranking).splitlines()[0].startswith("same comes first, and cannot be told apart")


def test_the_order_of_the_models_changes_no_number():
    x, y = sample()
    a, b = blurred(0.5), blurred(2.0)
    first = geo.rank({"a": a, "b": b}, (x, y), layer="", n_episodes=50).to_dict()["models"]
    second = geo.rank({"b": b, "a": a}, (x, y), layer="", n_episodes=50).to_dict()["models"]
    for model in (*first, *second):
        model.pop("seconds_per_example")
    assert first == second


def test_a_model_that_fails_is_a_row_and_the_others_go_on():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("out of memory")

    x, y = sample()
    ranking = geo.rank({"broken": Broken(), "fine": blurred(0.0)}, (x, y), layer="", n_episodes=50)
    assert [failed.label for failed in ranking.failed] == ["broken"]
    assert "out of memory" in ranking.failed[0].error
    assert "broken" in str(ranking)
    assert "nothing to compare" in ranking.advice


def test_if_all_models_fail_the_first_error_is_raised():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("out of memory")

    with pytest.raises((RuntimeError, ValueError), match="out of memory"):
        geo.rank({"broken": Broken()}, sample(), layer="")


def test_models_on_other_examples_are_refused():
    x, y = sample()
    ranking = geo.rank(
        {"a": (blurred(0.0), (x, y)), "b": (blurred(0.0), (x.flip(0), y.flip(0)))},
        layer="",
        n_episodes=50,
    )
    assert "expected the examples of a, got other labels for b" in ranking.failed[0].error
    ranking = geo.rank(
        {"a": (blurred(0.0), (x, y)), "b": (blurred(0.0), (x[:200], y[:200]))},
        layer="",
        n_episodes=50,
    )
    assert "expected the 320 examples of a, got 200 for b" in ranking.failed[0].error


def test_too_few_examples_name_the_class_and_its_count():
    x, y = sample(n_a_class=5)
    with pytest.raises(ValueError, match=r"expected at least 6 examples of each class .* got 5 of"):
        geo.rank({"a": blurred(0.0)}, (x, y), layer="", mode="measured")


def test_few_labels_rank_by_the_predicted_accuracy():
    x, y = sample(n_a_class=5)
    models = {"noisy": blurred(4.0), "clear": blurred(0.0)}
    ranking = geo.rank(models, (x, y), layer="")
    assert ranking.ranked_by == "predicted_accuracy"
    assert [model.label for model in ranking.models] == ["clear", "noisy"]
    assert ranking.models[0].accuracy is None
    assert ranking.agreement == {}
    json.dumps(ranking.to_dict(), allow_nan=False)
    assert "clear" in str(ranking)


def test_no_models_and_no_data_are_refused():
    with pytest.raises(ValueError, match="models: expected at least one, got none"):
        geo.rank({}, sample())
    with pytest.raises(ValueError, match="data: expected examples for the models, got none"):
        geo.rank({"a": blurred(0.0)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_way": 1}, "n_way: expected a whole number of at least 2, got 1"),
        ({"k_shot": 0}, "k_shot: expected a whole number of at least 1, got 0"),
        ({"k_shot": 5.0}, "k_shot: expected a whole number"),
        ({"n_query": 0}, "n_query: expected a whole number of at least 1, got 0"),
        ({"n_episodes": 1}, "n_episodes: expected a whole number of at least 2, got 1"),
        ({"classifier": "svm"}, "classifier: expected .*, got 'svm'"),
        ({"mode": "guessed"}, "mode: expected 'measured', 'predicted' or None, got 'guessed'"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
    ],
)
def test_settings_are_refused_before_any_model_runs(settings, message):
    def never(_x):
        raise AssertionError("a model ran")

    with pytest.raises(ValueError, match=message):
        geo.rank({"a": never}, sample(), **settings)
    if settings.keys() <= {"n_way", "k_shot", "seed"}:
        with pytest.raises(ValueError, match=message):
            geo.compare(never, never, sample(), **settings)
    with pytest.raises(ValueError, match="labels: expected two different names"):
        geo.compare(never, never, sample(), labels=("a", "a"))


def test_measurements_and_features_files_are_ranked_too(tmp_path):
    x, y = sample()
    measured = geo.measure(blurred(0.0), (x, y), layer="")
    measured.save_features(tmp_path / "features.safetensors")
    ranking = geo.rank(
        {"measured": measured, "file": tmp_path / "features.safetensors"}, n_episodes=50
    )
    first, second = ranking.models
    assert torch.equal(first.sampled.over_episodes.values, second.sampled.over_episodes.values)


class Counted(torch.utils.data.TensorDataset):
    """Examples that know what identifies them, and how often they were read."""

    def fingerprint(self):
        return "these examples"


def test_a_second_ranking_takes_features_from_the_cache(tmp_path):
    x, y = sample()
    calls = []

    class Counting(Blurred):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    torch.manual_seed(0)
    model = Counting(0.0)
    cache = FeatureCache(tmp_path)
    first = geo.rank({"a": model}, Counted(x, y), layer="", cache=cache, n_episodes=50)
    n_calls = len(calls)
    second = geo.rank({"a": model}, Counted(x, y), layer="", cache=cache, n_episodes=50)
    assert len(calls) == n_calls
    a, b = (ranking.to_dict()["models"][0] for ranking in (first, second))
    assert (a.pop("from_cache"), b.pop("from_cache")) == (False, True)
    assert a == b
    model.noise = 1.0
    geo.rank({"a": model}, Counted(x, y), layer="", cache=cache, n_episodes=50)
    assert len(calls) > n_calls


class Stacked(nn.Module):
    """Two layers, and the number of examples that each forward pass took."""

    passes: ClassVar[list[int]] = []  # an attribute of its own would be part of its fingerprint

    def __init__(self):
        super().__init__()
        self.passes.clear()
        torch.manual_seed(0)
        self.first = nn.Linear(16, 12, dtype=torch.float64)
        self.second = nn.Linear(12, 8, dtype=torch.float64)

    def forward(self, x):
        self.passes.append(len(x))
        return self.second(self.first(x).tanh())


def of_layers(model, layers, cache=None):
    """The ranking of a model at each of its layers."""
    opened = Opened(model, Counted(*sample()))
    settings = RankSettings(EpisodeSettings(n_episodes=50))
    return rank_candidates(
        [Candidate("net", lambda: opened, layers)], FeatureSettings(), settings, cache=cache
    )


def test_several_layers_come_from_one_pass_with_the_numbers_of_each_alone():
    model = Stacked()
    both = {found.label: found for found in of_layers(model, ("first", "second")).models}
    n_both = sum(model.passes)
    for layer in ("first", "second"):
        model.passes.clear()
        (alone,) = of_layers(model, (layer,)).models
        together = both[f"net {layer}"]
        assert torch.equal(together.kept.features, alone.kept.features)
        assert together.geometric_complexity.value == pytest.approx(
            alone.geometric_complexity.value, rel=1e-12
        )
        assert together.accuracy.value == alone.accuracy.value
    assert n_both == sum(model.passes)


def test_layers_in_the_cache_are_read_and_only_the_others_are_taken(tmp_path):
    model, cache = Stacked(), FeatureCache(tmp_path)
    of_layers(model, ("first",), cache)
    ranking = of_layers(model, ("first", "second"), cache)
    found = {model["label"]: model["from_cache"] for model in ranking.to_dict()["models"]}
    assert found == {"net first": True, "net second": False}
    model.passes.clear()
    of_layers(model, ("first", "second"), cache)
    assert not model.passes


def test_a_layer_that_fails_leaves_the_others_of_its_model():
    ranking = of_layers(Stacked(), ("first", "third"))
    assert [found.label for found in ranking.models] == ["net first"]
    (failed,) = ranking.failed
    assert failed.label == "net third"
    assert "layer: expected the name of a module, got 'third'" in failed.error


def test_checkpoints_say_where_transfer_peaked():
    x, y = sample()
    kept = {
        f"step {step}": geo.measure(blurred(noise), (x, y), layer="").kept
        for step, noise in ((0, 4.0), (100, 0.0), (200, 2.0))
    }
    settings = RankSettings(EpisodeSettings(n_episodes=100), is_path=True)
    ranking = rank_features(kept, settings)
    assert ranking.path == ("step 0", "step 100", "step 200")
    assert "Transfer peaks at step 100" in ranking.advice
    assert "falls to" in ranking.advice
    assert ranking.to_dict()["checkpoints"] == ["step 0", "step 100", "step 200"]


def test_target_classes_that_a_model_was_trained_on_are_said():
    x, y = sample(n_classes=3)
    data = torch.utils.data.TensorDataset(x, y)
    data.classes = ["tench", "Sports_Car", "quokka"]
    opened = Opened(blurred(0.0), data, trained_on=("tench, Tinca tinca", "sports car"))
    ranking = rank_candidates(
        [Candidate("a", lambda: opened)],
        FeatureSettings(layer=""),
        RankSettings(EpisodeSettings(n_episodes=50)),
    )
    (warning,) = ranking.warnings
    assert warning.startswith("a: trained on target classes: tench, Sports_Car; new classes may")
    assert "trained on target classes" in str(ranking)


def test_a_ranking_names_classes_as_a_measurement_does():
    """Too few names, which a stream may have, and equal ones cost no ranking."""
    x, y = sample(n_classes=4)
    names = ["crane", "crane", "owl"]
    measured = geo.measure(blurred(0.0), iter([(x, y)]), layer="", class_names=names)
    ranking = geo.rank({"a": measured}, n_episodes=50)
    assert ranking.about.classes == measured.class_names == ("crane (0)", "crane (1)", "owl", "3")
