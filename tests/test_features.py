from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import geocollapse as geo
from geocollapse import models
from geocollapse.features import FeatureMap, Layer, find_embedding
from geocollapse.measurement.collect import collect_features


class FunctionalPool(nn.Module):
    """Pools with a function before its classifier, as many CIFAR networks do."""

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
    "model",
    [
        FunctionalPool(),
        ConvHead(),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 5)),
    ],
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
    with pytest.raises(
        RuntimeError, match="head: expected a layer that feeds the last module, got 'conv'"
    ):
        head(torch.randn(4, 512))
    with pytest.raises(
        RuntimeError, match=r"head: expected a known embedding.*do feature_map\(x\) first"
    ):
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
        ValueError,
        match=r"layer: expected a linear classifier .* got \(4, 4, 8, 8\); .* candidates: '0:in'",
    ):
        find_embedding(model, IMAGES)


def test_unknown_layer_suggests_the_nearest():
    with pytest.raises(
        ValueError, match=r"layer: expected the name of a module, got 'liner'; do layer='linear'"
    ):
        geo.measure(FunctionalPool(), (IMAGES, torch.tensor([0, 1, 0, 1])), layer="liner:in")
    with pytest.raises(
        ValueError, match="classifier: expected a Linear or a 1x1 convolution, got Conv2d at 'conv'"
    ):
        find_embedding(FunctionalPool(), IMAGES, classifier="conv")


def test_a_layer_that_returns_a_tuple():
    model = nn.Sequential(nn.Flatten(), Pair())
    with pytest.raises(
        TypeError,
        match=r"layer: expected '1' to return one tensor, got tuple; do name a part of it "
        r"\('1\[0\]', '1\[1\]'\), or",
    ):
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
    with pytest.raises(
        RuntimeError, match="expected '0' to run once in a forward pass, got 2 runs"
    ):
        FeatureMap(model, [Layer("0")])(torch.randn(2, 6))


def test_hooks_are_gone_also_after_an_error():
    model = FunctionalPool()
    with pytest.raises(RuntimeError):
        FeatureMap(model, [Layer("linear", "in")])(torch.randn(2, 1, 8, 8))
    assert not model.linear._forward_pre_hooks


# outputs that are not one tensor


