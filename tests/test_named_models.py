"""Models by name: pretrained from a cache, random only if asked for, preprocessed their way."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import geocollapse as geo
from geocollapse import data, models

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
    "num_labels": 5,
}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty caches of the hub and of torch, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("geocollapse.models.hub.has_network", lambda url: False)
    monkeypatch.setattr("geocollapse.models.vision.has_network", lambda url: False)
    return tmp_path


def hub_folder(caches, name):
    """The folder of a snapshot in the layout of the hub's cache."""
    folder = caches / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return folder / "snapshots" / ("0" * 40)


def same(model, state):
    return all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def photo(size=(50, 40)):
    generator = torch.Generator().manual_seed(0)
    return Image.fromarray(
        torch.randint(0, 256, (size[1], size[0], 3), generator=generator).byte().numpy()
    )


# timm


def test_timm_weights_come_from_the_hub_cache(caches):
    import timm

    state = timm.create_model("test_resnet").state_dict()
    save_file(state, hub_folder(caches, "timm/test_resnet.r160_in1k") / "model.safetensors")
    loaded = models.load("timm:test_resnet.r160_in1k")
    assert same(loaded.model, state)
    assert (loaded.name, loaded.weights) == (
        "timm:test_resnet.r160_in1k",
        "timm/test_resnet.r160_in1k",
    )


def test_timm_preprocessing_is_timms_own():
    import timm

    loaded = models.load("timm:test_resnet@random")
    config = timm.data.resolve_model_data_config(loaded.model)
    expected = timm.data.create_transform(**config, is_training=False)(photo())
    assert torch.equal(loaded.preprocessing(photo()), expected)
    small = loaded.preprocessing.changed(image_size=32)
    assert small(photo()).shape == (3, 32, 32)
    assert small.as_dict() == {
        **small.as_dict(),
        "image_size": [32, 32],
        "resize": [33],
        "source": "timm",
    }


def test_timm_takes_arguments_and_grey_images():
    arguments = {"img_size": 32, "patch_size": 8, "num_classes": 7, "in_chans": 1}
    loaded = models.load("timm:test_vit@random", model_args=arguments)
    x = loaded.preprocessing(photo())
    assert x.shape == (1, 32, 32)
    assert loaded.model.eval()(x[None]).shape == (1, 7)
    assert loaded.weights == "random"


def test_own_weights_need_no_pretrained_ones(tmp_path):
    state = {
        f"module.{key}": value
        for key, value in models.load("timm:test_resnet@random").model.state_dict().items()
    }
    path = tmp_path / "w.pt"
    torch.save({"ema": state, "model": {name: value + 1 for name, value in state.items()}}, path)
    loaded = models.load("timm:test_resnet", weights=path, weights_key="ema")
    assert (loaded.weights, loaded.weights_key) == (str(path), "ema")
    assert same(
        loaded.model, {name.removeprefix("module."): value for name, value in state.items()}
    )
    torch.save(state, path)
    at = models.load(f"timm:test_resnet@{path}")
    assert (at.name, at.weights) == ("timm:test_resnet", str(path))
    assert same(at.model, loaded.model.state_dict())


# torchvision


def test_torchvision_weights_come_from_torchs_cache(caches):
    import torchvision

    state = torchvision.models.mobilenet_v3_small().state_dict()
    folder = caches / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / "mobilenet_v3_small-047dcff4.pth")
    loaded = models.load("torchvision:mobilenet_v3_small")
    assert same(loaded.model, state)
    assert loaded.weights == "MobileNet_V3_Small_Weights.IMAGENET1K_V1"
    weights = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT
    assert torch.equal(loaded.preprocessing(photo()), weights.transforms()(photo()))
    small = loaded.preprocessing.changed(image_size=28, std=(1.0, 1.0, 1.0))
    assert (small.image_size, small.resize, small.std) == ((28, 28), (32,), (1.0, 1.0, 1.0))
    assert small(photo()).shape == (3, 28, 28)


# transformers


def saved_vit(folder, *, with_processor):
    import transformers

    model = models.load("hf:vit@random", model_args=VIT).model
    model.save_pretrained(folder)
    if with_processor:
        size = {"height": 16, "width": 16}
        transformers.ViTImageProcessor(
            size=size, image_mean=[0.1] * 3, image_std=[0.25] * 3
        ).save_pretrained(folder)
    return model.state_dict()


