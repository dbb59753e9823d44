"""The registry of measures, and its agreement with measurements, JSON and the documentation.

`python tests/test_measures.py` rewrites the list of measures in docs/measures.md.
"""

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

import laws
import pytest
import torch
from torch import Tensor, nn

import geocollapse as geo
from geocollapse.charts.labels import label_of
from geocollapse.estimate import Estimate
from geocollapse.integrations.metrics import CollapseMetric
from geocollapse.measurement import LayerMeasurement, Measurement, MeasurementDict
from geocollapse.measurement.layer import READERS, PerPixel, json_values
from geocollapse.measurement.table import _facts
from geocollapse.measures import MEASURES, OF_THE_CLASSIFIER
from geocollapse.measures.measure import EVERY_CHANGE
from geocollapse.store import KeptLayer
from geocollapse.transfer import LabelFree

PAGE = Path(__file__).parents[1] / "docs" / "measures.md"
START = "<!-- list of measures, written by: python tests/test_measures.py -->\n"
END = "<!-- end of the list of measures -->\n"
STD = torch.tensor([0.5, 1.0, 2.0])

# Every attribute of a measurement of one layer, with its type.
ATTRIBUTES = {
    "kept": KeptLayer,
    "layer": str,
    "features": Tensor,
    "labels": Tensor,
    "class_names": tuple,
    "accuracy": float,
    "geometric_complexity": Estimate,
    "gc_pixel": Estimate,
    "per_pixel": PerPixel,
    "gc_per_variance": float,
    "class_complexity": dict,
    "geometric_collapse": Estimate,
    "poincare_ratio": dict,
    "input_covariance_lambda_max": float,
    "neural_collapse": geo.NeuralCollapse,
    "bounds": dict,
    "label_free": LabelFree,
    "estimates": dict,
    "predicted_error": dict,
    "predicted_error_intervals": dict,
    "samples_for_rtol": int,
    "warnings": tuple,
    **{
        field.name: int if field.name == "nc1_rank" else float
        for field in dataclasses.fields(geo.NeuralCollapse)
        if field.name not in ("sampled", "warnings")
    },
}


def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    inputs = torch.randn(240, 3, 2, 2, generator=generator, dtype=torch.float64)
    return inputs + labels[:, None, None, None], labels


def network(change=None):
    """A classifier with 110 features; a change of features or inputs leaves its output alone."""
    torch.manual_seed(0)
    first = nn.Linear(12, 110).double()
    move = nn.Linear(110, 110).double()
    head = nn.Linear(110, 3).double()
    with torch.no_grad():
        move.weight.copy_(torch.eye(110))
        move.bias.zero_()
        if change == "translation":
            move.bias.copy_(torch.linspace(-1.0, 2.0, 110))
            head.bias -= head.weight @ move.bias
        elif change == "rotation":
            move.weight.copy_(laws.random_rotation(110, seed=1).T)
            head.weight.copy_(head.weight @ move.weight.T)
        elif change == "feature scale":
            move.weight *= 3.0
            head.weight /= 3.0
        elif change == "input scale":
            first.weight *= 4.0
    shrink = nn.AvgPool2d(2) if change == "input size" else nn.Identity()
    return nn.Sequential(nn.Sequential(shrink, nn.Flatten()), first, nn.Tanh(), move, head)


def measured(change=None):
    inputs, labels = data()
    scale = 4.0 if change == "input scale" else 1.0
    if change == "input size":  # the same picture, of 4 times as many pixels
        inputs = inputs.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return geo.measure(
        network(change), (inputs / scale, labels), estimator="exact", input_std=STD * scale
    )


@pytest.fixture(scope="module")
def m():
    return measured()


@pytest.fixture(scope="module")
def several():
    return geo.measure(network(), data(), layer=["1", "4:in"])


def number(value):
    return math.nan if value is None else float(value)


@pytest.mark.parametrize("change", EVERY_CHANGE)
def test_each_measure_has_its_invariances_and_no_others(m, change):
    changed = measured(change)
    for name, measure in MEASURES.items():
        before, after = (number(READERS[name](x.layers[0])) for x in (m, changed))
        assert math.isfinite(before), name
        if change in measure.invariant_to:
            assert after == pytest.approx(before, rel=1e-7), name
        else:
            assert abs(after - before) > 1e-3 * abs(before), name


def test_measures_of_the_classifier_are_those_that_need_one():
    body = network()[:4]
    layer = geo.measure(lambda x: body(x), data(), input_std=STD).layers[0]
    missing = [name for name, read in READERS.items() if read(layer) is None]
    assert sorted(missing) == sorted(OF_THE_CLASSIFIER)


