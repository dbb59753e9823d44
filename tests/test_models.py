import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import geocollapse as geo
from geocollapse import data, models

CASES = [
    ("vgg11", (3, 32, 32), {"width": 8}),
    ("vgg13", (3, 32, 32), {"width": 8, "batch_norm": False}),
    ("vgg13", (1, 32, 32), {"width": 8}),
    ("resnet18", (3, 32, 32), {"width": 0.125}),
    ("small_cnn", (1, 8, 8), {"width": 4}),
    ("mlp", (64,), {"hidden": [16, 12]}),
    ("mlp", (1, 8, 8), {}),
]


@pytest.mark.parametrize(("name", "shape", "settings"), CASES)
def test_the_classifier_is_fed_by_the_embedding(name, shape, settings):
    model = models.build(name, num_classes=5, input_shape=shape, **settings).eval()
    x = torch.randn(3, *shape)
    assert model(x).shape == (3, 5)
    feature_map, head = geo.split(model)
    assert feature_map(x).shape == (3, model.classifier.in_features)
    torch.testing.assert_close(head(feature_map(x)), model(x))
    assert str(feature_map.layer) == "classifier:in"


@pytest.mark.parametrize(
    ("name", "n_parameters"), [("vgg11", 9_231_114), ("vgg13", 9_416_010), ("resnet18", 11_173_962)]
)
def test_full_width_has_the_published_number_of_parameters(name, n_parameters):
    model = models.build(name, num_classes=10, input_shape=(3, 32, 32))
    bias_free = sum(p.numel() for p in model.parameters())
    conv_biases = (
        sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        if "vgg" in name
        else 0
    )
    assert (
        bias_free + conv_biases == n_parameters
    )  # the published VGGs keep a bias in front of batch normalisation


def test_he_initialisation():
    torch.manual_seed(0)
    model = models.build("vgg13", num_classes=10, input_shape=(3, 32, 32))
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels >= 64:
            fan_in = module.weight[0].numel()
            assert float(module.weight.detach().var()) == pytest.approx(2 / fan_in, rel=0.05)


def test_batch_norm_is_an_option():
    with_norm = models.build("vgg11", num_classes=2, input_shape=(3, 32, 32), width=8)
    without = models.build(
        "vgg11", num_classes=2, input_shape=(3, 32, 32), width=8, batch_norm=False
    )
    assert any(isinstance(m, nn.BatchNorm2d) for m in with_norm.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in without.modules())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"name": "vgg12"}, "model: expected one of vgg11, .* got 'vgg12'; do vgg1"),
        ({"name": "mlp", "widht": 3}, "model: expected settings that mlp takes, got .*widht"),
    ],
)
def test_bad_names(call, message):
    with pytest.raises(ValueError, match=message):
        models.build(**{"num_classes": 2, "input_shape": (3, 32, 32), **call})


def test_small_images_are_refused():
    model = models.build("vgg13", num_classes=2, input_shape=(1, 8, 8), width=8)
    with pytest.raises(
        ValueError, match=r"x: expected images of at least 32 x 32, got \(8, 8\); do pad them"
    ):
        model(torch.zeros(1, 1, 8, 8))


FACTORY = """
import torch
def net(width=4):
    layers = [torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, 2)]
    return torch.nn.Sequential(*layers)
def number():
    return 3
"""


@pytest.fixture
def factory(tmp_path):
    path = tmp_path / "mymodel.py"
    path.write_text(FACTORY)
    return path


def load_factory(path, **settings):
    return models.load(f"{path}:net", **settings)