class Outputs(nn.Module):
    """A body and a classifier; ``kind`` packs hidden features and logits into an output."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(inplace=True))
        self.fc = nn.Linear(7, 5)
        self.kind = kind

    def forward(self, x):
        hidden = self.body(x)
        return self.kind(hidden, self.fc(hidden))


def transformers_output(hidden, logits):
    outputs = pytest.importorskip(
        "transformers.modeling_outputs", reason='pip install "geocollapse[text]"'
    )

    return outputs.ImageClassifierOutput(logits=logits, hidden_states=(hidden,))


KINDS = {
    "tuple": lambda hidden, logits: (logits, hidden),
    "list": lambda hidden, logits: [logits, hidden],
    "mapping": lambda hidden, logits: {"hidden": hidden, "logits": logits},
    "only tensor": lambda hidden, logits: {"out": logits, "note": None},
    "named tuple": lambda hidden, logits: namedtuple("Out", ["hidden", "logits"])(hidden, logits),
    "transformers": transformers_output,
    "another precision": lambda hidden, logits: logits.double(),
}
LABELS = torch.arange(40) % 5
PHOTOS = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_classifier_behind_an_output_of_any_kind(kind):
    """Any output gives the same numbers as logits alone."""
    plain = geo.measure(Outputs(lambda hidden, logits: logits), (PHOTOS, LABELS)).to_dict()
    found = geo.measure(Outputs(KINDS[kind]), (PHOTOS, LABELS)).to_dict()
    assert found["layer"] == "fc:in"
    for name in ("accuracy", "nc3", "nc4", "cdnv", "geometric_complexity"):
        assert found[name] == plain[name]


class Parts(nn.Module):
    """A layer with two outputs, the first then written to, in a model that returns a mapping."""

    def __init__(self):
        super().__init__()
        self.pair = Twice()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        first, second = self.pair(x.flatten(1))
        return {
            "pooled": self.relu(first).mean(dim=1, keepdim=True),
            "second": second,
            "note": "text",
        }


class Twice(nn.Module):
    def forward(self, x):
        return x - 1, 2 * x


def test_a_part_of_what_a_layer_gives():
    x, model = IMAGES, Parts()
    expected = {
        "pair[0]": x.flatten(1) - 1,
        "pair[1]": 2 * x.flatten(1),
        "[second]": 2 * x.flatten(1),
        "[pooled]": (x.flatten(1) - 1).relu().mean(dim=1, keepdim=True),
    }
    for name, features in expected.items():
        layer = Layer.find(model, name)
        assert str(layer) == name
        torch.testing.assert_close(FeatureMap(model, [layer])(x), features)
    found = geo.measure(model, (PHOTOS, LABELS), layer=["pair[1]", "[second]"], estimator="exact")
    assert found.to_frame()["layer"].tolist() == ["pair[1]", "[second]"]
    assert [layer.geometric_complexity.value for layer in found.layers] == pytest.approx(
        [4 * 192] * 2
    )
    feature_map, head = geo.split(model, "[second]")
    assert torch.equal(head(feature_map(x)), feature_map(x))


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (
            "pair[2]",
            ValueError,
            r"layer: expected a part of the output of 'pair', got '2'; do layer='pair\[0\]' or "
            r"'pair\[1\]'",
        ),
        (
            "[first]",
            ValueError,
            r"a part of the output of '', got 'first'; do layer='\[pooled\]' or '\[second\]'",
        ),
        ("relu[0]", ValueError, "a part of the output of 'relu', got '0'; do layer='relu'"),
        (
            "pair",
            TypeError,
            r"expected 'pair' to return one tensor, got tuple; do name a part of it "
            r"\('pair\[0\]', ",
        ),
        (
            "",
            TypeError,
            r"expected '' to return one tensor, got dict; do name a part of it \('\[pooled\]', "
            r"'\[second\]'\)",
        ),
        ("[note]", TypeError, r"expected '\[note\]' to return one tensor, got str"),
        (None, ValueError, r"got dict; .* candidates: '\[pooled\]', '\[second\]'"),
        ("pear[0]", ValueError, "expected the name of a module, got 'pear'; do layer='pair'"),
    ],
)
def test_a_part_that_cannot_be_taken(layer, error, message):
    with pytest.raises(error, match=message):
        geo.measure(Parts(), (PHOTOS, LABELS), layer=layer)


# models that are not plain


def test_a_linear_layer_whose_output_is_written_to_is_no_classifier():
    """The embedding of a backbone that ends in an in-place ReLU is its output."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(inplace=True))
    found = find_embedding(model, IMAGES)
    assert (str(found.layer), found.classifier) == ("", None)
    separate = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU())
    assert find_embedding(separate, IMAGES) == found


class Tied(nn.Module):
    """Two layers of one weight; the second has two names."""

    def __init__(self):
        super().__init__()
        self.body, self.decoder = nn.Linear(192, 192), nn.Linear(192, 192)
        self.decoder.weight = self.body.weight
        self.head = self.decoder

    def forward(self, x):
        return self.head(self.body(x.flatten(1)).tanh())


def test_tied_weights_and_a_module_of_two_names():
    model = Tied()
    assert str(find_embedding(model, IMAGES).layer) == "decoder:in"
    for name in ("decoder:in", "head:in"):
        layer = Layer.find(model, name)
        assert str(layer) == name
        assert torch.equal(FeatureMap(model, [layer])(IMAGES), model.body(IMAGES.flatten(1)).tanh())


def test_frozen_parameters_and_a_mapping_of_one_tensor():
    model = Outputs(lambda hidden, logits: logits)
    plain = geo.measure(model, (PHOTOS, LABELS)).to_dict()
    model.requires_grad_(False)
    batches = DataLoader(
        [{"pixel_values": x, "labels": y} for x, y in zip(PHOTOS, LABELS)], batch_size=40
    )
    found = geo.measure(model, batches).to_dict()
    for key in ("value", "stderr"):  # known labels have strata, whose interval is a little wider
        expected = plain["geometric_complexity"][key]
        assert found["geometric_complexity"][key] == pytest.approx(expected, rel=1e-12)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("how", ["torch.compile", "model.compile", "a part"])