def test_hugging_face_weights_come_from_the_hub_cache(caches):
    state = saved_vit(hub_folder(caches, "somebody/small"), with_processor=True)
    loaded = models.load("hf:somebody/small")
    assert type(loaded.model).__name__ == "ViTForImageClassification"
    assert same(loaded.model, state)
    assert (loaded.weights, loaded.tokenizer) == ("somebody/small", None)
    untrained = models.load("hf:somebody/small@random")
    assert untrained.weights == "random"
    assert not same(untrained.model, {"classifier.weight": state["classifier.weight"]})
    assert untrained.preprocessing.mean == (0.1,) * 3


def test_hugging_face_preprocessing_is_that_of_the_image_processor(tmp_path):
    from transformers import AutoImageProcessor

    saved_vit(tmp_path / "vit", with_processor=True)
    loaded = models.load(f"hf:{tmp_path / 'vit'}")
    own = loaded.preprocessing
    expected = AutoImageProcessor.from_pretrained(tmp_path / "vit")(photo(), return_tensors="pt")[
        "pixel_values"
    ][0]
    assert torch.equal(own(photo()), expected)
    assert own.as_dict() == {
        "image_size": [16, 16],
        "resize": [16, 16],
        "crop": None,
        "interpolation": "bilinear",
        "mean": pytest.approx([0.1] * 3),
        "std": pytest.approx([0.25] * 3),
        "source": "ViTImageProcessor",
    }
    changed = own.changed(image_size=24, mean=(0.5,) * 3)
    assert changed(photo()).shape == (3, 24, 24)
    assert changed.mean == pytest.approx((0.5,) * 3)
    grey = changed(Image.new("L", (9, 9), 128))
    torch.testing.assert_close(grey, torch.full((3, 24, 24), (128 / 255 - 0.5) / 0.25))


def test_a_processor_that_crops(tmp_path):
    """Another size keeps the share that is cropped."""
    import transformers

    from geocollapse.models.processors import processor_preprocessing

    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    )
    own = processor_preprocessing(processor, 3)
    assert (own.resize, own.crop, own.image_size, own.interpolation) == (
        (40,),
        (32, 32),
        (32, 32),
        "bicubic",
    )
    small = own.changed(image_size=16)
    assert (small.resize, small.crop) == ((20,), (16, 16))
    assert small(photo()).shape == (3, 16, 16)


def test_without_an_image_processor_it_is_said_whose_values_these_are(tmp_path):
    saved_vit(tmp_path / "vit", with_processor=False)
    own = models.load(f"hf:{tmp_path / 'vit'}").preprocessing
    assert (own.image_size, own.mean) == ((16, 16), (0.485, 0.456, 0.406))
    assert own.source == "no image processor: size of the configuration, ImageNet's mean and std"


def test_a_text_model_comes_with_its_tokenizer(tmp_path):
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    loaded = models.load("hf:bert@random", model_args={**small, "vocab_size": 20})
    assert type(loaded.model).__name__ == "BertModel"
    assert (loaded.tokenizer, loaded.preprocessing, loaded.weights) == (None, None, "random")
    classifier = models.load("hf:bert@random", model_args={**small, "num_labels": 3}).model
    assert type(classifier).__name__ == "BertForSequenceClassification"
    loaded.model.save_pretrained(tmp_path)
    assert models.load(f"hf:{tmp_path}").tokenizer is None
    words = Tokenizer(WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(
        tmp_path
    )
    again = models.load(f"hf:{tmp_path}")
    assert again.tokenizer("hello")["input_ids"] == [1]
    assert same(again.model, loaded.model.state_dict())


def test_tied_weights_may_be_missing_from_a_file(tmp_path):
    arguments = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 11}
    state = models.load("hf:gpt2@random", model_args=arguments).model.state_dict()
    save_file(
        {name: value for name, value in state.items() if name != "lm_head.weight"},
        tmp_path / "w.safetensors",
    )
    loaded = models.load("hf:gpt2@random", model_args=arguments).model
    models.load_weights(loaded, tmp_path / "w.safetensors")
    assert same(loaded, state)
    save_file({"lm_head.weight": state["lm_head.weight"]}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="got one with missing"):
        models.load_weights(loaded, tmp_path / "part.safetensors")