def test_weights_of_every_kind(factory, tmp_path):
    model = load_factory(factory, model_args={"width": 6}).model
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "b.th")
    torch.save(state, tmp_path / "c.pt")
    for name, key in (("a.safetensors", None), ("b.th", "state_dict"), ("c.pt", None)):
        loaded = load_factory(factory, weights=tmp_path / name, model_args={"width": 6})
        assert loaded.weights_key == key
        assert all(
            torch.equal(v, loaded.model.state_dict()[k]) for k, v in model.state_dict().items()
        )


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."],
)
@pytest.mark.parametrize("name", ["part", "mixed", "wrapped"])
def test_prefixes_of_wrappers(tmp_path, prefix, name):
    """Prefixes of a wrapper are stripped; a part of the model called `module` keeps its name."""
    model = NAMED[name]()
    expected = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
    save_file(
        {f"{prefix}{key}": value for key, value in expected.items()}, tmp_path / "w.safetensors"
    )
    models.load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


NAMED = {
    "part": lambda: nn.ModuleDict({"body": nn.Linear(2, 2)}),
    "mixed": lambda: nn.ModuleDict({"module": nn.Linear(2, 3), "head": nn.Linear(3, 1)}),
    "wrapped": lambda: nn.ModuleDict({"module": nn.Linear(2, 2)}),
}


def test_two_entries_that_fit_need_a_key(factory, tmp_path):
    state = load_factory(factory).model.state_dict()
    torch.save({"model": state, "ema": state}, tmp_path / "w.pt")
    with pytest.raises(
        ValueError,
        match="weights: expected one entry that fits, got model, ema; do weights_key='model'",
    ):
        load_factory(factory, weights=tmp_path / "w.pt")
    assert load_factory(factory, weights=tmp_path / "w.pt", weights_key="ema").weights_key == "ema"
    with pytest.raises(
        ValueError,
        match="weights_key: expected an entry that is a state dict, got 'net'; do one of model, "
        "ema",
    ):
        load_factory(factory, weights=tmp_path / "w.pt", weights_key="net")


def test_weights_that_do_not_fit(factory, tmp_path):
    state = dict(load_factory(factory).model.state_dict())
    del state["0.bias"]
    state["extra"] = torch.zeros(1)
    state["2.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "w.pt")
    expected = (
        r"fits Sequential, got one with missing 0.bias; unexpected extra; other shape 2.bias "
        r"\(7,\) instead of \(2,\)"
    )
    with pytest.raises(ValueError, match=expected):
        load_factory(factory, weights=tmp_path / "w.pt")


def test_pickled_code_is_refused(factory, tmp_path):
    torch.save(load_factory(factory).model, tmp_path / "whole.pt")
    with pytest.raises(
        ValueError,
        match=r"weights: expected tensors only, got pickled code \(not run\) or a damaged file in "
        r"whole.pt; do torch.save",
    ):
        load_factory(factory, weights=tmp_path / "whole.pt")


def test_damaged_files_are_named(factory, tmp_path):
    state = load_factory(factory).model.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        whole = (tmp_path / name).read_bytes()
        for kept in (0, 7, len(whole) // 2):
            (tmp_path / name).write_bytes(whole[:kept])
            with pytest.raises(ValueError, match=f"^weights: expected .* {name}.*damaged"):
                load_factory(factory, weights=tmp_path / name)


def test_a_state_dict_inside_another_entry(factory, tmp_path):
    state = load_factory(factory).model.state_dict()
    torch.save({"checkpoint": {"model": state, "step": 3}, "args": {"lr": 0.1}}, tmp_path / "w.pt")
    assert load_factory(factory, weights=tmp_path / "w.pt").weights_key == "checkpoint.model"
    assert (
        load_factory(factory, weights=tmp_path / "w.pt", weights_key="checkpoint.model").weights
        is not None
    )


def test_a_model_file_may_define_dataclasses(tmp_path):
    (tmp_path / "with_config.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import "
        "nn\n"
        "@dataclass\nclass Config:\n    width: int = 3\n"
        "def net(width: int = 3) -> nn.Module:\n    return nn.Linear(Config(width).width, 2)\n"
    )
    assert models.load(f"{tmp_path / 'with_config.py'}:net").model.in_features == 3


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("nothing.py:net", FileNotFoundError, "model: expected a Python file, got 'nothing.py'"),
        (
            "{factory}:nett",
            ValueError,
            "model: expected a factory in .*, got 'nett'; do one of net",
        ),
        (
            "{factory}:number",
            ValueError,
            "model: expected a factory that returns a Module, got int",
        ),
        (
            "resnet",
            ValueError,
            "model: expected file.py:factory, package.module:factory, timm:NAME, .* got 'resnet'; "
            "do e.g. examples",
        ),
        (
            "no_such_package.x:net",
            ValueError,
            "model: expected an importable module, got 'no_such_package.x'",
        ),
    ],
)
def test_bad_specs(factory, spec, error, message):
    with pytest.raises(error, match=message):
        models.load(spec.format(factory=factory))


