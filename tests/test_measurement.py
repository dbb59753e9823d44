import copy
import json
import math
import re

import laws
import numpy as np
import pytest
import torch
from reference import collapse as collapse_reference
from reference import complexity as reference
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import geocollapse as geo
from geocollapse.store import RowStore
from maps import Twice


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(inplace=True), nn.Linear(9, 3)
    )


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    return torch.randn(240, 3, 2, 2, generator=generator) + labels[:, None, None, None], labels


def test_every_measure_against_its_reference(model, data):
    m = geo.measure(model, data, estimator="exact", input_std=[0.5, 1.0, 2.0])
    model.eval()
    embedding = model[:4].double()
    x = data[0].double()
    z = embedding(x).detach()
    norms = reference.squared_norms(embedding, x)
    assert m.geometric_complexity.value == pytest.approx(float(norms.mean()), rel=1e-5)
    std = torch.tensor([0.5, 1.0, 2.0]).double()[:, None, None]
    pixel = reference.squared_norms(lambda p: embedding(p / std), x * std)
    assert m.gc_pixel.value == pytest.approx(float(pixel.mean()), rel=1e-5)
    for label in range(3):
        expected = float(norms[data[1] == label].mean())
        assert m.class_complexity[str(label)].value == pytest.approx(expected, rel=1e-5)
    variance = float((z - z.mean(dim=0)).square().sum(dim=1).mean())
    assert m.gc_per_variance == pytest.approx(float(norms.mean()) / variance, rel=1e-5)
    assert m.cdnv == pytest.approx(float(collapse_reference.cdnv(z, data[1])), rel=1e-5)
    assert m.accuracy == pytest.approx(
        float((model.double()(x).argmax(dim=1) == data[1]).double().mean())
    )
    assert m.layers[0].layer == "4:in"


