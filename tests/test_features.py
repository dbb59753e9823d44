import pytest
import torch
from torch import nn
from torch.nn import functional as F

import geocollapse as geo
from geocollapse.features import FeatureMap, Layer, find_embedding


class FunctionalPool(nn.Module):
    """Pools functionally in front of its classifier, as many CIFAR networks do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        return self.linear(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).flatten(1))


class ConvHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
        self.fc = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.fc(self.body(x).mean(dim=(2, 3), keepdim=True)).flatten(1)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


IMAGES = torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize(
    "model", [FunctionalPool(), ConvHead(), nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 5))]
)
def test_split_is_the_model(model):
    feature_map, head = geo.split(model)
    assert torch.allclose(head(feature_map(IMAGES)), model(IMAGES), atol=1e-6)
    assert not list(head.parameters())


def test_split_at_a_named_layer_of_a_sequential():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(inplace=True), nn.Linear(7, 5))
    for layer in ("1", "2", "2:in", "", "3:in"):
        feature_map, head = geo.split(model, layer)
        assert torch.allclose(head(feature_map(IMAGES)), model(IMAGES))


def test_split_says_when_the_rest_is_not_a_module():
    feature_map, head = geo.split(FunctionalPool(), "conv")
    feature_map(IMAGES)
    with pytest.raises(RuntimeError, match="head: expected a layer that feeds the last module, got 'conv'"):
        head(torch.randn(4, 512))
    with pytest.raises(RuntimeError, match=r"head: expected a known embedding.*do feature_map\(x\) first"):
        geo.split(FunctionalPool())[1](torch.randn(4, 8))


@pytest.mark.parametrize(
    ("model", "layer", "classifier"),
    [
        (FunctionalPool(), "linear:in", "linear"),
        (ConvHead(), "fc:in", "fc"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), "", None),
    ],
)
def test_default_embedding(model, layer, classifier):
    found = find_embedding(model, IMAGES)
    assert (str(found.layer), found.classifier) == (layer, classifier)


def test_ambiguous_embedding_lists_candidates():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(
        ValueError, match=r"layer: expected a linear classifier .* got \(4, 4, 8, 8\); .* candidates: '0:in'"
    ):
        find_embedding(model, IMAGES)


def test_unknown_layer_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"layer: expected the name of a module, got 'liner'; do layer='linear'"):
        geo.measure(FunctionalPool(), (IMAGES, torch.tensor([0, 1, 0, 1])), layer="liner:in")
    with pytest.raises(ValueError, match="classifier: expected a Linear or a 1x1 convolution, got Conv2d at 'conv'"):
        find_embedding(FunctionalPool(), IMAGES, classifier="conv")


def test_a_layer_that_returns_a_tuple():
    model = nn.Sequential(nn.Flatten(), Pair())
    with pytest.raises(TypeError, match="layer: expected '1' to give one tensor, got tuple; do name a layer inside"):
        FeatureMap(model, [Layer.find(model, "1")])(IMAGES)


def test_in_place_layers_do_not_reach_what_was_taken():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten())
    taken = FeatureMap(model, [Layer("0")])(IMAGES)
    assert torch.equal(taken, model[0](IMAGES).flatten(1))
    before = FeatureMap(model, [Layer("1", "in")])(IMAGES)
    assert torch.equal(before, taken)


def test_pool_averages_positions():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    pooled = FeatureMap(model, [Layer("0")], pool="mean")(IMAGES)
    torch.testing.assert_close(pooled, model(IMAGES).mean(dim=(2, 3)))
    with pytest.raises(ValueError, match="pool: expected None, 'mean', 'cls' or 'last', got 'max'"):
        FeatureMap(model, [Layer("0")], pool="max")


def test_a_shared_layer_is_refused():
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    with pytest.raises(RuntimeError, match="expected '0' to run once in a forward pass, it ran 2 times"):
        FeatureMap(model, [Layer("0")])(torch.randn(2, 6))


def test_hooks_are_gone_also_after_an_error():
    model = FunctionalPool()
    with pytest.raises(RuntimeError):
        FeatureMap(model, [Layer("linear", "in")])(torch.randn(2, 1, 8, 8))
    assert not model.linear._forward_pre_hooks
