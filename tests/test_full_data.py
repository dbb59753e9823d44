"""Probes and neighbours that learn from all labels: splits, references, ties, messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import transfer as reference
from scipy.stats import binomtest

from geocollapse.transfer import full_data, full_data_accuracy, transfer
from geocollapse.transfer.full_data import N_NEIGHBOURS, stratified_split

CLASSIFIERS = ("linear_probe", "logistic_probe", "knn")


def classes(n_each, n_classes, p, *, spread=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n_classes).repeat(n_each)
    means = spread * torch.randn(n_classes, p, generator=generator, dtype=torch.float64)
    return means[y] + torch.randn(len(y), p, generator=generator, dtype=torch.float64), y


# splits


@given(
    counts=st.lists(st.integers(2, 30), min_size=2, max_size=6),
    share=st.floats(0.01, 0.99),
    most=st.integers(1, 200),
)
def test_a_split_is_stratified(counts, share, most):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    train, tested = stratified_split(y, share, most=most, seed=0)
    assert len(set(train.tolist() + tested.tolist())) == len(train) + len(tested)
    assert len(train) + len(tested) <= max(most, 2 * len(counts))
    for c, count in enumerate(counts):
        n_train = int((y[train] == c).sum())
        n_tested = int((y[tested] == c).sum())
        assert n_train >= 1
        assert n_tested >= 1
        if most >= len(y):
            assert n_train + n_tested == count
            assert abs(n_tested - share * count) <= 1


def test_a_split_depends_on_labels_and_seed_alone():
    y = torch.arange(100) % 7
    one, again, other = (stratified_split(y, 0.2, most=1000, seed=s)[1] for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    before = torch.get_rng_state()
    x, _ = classes(10, 10, 4)
    full_data_accuracy(x, y)
    assert torch.equal(torch.get_rng_state(), before)


# references


def test_the_linear_probe_equals_ridge_regression_with_the_best_penalty():
    from sklearn.linear_model import Ridge

    x, y = classes(20, 5, 6)
    found = full_data_accuracy(x, y, seed=3)
    train, tested = (part.numpy() for part in stratified_split(y, 0.2, most=1000, seed=3))
    z = (x - x[train].mean(dim=0)).numpy()
    targets = 2.0 * np.eye(5)[y.numpy()] - 1.0
    size = (z[train] ** 2).sum(axis=1).mean()

    def probe(rows, penalty):
        return Ridge(alpha=penalty * size).fit(z[rows], targets[rows])

    def left_out(penalty):
        errors = [
            (probe(np.delete(train, i), penalty).predict(z[[row]]) - targets[row]) ** 2
            for i, row in enumerate(train)
        ]
        return np.mean(errors)

    best = min(full_data.PENALTIES, key=left_out)
    predicted = probe(train, best).predict(z[tested]).argmax(axis=1)
    assert found.indices.tolist() == tested.tolist()
    assert found.values.tolist() == (predicted == y.numpy()[tested]).tolist()
    assert 0.2 < found.value < 1.0


def test_neighbours_equal_the_vote_of_the_reference():
    x, y = classes(20, 4, 3)
    found = full_data_accuracy(x, y, classifier="knn")
    train, tested = stratified_split(y, 0.2, most=1000, seed=0)
    examples = x[train].numpy()
    right = [
        reference.vote(x[row].numpy(), examples, y[train].tolist(), N_NEIGHBOURS) == int(y[row])
        for row in tested
    ]
    assert found.values.tolist() == right


def test_the_logistic_probe_is_near_the_best_of_gaussian_classes():
    x, y = classes(300, 4, 5)
    found = full_data_accuracy(x, y, classifier="logistic_probe")
    best = full_data_accuracy(x, y).value
    assert abs(found.value - best) < 0.05
    assert found.value > 0.5


@pytest.mark.parametrize("n_right", [0, 3, 20])
def test_the_interval_is_wilsons(n_right):
    y = torch.arange(20) % 2
    x = torch.where(torch.arange(20) < n_right, y, 1 - y).double()[:, None]
    features = torch.cat([torch.arange(20.0).double()[:, None] % 2, x])
    found = full_data_accuracy(
        features, torch.cat([y, y]), test=torch.arange(40) >= 20, classifier="knn"
    )
    expected = binomtest(n_right, 20).proportion_ci(method="wilson")
    assert found.value == n_right / 20
    assert found.interval() == pytest.approx((expected.low, expected.high))
    assert (found.n_train, found.n_samples) == (20, 20)


# ties and invariances


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_identical_classes_tie_whatever_the_rounding(classifier):
    y = torch.arange(150) % 3
    x = torch.tensor([[0.1, 0.7], [0.1, 0.7], [0.3, -0.2]], dtype=torch.float64)[y]
    assert full_data_accuracy(x, y, classifier=classifier).value == pytest.approx(1 / 3)
    equal = torch.full((150, 2), 1 / 3)
    assert full_data_accuracy(equal, y, classifier=classifier).value == 0.0


@pytest.mark.parametrize("classifier", ["linear_probe", "knn"])
def test_translation_rotation_and_scale_do_not_matter(classifier):
    x, y = classes(20, 4, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    expected = full_data_accuracy(x, y, classifier=classifier).values
    for changed in (x + 5.0, x @ rotation, 1e-3 * x, (x + 5.0).numpy()):
        assert torch.equal(full_data_accuracy(changed, y, classifier=classifier).values, expected)
    assert torch.equal(full_data_accuracy(x, 3 * y + 7, classifier=classifier).values, expected)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_two_classes_and_classes_that_are_only_tested(classifier):
    x, y = classes(30, 2, 4, spread=5.0)
    assert full_data_accuracy(x, y, classifier=classifier).value == 1.0
    unseen = torch.where(torch.arange(60) >= 50, 2 + 0 * y, y)
    found = full_data_accuracy(x, unseen, test=torch.arange(60) >= 40, classifier=classifier)
    assert found.value == 0.5


def test_more_examples_than_the_budget_are_left_out(monkeypatch):
    x, y = classes(40, 5, 6)
    monkeypatch.setattr(full_data, "MOST_PRODUCTS", 100**2 * 6)
    found = transfer(x, y, n_episodes=5, k_shots=(1,))["full_data"]
    assert (found["n_train"], found["n_test"]) == (80, 20)
    assert list(found["accuracy"]) == ["linear_probe", "knn"]


# errors


def test_bad_input_is_refused():
    x, y = classes(10, 3, 4)

    def message(labels=y, **settings):
        with pytest.raises(ValueError, match=": expected") as caught:
            full_data_accuracy(x, labels, **settings)
        return str(caught.value)

    assert message(classifier="svm").startswith("classifier: expected linear_probe or")
    lonely = torch.where(torch.arange(30) == 4, 9, y)
    assert message(lonely) == (
        "labels: expected at least 2 examples of each class, got 1 of class 9; do drop the class"
    )
    assert message(test_share=1.0).startswith("test_share: expected a number between 0 and 1")
    assert message(test=torch.arange(30)).startswith("test: expected one bool for each of 30")
    assert message(test=torch.ones(30, dtype=torch.bool)).startswith(
        "test: expected examples to learn from and to test on, got 30 of 30"
    )


@pytest.mark.parametrize("classifier", ["linear_probe", "logistic_probe", "knn"])
def test_one_class_is_refused(classifier):
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="labels: expected at least two classes, got label 3 only"):
        full_data_accuracy(x, torch.full((30,), 3), classifier=classifier)