def test_weights_that_leave_a_part_random_are_refused(tmp_path):
    state = saved_vit(tmp_path, with_processor=False)
    save_file(
        {k: v for k, v in state.items() if "classifier" not in k},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(
        ValueError,
        match="expected weights for all of ViT.*got none for classifier.bias, classifier.w",
    ):
        models.load(f"hf:{tmp_path}")
    with pytest.raises(
        ValueError, match="expected weights that fit ViTFor.*, got other shapes in hf:"
    ):
        models.load(f"hf:{tmp_path}", model_args={"intermediate_size": 24})


def test_a_configuration_without_architectures_is_the_plain_model(tmp_path):
    saved_vit(tmp_path, with_processor=False)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": None}))
    with pytest.raises(ValueError, match="got none for pooler"):
        models.load(f"hf:{tmp_path}")
    assert type(models.load(f"hf:{tmp_path}@random").model).__name__ == "ViTModel"


@pytest.mark.parametrize(
    "config", [{"model_type": "nothing_known"}, {"auto_map": {"AutoConfig": "code.Config"}}]
)
def test_code_of_a_models_own_is_not_run(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError,
        match="expected a model that transformers itself knows, got hf:.*do load it in a",
    ):
        models.load(f"hf:{tmp_path}")


def test_the_class_can_be_chosen():
    loaded = models.load("hf:vit@random", model_args={**VIT, "architectures": ["ViTModel"]})
    assert type(loaded.model).__name__ == "ViTModel"


# the embedding of architectures: found without being named, with accuracy, NC3 and NC4 of the head

ARCHITECTURES = [
    ("timm:resnet18", "fc", {}),
    ("timm:convnext_atto", "head.fc", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}),
    ("timm:vit_tiny_patch16_224", "head", {"img_size": 32, "patch_size": 8, "depth": 2}),
    (
        "timm:swin_tiny_patch4_window7_224",
        "head.fc",
        {"img_size": 32, "window_size": 4, "depths": [1] * 4, "embed_dim": 24},
    ),
    ("timm:mobilenetv3_small_100", "classifier", {}),
    ("timm:mixer_s32_224", "head", {"img_size": 64}),
    ("torchvision:resnet18", "fc", {}),
    ("torchvision:vgg13_bn", "classifier.6", {"init_weights": False}),
    ("torchvision:swin_t", "head", {}),
    ("torchvision:mobilenet_v3_small", "classifier.3", {}),
    ("hf:vit", "classifier", {key: VIT[key] for key in VIT if key != "num_labels"}),
    ("hf:resnet", "classifier.1", {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}),
    ("hf:convnext", "classifier", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
]


@pytest.mark.parametrize(
    ("name", "classifier", "arguments"), ARCHITECTURES, ids=lambda value: str(value)[:40]
)
def test_the_embedding_of_an_architecture_is_found(name, classifier, arguments):
    torch.manual_seed(0)
    n_classes = {"num_labels" if name.startswith("hf:") else "num_classes": 10}
    loaded = models.load(f"{name}@random", model_args={**arguments, **n_classes})
    torch.nn.init.normal_(
        loaded.model.get_submodule(classifier).weight
    )  # zero in an untrained mixer: NC3 undefined
    size = arguments.get("img_size") or arguments.get("image_size", 32)
    digits = data.load("digits", subset=20, preprocessing=loaded.preprocessing, image_size=size)
    found = geo.measure(loaded.model, digits).to_dict()
    assert found["layer"] == f"{classifier}:in"
    assert found["n_features"] == loaded.model.get_submodule(classifier).weight.shape[1]
    assert 0 <= found["accuracy"] <= 1
    assert 0 < found["nc3"] < 2
    assert 0 <= found["nc4"] <= 1
    assert found["geometric_complexity"]["value"] > 0
    assert found["preprocessing"]["image_size"] == [size, size]


# errors


@pytest.mark.parametrize(
    ("spec", "arguments", "error", "message"),
    [
        (
            "timm:test_resnet",
            {},
            FileNotFoundError,
            "the pretrained weights of timm:test_resnet at .*hub or from",
        ),
        (
            "timm:resnt18",
            {},
            ValueError,
            "expected the name of a timm model, got 'resnt18'; do timm:resnet18",
        ),
        ("timm:nosuch", {}, ValueError, r"got 'nosuch'; do see timm's list_models\(\)"),
        (
            "timm:resnet18:2",
            {},
            ValueError,
            "expected the name of a timm model, got 'resnet18:2'; do timm:resnet18",
        ),
        ("timm:resnet18.a9_in1k", {}, ValueError, "got 'resnet18.a9_in1k'; do timm:resnet18.a"),
        (
            "timm:mixer_s32_224",
            {},
            ValueError,
            "got none, for none are published; do timm:mixer_s32_224@random",
        ),
        (
            "timm:resnet18",
            {"num_classes": 10},
            ValueError,
            r"expected num_classes=1000 .*\(another classifier",
        ),
        (
            "timm:resnet18@random",
            {"widht": 2},
            ValueError,
            "expected arguments that timm:resnet18 takes.*'widht'",
        ),
        ("timm:resnet18@none.pt", {}, FileNotFoundError, "weights: expected a file, got 'none.pt'"),
        (
            "torchvision:resnet18",
            {},
            FileNotFoundError,
            "checkpoints/resnet18-f37072fd.pth or from https:.*@random",
        ),
        (
            "torchvision:swin",
            {},
            ValueError,
            "expected the name of a torchvision model, got 'swin'; do torchvision:sw",
        ),
        (
            "torchvision:fcn_resnet50",
            {},
            ValueError,
            "expected the name of a torchvision model, got 'fcn_resnet50'",
        ),
        (
            "torchvision:swin_t",
            {"num_classes": 3},
            ValueError,
            "expected num_classes=1000 of the pretrained torch",
        ),
        (
            "hf:somebody/none",
            {},
            FileNotFoundError,
            "expected config.json of hf:somebody/none in that folder, in .*hub",
        ),
        ("hf:vitt@random", {}, FileNotFoundError, "or a model type such as .*hf:vit@random"),
        (
            "hf:vit@random",
            {"hiden_size": 8},
            ValueError,
            "keys of the configuration of hf:vit, got 'hiden_size'; do hid",
        ),
        (
            "torch.nn:Identity@random",
            {},
            ValueError,
            "expected random weights of a timm:, torchvision: or hf: model",
        ),
    ],
)
def test_bad_names(spec, arguments, error, message):
    with pytest.raises(error, match=message) as raised:
        models.load(spec, model_args=arguments)
    assert str(raised.value).startswith(("model: expected", "weights: expected"))
    assert "\n" not in str(raised.value)


def test_a_configuration_without_weights_says_so(caches):
    folder = hub_folder(caches, "somebody/small")
    saved_vit(folder, with_processor=False)
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match="expected the pretrained weights of hf:somebody/small .* got none"
    ):
        models.load("hf:somebody/small")


