import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import geocollapse as geo
from geocollapse import data
from geocollapse.data import parse_classes
from geocollapse.data.loading import find_root
from geocollapse.data.preprocessing import resize_and_crop
from geocollapse.data.selection import select_rows
from geocollapse.data.sources import CIFAR_FS_CLASSES


def test_digits_are_split_and_normalised():
    train, test = data.load("digits"), data.load("digits:test")
    assert (len(train), len(test)) == (1437, 360)
    assert (train.split, test.split) == ("train", "test")
    assert abs(float(train.inputs.mean())) < 1e-3
    assert float(train.inputs.std()) == pytest.approx(1.0, abs=1e-3)
    counts = torch.bincount(test.targets)
    assert int(counts.min()) >= 34
    pixels = train.inputs * train.std[0] + train.mean[0]
    assert float(pixels.min()) == pytest.approx(0, abs=1e-6)
    assert float(pixels.max()) == pytest.approx(1, abs=1e-6)


def test_select_renumbers_in_the_order_given():
    whole = data.load("digits")
    part = data.load("digits", classes="7,0-1", subset=60, seed=3)
    assert part.classes == ["7", "0", "1"]
    assert torch.bincount(part.targets).tolist() == [20, 20, 20]
    first = part.inputs[part.targets == 0][0]
    match = (whole.inputs == first).flatten(1).all(dim=1).nonzero().flatten()
    assert whole.targets[match].tolist() == [7]
    again = data.load("digits", classes="7,0-1", subset=60, seed=3)
    assert torch.equal(again.inputs, part.inputs)


@given(st.lists(st.integers(0, 4), min_size=30, max_size=60), st.integers(0, 100))
def test_subsets_are_balanced(labels, seed):
    labels = torch.tensor(labels)
    n_classes = len(labels.unique())
    for size in (n_classes, len(labels) // 2 + n_classes // 2, len(labels)):
        rows = select_rows(labels, None, size, seed)
        assert len(rows) == size == len(rows.unique())
        counts, available = (
            torch.bincount(labels[rows], minlength=5),
            torch.bincount(labels, minlength=5),
        )
        short = counts < available
        if short.any():
            assert int(counts.max() - counts[short].min()) <= 1


def test_cifar_fs_splits_partition_the_classes():
    sizes = {name: len(classes) for name, classes in CIFAR_FS_CLASSES.items()}
    assert sizes == {"train": 64, "val": 16, "test": 20}
    assert sorted(c for classes in CIFAR_FS_CLASSES.values() for c in classes) == list(range(100))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cta", "classes: expected class numbers or names, got 'cta'; do 'cat'"),
        ("0-9", "classes: expected numbers from 0 to 2, got '0-9'"),
        ("cat,0", "classes: expected each class once, got 'cat' twice"),
    ],
)
def test_bad_classes(text, message):
    with pytest.raises(ValueError, match=message):
        parse_classes(text, ["cat", "dog", "emu"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"spec": "cifar-10"}, "data: expected one of digits, .* got 'cifar-10'; do cifar10"),
        (
            {"spec": "digits:val"},
            "split: expected one of train, test of digits, got 'val'; do digits:train",
        ),
        (
            {"spec": "digits", "mean": (0.1, 0.2)},
            r"mean: expected 1 numbers, one for each channel, got \[0.1, 0.2\]",
        ),
        ({"spec": "digits", "std": (0.0,)}, "std: expected 1 positive numbers"),
        ({"spec": "digits", "pad_to": 4}, "pad_to: expected at least 8 pixels, got 4"),
        ({"spec": "digits", "subset": 3}, "subset: expected 10 to 1437 examples, got 3"),
    ],
)
def test_bad_names(call, message):
    with pytest.raises(ValueError, match=message):
        data.load(**call)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"data: expected the files of mnist under .*train-images-idx3-ubyte.*do put them",
    ):
        data.load("mnist", data_root=tmp_path, download=False)
    with pytest.raises(FileNotFoundError, match="data: expected a folder of class folders"):
        data.load(f"folder:{tmp_path / 'none'}")


