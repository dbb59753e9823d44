"""The cache of features, and the fingerprint of a model that its keys are made of."""

import importlib
import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import geocollapse as geo
from geocollapse.models.fingerprint import fingerprint
from geocollapse.store.cache import FeatureCache, default_folder, key_of


def kept(n=60, p=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    torch.manual_seed(0)
    return geo.measure(nn.Linear(4, p), (x, torch.arange(n) % 3), layer="").kept


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1))


def test_what_is_written_is_read_to_the_same_numbers(tmp_path):
    cache = FeatureCache(tmp_path)
    layer = kept()
    cache.write("key", layer)
    found = cache.read("key")
    assert torch.equal(found.features, layer.features)
    assert torch.equal(found.norms.values, layer.norms.values)
    assert cache.read("another") is None


def test_a_damaged_file_is_removed_and_counts_as_none(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.write("key", kept())
    path = cache.entries()[0].path
    path.write_bytes(path.read_bytes()[:100])
    assert cache.read("key") is None
    assert cache.entries() == []


def test_the_least_recently_used_makes_room(tmp_path):
    cache = FeatureCache(tmp_path)
    for number, key in enumerate("abc"):
        cache.write(key, kept())
        os.utime(tmp_path / f"{key}.safetensors", (number, number))
    assert cache.read("a") is not None  # now the last used
    size = cache.entries()[0].n_bytes
    small = FeatureCache(tmp_path, size_limit=3 * size)
    small.write("d", kept())
    assert {entry.path.stem for entry in small.entries()} == {"a", "c", "d"}


def test_features_above_the_limit_are_not_kept(tmp_path):
    cache = FeatureCache(tmp_path, size_limit=100)
    cache.write("key", kept())
    assert cache.entries() == []


def test_clear_removes_all_and_nothing_else(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    cache = FeatureCache(tmp_path)
    cache.write("key", kept())
    assert cache.clear() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOCOLLAPSE_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("GEOCOLLAPSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "geocollapse" / "features"


def test_a_size_limit_below_zero_is_refused():
    with pytest.raises(ValueError, match="size_limit: expected bytes, got -1; do size_limit="):
        FeatureCache(size_limit=-1)


def test_a_key_depends_on_every_part_and_not_on_their_order():
    assert key_of({"a": 1, "b": None}) == key_of({"b": None, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model[0].weight.data.mul_(1.0000001),
        lambda model: model[1].running_mean.add_(1),
        lambda model: model.append(nn.ReLU()),
        lambda model: setattr(model[3], "p", 0.2),
        lambda model: model.double(),
        lambda model: model.train(),
    ],
)
def test_a_fingerprint_changes_with_weights_buffers_layers_settings_precision_and_mode(change):
    model = net().eval()
    before = fingerprint(model)
    assert before == fingerprint(net().eval())
    change(model)
    assert fingerprint(model) != before


def test_a_fingerprint_sees_plain_attributes_of_a_module():
    first, second = net().eval(), net().eval()
    first.scale, second.scale = 1.0, 2.0
    assert fingerprint(first) != fingerprint(second)


def test_a_fingerprint_sees_the_code_of_a_class():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2.0 * super().forward(x)

    first = fingerprint(Scaled(2, 2, bias=False))

    class Scaled(nn.Linear):
        def forward(self, x):
            return 3.0 * super().forward(x)

    assert first != fingerprint(Scaled(2, 2, bias=False))


class Picks(nn.Module):
    """Settings of every kind: a function, a list, an array in a dictionary, an object."""

    def __init__(self, act=torch.relu, keep=(0, 1), table=1.0, config=None):
        super().__init__()
        self.act, self.keep, self.config = act, list(keep), config
        self.tables = {"scale": np.array([table])}

    def forward(self, x):
        return self.act(x)[:, self.keep] * float(self.tables["scale"][0])


def scaled_by(factor):
    return lambda x: factor * x


def hooked(factor):
    model = Picks()
    model.register_forward_hook(lambda _module, _args, output: factor * output)
    return model


def with_forward(factor):
    model = Picks()
    model.forward = lambda x: factor * x
    return model


def test_a_fingerprint_sees_functions_lists_arrays_objects_hooks_and_a_forward_of_its_own():
    makers = [
        Picks,
        lambda: Picks(torch.sign),
        lambda: Picks(scaled_by(2.0)),
        lambda: Picks(scaled_by(3.0)),
        lambda: Picks(partial(torch.add, other=1.0)),
        lambda: Picks(lambda x: x + 1.0),
        lambda: Picks(lambda x: x + 2.0),
        lambda: Picks(nn.Threshold(0.1, 0.0)),
        lambda: Picks(keep=(1, 0)),
        lambda: Picks(table=2.0),
        lambda: Picks(config=SimpleNamespace(depth=1)),
        lambda: Picks(config=SimpleNamespace(depth=2)),
        lambda: hooked(2.0),
        lambda: hooked(3.0),
        lambda: with_forward(2.0),
        lambda: with_forward(3.0),
    ]
    found = [fingerprint(make()) for make in makers]
    assert None not in found
    assert len(set(found)) == len(found)
    assert found == [fingerprint(make()) for make in makers]


def test_a_class_without_a_source_is_known_by_the_code_of_its_functions():
    """As in a console."""
    text = (
        "class Typed(nn.Linear):\n"
        "    def forward(self, x):\n        return self.scaled({0} * super().forward(x))\n"
        "    @staticmethod\n    def scaled(x):\n        return {1} * x\n"
    )
    found = []
    for factors in ((2.0, 1.0), (3.0, 1.0), (2.0, 4.0), (2.0, 1.0)):
        space = {"nn": nn, "__name__": "typed"}
        exec(text.format(*factors), space)
        torch.manual_seed(0)
        found.append(fingerprint(space["Typed"](2, 2)))
    assert None not in found
    assert found[0] == found[3]
    assert len(set(found)) == 3


def test_what_has_no_description_has_no_fingerprint():
    assert fingerprint(Picks(config=torch.Generator())) is None
    assert fingerprint(Picks([].append)) is None


def test_a_fingerprint_sees_the_files_that_the_file_of_a_model_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "gc_helper.py").write_text("def act(x):\n    return 2 * x\n")
    (tmp_path / "gc_net.py").write_text(
        "from torch import nn\nimport gc_helper\n\nclass Net(nn.Linear):\n"
        "    def forward(self, x):\n        return gc_helper.act(super().forward(x))\n"
    )
    module = importlib.import_module("gc_net")
    torch.manual_seed(0)
    model = module.Net(2, 2)
    before = fingerprint(model)
    assert before == fingerprint(model)
    (tmp_path / "gc_helper.py").write_text("def act(x):\n    return 3 * x\n")
    assert fingerprint(model) != before
