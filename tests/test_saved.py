"""Features files: they give every number again, and what is wrong in one is named."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

import geocollapse as geo
from geocollapse.measurement import one_pass as reading
from geocollapse.store import RowStore, read_features
from geocollapse.store.features_file import ARRAYS

PER_PIXEL = ("squared_jacobian_norms_per_pixel", "probe_variances_per_pixel")
ENDINGS = [".safetensors", ".npz"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(inplace=True), nn.Linear(9, 3)
    )


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    return torch.randn(300, 3, 2, 2, generator=generator) + labels[:, None, None, None], labels


def numbers(measurement):
    """The JSON form without provenance, to 11 digits: a mapped file may be summed otherwise."""
    return {
        key: rounded(value) for key, value in measurement.to_dict().items() if key != "provenance"
    }


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.11g}") if isinstance(value, float) else value


def saved_and_read(measurement, path):
    measurement.save_features(path)
    return geo.measure_features(path)


WAYS = {
    "default": {},
    "exact": {"estimator": "exact"},
    "part": {"max_samples": 60, "seed": 5},
    "several probes": {"n_probes": 3, "estimator": "orthogonal"},
    "until precise": {"rtol": 0.3},
    "pixels and names": {"input_std": [0.5, 1.0, 2.0], "class_names": ["ant", "bee", "cow"]},
    "early layer": {"layer": "1"},
    "other classifier": {"layer": "1", "classifier": "4"},
    "output": {"layer": ""},
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("way", WAYS)
def test_a_file_gives_every_number_again(model, data, tmp_path, way, ending):
    m = geo.measure(model, data, **WAYS[way])
    again = saved_and_read(m, tmp_path / f"a{ending}")
    assert numbers(again) == numbers(m)
    assert str(again) == str(m)
    assert numbers(saved_and_read(again, tmp_path / f"b{ending}")) == numbers(m)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_precision_of_the_features_is_kept(model, data, tmp_path, dtype, ending):
    m = geo.measure(model.to(dtype), (data[0].to(dtype), data[1]))
    again = saved_and_read(m, tmp_path / f"a{ending}")
    assert torch.equal(again.features.double(), m.features.double())
    assert numbers(again) == numbers(m)


def test_callables_streams_and_labels_with_gaps(model, data, tmp_path):
    model.eval()
    x, y = data[0], data[1] * 7 + 3
    for m in (
        geo.measure(lambda z: model[:4](z), (x, y)),
        geo.measure(model, iter([(x[:99], y[:99]), (x[99:], y[99:])])),
    ):
        assert numbers(saved_and_read(m, tmp_path / "a.npz")) == numbers(m)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_the_file_holds(model, data, tmp_path, ending):
    rows = torch.arange(299, 0, -2)
    m = geo.measure(
        model, Subset(TensorDataset(*data), rows.tolist()), max_samples=60, input_std=2.0
    )
    path = tmp_path / f"a{ending}"
    m.save_features(path, origin={"model": "mine"})
    kept = read_features(path)
    assert torch.equal(kept.features, m.features)
    assert torch.equal(
        kept.context.ids, torch.arange(150)
    )  # positions in the data set that was measured
    assert len(kept.context.probed) == 60
    assert torch.equal(kept.norms.values.sort().values, m.geometric_complexity.values.sort().values)
    assert torch.allclose(kept.norms.scaled, kept.norms.values / 4)
    assert not kept.norms.variances.isnan().any()
    weight, bias = kept.head
    assert torch.equal(
        kept.context.logits.argmax(dim=1), (kept.features @ weight.T + bias).argmax(dim=1)
    )
    assert kept.context.provenance["model"] == "mine"
    assert kept.context.provenance["features_from"] == {
        **m.kept.context.provenance,
        "model": "mine",
    }


def test_positions_are_those_of_the_data_set(model, data, tmp_path):
    loader = torch.utils.data.DataLoader(
        TensorDataset(*data), sampler=[7, 250, 31, 100, 200, 0, 1, 2], batch_size=3
    )
    geo.measure(model, loader).save_features(tmp_path / "a.npz")
    assert read_features(tmp_path / "a.npz").context.ids.tolist() == [0, 1, 2, 7, 31, 100, 200, 250]


def test_numpy_reads_the_file_alone(model, data, tmp_path):
    geo.measure(model, data).save_features(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        assert set(file.files) == {*ARRAYS, "geocollapse"} - set(PER_PIXEL)
        assert json.loads(str(file["geocollapse"]))["layer"] == "4:in"


def test_features_that_lie_in_a_mapped_file(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "RowStore", functools.partial(RowStore, memory_limit=100))
    m = geo.measure(model, data)
    assert numbers(saved_and_read(m, tmp_path / "a.safetensors")) == numbers(m)


# files of other programs


def foreign(path, **arrays):
    if path.suffix == ".npz":
        np.savez(
            path,
            **{
                name: value.numpy() if isinstance(value, torch.Tensor) else value
                for name, value in arrays.items()
            },
        )
    elif path.suffix == ".pt":
        torch.save(arrays, path)
    else:
        from safetensors.torch import save_file

        save_file(
            {name: value.clone() for name, value in arrays.items()}, path
        )  # it refuses shared memory
    return path


@pytest.mark.parametrize("ending", [*ENDINGS, ".pt"])
def test_features_and_labels_alone_give_all_but_complexity(model, data, tmp_path, ending):
    m = geo.measure(model, data)
    path = foreign(tmp_path / f"a{ending}", features=m.features, labels=m.labels.int())
    found, expected = numbers(geo.measure_features(path)), numbers(m)
    same = (
        "cdnv",
        "directional_cdnv",
        "nc1",
        "nc1_rank",
        "nc2_max_angle",
        "nearest_mean_error",
        "predicted_error",
        "predicted_error_intervals",
        "label_free",
        "n_samples",
        "classes",
    )
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    assert found["nearest_mean_bound"]["5"] == expected["nearest_mean_bound"]["5"] | {
        "gc_empirical": None
    }
    assert found["geometric_complexity"]["value"] is None
    assert found["geometric_complexity"]["n_samples"] == 0
    assert found["geometric_collapse"]["value"] is None
    assert found["poincare_ratio"]["max"] is None
    assert found["nc3"] is None
    assert found["layer"] == f"a{ending}"
    assert [note.split(":")[0] for note in found["warnings"]] == [
        "geometric_complexity, geometric_collapse and what follows from them",
        "nc3, nc4 and nc2_weight",
        "alpha_req",
        "predicted_error",
        "predicted_error",
    ]


def test_a_classifier_and_logits_beside_them_are_used(model, data, tmp_path):
    m = geo.measure(model, data)
    head = {
        "classifier_weight": model[4].weight.detach(),
        "classifier_bias": model[4].bias.detach(),
    }
    logits = m.features @ head["classifier_weight"].T + head["classifier_bias"]
    path = foreign(
        tmp_path / "a.npz",
        features=m.features,
        labels=m.labels,
        logits=logits,
        **head,
        paths=np.zeros(3),
    )
    found = geo.measure_features(path)
    assert (found.nc3, found.nc4, found.accuracy) == (m.nc3, m.nc4, m.accuracy)
    assert any(note.startswith("features: paths of a.npz not read") for note in found.warnings)


def test_the_table_and_the_figure_without_complexity(model, data, tmp_path):
    m = geo.measure(model, data)
    found = geo.measure_features(foreign(tmp_path / "a.npz", features=m.features, labels=m.labels))
    assert "nan" not in str(found).lower()
    assert len(found.plot().axes) == 2  # the pairs and their colour bar


X, Y, NORM = torch.randn(6, 4), torch.arange(6) % 2, torch.ones(6)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        (
            {"features": X},
            ValueError,
            r"features: expected a file with features .* without labels \(with features\)",
        ),
        (
            {"x": X, "y": Y},
            ValueError,
            r"got one without features and labels \(with none of the known names\); do save",
        ),
        (
            {"features": X[0], "labels": Y},
            ValueError,
            r"features: expected shape \(n, p\), got \(4,\)",
        ),
        (
            {"features": X, "labels": Y[:5]},
            ValueError,
            r"labels: expected shape \(6,\), .* got \(5,\)",
        ),
        (
            {"features": X, "labels": Y.double()},
            TypeError,
            "labels: expected integers, one class for each example, got torch.float64",
        ),
        ({"features": X.long(), "labels": Y}, TypeError, "features: expected floating point"),
        ({"features": X, "labels": Y * 0}, ValueError, "labels: expected at least two classes"),
        ({"features": X / 0, "labels": Y}, ValueError, "features: expected finite numbers"),
        (
            {"features": X, "labels": Y, "logits": X[:3]},
            ValueError,
            r"logits: expected shape \(6, o\), got \(3, 4\)",
        ),
        (
            {"features": X, "labels": Y, "ids": X},
            ValueError,
            r"ids: expected shape \(6\), got \(6, 4\)",
        ),
        (
            {"features": X, "labels": Y, "classifier_weight": X[:2], "classifier_bias": X[0]},
            ValueError,
            r"classifier_bias: expected shape \(2\), got \(4,\)",
        ),
        (
            {"features": X, "labels": Y, "classifier_bias": X[0]},
            ValueError,
            "classifier_bias: expected classifier_weight",
        ),
        (
            {"features": X, "labels": Y, "squared_jacobian_norms": NORM},
            ValueError,
            "expected probed, squared_jacobian_norms, probe_variances, probe_counts and how they "
            "were estimated, or none of it, got",
        ),
        (
            {"features": X, "labels": Y, "squared_jacobian_norms_per_pixel": NORM},
            ValueError,
            "or none of it, got squared_jacobian_norms_per_pixel",
        ),
        (
            {
                "features": X,
                "labels": Y,
                "probed": Y + 5,
                "squared_jacobian_norms": NORM,
                "probe_variances": NORM,
            },
            ValueError,
            "probed: expected rows from 0 to 5",
        ),
    ],
)
@pytest.mark.parametrize("ending", [*ENDINGS, ".pt"])
def test_what_is_wrong_in_a_file_is_named(tmp_path, arrays, error, message, ending):
    with pytest.raises(error, match=message):
        geo.measure_features(foreign(tmp_path / f"a{ending}", **arrays))


def test_files_that_cannot_be_read(tmp_path):
    for ending in [*ENDINGS, ".pt"]:
        path = tmp_path / f"a{ending}"
        with pytest.raises(
            FileNotFoundError, match=r"features: expected a file, got '.*', which does not exist"
        ):
            geo.measure_features(path)
        path.write_bytes(b"no such thing")
        with pytest.raises(
            ValueError, match="features: expected .* a damaged file in a.pt|readable file, got a"
        ):
            geo.measure_features(path)
    torch.save({"features": X, "labels": Y, "code": nn.Linear(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"features: expected tensors only, got pickled code \(not run\)"
    ):
        geo.measure_features(tmp_path / "a.pt")
    torch.save([X, Y], tmp_path / "a.pt")
    with pytest.raises(ValueError, match="it holds a list, not a dictionary of tensors"):
        geo.measure_features(tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", features=X.numpy(), labels=Y.numpy(), ids=np.array(["a"] * 6))
    with pytest.raises(TypeError, match="ids: expected numbers, got <U1; do store class numbers"):
        geo.measure_features(tmp_path / "a.npz")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(
        ValueError, match=r"expected a file ending in .safetensors, .npz, .pt, got 'a.csv'"
    ):
        geo.measure_features(tmp_path / "a.csv")


def with_text(path, text):
    return foreign(path, features=X, labels=Y, geocollapse=np.array(text))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": 0}', '{"version": "1"}', '{"version": 1}']
)
def test_another_text_is_refused(tmp_path, text):
    path = with_text(tmp_path / "a.npz", text)
    with pytest.raises(
        ValueError, match="expected the text in a.npz as version 1 of geocollapse writes it"
    ):
        geo.measure_features(path)


def test_a_newer_version_is_refused_with_what_to_do(tmp_path):
    path = with_text(tmp_path / "a.npz", '{"version": 2}')
    with pytest.raises(
        ValueError,
        match="expected the text in a.npz in version 1 or older, got version 2, which a newer "
        "geocollapse wrote; do pip install --upgrade geocollapse, or write the file again",
    ):
        geo.measure_features(path)


VERSION_1 = Path(__file__).parent / "fixtures" / "features_version_1"
# Of the files, which the first version of the format was written to: 12 examples of 3 features.
OF_VERSION_1 = {
    "n_samples": 12,
    "n_features": 3,
    "accuracy": 0.5,
    "gc_pixel": 1.4777043773963128,
    "gc_per_variance": 1.0456984033777097,
    "input_covariance_lambda_max": 2.9635242278604017,
    "cdnv": 12.396616934396578,
    "directional_cdnv": 3.776082415556118,
    "nc1": 7.5521648311122345,
    "nc2_weight_equinorm": 0.10248950409732664,
    "nc3": 1.8301702945661997,
    "nc4": 0.3333333333333333,
    "nearest_mean_error": 0.5,
}
ESTIMATES_OF_VERSION_1 = {
    "geometric_complexity": (0.3694260943490782, 0.05053726550719518),
    "geometric_collapse": (13.224547136428013, 1.8091100224624614),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_of_version_1_is_read_for_ever(ending):
    found = geo.measure_features(VERSION_1.with_suffix(ending)).to_dict()
    assert {key: found[key] for key in OF_VERSION_1} == pytest.approx(OF_VERSION_1)
    for name, (value, stderr) in ESTIMATES_OF_VERSION_1.items():
        assert found[name]["value"] == pytest.approx(value)
        assert found[name]["stderr"] == pytest.approx(stderr)
    assert (found["layer"], found["classes"], found["split"]) == ("2:in", ["ant", "bee"], None)
    assert found["geometric_complexity"]["n_samples"] == 8
    assert found["preprocessing"]["std"] == [0.5]
    assert found["provenance"]["model"] == "three_tanh"


def changed_text(path, change):
    """A file of version 1 with another text."""
    with np.load(VERSION_1.with_suffix(".npz")) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["geocollapse"]))
    change(about)
    np.savez(path, **{**arrays, "geocollapse": np.array(json.dumps(about))})
    return path


def test_a_field_of_later_is_ignored_with_a_note(tmp_path):
    def later(about):
        about["mood"] = "good"
        about["rule"]["max_probes"] = 5
        about["settings"]["shape"] = "round"

    path = changed_text(tmp_path / "a.npz", later)
    found = geo.measure_features(path)
    (note,) = [note for note in found.warnings if "ignored" in note]
    assert note.startswith("features: mood, settings.shape, rule.max_probes of a.npz ignored")
    plain = geo.measure_features(VERSION_1.with_suffix(".npz"))
    assert numbers(found) | {"warnings": None} == numbers(plain) | {"warnings": None}


def test_an_optional_field_that_is_missing_takes_its_default(tmp_path):
    def older(about):
        del about["no_classifier"]
        del about["rule"]["max_seconds"]

    kept = read_features(changed_text(tmp_path / "a.npz", older))
    assert kept.context.rule.max_seconds is None
    assert kept.context.warnings == ()


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda about: about.pop("ending"), "ending"),
        (lambda about: about["settings"].pop("n_probes"), "settings.n_probes"),
        (lambda about: about.update(rule=None), "rule"),
    ],
)
def test_a_frozen_field_that_is_missing_is_named(tmp_path, change, missing):
    path = changed_text(tmp_path / "a.npz", change)
    with pytest.raises(ValueError, match=f"version 1 of geocollapse .* got one without {missing};"):
        geo.measure_features(path)


def test_another_ending_and_several_layers_are_refused(model, data, tmp_path):
    m = geo.measure(model, data, layer=["1", "4:in"])
    with pytest.raises(
        AttributeError, match=r"save_features: expected a measurement of one layer, .*do m\['1'\]"
    ):
        m.save_features(tmp_path / "a.npz")
    with pytest.raises(
        ValueError, match=r"path: expected a file ending in .safetensors or .npz, got '.*a.pt'"
    ):
        m["1"].save_features(tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []
    m["1"].save_features(tmp_path / "a.npz")
    assert geo.measure_features(tmp_path / "a.npz").layers[0].layer == "1"


def test_a_write_that_fails_leaves_the_old_file(model, data, tmp_path, monkeypatch):
    m, path = geo.measure(model, data), tmp_path / "a.npz"
    m.save_features(path)
    old = path.read_bytes()
    monkeypatch.setattr(
        "numpy.savez", lambda file, **_: (file.write(b"half"), file.no_such_method())
    )
    with pytest.raises(AttributeError):
        m.save_features(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
