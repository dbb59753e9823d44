"""CollapseMetric: streaming, merging, processes, collections."""

from __future__ import annotations

import math
import pickle

import laws
import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from geocollapse.collapse import neural_collapse
from geocollapse.estimate import GeocollapseWarning
from geocollapse.integrations.metrics import CollapseMetric


def stream(n=120, n_classes=4, p=6):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(n_classes, (n,), generator=generator)
    centres = 2 * torch.randn(n_classes, p, generator=generator)
    return centres[labels] + torch.randn(n, p, generator=generator), labels


def assert_measures(metric, features, labels, **tol):
    expected = neural_collapse(features, labels)
    got = metric.compute()
    assert len(got) == 9
    for name, value in got.items():
        assert value.shape == ()
        assert value.dtype == torch.float64
        laws.assert_close(value, float(getattr(expected, name)), **tol)


@pytest.mark.parametrize("num_classes", [None, 4])
@pytest.mark.parametrize("batch", [1, 16, 120])
def test_any_batches_give_the_whole(num_classes, batch):
    features, labels = stream()
    metric = CollapseMetric(num_classes)
    for start in range(0, len(labels), batch):
        metric.update(features[start : start + batch], labels[start : start + batch])
    assert_measures(metric, features, labels)


def test_without_scatter_there_is_no_nc1():
    features, labels = stream()
    metric = CollapseMetric(scatter=False)
    metric.update(features, labels)
    assert "nc1_pooled" not in metric.compute()


@pytest.mark.parametrize("as_dict", [False, True])
def test_merge_state(as_dict):
    features, labels = stream()
    a, b = CollapseMetric(), CollapseMetric()
    a.update(features[:50], labels[:50])
    b.update(features[50:], labels[50:])
    a.merge_state(b.metric_state if as_dict else b)
    assert_measures(a, features, labels)
    with pytest.raises(
        TypeError, match="incoming_state: expected a CollapseMetric or its metric_state, got int"
    ):
        a.merge_state(3)


def test_forward_gives_the_batch_and_keeps_the_stream():
    features, labels = stream()
    metric = CollapseMetric()
    first = metric(features[:60], labels[:60])
    laws.assert_close(first["cdnv"], neural_collapse(features[:60], labels[:60]).cdnv)
    metric(features[60:], labels[60:])
    assert_measures(metric, features, labels)


def test_reset_pickle_and_state_dict():
    features, labels = stream()
    metric = CollapseMetric()
    metric.update(features[:, :3] + 9, labels)
    metric.reset()
    metric.update(features[:70], labels[:70])
    metric = pickle.loads(pickle.dumps(metric))
    metric.persistent(True)
    resumed = CollapseMetric()
    resumed.persistent(True)
    resumed.load_state_dict(metric.state_dict())
    for copy in (metric, resumed):
        copy.update(features[70:], labels[70:])
        assert_measures(copy, features, labels)


def test_in_a_collection():
    features, labels = stream()
    metrics = MetricCollection(
        {
            "collapse": CollapseMetric(),
            "same": CollapseMetric(),
            "accuracy": MulticlassAccuracy(num_classes=6),
        }
    )
    for start in range(0, len(labels), 40):
        metrics.update(features[start : start + 40], labels[start : start + 40])
    values = metrics.compute()
    assert "accuracy" in values
    cdnv = [value for name, value in values.items() if name.endswith("cdnv")]
    assert len(cdnv) == 2
    for value in cdnv:
        laws.assert_close(value, neural_collapse(features, labels).cdnv)


def test_one_class_or_none_is_nan_with_a_warning():
    features, _ = stream()
    metric = CollapseMetric()
    metric.update(features[:5], torch.zeros(5, dtype=torch.long))
    with pytest.warns(GeocollapseWarning, match="target: expected at least two classes"):
        values = metric.compute()
    assert all(math.isnan(value) for value in values.values())
    assert len(values) == 9


def test_a_refused_batch_leaves_the_state_alone():
    features, labels = stream()
    metric = CollapseMetric(4)
    metric.update(features, labels)
    with pytest.raises(
        ValueError, match=r"labels: expected integers from 0 to 3 \(num_classes=4\), got 4"
    ):
        metric.update(features, labels + 1)
    with pytest.raises(ValueError, match="features: expected 6 columns as before, got 5"):
        metric.update(features[:, 1:], labels)
    assert_measures(metric, features, labels)


@pytest.mark.parametrize(
    "convert",
    [
        lambda module: module.to(torch.float32),
        lambda module: module.to("cpu", torch.float16),
        lambda module: module.double(),
        lambda module: module.half(),
        lambda module: module[0].set_dtype(torch.float32),
    ],
)
def test_a_module_of_another_dtype_leaves_the_states_alone(convert):
    features, labels = stream()
    owner = torch.nn.ModuleList([CollapseMetric(), torch.nn.Linear(2, 2)])
    owner[0].update(features[:50], labels[:50])
    convert(owner)
    owner[0].update(features[50:], labels[50:])
    assert owner[0].metric_state["classes"][0].dtype == torch.int64
    assert_measures(owner[0], features, labels)
    owner[0].reset()
    owner[0].update(features, labels)
    assert_measures(owner[0], features, labels)


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (
            {"num_classes": 4},
            {"num_classes": 5},
            "num_classes: expected 4, got 5; do declare the same",
        ),
        ({"num_classes": 5}, {}, "num_classes: expected 5, got"),
        ({}, {"num_classes": 5}, "num_classes: expected None, got 5"),
        ({}, {"scatter": False}, "scatter: expected both parts with it or both without"),
        ({"scatter": False}, {}, "scatter: expected both parts with it or both without"),
    ],
)
def test_merging_refuses_a_state_of_another_kind(ours, theirs, message, as_dict):
    features, labels = stream()
    metric, other = CollapseMetric(**ours), CollapseMetric(**theirs)
    other.update(features, labels)
    with pytest.raises(ValueError, match=message):
        metric.merge_state(other.metric_state if as_dict else other)


@pytest.mark.parametrize(
    "settings", [{}, {"num_classes": 4}, {"scatter": False}, {"num_classes": 6, "scatter": False}]
)
def test_merging_takes_a_state_of_the_same_kind_also_before_its_first_update(settings):
    features, labels = stream()
    metric, empty, full = (CollapseMetric(**settings) for _ in range(3))
    full.update(features, labels)
    for other in (empty, full, empty):
        metric.merge_state(other.metric_state)
    assert torch.equal(metric.statistics.counts, full.statistics.counts)
    laws.assert_close(metric.statistics.sum_squares, full.statistics.sum_squares)