def test_a_compiled_model_is_measured_by_its_own_names(how):
    plain = geo.measure(Outputs(lambda hidden, logits: logits), (PHOTOS, LABELS)).to_dict()
    model = Outputs(lambda hidden, logits: logits)
    if how == "torch.compile":
        model = torch.compile(model, backend="eager")
    elif how == "a part":
        model.body = torch.compile(model.body, backend="eager")
    else:
        model.compile(backend="eager")
    model(PHOTOS)  # the graph is there before anything is measured
    for layer in (None, "fc:in"):
        found = geo.measure(
            model, (PHOTOS, LABELS), layer=layer, classifier=layer and "fc"
        ).to_dict()
        assert any(
            warning.startswith("model: measured without torch.compile")
            for warning in found["warnings"]
        )
        for name in ("layer", "accuracy", "cdnv", "nc3", "geometric_complexity"):
            assert found[name] == plain[name]
    several = geo.measure(model, (PHOTOS, LABELS), layer=["body.1", "fc:in"]).to_frame()
    assert several["layer"].tolist() == ["body.1", "fc:in"]
    feature_map, head = geo.split(model, "fc:in")
    torch.testing.assert_close(head(feature_map(PHOTOS)), model(PHOTOS))
    torch.testing.assert_close(model(PHOTOS), Outputs(lambda hidden, logits: logits)(PHOTOS))


# a forward pass that fails


class Fails(nn.Module):
    """Raises in its forward pass, in its backward pass, or in a layer of torch."""

    def __init__(self, error):
        super().__init__()
        self.error, self.embedding, self.fc = error, nn.Embedding(4, 192), nn.Linear(192, 5)

    def forward(self, x):
        z = x.flatten(1)
        if self.error == "backward":
            return self.fc(FailsBackward.apply(z))
        if self.error == "later" and bool((x > 9).any()):
            return self.fc(z + self.embedding(torch.tensor([4])))
        if isinstance(self.error, BaseException):
            raise self.error
        return self.fc(z)


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no backward pass")


@pytest.mark.parametrize(
    ("error", "got"),
    [
        (
            AssertionError("Input height doesn't match.\nSecond line"),
            r"got AssertionError: Input height doesn't match; do",
        ),
        (
            AssertionError(),
            "got AssertionError; do check that the model takes images, and their size",
        ),
        (KeyError("a"), "got KeyError: 'a'; do"),
    ],
)
@pytest.mark.parametrize("call", [{}, {"layer": "fc:in", "classifier": "fc"}])
def test_an_error_of_the_models_own_says_so(error, got, call):
    with pytest.raises(
        ValueError,
        match=r"model: expected a forward pass of inputs of shape \(1, 3, 8, 8\), " + got,
    ) as e:
        geo.measure(Fails(error), (PHOTOS, LABELS), **call)
    assert e.value.__cause__ is error
    with pytest.raises(ValueError, match="model: expected a forward pass"):
        collect_features(Fails(error), (PHOTOS, LABELS))


def test_an_error_of_a_later_batch_says_so_too():
    photos = PHOTOS.clone()
    photos[30] = 10.0
    with pytest.raises(
        ValueError, match=r"forward pass of inputs of shape .*, got IndexError: index out of"
    ):
        geo.measure(Fails("later"), (photos, LABELS), batch_size=8)


def test_other_errors_are_not_the_models():
    """This package's own errors, those of a backward pass, and out of memory are unchanged."""
    with pytest.raises(ValueError, match="^x: expected images of at least 32 x 32"):
        geo.measure(models.build("vgg11", num_classes=5, input_shape=(3, 8, 8)), (PHOTOS, LABELS))
    with pytest.raises(RuntimeError, match="^no backward pass"):
        geo.measure(Fails("backward"), (PHOTOS, LABELS))
    for error in (MemoryError("all of it"), torch.OutOfMemoryError("all of it")):
        with pytest.raises(type(error), match="^all of it"):
            geo.measure(Fails(error), (PHOTOS, LABELS))
