"""Measuring on a device without float64, with class statistics and sums of norms on the CPU."""

import pytest
import torch
from no_float64 import NAME, Factories, Moves, OnDevice
from torch import nn

import geocollapse as geo
from geocollapse.cli import main
from geocollapse.numerics import NO_FLOAT64
from geocollapse.regularizers import GradientNorm

X, LABELS = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


@pytest.fixture
def device():
    """A device that refuses float64, as Apple's MPS does."""
    NO_FLOAT64.add(NAME)
    with Moves(), Factories():
        yield NAME
    NO_FLOAT64.remove(NAME)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def moved(model, device):
    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = nn.Parameter(parameter.detach().to(device))
    return model


def test_the_imitated_device_refuses_float64(device):
    x = X.to(device)
    assert isinstance(x, OnDevice)
    assert x.device.type == device
    assert torch.equal((2 * x).cpu(), 2 * X)
    with pytest.raises(TypeError, match="float64 on a device that has none"):
        x.double()
    with pytest.raises(TypeError, match="float64 on a device that has none"):
        torch.zeros(3, dtype=torch.float64, device=device)


@pytest.mark.parametrize("estimator", ["exact", "rademacher", "gaussian", "orthogonal", "outputs"])
def test_measure_gives_the_numbers_of_the_cpu(device, estimator):
    settings = {"estimator": estimator, "input_std": [2.0]}
    expected = geo.measure(net(), (X, LABELS), **settings).to_dict()
    found = geo.measure(moved(net(), device), (X, LABELS), **settings).to_dict()
    for name in ("cdnv", "nc1", "nc3", "nc4", "accuracy", "gc_pixel", "nearest_mean_error"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    for name in ("geometric_complexity", "geometric_collapse"):
        assert found[name]["value"] == pytest.approx(expected[name]["value"], rel=1e-5)


def test_measures_of_features_there(device):
    x, labels = X.to(device), LABELS.to(device)
    assert float(geo.cdnv(x, labels)) == float(geo.cdnv(X, LABELS))
    assert geo.rankme(x) == geo.rankme(X)
    episodes = {"n_way": 2, "k_shot": 2, "n_query": 3, "n_episodes": 5}
    assert (
        geo.few_shot_accuracy(x, labels, **episodes).value
        == geo.few_shot_accuracy(X, LABELS, **episodes).value
    )


def test_a_metric_stays_on_the_cpu(device):
    metric = geo.CollapseMetric(num_classes=3).to(device)
    apart = X + 5.0 * torch.eye(3)[LABELS].repeat(1, 4)
    metric.update(apart.to(device), LABELS.to(device))
    assert float(metric.compute()["cdnv"]) == pytest.approx(
        float(geo.cdnv(apart, LABELS)), rel=1e-9
    )
    assert metric.device.type == "cpu"


def test_a_penalty_is_read_on_the_cpu(device):
    penalty, model = geo.GeometricComplexityPenalty(weight=1e-3), moved(net(), device)
    logits, gc_loss = penalty(model, X.to(device))
    (logits.sum() + gc_loss).backward()
    assert isinstance(model[0].weight.grad, OnDevice)
    same = geo.GeometricComplexityPenalty(weight=1e-3)
    same(net(), X)
    assert penalty.last.value == pytest.approx(same.last.value, rel=1e-5)


def test_a_gradient_norm_is_read_on_the_cpu(device):
    criterion = torch.nn.functional.cross_entropy
    labels = torch.arange(len(X)) % 2
    penalty, model = GradientNorm(), moved(net(), device)
    logits, norm_loss = penalty(model, criterion, X.to(device), labels.to(device))
    (logits.sum() + norm_loss).backward()
    assert isinstance(model[0].weight.grad, OnDevice)
    same = GradientNorm()
    same(net(), criterion, X, labels)
    assert penalty.last.value == pytest.approx(same.last.value, rel=1e-5)


def test_float64_is_refused_on_mps(monkeypatch, capsys):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert (
        main(["measure", "torch.nn:Identity", "digits", "--device", "mps", "--dtype", "float64"])
        == 2
    )
    assert (
        "--dtype: expected float32 or bfloat16 on mps, which has no float64"
        in capsys.readouterr().err
    )
