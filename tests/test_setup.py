"""One set-up for every measurement: the same default layer, checks and order of data."""

import os
import signal
import threading

import pytest
import torch
from torch import nn

import geocollapse as geo
from geocollapse.data import About, LabelledTokens
from geocollapse.measurement.collect import collect_features
from geocollapse.measurement.table import title_of
from geocollapse.store import read_features, write_features


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5)).double().eval()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    return x, torch.arange(200) % 3


EXACT = {"estimator": "exact"}


def test_one_default_layer_everywhere(net, data):
    measured = geo.measure(net, data, **EXACT)
    complexity = geo.geometric_complexity(net, data, **EXACT)
    penalty = geo.GeometricComplexityPenalty(1.0, n_probes="exact")
    penalty(net, data[0])
    compared = geo.compare_complexity(net, lambda x: 0 * net[:2](x), data, **EXACT)
    exact = geo.geometric_complexity(net[:2], data, layer="", **EXACT).value
    assert measured.geometric_complexity.value == pytest.approx(exact, rel=1e-12)
    assert complexity.value == pytest.approx(exact, rel=1e-12)
    assert penalty.last.value == pytest.approx(exact, rel=1e-12)
    assert compared.first == pytest.approx(exact, rel=1e-12)
    torch.testing.assert_close(collect_features(net, data).features, net[:2](data[0]).detach())


def test_the_layer_is_named_by_every_result(net, data):
    layers = {
        "measure": geo.measure(net, data).geometric_complexity.layer,
        "complexity": geo.geometric_complexity(net, data).layer,
        "output": geo.geometric_complexity(net, data, layer="").layer,
        "callable": geo.geometric_complexity(lambda x: net(x), data).layer,
        "collect": collect_features(net, data).layer,
    }
    assert layers == {
        "measure": "2:in",
        "complexity": "2:in",
        "output": "",
        "callable": "",
        "collect": "2:in",
    }
    gc = geo.geometric_complexity(net, data)
    assert repr(gc).endswith("at '2:in'")
    assert gc.to_dict()["layer"] == "2:in"
    compared = geo.compare_complexity(net, net[:2], data)
    assert compared.layers == ("2:in", "")
    assert "at 2:in and the output" in str(compared)
    assert "at the output" in str(geo.compare_complexity(net, net, data, layer=""))


def test_a_layer_is_that_of_the_module_beside_a_callable(net, data):
    compared = geo.compare_complexity(net, lambda x: net(x), data, layer="", **EXACT)
    assert compared.layers == ("", "")
    assert compared.difference.value == 0.0
    with pytest.raises(ValueError, match="layer: expected None for a callable"):
        geo.geometric_complexity(lambda x: net(x), data, layer="0")


class Mixing(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x):
        return x - x.mean(dim=0)


@pytest.mark.parametrize(
    "work",
    [
        lambda model, data: geo.measure(model, data),
        lambda model, data: geo.geometric_complexity(model, data),
        lambda model, data: geo.compare_complexity(model, model, data),
        lambda model, data: collect_features(model, data),
        lambda model, data: geo.GeometricComplexityPenalty(1.0)(model, data[0]),
    ],
    ids=["measure", "complexity", "compare", "collect", "penalty"],
)
def test_the_same_checks_everywhere(data, work):
    torch.manual_seed(0)
    mixing = nn.Sequential(nn.Linear(6, 4), Mixing(), nn.Linear(4, 3)).double().eval()
    with pytest.raises(RuntimeError, match="expected examples that do not influence each other"):
        work(mixing, data)
    failing = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double().eval()
    with pytest.raises(ValueError, match="model: expected a forward pass of inputs of shape"):
        work(failing, data)


def test_autocast_reaches_a_comparison(data):
    torch.manual_seed(0)
    f = nn.Linear(6, 4, bias=False).eval()
    x = data[0].float()
    rounded = geo.compare_complexity(
        f, f, x, layer="", estimator="exact", autocast=torch.bfloat16
    ).first
    expected = float(f.weight.detach().bfloat16().double().square().sum())
    assert rounded == pytest.approx(expected, rel=1e-12)


def test_ctrl_c_ends_a_comparison_at_its_last_look(net, data):
    x = data[0].repeat(20, 1)
    n_calls = 0

    def slow(z):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 40:
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
        return net(z)

    found = geo.compare_complexity(slow, lambda z: net(z), x, batch_size=32)
    assert found.difference.interrupted
    assert found.decision == "undecided"
    assert found.looks[-1] < len(x)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_pooling_and_the_head_are_those_of_the_record(tmp_path):
    torch.manual_seed(0)
    images = torch.randn(60, 2, 4, 4)
    labels = torch.arange(60) % 3
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(20, 3)).eval()
    m = geo.measure(net, (images, labels), layer=["0", "2:in"], pool="mean", **EXACT)
    pooled, fed = (layer.kept for layer in m.layers)
    assert pooled.context.pool == "mean"
    assert title_of(m.layers[0]).startswith("0 (mean over positions): 60 examples, 3 classes")
    assert pooled.head is None
    assert pooled.no_head == "the classifier is fed by '2:in', not by this layer"
    torch.testing.assert_close(fed.head.weight, net[2].weight.detach())
    write_features(tmp_path / "features.npz", fed)
    again = read_features(tmp_path / "features.npz")
    assert (again.context.pool, again.context.seed, again.no_head) == ("mean", 0, "")
    assert torch.equal(again.head.bias, fed.head.bias)


def test_features_of_texts_are_in_the_order_of_the_data():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 30, (200,), generator=generator).tolist()
    rows = [{"input_ids": [1 + (i + t) % 9 for t in range(n)]} for i, n in enumerate(lengths)]
    labels = torch.arange(200) % 4
    texts = LabelledTokens(rows, labels, About("texts", "all", tuple("abcd")))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.head = nn.Linear(8, 4)

        def forward(self, input_ids, attention_mask):
            mask = attention_mask[..., None].to(self.embed.weight)
            return self.head((self.embed(input_ids) * mask).sum(1) / mask.sum(1))

    torch.manual_seed(0)
    model = Encoder().double().eval()
    found = collect_features(model, texts, input_layer="embed", batch_size=16)
    assert torch.equal(found.labels, labels)
    assert (found.class_names, found.split) == (("a", "b", "c", "d"), "all")
    expected = torch.stack([model.embed(torch.tensor(row["input_ids"])).mean(0) for row in rows])
    torch.testing.assert_close(found.features, expected.detach())