@pytest.mark.parametrize("scatter", [True, False])
def test_streamed_measures_are_those_of_the_metric(scatter):
    inputs, labels = data()
    metric = CollapseMetric(scatter=scatter)
    metric.update(inputs.flatten(1), labels)
    kinds = ("moments", "scatter") if scatter else ("moments",)
    streamed = [name for name, measure in MEASURES.items() if measure.streamed in kinds]
    assert sorted(metric.compute()) == sorted(streamed)


def test_every_measure_has_a_reader_and_its_place_in_the_json(m):
    assert set(READERS) == set(MEASURES)
    (row,) = m.to_frame().to_dict(orient="records")
    for name, read in READERS.items():
        value = read(m.layers[0])
        column = name if name in row else f"{name}.value"
        assert row[column] == float(value), name


def test_the_json_has_the_keys_of_its_type_in_their_order(m):
    keys = list(MeasurementDict.__annotations__)
    assert list(m.to_dict()) == keys
    assert set(json_values(m.layers[0])) == set(keys)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_one_layer(m, name):
    for owner in (m, m.layers[0]):
        assert name in dir(owner)
        assert isinstance(getattr(owner, name), ATTRIBUTES[name])
    assert getattr(m, name) is getattr(m.layers[0], name)
    assert name in dir(Measurement)


def test_measures_with_a_json_key_of_their_own_are_attributes(m):
    own = {name for name in MEASURES if "." not in name}
    assert own <= set(ATTRIBUTES)
    assert set(ATTRIBUTES) >= {field.name for field in dataclasses.fields(LayerMeasurement)}
    for name in own:
        assert getattr(m, name) == READERS[name](m.layers[0])


def test_attributes_of_several_layers(several):
    for name in ATTRIBUTES:
        assert name in dir(several)
        message = (
            f"{name}: expected a measurement of one layer, got ['1', '4:in']; do m['1'].{name}"
        )
        with pytest.raises(AttributeError, match=f"^{re.escape(message)}$"):
            getattr(several, name)
        assert not hasattr(several, name)
    assert several["4:in"].cdnv == several["4:in"].neural_collapse.cdnv
    assert several["1"].cdnv != several["4:in"].cdnv


def test_an_unknown_attribute_is_unknown_to_any_measurement(m, several):
    for owner in (m, several, m.layers[0]):
        with pytest.raises(AttributeError, match="no_such_measure: expected the name of"):
            _ = owner.no_such_measure


def test_attributes_cannot_be_set(m):
    for owner in (m, m.layers[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            owner.cdnv = 0.0


def test_names_of_measures():
    for names in ("short", "full_name"):
        values = [getattr(measure, names) for measure in MEASURES.values()]
        assert len(set(values)) == len(values)
    for name, measure in MEASURES.items():
        assert name == measure.name
        assert measure.under in ("", *MEASURES)
        assert "\n" not in measure.caution
        assert measure.caution.endswith(".")


def test_every_text_is_filled_in_by_the_table(m):
    facts = _facts(m.layers[0])
    for measure in MEASURES.values():
        assert measure.read_as.format(**facts)


def test_columns_of_a_sweep_are_called_as_their_measures():
    for name, measure in MEASURES.items():
        if name not in ("accuracy", "cdnv"):  # training accuracy, target neural collapse
            for suffix in ("", ".value"):
                source, target = (label_of(f"{of}.{name}{suffix}") for of in ("source", "target"))
                assert (source.name, source.unit) == (measure.full_name, measure.unit)
                assert (target.short, target.unit) == (f"target {measure.short}", measure.unit)
    assert label_of("source.no_such_measure") is None
    assert label_of("cdnv") is None


def test_the_registry_needs_no_torch():
    code = "import sys, geocollapse.measures; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def as_markdown():
    """The list of measures as a table of the page."""
    lines = ["| measure | unit | better | invariant to | caution |", "|---|---|---|---|---|"]
    for name, measure in MEASURES.items():
        is_all = measure.invariant_to == EVERY_CHANGE
        changes = "all" if is_all else ", ".join(measure.invariant_to)
        cells = (f"`{name}`", measure.unit, measure.better or "", changes, measure.caution)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rewritten(page):
    """The page with the list of measures as it is now."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{as_markdown()}\n{END}{after}"


def test_the_page_lists_the_measures():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(START) == page.count(END) == 1
    assert page == rewritten(page), "docs/measures.md is behind: run python tests/test_measures.py"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