def test_missing_weights(factory, tmp_path):
    with pytest.raises(FileNotFoundError, match="weights: expected a file, got .*none.pt"):
        load_factory(factory, weights=tmp_path / "none.pt")


@pytest.mark.data
@pytest.mark.parametrize(("name", "file", "hits"), [("resnet20", "resnet20-12fca82f.th", 9173)])
def test_public_checkpoint_has_its_published_accuracy(name, file, hits, checkpoints, data_root):
    model = models.load(f"examples/cifar_resnet.py:{name}", weights=checkpoints / file).model.eval()
    test = data.load(
        "cifar10:test", data_root=data_root, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    with torch.no_grad():
        right = sum(
            int((model(x).argmax(dim=1) == y).sum())
            for x, y in zip(test.inputs.split(500), test.targets.split(500))
        )
    assert right == hits


# faults found in use


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "backbone.", "encoder_q.", "a.b.", "module.net."]
)
def test_a_prefix_that_makes_all_names_fit_is_found_and_named(factory, tmp_path, prefix):
    """Such files were refused."""
    expected = {
        key: torch.randn_like(v) for key, v in load_factory(factory).model.state_dict().items()
    }
    state = {f"{prefix}{key}": value for key, value in expected.items()}
    save_file({**state, "head.weight": torch.zeros(3, 3)}, tmp_path / "w.safetensors")
    with pytest.warns(
        geo.GeocollapseWarning, match="1 tensors of w.safetensors without the prefix"
    ):
        loaded = load_factory(factory, weights=tmp_path / "w.safetensors")
    assert loaded.weights_prefix == prefix
    assert all(
        torch.equal(value, expected[key]) for key, value in loaded.model.state_dict().items()
    )
    save_file(state, tmp_path / "alone.safetensors")
    loaded = load_factory(factory, weights=tmp_path / "alone.safetensors")
    assert loaded.weights_prefix == prefix.removeprefix("module.")
    assert all(
        torch.equal(value, expected[key]) for key, value in loaded.model.state_dict().items()
    )


def test_several_prefixes_that_fit(factory, tmp_path):
    state = load_factory(factory).model.state_dict()
    twice = {
        f"{part}.{key}": value + number
        for number, part in enumerate(("first", "second"), 1)
        for key, value in state.items()
    }
    save_file(twice, tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError,
        match="weights_prefix: expected one prefix .* got first., second.; do weights_prefix='fi",
    ):
        load_factory(factory, weights=tmp_path / "w.safetensors")
    with pytest.warns(
        geo.GeocollapseWarning, match="4 tensors of w.safetensors without the prefix second."
    ):
        second = load_factory(factory, weights=tmp_path / "w.safetensors", weights_prefix="second")
    assert torch.equal(second.model.state_dict()["2.bias"], twice["second.2.bias"])
    moco = {f"encoder_{part}.{key}": value for part in "qk" for key, value in state.items()}
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in moco.items()}},
        tmp_path / "moco.pt",
    )
    with pytest.warns(geo.GeocollapseWarning):
        found = load_factory(factory, weights=tmp_path / "moco.pt")
    assert (found.weights_key, found.weights_prefix) == ("state_dict", "encoder_q.")
    with pytest.raises(
        ValueError,
        match="weights_prefix: expected a prefix of names in w.*, got 'third.'; do one of first., ",
    ):
        load_factory(factory, weights=tmp_path / "w.safetensors", weights_prefix="third.")
    with pytest.raises(
        ValueError, match="weights_prefix: expected weights that fit under 'first.0.', got missing"
    ):
        load_factory(factory, weights=tmp_path / "w.safetensors", weights_prefix="first.0")