def test_the_json_names_the_classes_of_infinite_poincare_ratio():
    """Class 1 varies and is constant around each example; null alone did not say so."""

    def features(x):
        return torch.stack([torch.where(x[:, 0] > 10, x[:, 0].detach(), x[:, 0]), 0 * x[:, 0]], 1)

    x = torch.cat([torch.linspace(0, 1, 8), torch.linspace(20, 30, 8)])[:, None]
    m = geo.measure(features, (x, torch.arange(16) // 8))
    assert m.poincare_ratio["max"] == math.inf
    ratios = json.loads(m.to_json())["poincare_ratio"]
    assert ratios["max"] is None
    assert ratios["infinite"] == ["1"]
    assert ratios["per_class"]["1"] is None
    assert ratios["per_class"]["0"] > 0.0


def test_geometric_collapse_is_bounded_by_the_poincare_ratio(model, data):
    m = geo.measure(model, data)
    gcol = m.geometric_collapse.value
    assert m.cdnv == pytest.approx(m.poincare_ratio["weighted_mean"] * gcol, rel=1e-9)
    assert m.cdnv <= m.poincare_ratio["max"] * gcol


def test_it_does_not_matter_how_the_data_is_read(model, data):
    whole = TensorDataset(*data)
    first = geo.measure(model, data, seed=3)
    for way in (DataLoader(whole, batch_size=7, shuffle=True, drop_last=True), whole):
        other = geo.measure(model, way, seed=3)
        assert other.geometric_complexity.value == pytest.approx(
            first.geometric_complexity.value, rel=1e-6
        )
        assert other.cdnv == pytest.approx(first.cdnv, rel=1e-6)
        assert torch.equal(other.layers[0].labels, data[1])
    stream = geo.measure(model, ((x, y) for x, y in DataLoader(whole, batch_size=50)), seed=3)
    assert stream.geometric_complexity.value == pytest.approx(
        first.geometric_complexity.value, rel=1e-6
    )
    assert (
        stream.geometric_complexity.stderr > first.geometric_complexity.stderr
    )  # no second probes in a stream


def test_max_samples_bounds_the_probes_only(model, data):
    m = geo.measure(model, data, max_samples=60)
    assert m.geometric_complexity.n_samples == 60
    assert len(m.features) == 240
    assert m.cdnv == pytest.approx(geo.measure(model, data).cdnv, rel=1e-9)


def test_each_example_goes_forward_once(model, data):
    seen = []
    model[0].register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    geo.measure(model, data, batch_size=64)
    assert sum(seen) == 240 + 1 + 6  # to find the embedding, and to check that rows are independent


def test_the_model_is_unchanged_after_a_measurement_and_after_an_error(model, data):
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.random.get_rng_state()
    geo.measure(model, DataLoader(TensorDataset(*data), shuffle=True))
    with pytest.raises(ValueError, match="features: expected finite numbers"):
        geo.measure(model, (data[0] / 0, data[1]))
    assert model.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_json_is_strict_and_complete(model, data):
    m = geo.measure(model, data)
    text = m.to_json()
    loaded = json.loads(text)
    assert loaded["predicted_error"] == m.predicted_error
    assert 0 < loaded["predicted_error"]["5"] < loaded["predicted_error"]["1"] < 1
    intervals = loaded["predicted_error_intervals"]
    assert {k: entry["value"] for k, entry in intervals.items()} == m.predicted_error
    for entry in intervals.values():
        assert entry["stderr"] > 0.0
        assert entry["ci95"][0] < entry["value"] < entry["ci95"][1]
    assert loaded["gc_pixel"] is None
    assert any(note.startswith("gc_pixel") for note in loaded["warnings"])
    assert set(loaded["nearest_mean_bound"]) == {"inf", "1", "5"}
    assert loaded["provenance"]["seed"] == 0
    assert "NaN" not in text


def test_table_frame_pairs_and_figure(model, data):
    m = geo.measure(model, data, class_names=["ant", "bee", "cow"])
    assert "geometric complexity" in str(m)
    assert m.to_frame().loc[0, "geometric_complexity.value"] == m.geometric_complexity.value
    assert len(m.pairs(10)) == 3
    assert {m.pairs(1)[0].first, m.pairs(1)[0].second} <= {"ant", "bee", "cow"}
    assert len(m.plot().axes) == 3


def test_the_table_of_several_layers_has_one_row_a_layer(model, data):
    m = geo.measure(model, data, layer=["1", "4:in", ""])
    lines = str(m).splitlines()
    assert lines[0].startswith("3 layers: 240 examples, 3 classes, accuracy 0.")
    assert "; input probes, intervals for" in " ".join(lines[:2])  # one layer takes rademacher
    assert lines[2].split()[:3] == ["layer", "features", "GC"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[4:7]}
    assert list(rows) == ["1", "4:in", "output"]
    assert [rows[name][0] for name in rows] == ["9", "9", "3"]
    assert rows["4:in"][1] == f"{m['4:in'].geometric_complexity.value:.3g}"
    low, high = m["1"].geometric_complexity.interval()
    assert float(rows["1"][2]) == pytest.approx(100 * (math.sqrt(high / low) - 1), rel=0.01)
    assert rows["4:in"][-2] == f"{m['4:in'].neural_collapse.nc3:.3g}"
    assert rows["1"][-2:] == ["-", "-"]
    notes = " ".join(lines[7:])
    assert "note: rtol=" not in notes  # all 240 examples are fewer than the first look
    assert notes.count("gc_pixel") == 1
    assert "note: 1, output: nc3, nc4 and nc2_weight: not defined here" in notes


def drawn(axis):
    """The lines of a panel by label: x, y and the container."""
    return {
        c.get_label(): (list(c[0].get_xdata()), list(c[0].get_ydata()), c) for c in axis.containers
    }


def test_the_figure_of_several_layers_shows_depth(model, data):
    names = ["1", "3", "4:in"]
    m = geo.measure(model, data, layer=names)
    figure = m.plot()
    complexity, scaled, collapse = figure.axes
    for axis in figure.axes:
        assert axis.get_yscale() == "log"
        assert [tick.get_text() for tick in axis.get_xticklabels()] == names
        assert "unit" in axis.get_ylabel()
    x, y, container = drawn(complexity)["geometric complexity, 95 % interval"]
    assert (x, y) == ([0, 1, 2], [m[name].geometric_complexity.value for name in names])
    bars = container[2][0].get_segments()
    ends = [end for name in names for end in m[name].geometric_complexity.interval()]
    assert [end for bar in bars for end in bar[:, 1]] == pytest.approx(ends)
    assert drawn(scaled)["per feature variance"][1] == [m[name].gc_per_variance for name in names]
    assert drawn(scaled)["geometric collapse, 95 % interval"][1] == [
        m[name].geometric_collapse.value for name in names
    ]
    assert drawn(collapse)["CDNV"][1] == [m[name].neural_collapse.cdnv for name in names]
    corrected = [m[name].neural_collapse.cdnv_bias_corrected for name in names]
    assert drawn(collapse)["CDNV, bias corrected"][1] == corrected
    assert drawn(collapse)["NC1"][1] == [m[name].neural_collapse.nc1 for name in names]


class Steps(nn.Module):
    """A layer whose derivative is 0."""

    def __init__(self):
        super().__init__()
        self.offsets = nn.Linear(12, 5)

    def forward(self, x):
        return self.offsets(x).sign()


class Frozen(nn.Module):
    """A backbone without gradients, as for training the classifier alone."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, x):
        with torch.no_grad():
            hidden = self.body(x.flatten(1)).tanh()
        return self.head(hidden)


def test_a_backbone_without_gradients_is_refused(data):
    with pytest.raises(
        RuntimeError, match="layer: expected a path of gradients from the inputs, got .*no_grad"
    ):
        geo.measure(Frozen(), data)
    with pytest.raises(RuntimeError, match="from the inputs to layer 2 of 2, got"):
        geo.measure(
            nn.Sequential(nn.Flatten(), nn.Linear(12, 12), Frozen()),
            data,
            layer=["1", "2"],
            estimator="exact",
        )
    several = geo.measure(Frozen(), data, layer=["body", "head:in"])  # forward mode goes through
    assert several["head:in"].geometric_complexity.value > 0


def test_the_figure_counts_values_that_a_log_axis_cannot_show(data):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), Steps(), nn.ReLU(), nn.Linear(5, 3))
    m = geo.measure(model, data, layer=["1", "2", "4:in"])
    complexity, scaled, collapse = m.plot().axes
    assert complexity.get_xlabel().splitlines() == [
        "layer",
        "geometric complexity, 95 % interval: 0 or undefined at 2 of 3",
    ]
    assert len(scaled.get_xlabel().splitlines()) == 3
    assert collapse.get_xlabel() == "layer"
    assert "geometric complexity is 0" in str(m)


def test_long_features_form_no_square_matrix(monkeypatch):
    """Above p = 4,096 no measure forms a p x p matrix; NC1 projects on the span of the means."""
    n, p = 60, 4200
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    x = torch.randn(n, 8, generator=generator) + 2 * labels[:, None]
    model = nn.Sequential(nn.Linear(8, p), nn.Linear(p, 3))
    with laws.Shapes() as shapes:
        m = geo.measure(model, (x, labels))
    assert (n, p) in shapes.made
    assert not any(shape.count(p) > 1 for shape in shapes.made)
    z = m.features.double()
    assert m.cdnv == pytest.approx(float(collapse_reference.cdnv(z, labels)), rel=1e-8)
    basis = torch.linalg.svd(
        z - z.mean(dim=0), full_matrices=False
    ).Vh  # the same geometry in n coordinates
    assert m.nc1 == pytest.approx(float(collapse_reference.nc1(z @ basis.T, labels)), rel=1e-8)


def test_a_callable_measures_its_own_output(model, data):
    model.eval()
    m = geo.measure(lambda x: model[:4](x), data)
    assert m.accuracy is None
    assert m.nc3 is None
    assert m.cdnv == pytest.approx(geo.measure(model, data).cdnv, rel=1e-6)


def test_classes_that_are_not_the_heads(model, data):
    m = geo.measure(model, (data[0], data[1] + 5))
    assert m.accuracy is None
    assert m.nc4 is None
    assert any("accuracy: the model has 3 outputs" in note for note in m.warnings)
    assert any(note.startswith("nc3, nc4") for note in m.warnings)


def test_a_head_without_bias(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3, bias=False))
    assert geo.measure(model, data).nc4 is not None


def test_long_features_and_pooling(data):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    assert geo.measure(model, data, layer="0").features.shape == (240, 32)
    assert geo.measure(model, data, layer="0", pool="mean").features.shape == (240, 8)


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return zip(*self.data)


def test_an_iterable_data_set(model, data):
    m = geo.measure(model, Stream(data), batch_size=30)
    assert len(m.features) == 240
    with pytest.raises(
        ValueError, match="max_samples: .* stream of batches; do pass a map-style data set"
    ):
        geo.measure(model, Stream(data), max_samples=50)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": (torch.randn(6, 12), torch.zeros(6))}, TypeError, "labels: expected integers"),
        (
            {"data": (torch.randn(6, 12), torch.zeros(6).long())},
            ValueError,
            "labels: expected at least two classes",
        ),
        (
            {"data": torch.randn(6, 12)},
            ValueError,
            r"data: expected batches with labels .* do pass \(inputs, labels\)",
        ),
        (
            {"data": DataLoader(TensorDataset(torch.randn(0, 12), torch.zeros(0).long()))},
            ValueError,
            "data: expected at least one example",
        ),
        (
            {"data": (torch.zeros(6, 12).long(), torch.arange(6) % 2)},
            TypeError,
            "inputs: expected a floating tensor",
        ),
        ({"data": 3}, TypeError, "data: expected a DataLoader, .* got int"),
        ({"layer": "4x"}, ValueError, "layer: expected the name of a module, got '4x'"),
        ({"input_std": [1.0, 2.0]}, ValueError, r"input_std: expected 1 or 3 positive numbers"),
        ({"estimator": "hutch"}, ValueError, "estimator: expected one of"),
        ({"model": lambda x: x, "layer": "a"}, ValueError, "layer: expected None for a callable"),
    ],
)
def test_bad_input(model, data, change, error, message):
    call = {"model": model, "data": data, **change}
    with pytest.raises(error, match=message):
        geo.measure(call.pop("model"), call.pop("data"), **call)


def test_layer_access(model, data):
    m = geo.measure(model, data)
    assert m["4:in"] is m.layers[0]
    with pytest.raises(KeyError, match="expected one of"):
        m["3"]
    with pytest.raises(AttributeError):
        _ = m.no_such_measure


def test_features_above_the_limit_lie_in_a_file():
    store = RowStore(10, memory_limit=100)
    rows = torch.randn(10, 7)
    for part in torch.randperm(10).split(3):
        store.write(part, rows[part])
    assert torch.equal(store.rows(), rows)
    assert not math.isnan(float(store.rows().sum()))


@pytest.mark.parametrize("counts", [(30, 40, 50), (50, 40, 30), (5, 40, 7)])
def test_input_covariance_is_that_of_the_class_with_the_largest_eigenvalue(model, counts):
    """Of classes with more and with fewer examples than inputs."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    x = torch.randn(len(labels), 3, 2, 2, generator=generator) * (1.0 + labels)[:, None, None, None]
    classes = [x[labels == label].flatten(1).double().numpy() for label in range(3)]
    expected = max(np.linalg.eigvalsh(np.cov(rows.T, bias=True))[-1] for rows in classes)
    found = geo.measure(model, (x, labels)).input_covariance_lambda_max
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_inputs_that_only_the_model_bounds_have_no_covariance_and_all_else(value):
    """A model may replace NaN and squash infinity itself: its features are finite."""
    torch.manual_seed(0)
    x, labels = torch.randn(60, 4, dtype=torch.float64), torch.arange(60) % 3
    x[7, 2] = value

    def features(inputs):
        return torch.tanh(inputs.nan_to_num(0.0))

    m = geo.measure(features, (x, labels))
    assert m.input_covariance_lambda_max is None
    assert m.cdnv == float(geo.cdnv(features(x), labels))
    assert any("squared inputs are not all finite" in note for note in m.warnings)


def test_rtol_probes_fewer_and_collapse_uses_all(model):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3000) % 3
    data = (torch.randn(3000, 3, 2, 2, generator=generator) + labels[:, None, None, None], labels)
    m, whole = geo.measure(model, data, rtol=0.15), geo.measure(model, data)
    assert m.geometric_complexity.n_samples < 3000
    assert len(m.features) == 3000
    assert m.cdnv == pytest.approx(whole.cdnv, rel=1e-9)
    low, high = m.geometric_complexity.interval()
    assert math.sqrt(high / low) - 1 <= 0.15 * 1.001
    assert low < whole.geometric_complexity.value < high
    assert m.geometric_collapse.sequential
    assert m.samples_for_rtol is None
    assert "rtol=0.05 would have probed" in str(whole)
    with pytest.raises(ValueError, match="rtol: expected a positive number, got 0"):
        geo.measure(model, data, rtol=0)


def test_a_layer_of_the_classifiers_width_is_not_what_feeds_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3))
    data = (torch.randn(60, 12), torch.arange(60) % 3)
    early = geo.measure(model, data, layer="0")
    assert early.nc3 is None
    assert any(
        "the classifier is fed by '4:in', not by this layer" in note for note in early.warnings
    )
    assert early.accuracy is not None
    fed = geo.measure(model, data).nc3
    assert geo.measure(model, data, layer="3", classifier="4").nc3 == pytest.approx(fed)
    backbone = geo.measure(nn.Sequential(nn.Flatten(), nn.ReLU()), data)
    assert any("nc3" in note and "no linear layer gives" in note for note in backbone.warnings)
    assert "accuracy: no linear layer gives the model's output unchanged" in backbone.warnings


