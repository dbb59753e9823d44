"""Two models side by side: which measures decide, and why others cannot be compared."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import geocollapse as geo
from geocollapse.measures import MEASURES, incomparable
from geocollapse.ranking.accuracy import EpisodeSettings
from geocollapse.ranking.comparable import Circumstances, differences, differing_inputs
from geocollapse.ranking.order import RankSettings, rank_features
from geocollapse.reports.two_runs import compare_runs

RESULTS = Path(__file__).parents[1] / "results"
OF_CIFAR10 = RESULTS / "cifar10-vgg13-learning-rate/reduced/runs/0c509a2237a6"
OF_MNIST = RESULTS / "mnist-vgg11-weight-decay/reduced/runs/156f0d18ef31"
PER_PIXEL = ("per_pixel.gc_per_variance", "per_pixel.geometric_collapse")
STD = [0.5, 0.5, 0.5]


def decisions(compared):
    return {row.name: row.decision for row in compared.rows}


# --- two models on the same examples


def pictures():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(150) % 3
    means = 2 * torch.randn(3, 3, 4, 4, generator=generator)
    return torch.randn(150, 3, 4, 4, generator=generator) + means[y], y


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 3))


def at_two_sizes():
    """One function of the same pictures at 4 x 4 pixels, and at 16 x 16 behind an average pool."""
    x, y = pictures()
    large = nn.functional.interpolate(x, scale_factor=4, mode="nearest")
    small_one, large_one = network(), nn.Sequential(nn.AvgPool2d(4), *network())
    return (
        geo.measure(small_one, (x, y), input_std=STD),
        geo.measure(large_one, (large, y), input_std=STD),
    )


def test_what_depends_on_the_input_size_does_not_decide_between_two_sizes():
    small, large = at_two_sizes()
    assert large.gc_per_variance < small.gc_per_variance / 10  # the function is the same
    found = geo.compare(small, large, labels=("small", "large"))
    for name in (*PER_PIXEL, "geometric_complexity"):
        assert found[name].decision == "not comparable"
        assert "other input size: 3 x 4 x 4 against 3 x 16 x 16" in found[name].note
    assert found["cdnv"].decision == "cannot be told apart"
    assert found.answer == "small and large cannot be told apart on 150 examples."


def test_the_reason_is_said_once_for_all_measures_that_have_it():
    small, large = at_two_sizes()
    text = " ".join(str(geo.compare(small, large)).split())
    assert text.count("other input size") == 1
    assert "geometric collapse per raw pixel, geometric complexity: other input size" in text


def test_features_files_of_earlier_releases_differ_in_the_size_of_resized_images():
    old = [{"mean": [0.5], "image_size": [32, 32]}, {"mean": [0.5]}]
    assert differing_inputs(old) == {"input size": ["32 x 32", "the images' own"]}
    shaped = [{"input_shape": [3, 32, 32]}, {"input_shape": [3, 32, 32], "image_size": [32, 32]}]
    assert differing_inputs(shaped) == {}


def test_values_that_differ_are_told_apart_in_words():
    near = [{"mean": [0.4914]}, {"mean": [0.49141]}]
    assert differing_inputs(near) == {"mean": ["0.4914", "0.49141"]}
    one, other = ({"std": [s, 0.25]} for s in (0.2, 0.3))
    assert differing_inputs([one, other]) == {"std": ["0.2, 0.25", "0.3, 0.25"]}


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ({"a", "b"}, {"a", "b", "c"}, "2 against 3"),
        ({"a", "b"}, {"b", "c"}, "a against c"),
        (set("abcde"), set("vwxyz"), "a, b, c and 2 more against v, w, x and 2 more"),
    ],
)
def test_other_classes_leave_nothing_to_compare(one, other, reason):
    circumstances = [
        Circumstances(n_features=2, preprocessing={}, examples={"classes": frozenset(names)})
        for names in (one, other)
    ]
    differing = differences(*circumstances)
    assert incomparable(differing) == f"other classes: {reason}"
    for measure in MEASURES.values():
        assert incomparable(differing, measure.invariant_to)


# --- two run folders


def changed(tmp_path, run, config=(), **of_source):
    """A copy of a stored run with other settings or another record of its source."""
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    text = (folder / "config.yaml").read_text()
    for before, after in config:
        assert before in text
        text = text.replace(before, after)
    (folder / "config.yaml").write_text(text)
    with gzip.open(folder / "result.json.gz") as file:
        result = json.load(file)
    result["final"]["source"] |= of_source
    with gzip.open(folder / "result.json.gz", "wt") as file:
        json.dump(result, file)
    return folder


def test_runs_on_two_data_sets_are_not_compared():
    found = compare_runs(OF_CIFAR10, OF_MNIST)
    assert set(decisions(found).values()) == {"not comparable"}
    assert all(row.difference is None for row in found.rows)
    assert found.answer == (
        "0c509a2237a6 and 156f0d18ef31 cannot be compared: other data set: cifar10 against mnist."
    )
    assert "all measures: other data set: cifar10 against mnist" in str(found)
    assert all(row["better"] is None for row in found.to_dict()["measures"])


def test_runs_on_other_classes_are_not_compared(tmp_path):
    other = changed(tmp_path, OF_CIFAR10, classes=["cat", "dog", "plane"], n_classes=3)
    found = compare_runs(OF_CIFAR10, other)
    assert set(decisions(found).values()) == {"not comparable"}
    assert "other classes: " in found.answer


@pytest.mark.parametrize(
    ("config", "of_source"),
    [
        ([("name: vgg13", "name: vgg11")], {}),
        ([("width: 16", "width: 8")], {"n_features": 64}),
    ],
    ids=["architecture", "width"],
)
def test_runs_of_other_networks_are_compared_by_what_is_free_of_the_scale(
    tmp_path, config, of_source
):
    other = changed(tmp_path, OF_CIFAR10, config, **of_source)
    found = decisions(compare_runs(OF_CIFAR10, other))
    assert found.pop("source.geometric_complexity") == "not comparable"
    assert set(found.values()) == {"cannot be told apart"}


def test_runs_of_another_normalisation_are_compared_per_raw_pixel(tmp_path):
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3}
    other = changed(tmp_path, OF_CIFAR10, preprocessing=preprocessing)
    found = decisions(compare_runs(OF_CIFAR10, other))
    assert found.pop("source.geometric_complexity") == "not comparable"
    assert set(found.values()) == {"cannot be told apart"}


def test_runs_of_another_image_size_are_not_compared_by_complexity(tmp_path):
    other = changed(tmp_path, OF_CIFAR10, [("image_size: null", "image_size: 48")])
    found = compare_runs(OF_CIFAR10, other)
    complex_ones = ("geometric_complexity", *PER_PIXEL)
    for row in found.rows:
        measure = row.name.removeprefix("source.")
        expected = "not comparable" if measure in complex_ones else "cannot be told apart"
        assert row.decision == expected, row.name
    assert "other input size: the images' own against 48 x 48" in str(found)


def test_target_measures_of_runs_with_other_source_classes_decide():
    runs = RESULTS / "cifar-fs-resnet18-n-classes/reduced/runs"
    found = decisions(compare_runs(runs / "17bdc7117de1", runs / "fbeb4af9f492"))
    assert found["source.cdnv"] == "not comparable"
    assert found["target.accuracy.5"] == "unknown"  # its error is not over examples
    assert found["target.per_pixel.gc_per_variance"] == "lower"


def test_accuracies_of_other_episodes_are_not_compared(tmp_path):
    run = RESULTS / "cifar-fs-resnet18-n-classes/reduced/runs/17bdc7117de1"
    other = changed(tmp_path, run, [("n_way: 5", "n_way: 10")])
    found = compare_runs(run, other)
    assert found["target.accuracy.5"].decision == "not comparable"
    assert found["target.accuracy.5"].note == "5 classes an episode against 10"
    assert found["target.per_pixel.gc_per_variance"].decision == "cannot be told apart"


def test_runs_without_a_measure_that_decides_are_not_called_equal(tmp_path):
    found = compare_runs(OF_CIFAR10, changed(tmp_path, OF_CIFAR10, estimates={}))
    assert found.rows == ()
    assert found.answer.endswith("cannot be compared: no measure that decides is known of both.")


# --- several models in a ranking


def ranked(preprocessings):
    """A ranking of three models that differ in what is recorded of their inputs."""
    kept = {}
    for label, changes in preprocessings.items():
        found = geo.measure(network(), pictures(), input_std=STD).kept
        context = found.context
        preprocessing = {**context.preprocessing, **changes}
        kept[label] = replace(found, context=replace(context, preprocessing=preprocessing))
    settings = RankSettings(EpisodeSettings(n_episodes=20), n_way=3)
    return rank_features(kept, settings)


def test_complexity_has_no_agreement_across_input_sizes_and_the_reason_is_said_once():
    small, large = ({"input_shape": [3, side, side]} for side in (4, 16))
    ranking = ranked({"a": small, "b": small, "c": large})
    assert set(PER_PIXEL).isdisjoint(ranking.agreement)
    assert {"cdnv", "logme", "label_free.rankme"} <= set(ranking.agreement)
    (left_out,) = (note for note in ranking.warnings if "left out" in note)
    assert left_out == (
        "GC / var, pixel and GCol, pixel: agreement with accuracy left out, as the input size "
        "differs"
    )
    assert " ".join(str(ranking).split()).count("left out") == 1
    json.dumps(ranking.to_dict(), allow_nan=False)


def test_models_of_one_input_size_have_the_agreement_of_complexity():
    ranking = ranked({"a": {}, "b": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    assert set(PER_PIXEL) <= set(ranking.agreement)
    assert not [note for note in ranking.warnings if "left out" in note]


def test_a_ranking_says_which_part_of_the_preprocessing_differs():
    means = [{"mean": [value]} for value in (0.5, 0.25, 0.5)]
    notes = ranked(dict(zip("abc", means, strict=True))).warnings
    assert "preprocessing differs: mean 0.5 (a, c), 0.25 (b)" in notes
    sized = {"image_size": [8, 8], "input_shape": [3, 8, 8]}
    notes = ranked({"a": sized, "b": {"std": [0.1]}}).warnings
    expected = (
        "preprocessing differs: input size 3 x 8 x 8 (a), 3 x 4 x 4 (b); std 0.5, 0.5, 0.5 (a), "
        "0.1 (b)"
    )
    assert expected in notes
    assert not [note for note in ranked({"a": {}, "b": {}}).warnings if "preprocessing" in note]