def test_the_prefix_is_in_the_output(factory, tmp_path, capsys):
    from geocollapse.cli import main

    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\ndef net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    state = models.load(f"{path}:net").model.state_dict()
    save_file(
        {f"backbone.{key}": value for key, value in state.items()}, tmp_path / "w.safetensors"
    )
    command = ["measure", f"{path}:net@{tmp_path / 'w.safetensors'}", "digits", "--subset", "40"]
    assert main([*command, "--quiet"]) == 0
    assert "w.safetensors, prefix backbone.) on digits" in capsys.readouterr().out
    assert main([*command, "--weights-prefix", "back"]) == 2
    assert "error: --weights-prefix: expected a prefix of names" in capsys.readouterr().err


@pytest.mark.parametrize("module", [nn.Linear(3, 2), nn.Conv1d(3, 2, 2)])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_old_weight_norm_is_taken_as_load_state_dict_takes_it(tmp_path, module, prefix):
    """Files with ``weight_g`` and ``weight_v`` were refused."""
    import copy

    old = nn.Sequential(nn.utils.weight_norm(copy.deepcopy(module)), nn.ReLU())
    state = old.state_dict()
    assert "0.weight_g" in state
    torch.save({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "w.pt")
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(copy.deepcopy(module)), nn.ReLU())
    nn.init.zeros_(new[0].bias)
    models.load_weights(new, tmp_path / "w.pt")
    assert torch.equal(new[0].weight, old[0].weight)
    assert torch.equal(new[0].bias, old[0].bias)
    del state["0.weight_g"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="got one with missing"):
        models.load_weights(new, tmp_path / "part.pt")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.uint8, torch.bool])
def test_types_that_would_lose_numbers_are_refused(factory, tmp_path, dtype):
    """Complex weights lost their imaginary part, and integers were taken for weights."""
    state = dict(load_factory(factory).model.state_dict())
    torch.save({**state, "2.bias": torch.ones(2, dtype=dtype)}, tmp_path / "w.pt")
    expected = f"other type 2.bias {dtype} instead of torch.float32"
    with pytest.raises(ValueError, match=expected):
        load_factory(factory, weights=tmp_path / "w.pt")
    torch.save({**state, "2.bias": torch.ones(2, dtype=torch.float16)}, tmp_path / "w.pt")
    assert load_factory(factory, weights=tmp_path / "w.pt").model[2].bias.tolist() == [1.0, 1.0]


