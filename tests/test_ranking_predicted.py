"""Predicted accuracy in a ranking: a score with its null, and paired ties where it ranks."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import geocollapse as geo
from geocollapse.estimate import Estimate
from geocollapse.measurement.compute import measure_layer
from geocollapse.measures import SCORES
from geocollapse.ranking import model as model_module
from geocollapse.ranking.accuracy import EpisodeSettings
from geocollapse.ranking.predicted import PREDICTED, predicted_accuracy
from geocollapse.ranking.ties import compare_all
from geocollapse.reports.ranking_reading import RankingPage
from geocollapse.transfer import jackknifed_error

FEW = EpisodeSettings(n_query=0)


def noisy(noise, seed, *, n_classes=6, n_a_class=10, p=24):
    """Features of classes at fixed means, with noise of their own."""
    means = torch.randn(
        n_classes, p, generator=torch.Generator().manual_seed(99), dtype=torch.float64
    )
    y = torch.arange(n_classes).repeat_interleave(n_a_class)
    generator = torch.Generator().manual_seed(seed)
    return means[y] + noise * torch.randn(len(y), p, generator=generator, dtype=torch.float64), y


def as_models(features, y):
    return {label: (nn.Identity(), (x, y)) for label, x in features.items()}


# --- a score


def test_the_predicted_accuracy_is_a_score_with_interval_and_null():
    x, y = noisy(1.6, 0, n_a_class=30)
    (model,) = geo.rank(as_models({"a": x}, y), layer="", n_episodes=50).models
    score = model.scores[PREDICTED]
    assert (SCORES[PREDICTED].needs, SCORES[PREDICTED].better) == ("labels", "higher")
    assert score.valid
    assert score.estimate == model.predicted_accuracy
    assert float(score.estimate) == pytest.approx(1.0 - float(geo.predicted_error(x, y)))
    assert score.null.n_shuffles == 5
    assert score.null.mean == pytest.approx(1 / 5, abs=4 * score.null.sd)
    assert score.value - score.null.mean > 8 * score.null.sd
    assert list(model.to_dict([])["scores"]) == [name for name in SCORES if name in model.scores]


def test_the_agreement_says_how_well_the_geometry_knew_the_order():
    features = {f"noise {noise}": noisy(noise, 1, n_a_class=30)[0] for noise in (3.0, 1.0, 2.0)}
    y = noisy(1.0, 1, n_a_class=30)[1]
    ranking = geo.rank(as_models(features, y), layer="", n_episodes=100)
    found = ranking.agreement[PREDICTED]
    assert (found.tau, found.picked, found.regret) == (1.0, "noise 1.0", 0.0)
    assert found.n_models == 3
    page = RankingPage(ranking.to_dict(), SCORES)
    assert PREDICTED not in page.score_names  # it has its own figure and column
    json.dumps(ranking.to_dict(), allow_nan=False)


def test_classes_that_nothing_can_be_predicted_of_have_the_reason():
    x, y = noisy(1.0, 0, n_a_class=3)
    (model,) = geo.rank(as_models({"a": x}, y), layer="", k_shot=1, n_query=1, n_episodes=20).models
    score = model.scores[PREDICTED]
    assert (score.valid, model.predicted_accuracy) == (False, None)
    assert "expected at least 4 examples of each class, got 3" in score.reason
    assert score.reason in model.warnings


def test_more_ways_than_classes_are_refused_where_the_prediction_ranks():
    with pytest.raises(ValueError, match="n_way"):
        geo.rank(
            as_models({"a": noisy(1.0, 0)[0]}, noisy(1.0, 0)[1]),
            layer="",
            n_way=9,
            mode="predicted",
        )


def test_an_undefined_collapse_is_not_valid_and_has_no_agreement(monkeypatch):
    """Class means within their noise, as of CIFAR-FS classes at 30 images each."""
    name = "per_pixel.geometric_collapse"
    undefined = Estimate(math.nan, math.nan, 9, warnings=("means do not stand out",))

    def measured(kept):
        found = measure_layer(kept)
        return replace(found, estimates={**found.estimates, name: undefined})

    monkeypatch.setattr(model_module, "measure_layer", measured)
    x, y = noisy(1.0, 0, n_a_class=20)
    ranking = geo.rank(as_models({"a": x, "b": 2 * x}, y), layer="", n_episodes=20)
    score = ranking.models[0].scores[name]
    assert (score.valid, score.reason) == (False, f"{name}: means do not stand out")
    assert name not in ranking.agreement


# --- ties


def test_the_estimate_is_that_of_predicted_error():
    x, y = noisy(1.5, 0)
    assert jackknifed_error(x, y, k_shot=5).estimate() == geo.predicted_error(x, y, k_shot=5)


def test_a_model_is_tied_with_itself_and_with_its_rotation():
    x, y = noisy(1.5, 0)
    turn = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64))[0]
    ranking = geo.rank(
        as_models({"a": x, "b": x, "c": 2 * x @ turn}, y), layer="", mode="predicted"
    )
    assert all(pair.is_tie for pair in ranking.pairs)
    assert ranking.pairs[0].p == 1.0
    assert all(abs(pair.difference.value) < 1e-9 for pair in ranking.pairs)


def test_what_both_find_hard_cancels():
    x, y = noisy(2.0, 0, n_a_class=40)
    worse = x + 0.7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).double()
    found = {label: predicted_accuracy(z, y, FEW) for label, z in (("a", x), ("b", worse))}
    (pair,) = compare_all(found)
    alone = [found[label].estimate().stderr for label in "ab"]
    assert pair.difference.value == pytest.approx(
        found["a"].estimate().value - found["b"].estimate().value
    )
    assert pair.difference.stderr < 0.5 * math.hypot(*alone)
    assert not pair.is_tie
    assert abs(pair.difference.value) < 2 * math.hypot(*alone)  # unpaired, it would be a tie


def of_one_law(draw, mixed):
    """Two models of one law on the same examples, which share part of their noise."""
    generator = torch.Generator().manual_seed(draw)
    fixed = torch.Generator().manual_seed(99)
    means = torch.randn(5, 12, generator=fixed, dtype=torch.float64)
    y = torch.arange(5).repeat_interleave(10)
    shared, a, b = (torch.randn(50, 12, generator=generator, dtype=torch.float64) for _ in range(3))
    own = math.sqrt(1.0 - mixed**2)
    return {
        label: predicted_accuracy(means[y] + 1.5 * (mixed * shared + own * z), y, FEW)
        for label, z in (("a", a), ("b", b))
    }


def test_equal_models_are_told_apart_at_the_nominal_rate_at_most():
    """A jackknife of ten examples a class is a little too wide (1.5 % for 5 %), never too short."""
    n_draws = 300
    p_values = torch.tensor([compare_all(of_one_law(d, 0.8))[0].p for d in range(n_draws)])
    n_below = {level: int((p_values <= level).sum()) for level in (0.05, 0.2, 0.5)}
    assert n_below[0.05] <= 26  # 15 and three standard deviations
    assert 20 <= n_below[0.2] <= 81
    assert 100 <= n_below[0.5] <= 176


@pytest.mark.parametrize("seed", [1, 5, 9, 12, 28])
def test_a_model_with_its_columns_reversed_is_tied_with_itself(seed):
    """The predicted accuracies differ by rounding alone, and so do those of the groups."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(64) % 8
    x = torch.randn(8, 16, generator=generator)[y] + torch.randn(64, 16, generator=generator)
    same = {"a": lambda z: z, "b": lambda z: z.flip(1), "c": lambda z: 3.7 * z}
    ranking = geo.rank(same, (x, y), mode="predicted")
    assert all(pair.is_tie and pair.p == 1.0 for pair in ranking.pairs)