def test_where_files_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCOLLAPSE_DATA", str(tmp_path))
    assert find_root() == tmp_path
    assert find_root("here").name == "here"
    monkeypatch.delenv("GEOCOLLAPSE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    assert find_root() == tmp_path / "cache" / "geocollapse"


@pytest.mark.data
def test_download_from_the_source(tmp_path, data_root, monkeypatch, server):
    """The real download path, against a local server that offers the official files."""
    from torchvision.datasets import FashionMNIST

    served, address = server
    raw = data_root / "FashionMNIST" / "raw"
    for name, _ in FashionMNIST.resources:
        import gzip

        with gzip.GzipFile(served / name, "wb", compresslevel=1, mtime=0) as file:
            file.write((raw / name.removesuffix(".gz")).read_bytes())
    monkeypatch.setattr(FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(
        FashionMNIST, "resources", [(name, None) for name, _ in FashionMNIST.resources]
    )
    loaded = data.load("fashion-mnist:test", data_root=tmp_path / "cache")
    assert torch.equal(loaded.inputs, data.load("fashion-mnist:test", data_root=data_root).inputs)


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_normalisation_is_that_of_the_training_images(name, data_root):
    loaded = data.load(name, data_root=data_root, download=False)
    channels = loaded.inputs.transpose(0, 1).flatten(1).double()
    assert float(channels.mean(dim=1).abs().max()) < 1e-4
    torch.testing.assert_close(
        channels.std(dim=1), torch.ones(len(channels)).double(), atol=1e-4, rtol=0
    )


@pytest.mark.data
def test_cifar_fs_takes_all_600_images_of_a_class(data_root):
    loaded = data.load("cifar-fs:test", data_root=data_root, download=False)
    assert torch.bincount(loaded.targets).tolist() == [600] * 20
    assert loaded.classes[:2] == ["baby", "bed"]


@pytest.mark.data
def test_padding_is_black(data_root):
    padded = data.load("mnist:test", data_root=data_root, pad_to=32, download=False)
    assert padded.inputs.shape[1:] == (1, 32, 32)
    corner = padded.inputs[:, :, :2, :2] * padded.std[0] + padded.mean[0]
    assert float(corner.abs().max()) < 1e-6


@pytest.fixture
def photos(tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        for label, name in enumerate(("ant", "bee")):
            for i in range(3):
                path = tmp_path / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.full((20 + i, 30, 3), 60 * label, dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return tmp_path


def test_folder_reads_files_lazily(photos):
    loaded = data.load(f"folder:{photos}", image_size=16, classes="bee,ant")
    assert (len(loaded), loaded.split, loaded.classes) == (6, "train", ["bee", "ant"])
    image, label = loaded[0]
    assert image.shape == (3, 16, 16)
    assert loaded.targets.tolist() == [1, 1, 1, 0, 0, 0]
    assert label == 1
    assert data.load(f"folder:{photos}:val", image_size=16).split == "val"
    assert data.load(f"folder:{photos / 'val'}", image_size=16).split == "all"
    assert loaded.in_memory().inputs.shape == (6, 3, 16, 16)
    assert data.load(f"folder:{photos}", default_split="test").split == "val"
    with pytest.raises(
        ValueError,
        match="pad_to: expected None for images that are resized, got 32; do image_size=32",
    ):
        data.load(f"folder:{photos}", pad_to=32)
    shutil.rmtree(photos / "train")


@pytest.mark.parametrize("spec", ["digits", "folder"])
def test_images_go_through_the_preprocessing_of_a_model(spec, photos):
    """Resized, cropped and normalised by the model's values, or by an override, one at a time."""
    own = resize_and_crop("a model")
    spec = f"folder:{photos}" if spec == "folder" else spec
    loaded = data.load(spec, preprocessing=own, subset=6 if spec != "digits" else 20, image_size=12)
    assert isinstance(loaded, data.LabelledImages)
    assert loaded[0][0].shape == (3, 12, 12)
    assert (loaded.mean, loaded.preprocessing["source"]) == ((0.485, 0.456, 0.406), "a model")
    changed = data.load(
        spec,
        preprocessing=resize_and_crop("a model", 12),
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.25, 1.0),
    )
    assert (changed.mean, changed.std) == ((0.1, 0.2, 0.3), (0.5, 0.25, 1.0))
    assert changed.preprocessing["crop"] == [12, 12]
    whole = data.load(spec, preprocessing=resize_and_crop("a model", 12))
    torch.testing.assert_close(
        changed[0][0] * torch.tensor(changed.std)[:, None, None]
        + torch.tensor(changed.mean)[:, None, None],
        whole[0][0] * torch.tensor(whole.std)[:, None, None]
        + torch.tensor(whole.mean)[:, None, None],
    )


def test_pixels_of_images_in_memory_are_kept_to_8_bits():
    """Without resizing a model gets the pixels of the data set, grey in each channel."""
    plain, own = (
        data.load("digits", subset=10),
        data.load("digits", subset=10, preprocessing=resize_and_crop("own", 8)),
    )
    pixels = plain.inputs * plain.std[0] + plain.mean[0]
    taken = torch.stack([image for image, _ in own]) * torch.tensor(own.std)[:, None, None]
    taken += torch.tensor(own.mean)[:, None, None]
    assert own.targets.tolist() == plain.targets.tolist()
    torch.testing.assert_close(taken, pixels.expand(-1, 3, -1, -1), atol=0.51 / 255, rtol=0)


def test_gc_of_raw_pixels_does_not_depend_on_the_normalisation():
    """The deviations of the preprocessing reach the measurement."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3, bias=False))
    found = {}
    for std in ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)):
        images = data.load("digits", subset=20, preprocessing=resize_and_crop("own", 8), std=std)
        found[std] = geo.measure(model, images, layer="", estimator="exact")
        assert found[std].to_dict()["preprocessing"]["std"] == list(std)
        assert found[std].to_dict()["preprocessing"]["resize"] == [8]
    (first, second) = found.values()
    assert float(second.gc_pixel) == pytest.approx(4 * float(first.gc_pixel))
    assert second.geometric_complexity.value == pytest.approx(first.geometric_complexity.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"image_size": 0}, "image_size: expected a positive number of pixels, got 0"),
        ({"mean": (0.5,)}, r"mean: expected 3 numbers, one for each channel, got \[0.5\]"),
        (
            {"pad_to": 32},
            "pad_to: expected None for images that are resized, got 32; do image_size=32",
        ),
    ],
)
def test_bad_pixels(call, message):
    with pytest.raises(ValueError, match=message):
        data.load("digits", preprocessing=resize_and_crop("own"), **call)


def test_crop_and_flip_keeps_every_image_to_itself():
    generator = torch.Generator().manual_seed(0)
    x = torch.arange(64.0)[:, None, None, None].expand(64, 1, 8, 8) + 1
    y = data.crop_and_flip(x, generator)
    assert y.shape == x.shape
    for i in range(64):
        assert set(y[i].unique().tolist()) <= {0.0, float(i + 1)}
    ramp = torch.arange(8.0).expand(200, 1, 8, 8)
    flipped = data.crop_and_flip(ramp, generator, padding=0)
    share = float((flipped[:, 0, 0, 0] == 7).double().mean())
    assert 0.35 < share < 0.65
    assert all(torch.equal(row, ramp[0]) or torch.equal(row, ramp[0].flip(-1)) for row in flipped)


def test_crop_and_flip_is_seeded():
    x = torch.randn(5, 3, 8, 8)
    first, second = (data.crop_and_flip(x, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