def test_two_weights_are_one_too_many(tmp_path):
    with pytest.raises(
        ValueError, match="weights: expected none with 'timm:resnet18@random', which names its own"
    ):
        models.load("timm:resnet18@random", weights=tmp_path / "w.pt")


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_a_missing_library_names_the_command(library, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    spec = "hf:vit@random" if library == "transformers" else f"{library}:resnet18@random"
    with pytest.raises(ImportError, match=r'do pip install "geocollapse\[(vision|text)\]"'):
        models.load(spec)


def test_a_hub_without_network_is_not_waited_for(monkeypatch):
    from huggingface_hub import constants

    from geocollapse.models import hub

    monkeypatch.undo()
    before = constants.HF_HUB_OFFLINE
    with hub.without_waiting():
        assert constants.HF_HUB_OFFLINE or hub.has_network(constants.ENDPOINT)
    assert before == constants.HF_HUB_OFFLINE
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *_: (_ for _ in ()).throw(OSError("no address"))
    )
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.delenv("ALL_PROXY", raising=False)
    with hub.without_waiting():
        assert constants.HF_HUB_OFFLINE
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "proxy:3128"})
    assert hub.has_network(constants.ENDPOINT)


# faults found in use


def test_code_that_lies_with_a_model_is_not_run_after_yes_on_stdin(tmp_path):
    """transformers asks on stdin, and ran the code after "y"."""
    import subprocess
    import sys

    folder = tmp_path / "remote"
    folder.mkdir()
    auto_map = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (folder / "config.json").write_text(json.dumps({"auto_map": auto_map, "model_type": "own"}))
    (folder / "code.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import PretrainedConfig\nclass Config(PretrainedConfig):\n"
        "    model_type = 'own'\n"
    )
    command = [sys.executable, "-m", "geocollapse", "measure", f"hf:{folder}", "digits"]
    done = subprocess.run(command, capture_output=True, text=True, input="y\n" * 9, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected a model that transformers itself knows" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_damaged_files_of_a_hugging_face_model_are_named(tmp_path, file):
    saved_vit(tmp_path, with_processor=False)
    whole = (tmp_path / file).read_bytes()
    for kept in (0, 7, len(whole) // 2):
        (tmp_path / file).write_bytes(whole[:kept])
        with pytest.raises(
            ValueError, match=f"model: expected .* of hf:{tmp_path}.*got a damaged file"
        ):
            models.load(f"hf:{tmp_path}")


def test_damaged_weights_in_a_cache_are_named(caches):
    import timm
    import torchvision

    folder = caches / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    file = folder / "mobilenet_v3_small-047dcff4.pth"
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=f"readable weights of torchvision:.* at {file}, got a dam"
    ):
        models.load("torchvision:mobilenet_v3_small")
    kept = hub_folder(caches, "timm/test_resnet.r160_in1k") / "model.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), kept)
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match="readable weights of timm:test_resnet.* got a damaged file"
    ):
        models.load("timm:test_resnet.r160_in1k")
