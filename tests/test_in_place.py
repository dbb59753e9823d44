"""Models that work in place: the caller's data, and what a layer saw, stay as they are."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import geocollapse as geo

MEAN, STD = 0.3, 0.7


class Normalising(nn.Module):
    """A model whose first operation changes its input."""

    def __init__(self, in_place=True):
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.first = nn.Linear(6, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = x.sub_(MEAN).div_(STD) if self.in_place else (x - MEAN) / STD
        return self.head(torch.tanh(self.first(x)))


class Residual(nn.Module):
    """Blocks that add to their input in place, after a layer has seen it."""

    def __init__(self, act, in_place=True):
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.first = nn.Linear(6, 8)
        self.act = act
        self.c = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        change = self.c(self.act(x))
        if self.in_place:
            x += change
        else:
            x = x + change
        return self.head(x)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(60, 6, generator=generator), torch.arange(60) % 3


def numbers(m):
    return {k: v for k, v in m.summary().items() if v == v}


@pytest.mark.parametrize("how", ["pair", "stream", "loader"])
def test_a_stream_is_normalised_once(data, how):
    """A stream's first batch was normalised twice: GC x0.989, CDNV x0.970, the data changed."""
    x, y = data
    x = x.clone()
    forms = {
        "pair": lambda x: (x, y),
        "stream": lambda x: iter([(x[:30], y[:30]), (x[30:], y[30:])]),
        "loader": lambda x: DataLoader(list(zip(x, y)), batch_size=30),
    }
    found = geo.measure(Normalising(), forms[how](x), estimator="exact")
    assert torch.equal(x, data[0])
    expected = geo.measure(Normalising(in_place=False), forms[how](x), estimator="exact")
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-6)


@pytest.mark.parametrize("method", ["forward_mode", "double_backward"])
def test_the_first_penalty_step_is_that_of_the_others(data, method):
    """It was off by 3 % and its logits by .37."""
    x = data[0].clone()
    steps = []
    for in_place in (True, False):
        penalty = geo.GeometricComplexityPenalty(1.0, method=method)
        model = Normalising(in_place)
        steps.append([penalty(model, x) for _ in range(2)])
        assert torch.equal(x, data[0])
    for (logits, loss), (others, other) in zip(*steps, strict=True):
        torch.testing.assert_close(logits, others)
        torch.testing.assert_close(loss, other)


def test_split_leaves_the_input_alone(data):
    x = data[0].clone()
    model = Normalising()
    feature_map, head = geo.split(model)
    torch.testing.assert_close(head(feature_map(x)), Normalising(in_place=False)(x))
    assert torch.equal(x, data[0])


@pytest.mark.parametrize("act", [nn.Identity(), nn.Dropout(0.5), nn.ReLU(), nn.Tanh()])
@pytest.mark.parametrize("layer", ["act:in", "act", "first", "head:in"])
def test_what_a_layer_saw_is_taken_before_it_is_changed(data, act, layer):
    """GC 4.59 for 3.28 at act:in; with Identity, the tap changed the model's own features."""
    found, expected = (
        geo.measure(Residual(act, in_place), data, layer=layer, estimator="exact")
        for in_place in (True, False)
    )
    torch.testing.assert_close(found.features, expected.features)
    assert found.geometric_complexity.value == pytest.approx(
        expected.geometric_complexity.value, rel=1e-6
    )
    assert found.accuracy == expected.accuracy


def test_a_tap_leaves_the_aliasing_of_the_model_as_it_is(data):
    """Identity hands its input on, and the parent changes both names of it."""

    class Aliased(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(6, 8)
            self.same = nn.Identity()
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            x = self.first(x)
            y = self.same(x)
            y *= 2.0  # changes x as well
            return self.head(x)

    model = Aliased()
    plain = geo.measure(model, data, estimator="exact")
    tapped = geo.measure(model, data, layer=["same", "head:in"], estimator="exact")
    torch.testing.assert_close(tapped["head:in"].features, plain.features)
    torch.testing.assert_close(tapped["same"].features, plain.features / 2.0)


def test_relu_in_place_after_a_tapped_layer(data):
    build = functools.partial(nn.Sequential, nn.Linear(6, 8))
    torch.manual_seed(0)
    last = nn.Linear(8, 3)
    model = build(nn.ReLU(inplace=True), last)
    found = geo.measure(model, data, layer=["0", "1", "2:in"], estimator="exact")
    z = model[0](data[0]).detach()
    torch.testing.assert_close(found["0"].features, z)
    torch.testing.assert_close(found["1"].features, F.relu(z))
    feature_map, head = geo.split(model, "0")
    features = feature_map(data[0])
    before = features.clone()
    head(features)
    assert torch.equal(features, before)