def test_several_layers_from_one_pass_are_those_of_single_ones(model, data):
    seen = []
    model[0].register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    names = ["1", "3", "4:in", ""]
    together = geo.measure(model, data, layer=names, estimator="rademacher")
    assert sum(seen) == 240 + 1 + 6
    for name in names:
        alone = geo.measure(model, data, layer=name)
        assert alone.geometric_complexity.estimator == "rademacher"
        assert together[name].geometric_complexity.value == pytest.approx(
            alone.geometric_complexity.value, rel=1e-6
        )
        assert together[name].geometric_collapse.stderr == pytest.approx(
            alone.geometric_collapse.stderr, rel=1e-6
        )
        assert together[name].neural_collapse.cdnv == pytest.approx(alone.cdnv, rel=1e-9)
    assert [layer["layer"] for layer in together.to_dict()["layers"]] == names
    assert len(together.to_frame()) == 4
    with pytest.raises(
        AttributeError,
        match=r"cdnv: expected a measurement of one layer, got \['1', .*do m\['1'\].cdnv",
    ):
        _ = together.cdnv
    with pytest.raises(ValueError, match="layer: expected at least one name, got none"):
        geo.measure(model, data, layer=[])
    with pytest.raises(
        ValueError, match=r"layer: expected different layers, got \['1', '1'\]; do name each once"
    ):
        geo.measure(model, data, layer=["1", "1"])


