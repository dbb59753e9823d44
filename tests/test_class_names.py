"""Labels that are names of classes: numbered in alphabetical order, and shown."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import geocollapse as geo
from geocollapse.arrays import as_classes, as_labels
from geocollapse.bounds import margins
from geocollapse.collapse import ClassStatistics
from geocollapse.integrations.metrics import CollapseMetric
from geocollapse.measures import SCORES
from geocollapse.morse import reliability

NAMES = ["dog", "cat", "owl"] * 40
CLASSES = ("cat", "dog", "owl")
NUMBERS = torch.tensor([1, 0, 2] * 40)
FORMS = {
    "list": NAMES,
    "tuple": tuple(NAMES),
    "array": np.array(NAMES),
    "objects": np.array(NAMES, dtype=object),
}
X = torch.randn(120, 8, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(8)[NUMBERS]


class Named(Dataset):
    """Examples whose labels are names, which ``targets`` tells."""

    targets = NAMES

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return X[row], NAMES[row]


class Untold(Named):
    """The same examples, whose names are known only when they are read."""

    targets = None


def model():
    torch.manual_seed(0)
    return nn.Linear(8, 3)


@pytest.mark.parametrize("labels", FORMS.values(), ids=FORMS)
def test_names_are_numbered_in_alphabetical_order(labels):
    numbers, names = as_classes(labels, len(NAMES))
    assert numbers.dtype == torch.int64
    assert (numbers.tolist(), names) == (NUMBERS.tolist(), CLASSES)
    assert torch.equal(as_labels(labels), numbers)
    assert as_classes(NUMBERS)[1] is None


@pytest.mark.parametrize("labels", FORMS.values(), ids=FORMS)
def test_functions_of_features_take_names(labels):
    for function in (geo.cdnv, geo.logme, geo.h_score, geo.transrate, geo.parc, geo.ncti):
        assert float(function(X, labels)) == float(function(X, NUMBERS))
    of_names = geo.few_shot_accuracy(X, labels, n_way=3, n_episodes=20)
    of_numbers = geo.few_shot_accuracy(X, NUMBERS, n_way=3, n_episodes=20)
    assert torch.equal(of_names.values, of_numbers.values)
    assert geo.neural_collapse(X, labels).nc1 == geo.neural_collapse(X, NUMBERS).nc1


def test_scores_take_names():
    of_names, of_numbers = (geo.score_all(X, labels, n_nulls=2) for labels in (NAMES, NUMBERS))
    assert set(of_names) <= set(SCORES)
    for name, score in of_names.items():
        assert score.value == pytest.approx(of_numbers[name].value, nan_ok=True), name


def test_too_few_examples_are_told_by_the_name_of_their_class():
    rare = [*NAMES[:-1], "emu"]
    with pytest.raises(ValueError, match="got 1 of class 'emu'"):
        geo.few_shot_accuracy(X, rare, n_way=3, k_shot=1, n_query=2)
    with pytest.raises(ValueError, match="got 1 of class 'emu'"):
        geo.learning_curve(X, rare, n_way=3, k_shots=(1,), n_query=2)


@pytest.mark.parametrize("labels", FORMS.values(), ids=FORMS)
def test_a_ranking_takes_names_and_shows_them(labels):
    ranking = geo.rank({"a": model()}, (X, labels), layer="", n_way=3, n_episodes=20)
    assert ranking.to_dict()["classes"] == list(CLASSES)
    of_numbers = geo.rank({"a": model()}, (X, NUMBERS), layer="", n_way=3, n_episodes=20)
    assert ranking.models[0].accuracy.value == of_numbers.models[0].accuracy.value
    json.dumps(ranking.to_dict(), allow_nan=False)


DATA = {
    "pair": lambda: ((X, NAMES), {}),
    "targets": lambda: (Named(), {}),
    "loader": lambda: (DataLoader(Named(), batch_size=16), {}),
    "subset": lambda: (Subset(Named(), range(120)), {}),
    "labels=": lambda: (TensorDataset(X), {"labels": NAMES}),
    "labels= of named batches": lambda: (Untold(), {"labels": NAMES}),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_a_measurement_names_its_classes(data):
    examples, settings = data()
    found = geo.measure(model(), examples, layer="", **settings)
    assert found.class_names == CLASSES
    assert tuple(found.class_complexity) == CLASSES
    expected = geo.measure(model(), (X, NUMBERS), layer="")
    assert found.cdnv == expected.cdnv
    assert found.geometric_complexity.value == expected.geometric_complexity.value


def test_names_that_come_with_the_batches_alone_are_refused():
    stream = [(X[:60], NAMES[:60]), (X[60:], NAMES[60:])]
    for data in (Untold(), stream):
        with pytest.raises(TypeError, match="names that are known before they are read, got 'cat'"):
            geo.measure(model(), data, layer="")


def test_a_name_that_targets_do_not_tell_is_refused():
    class Wrong(Named):
        def __getitem__(self, row):
            return X[row], "emu" if row == 3 else NAMES[row]

    with pytest.raises(ValueError, match="expected the names that the data set tells, got 'emu'"):
        geo.measure(model(), Wrong(), layer="")


def test_the_names_of_the_classes_are_those_of_the_labels():
    with pytest.raises(ValueError, match="class_names: expected None for labels that are names"):
        geo.measure(model(), (X, NAMES), layer="", class_names=["owl", "dog", "cat"])
    found = geo.measure(model(), (X, NAMES), layer="", class_names=list(CLASSES))
    assert found.class_names == CLASSES


@pytest.mark.parametrize("ending", ["npz", "pt"])
def test_a_features_file_may_have_names_as_labels(tmp_path, ending):
    path = tmp_path / f"features.{ending}"
    if ending == "npz":
        np.savez(path, features=X.numpy(), labels=np.array(NAMES))
    else:
        torch.save({"features": X, "labels": NAMES}, path)
    found = geo.measure_features(path)
    assert found.class_names == CLASSES
    assert torch.equal(found.labels, NUMBERS)
    ranking = geo.rank({"file": path}, n_way=3, n_episodes=20)
    assert ranking.to_dict()["classes"] == list(CLASSES)
    found.save_features(tmp_path / "again.safetensors")
    assert geo.measure_features(tmp_path / "again.safetensors").class_names == CLASSES


REFUSED = {
    "margins": lambda: margins(X[:, :3], NAMES),
    "reliability": lambda: reliability(X[:, :3].softmax(dim=1), NAMES),
    "statistics": lambda: ClassStatistics.of(X, NAMES),
    "update": lambda: ClassStatistics.empty().update(X, NAMES),
    "metric": lambda: CollapseMetric().update(X, NAMES),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_names_are_refused_where_the_numbers_have_a_meaning(call):
    with pytest.raises(TypeError, match="got names such as 'cat'; do number the classes"):
        call()


class Photos(Named):
    """Numbered labels, and names in one of the forms that data sets have."""

    targets = NUMBERS.tolist()

    def __init__(self, classes):
        self.classes = classes

    def __getitem__(self, row):
        return X[row], int(NUMBERS[row])


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ([("tench", "Tinca tinca"), ("goldfish",), ("crane",)], ("tench", "goldfish", "crane")),
        (np.array(["a", "b", "c"]), ("a", "b", "c")),
        ([10, 20, 30], ("10", "20", "30")),
        (["crane", "owl", "crane"], ("crane (0)", "owl", "crane (2)")),
        (3, ("0", "1", "2")),
        ({"a": 0, "b": 1, "c": 2}, ("0", "1", "2")),
    ],
    ids=["synonyms", "array", "numbers", "twice", "count", "mapping"],
)
def test_names_in_the_forms_that_data_sets_have(tmp_path, classes, names):
    measured = geo.measure(model(), Photos(classes))
    assert measured.class_names == names
    assert tuple(measured.class_complexity) == names
    measured.save_features(tmp_path / "x.safetensors")
    again = geo.measure_features(tmp_path / "x.safetensors")
    assert again.class_names == names
    assert again.cdnv == measured.cdnv


@pytest.mark.parametrize("argument", [True, False])
def test_too_few_names_are_refused_before_the_pass(argument):
    def never(_x):
        raise AssertionError("the model ran")

    few = ["cat", "dog"]
    data, given = ((X, NUMBERS), few) if argument else (Photos(few), None)
    with pytest.raises(ValueError, match="a name for each of the labels 0 to 2, got 2"):
        geo.measure(never, data, class_names=given)
    with pytest.raises(TypeError, match="class_names: expected a sequence of names, got 'abc'"):
        geo.measure(never, (X, NUMBERS), class_names="abc")


def test_a_stream_with_too_few_names_keeps_the_labels_of_the_others():
    batches = [(X[:60], NUMBERS[:60]), (X[60:], NUMBERS[60:])]
    measured = geo.measure(model(), iter(batches), class_names=["cat", "dog"])
    assert measured.class_names == ("cat", "dog", "2")


def test_one_known_class_is_refused_before_the_pass():
    seen = []

    def features(x):
        seen.append(len(x))
        return x.tanh()

    with pytest.raises(ValueError, match="at least two classes, got label 1 only"):
        geo.measure(features, (X, torch.ones_like(NUMBERS)))
    assert max(seen) == 2  # the checks take two examples
