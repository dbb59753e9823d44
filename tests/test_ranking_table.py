"""The table of a ranking for the terminal: what it shows, within 100 columns."""

import pytest
import torch
from torch import nn

import geocollapse as geo
from geocollapse.ranking.table import SHOWN_SCORES, shown_scores

LABELS = ("efficientnet_lite1", "resnet56", "hf:google/vit-base-patch16-224@random", "mine", "e")


def ranked(n_models, **settings):
    generator = torch.Generator().manual_seed(10)
    means = 3.0 * torch.randn(8, 16, generator=generator, dtype=torch.float64)
    y = torch.arange(8).repeat_interleave(20)
    models = {}
    for place, label in enumerate(LABELS[:n_models]):
        noise = torch.randn(len(y), 16, generator=generator, dtype=torch.float64)
        x = 1e3 * (means[y] + (4.0 + 0.2 * place) * noise)
        models[label] = (nn.Linear(16, 16, dtype=torch.float64), (x, y))
    return geo.rank(models, layer="", n_episodes=60, **settings)


@pytest.fixture(scope="module")
def two():
    torch.manual_seed(0)
    return ranked(2)


@pytest.fixture(scope="module")
def five():
    torch.manual_seed(0)
    return ranked(5)


def test_two_models_have_the_fixed_scores(two):
    assert shown_scores(two) == ["logme", "directional_cdnv"] == list(SHOWN_SCORES[:2])
    text = str(two)
    score = two.models[0].scores["logme"].value
    assert "LogME" in text
    assert f"{score:.3g}" in text


def test_four_models_and_more_have_the_scores_that_agreed_best(five):
    taus = {
        name: found.tau for name, found in five.agreement.items() if name != "predicted_accuracy"
    }
    shown = shown_scores(five)
    assert len(shown) == 2
    left = [tau for name, tau in taus.items() if name not in shown]
    assert min(taus[name] for name in shown) >= max(left)
    assert "scores closest to this order" in str(five)


def test_the_predicted_accuracy_has_its_interval(two):
    for model in two.models:
        low, high = model.predicted_accuracy.interval()
        assert f"{100 * low:.1f} to {100 * high:.1f}" in str(two)


@pytest.mark.parametrize("mode", ["measured", "predicted"])
def test_the_table_fits_100_columns_and_cuts_nothing_off(five, mode):
    ranking = five if mode == "measured" else ranked(5, mode="predicted")
    text = str(ranking)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for model in ranking.models:
        low, high = model.ranked_by.interval()
        assert f"{100 * low:.1f} to {100 * high:.1f}" in text
        assert any(line.startswith(model.label[:14]) for line in text.splitlines())


def test_ties_stand_below_a_name(five):
    rows = str(five).partition("\u2500\n")[2].splitlines()
    best = five.to_dict()["models"][0]
    assert best["tied_with"]
    assert rows[0].startswith(best["label"][:14])
    assert any(line.startswith("tied with") for line in rows[1:3])