def test_several_layers_are_probed_by_one_sweep_where_there_is_a_forward_mode(model, data):
    names = ["1", "4:in"]
    swept = geo.measure(model, data, layer=names)
    for name in names:
        gc = swept[name].geometric_complexity
        assert gc.estimator == "input"
        low, high = gc.interval(0.999)
        assert (
            low
            < geo.measure(model, data, layer=name, estimator="exact").geometric_complexity.value
            < high
        )
    without = nn.Sequential(model[:4], WithoutForwardMode(), model[4])
    assert (
        geo.measure(without, data, layer=["0", "1"])["1"].geometric_complexity.estimator
        == "rademacher"
    )


class WithoutForwardMode(nn.Module):
    """A layer with its own backward pass and no forward mode."""

    def forward(self, x):
        return Twice.apply(x)


def test_equal_features_give_undefined_values_and_no_error():
    """A ratio to a variance of zero is undefined, and a warning says so."""
    m = geo.measure(nn.Linear(3, 2), (torch.ones(8, 3), torch.arange(8) % 2))
    assert m.to_dict()["gc_per_variance"] is None
    assert "gc_per_variance: undefined, all features are equal" in m.layers[0].warnings


def test_near_names_are_answered_with_the_right_one(model, data):
    measured = geo.measure(model, data)
    for owner in (measured, measured.layers[0]):
        with pytest.raises(AttributeError, match=r"gc: .* do \.geometric_complexity"):
            _ = owner.gc
        with pytest.raises(AttributeError, match=r"rankme: .* do \.label_free\.rankme"):
            _ = owner.rankme
        for name, right in (
            ("geometric_complexty", ".geometric_complexity"),
            ("nearest_mean_bounds", ".bounds"),
            ("quite_another", "dir(), which lists them"),
        ):
            with pytest.raises(AttributeError, match=rf"{name}: .* do {re.escape(right)}"):
                getattr(owner, name)
        assert "gc" not in dir(owner)
        assert "geometric_complexity" in dir(owner)
    for key in measured.to_dict():
        if key != "schema_version" and not hasattr(measured, key):
            with pytest.raises(AttributeError, match=rf"{key}: .* do \.(?!{key})"):
                getattr(measured, key)
    assert copy.copy(measured).cdnv == measured.cdnv


def test_a_measurement_is_short_in_a_notebook(model, data):
    measured = geo.measure(model, data)
    assert len(repr(measured)) < 200
    assert repr(measured).startswith("Measurement of '4:in': GC ")
    assert "geometric complexity" in measured._repr_html_()


def test_summary_is_flat_for_loggers(model, data):
    measured = geo.measure(model, data)
    summary = measured.summary()
    assert all(type(value) is float for value in summary.values())
    assert summary["geometric_complexity"] == measured.geometric_complexity.value
    assert summary["cdnv"] == measured.cdnv
    assert len(summary) < 16