def test_damage_anywhere_in_a_file_is_named(factory, tmp_path):
    """The older format of torch.save gave an IndexError, a struct.error or an AssertionError."""
    model = load_factory(factory).model
    torch.save(model.state_dict(), tmp_path / "w.th", _use_new_zipfile_serialization=False)
    rng = random.Random(0)
    whole = (tmp_path / "w.th").read_bytes()
    for _ in range(100):
        (tmp_path / "w.th").write_bytes(whole[: rng.randrange(len(whole))])
        with pytest.raises(ValueError, match="w.th"):
            models.load_weights(model, tmp_path / "w.th")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def net(:\n", "got SyntaxError: .* at line 1 of .*bad.py; do correct it"),
        (
            "import torch\nx = undefined\ndef net(): 1\n",
            "got NameError: name 'undefined' .* at line 2 of .*bad.py",
        ),
        (
            "import not_there\ndef net(): 1\n",
            "got ModuleNotFoundError: No module named 'not_there' at line 1 of .*bad.py; do pip "
            "install the package",
        ),
        (
            "import sys\nsys.exit('bye')\ndef net(): 1\n",
            "got SystemExit: bye at line 2 of .*bad.py",
        ),
        (
            b'def net():\n    return "\xe9"\n',
            "got SyntaxError: .* of .*bad.py|got SyntaxError: .* at .*bad.py",
        ),
        ("\0", "bad.py"),
        (
            "def net():\n    import not_there\n",
            "got ModuleNotFoundError: No module named 'not_there'; do pip install the package",
        ),
    ],
)
def test_a_model_file_that_does_not_run_is_one_line_with_its_name(tmp_path, text, message):
    path = tmp_path / "bad.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        models.load(f"{path}:net")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = undefined\n", "got NameError: name 'undefined' is not defined at .*pack"),
        ("def f(:\n", "got SyntaxError: .* at .*pack"),
        ("import sys\nsys.exit(0)\n", "got SystemExit: 0 at .*pack"),
    ],
)
def test_a_package_that_does_not_run_is_one_line_with_its_name(
    tmp_path, monkeypatch, text, message
):
    """Its ``__init__.py`` runs where the module in it is looked up."""
    name = f"pack{abs(hash(text))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(text)
    (tmp_path / name / "nets.py").write_text("def net(): 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=message):
        models.load(f"{name}.nets:net")


def test_a_mistyped_factory_is_answered_without_running_the_file(tmp_path):
    """A file that imports a large library took many seconds to be told so."""
    (tmp_path / "slow.py").write_text(
        "raise RuntimeError('ran')\ndef resnet(): 1\ndef vit(): 1\ndef _own(): 1\n"
    )
    with pytest.raises(
        ValueError, match="expected a factory in .*slow.py, got 'rsnet'; do one of resnet, vit$"
    ):
        models.load(f"{tmp_path / 'slow.py'}:rsnet")
    (tmp_path / "open.py").write_text(
        "from torch.nn import *\nglobals()['made'] = lambda: Flatten()\n"
    )
    assert isinstance(models.load(f"{tmp_path / 'open.py'}:made").model, nn.Flatten)
    with pytest.raises(
        ValueError, match="expected a factory in geocollapse.models.arch.*, got 'VG'; do one of VGG"
    ):
        models.load("geocollapse.models.architectures:VG")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("mymodel.py", "do .*mymodel.py:net or .*mymodel.py:number$"),
        ("w.pt", "do MODEL@.*w.pt, MODEL with these weights"),
        ("kept.npz", "do features:.*kept.npz"),
    ],
)
def test_files_that_exist_are_told_their_form(factory, tmp_path, name, remedy):
    path = tmp_path / name
    if not path.exists():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"model: expected file.py:factory.*{remedy}"):
        models.load(str(path))


def test_data_that_exist_are_told_their_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "img").mkdir()
    (tmp_path / "my.csv").write_text("text,label\na,b\n")
    for spec, remedy in (
        ("img", "folder:img"),
        ("img:train", "folder:img"),
        ("my.csv", "csv:my.csv"),
    ):
        with pytest.raises(
            ValueError, match=f"data: expected the name of a data set.*; do {remedy}$"
        ):
            data.load(spec)


def test_a_loaded_model_is_measured_and_called_as_its_module(factory):
    """It was no callable, and its layers were not found."""
    loaded = models.load(f"{factory}:net")
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(x), loaded.model(x))
    assert not loaded.model.training
    own = geo.measure(loaded.model, (x, torch.arange(20) % 2))
    found = geo.measure(loaded, (x, torch.arange(20) % 2))
    assert found.summary() == own.summary()
    assert found.to_frame().loc[0, "model"] == loaded.name
    assert own.to_frame().loc[0, "model"] == "Sequential"
    assert own.layer == "2:in"
    found = geo.geometric_complexity(loaded, x, layer="0")
    assert found.value == geo.geometric_complexity(loaded.model, x, layer="0").value
