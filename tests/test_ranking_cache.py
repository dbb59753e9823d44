"""What a ranking computed of a model is kept on disk: the same numbers, and when it is not used."""

import json
import math

import pytest
import torch
from torch import nn

import geocollapse as geo
from geocollapse.estimate import Estimate
from geocollapse.models import TrainingRecord
from geocollapse.ranking import order
from geocollapse.ranking.accuracy import EpisodeSettings
from geocollapse.ranking.order import RankSettings, rank_features
from geocollapse.store import read_features, write_features
from geocollapse.store.cache import FeatureCache
from geocollapse.store.records import packed, unpacked


class Known(torch.utils.data.TensorDataset):
    """Examples that know what identifies them."""

    def fingerprint(self):
        return "these examples"


def data():
    generator = torch.Generator().manual_seed(0)
    means = 2.0 * torch.randn(6, 8, generator=generator)
    y = torch.arange(6).repeat_interleave(20)
    return Known(means[y] + torch.randn(120, 8, generator=generator), y)


@pytest.fixture
def models():
    torch.manual_seed(0)
    return {label: nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6)) for label in "ab"}


@pytest.fixture
def computed(monkeypatch):
    """The labels of the models that were computed and not read."""
    labels = []

    def counted(label, *given):
        labels.append(label)
        return rank_model(label, *given)

    rank_model = order.rank_model
    monkeypatch.setattr(order, "rank_model", counted)
    return labels


def ranked(models, cache, **settings):
    return geo.rank(models, data(), cache=cache, n_episodes=30, **settings)


def numbers(ranking):
    """The ranking as JSON, without what says that it was read."""
    found = ranking.to_dict()
    for model in found["models"]:
        model.pop("from_cache")
    found.pop("provenance")
    return json.dumps(found)


@pytest.mark.parametrize("mode", ["measured", "predicted"])
def test_a_second_ranking_computes_nothing_and_has_the_same_numbers(
    models, computed, tmp_path, mode
):
    cache = FeatureCache(tmp_path)
    first = ranked(models, cache, mode=mode)
    assert computed == ["a", "b"]
    second = ranked(models, cache, mode=mode)
    assert computed == ["a", "b"]
    assert numbers(first) == numbers(second)
    assert str(first) == str(second)
    for a, b in zip(first.models, second.models, strict=True):
        assert a.predicted.left_out.equal(b.predicted.left_out)
        gc, again = a.geometric_complexity, b.geometric_complexity
        assert torch.equal(gc.values, again.values)
        assert gc.top_examples(3) == again.top_examples(3)
        if mode == "measured":
            assert a.sampled.halves.equal(b.sampled.halves)


def test_other_settings_features_or_models_are_computed(models, computed, tmp_path):
    cache = FeatureCache(tmp_path)
    ranked(models, cache)
    computed.clear()
    ranked(models, cache, k_shot=2)
    assert computed == ["a", "b"]
    computed.clear()
    ranked(models, cache, seed=1)
    assert computed == ["a", "b"]
    computed.clear()
    with torch.no_grad():
        models["b"][0].weight[0, 0] += 1.0
    ranked(models, cache)
    assert computed == ["b"]
    computed.clear()
    ranked(models, None)
    assert computed == ["a", "b"]


def test_another_record_of_the_training_is_another_result(models, computed, tmp_path):
    cache = FeatureCache(tmp_path)
    kept = {"a": geo.measure(models["a"], data()).kept}
    settings = RankSettings(EpisodeSettings(n_episodes=30))
    for value in (0.5, 0.5, 0.6):
        cdnv = Estimate(value, 0.1, 100)
        records = {"a": TrainingRecord(10, kept["a"].layer, {"source.cdnv": cdnv})}
        (model,) = rank_features(kept, settings, records, cache).models
        assert model.scores["source.cdnv"].value == value
    assert computed == ["a", "a"]


def test_features_read_from_a_file_are_those_that_were_written(models, computed, tmp_path):
    kept = geo.measure(models["a"], data()).kept
    write_features(tmp_path / "a.safetensors", kept)
    settings = RankSettings(EpisodeSettings(n_episodes=30))
    cache = FeatureCache(tmp_path / "cache")
    rank_features({"a": kept}, settings, None, cache)
    rank_features({"b": read_features(tmp_path / "a.safetensors")}, settings, None, cache)
    assert computed == ["a"]


def test_records_are_listed_and_cleared_and_damaged_ones_computed_again(
    models, computed, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("GEOCOLLAPSE_CACHE", str(tmp_path))
    cache = FeatureCache()
    first = ranked(models, cache)
    entries = cache.entries()
    assert len(entries) == 4  # features and a record of each model
    assert geo_cache(capsys, "list")["n_bytes"] == sum(entry.n_bytes for entry in entries)
    for entry in entries:
        text = entry.path.read_bytes()
        if b"record" in text[:2000]:
            entry.path.write_bytes(text[: len(text) // 2])
    computed.clear()
    assert numbers(ranked(models, cache)) == numbers(first)
    assert computed == ["a", "b"]
    assert geo_cache(capsys, "clear")["n_removed"] == 4


def geo_cache(capsys, action):
    from geocollapse.cli import main

    capsys.readouterr()
    assert main(["cache", action, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_record_comes_back_as_it_was():
    z = torch.tensor([math.nan, 1.0])
    score = Estimate(math.nan, math.inf, 3, values=z, warnings=("a", "b"))
    record = {"x": score, 5: (1, None, True, z, ()), "empty": torch.zeros(0, 3)}
    arrays, text = packed(record)
    found = unpacked(arrays, text, {"Estimate": Estimate})
    assert list(found) == ["x", 5, "empty"]
    assert repr(found["x"]) == repr(score)
    assert found["x"].warnings == ("a", "b")
    assert found[5][:3] == (1, None, True)
    assert found[5][4] == ()
    assert found["empty"].shape == (0, 3)
    assert torch.equal(found["x"].values.nan_to_num(7.0), z.nan_to_num(7.0))
    with pytest.raises(ValueError, match="text: expected that of a packed record"):
        unpacked(arrays, text, {})
    with pytest.raises(TypeError, match="record: expected numbers, texts and tensors, got object"):
        packed({"a": object()})
