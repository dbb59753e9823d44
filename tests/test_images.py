"""Image files of one's own: bit depths, damaged files, links, pipes and hidden folders."""

import os
import random
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

import geocollapse as geo
from geocollapse import data
from geocollapse.data.image_files import read_image
from geocollapse.data.preprocessing import eight_bits, resize_and_crop
from geocollapse.models import LoadedModel, prepare

LEVELS = (0.153, 0.336, 0.519)  # the grey of each class, of 1


def png16(level):
    return Image.fromarray(np.full((10, 12), round(level * 65535), dtype=np.uint16))


def tiff(level, dtype, largest):
    return Image.fromarray(np.full((10, 12), level * largest).astype(dtype))


def folder_of(path, images, ending="png", names=("a", "b", "c")):
    for name, image in zip(names, images, strict=True):
        (path / name).mkdir(parents=True)
        for number in range(2):
            image.save(path / name / f"{number}.{ending}")
    return f"folder:{path}"


def class_means(loaded):
    """The mean pixel of each class, in [0, 1]."""
    pixels = loaded.in_memory().inputs * torch.tensor(loaded.std)[:, None, None]
    pixels += torch.tensor(loaded.mean)[:, None, None]
    return [float(pixels[loaded.targets == label].mean()) for label in range(loaded.n_classes)]


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_images_keep_their_grey(tmp_path, ending):
    """They became white: .993, 1 and 1 for .153, .336 and .519."""
    spec = folder_of(tmp_path / "img", [png16(level) for level in LEVELS], ending)
    assert class_means(data.load(spec, image_size=8)) == pytest.approx(LEVELS, abs=0.003)
    own = resize_and_crop("grey", 8, 1)
    assert class_means(data.load(spec, preprocessing=own)) == pytest.approx(LEVELS, abs=0.003)


def test_16_bits_are_scaled_to_8():
    for mode in ("I;16", "I;16B", "I;16L"):
        deep = Image.new(mode, (4, 1))
        for place, value in enumerate((0, 257, 65535, 257 * 100 + 128)):
            deep.putpixel((place, 0), value)
        assert list(np.asarray(eight_bits(deep))[0]) == [0, 1, 255, 100]
    plain = Image.new("RGB", (1, 1), (1, 2, 3))
    assert eight_bits(plain) is plain


@pytest.mark.parametrize(
    ("dtype", "largest", "got"),
    [(np.float32, 1.0, "floating point numbers"), (np.int32, 2**31 - 1, "32-bit integers")],
)
def test_depths_without_a_known_range_are_refused(tmp_path, dtype, largest, got):
    """Floats became black and 32-bit integers white, with exit code 0."""
    spec = folder_of(
        tmp_path / "img", [tiff(level, dtype, largest) for level in LEVELS], ending="tif"
    )
    with pytest.raises(ValueError, match=rf"image: expected 8 or 16 .* got {got}.*a/0\.tif\)"):
        data.load(spec, image_size=8)[0]

    class Raw:
        targets, classes, __len__ = (0, 1), ("a", "b"), lambda self: 2

        def __getitem__(self, row):
            return tiff(0.5, dtype, largest), self.targets[row]

    with pytest.raises(ValueError, match=rf"got {got}.* \(example 1\)"):
        prepare(LoadedModel(torch.nn.Flatten(), "plain"), Raw())[1]


def test_16_bits_of_torchvisions_image_folder(tmp_path):
    """Its own loader makes them white before anyone else sees them."""
    from torchvision.datasets import ImageFolder

    folder_of(tmp_path / "img", [png16(level) for level in LEVELS])
    raw = ImageFolder(str(tmp_path / "img"))
    ready = prepare(LoadedModel(torch.nn.Flatten(), "plain"), raw, image_size=8)
    assert class_means(ready) == pytest.approx(LEVELS, abs=0.003)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL, on what it skips
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp"])
def test_a_damaged_file_is_named(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = tmp_path / f"x.{ending}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    assert read_image(str(path)).size == (60, 60)
    for kept in (0, 3, 40, len(whole) // 2):
        path.write_bytes(whole[:kept])
        with pytest.raises(
            ValueError, match=rf"data: expected an image in .*x\.{ending}, got a dam"
        ):
            read_image(str(path))


@contextmanager
def named_in_errors(path):
    try:
        yield
    except ValueError as error:
        if path.name not in str(error):
            pytest.fail(f"{path.name} is not in {error}")
        raise


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL, on what it skips
def test_damage_anywhere_is_an_error_with_the_name_or_an_image(tmp_path):
    rng = random.Random(0)
    for ending in ("png", "jpg", "tif", "webp", "ppm"):
        path = tmp_path / f"x.{ending}"
        Image.new("RGB", (40, 30), (9, 200, 100)).save(path)
        whole = path.read_bytes()
        for _ in range(60):
            broken = bytearray(whole)
            for _ in range(4):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            path.write_bytes(bytes(broken))
            with suppress(ValueError), named_in_errors(path):
                read_image(str(path))


def test_damage_in_a_worker_is_one_line_with_the_name(tmp_path, capsys):
    from geocollapse.cli import main

    spec = folder_of(tmp_path / "img", [Image.new("RGB", (12, 12), (9, 9, 9))] * 3)
    broken = tmp_path / "img" / "b" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    for workers in ("0", "1"):
        model = ("measure", "torch.nn:Flatten", spec, "--image-size", "8", "--layer", "")
        assert main([*model, "--num-workers", workers]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: data: expected an image in ")
        assert str(broken) in line
        assert "Traceback" not in line


def test_an_image_above_the_limit_of_decompression_is_one_line(tmp_path):
    side = 20_000
    header = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes_of(side) * 2 + b"\x08\x00\x00\x00\x00")
    path = tmp_path / "bomb.png"
    path.write_bytes(header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match=r"at most \d+ pixels, got a larger one in .*bomb\.png"):
        read_image(str(path))


def bytes_of(number):
    return number.to_bytes(4, "big")


def chunk(kind, content):
    return bytes_of(len(content)) + kind + content + bytes_of(zlib.crc32(kind + content))


def test_hidden_folders_are_no_classes(tmp_path):
    spec = folder_of(tmp_path / "img", [Image.new("L", (9, 9))] * 3)
    for name in (".ipynb_checkpoints", "__MACOSX", "a/.ipynb_checkpoints"):
        (tmp_path / "img" / name).mkdir()
        Image.new("L", (9, 9)).save(tmp_path / "img" / name / "x.png")
    (tmp_path / "img" / "a" / "._0.png").write_bytes(b"resource fork")
    loaded = data.load(spec, image_size=8)
    assert (loaded.classes, len(loaded)) == (["a", "b", "c"], 6)
    assert len(loaded.in_memory()) == 6


def test_links_are_followed_once(tmp_path):
    """Two loops gave 168 examples for 8, and took minutes with a third."""
    names = ("a", "b", "c", "d")
    spec = folder_of(tmp_path / "img", [Image.new("L", (9, 9))] * 4, names=names)
    img = tmp_path / "img"
    (img / "a" / "up").symlink_to(img)
    (img / "b" / "up").symlink_to(tmp_path)
    (img / "c" / "self").symlink_to(img / "c")
    (img / "c" / "other").symlink_to(img / "d")
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("L", (9, 9)).save(outside / "x.png")
    for name in ("first", "again"):
        (img / "d" / name).symlink_to(outside)
    start = time.process_time()
    loaded = data.load(spec, image_size=8)
    assert time.process_time() - start < 2
    assert torch.bincount(loaded.targets).tolist() == [2, 2, 2, 3]
    (img / "e").symlink_to(img / "d")
    with pytest.raises(ValueError, match="got links that make 'd' and 'e' the same one; do remove"):
        data.load(spec)


def test_links_to_images_count_once(tmp_path):
    """A link to an image of its own class was a second example."""
    for name, shade in (("a/1.png", 0), ("a/2.png", 50), ("b/1.png", 100)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (shade,) * 3).save(tmp_path / name)
    Image.new("RGB", (8, 8), (200,) * 3).save(tmp_path.parent / "outside.png")
    (tmp_path / "a" / "0.png").symlink_to(tmp_path / "a" / "1.png")
    for name in ("3.png", "4.png"):
        (tmp_path / "b" / name).symlink_to(tmp_path.parent / "outside.png")
    assert data.load(f"folder:{tmp_path}", image_size=8).targets.tolist() == [0, 0, 1, 1]


def test_a_class_may_be_a_link(tmp_path):
    folder_of(tmp_path / "all", [Image.new("L", (9, 9))] * 3)
    (tmp_path / "some").mkdir()
    for name in ("a", "c"):
        (tmp_path / "some" / name).symlink_to(tmp_path / "all" / name)
    loaded = data.load(f"folder:{tmp_path / 'some'}", image_size=8)
    assert (loaded.classes, len(loaded)) == (["a", "c"], 4)


def test_a_pipe_and_a_broken_link_are_refused(tmp_path):
    """Reading a named pipe would wait for ever."""
    spec = folder_of(tmp_path / "img", [Image.new("L", (9, 9))] * 3)
    extra = tmp_path / "img" / "b" / "2.png"
    os.mkfifo(extra)
    message = r"data: expected image files, got .*b/2\.png, which is a broken link, a named pipe"
    with pytest.raises(ValueError, match=message):
        data.load(spec)
    extra.unlink()
    extra.symlink_to(tmp_path / "none.png")
    with pytest.raises(ValueError, match=message):
        data.load(spec)
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError, match=r"x\.csv', which is no regular file"):
        data.load(f"csv:{tmp_path / 'x.csv'}")


def test_folders_without_classes_or_images_are_refused(tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="expected a folder for each class in .*, got no folders"):
        data.load(f"folder:{tmp_path}")
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="expected images in each class folder .* got none in 'a'"):
        data.load(f"folder:{tmp_path}")


def test_a_folder_needs_no_split(tmp_path):
    spec = folder_of(tmp_path / "img", [Image.new("L", (9, 9))] * 3)
    for default in ("train", "test"):
        assert data.load(spec, default_split=default).split == "all"


def test_folders_with_numeric_names_are_numbered_as_by_torchvision(tmp_path):
    names = [str(number) for number in range(12)]
    images = [Image.new("L", (9, 9), 20 * number) for number in range(12)]
    spec = folder_of(tmp_path / "img", images, names=names)
    loaded = data.load(spec, image_size=8)
    assert loaded.classes == sorted(names) == ImageFolder(tmp_path / "img").classes
    shades = [20 * int(name) / 255 for name in sorted(names)]
    assert class_means(loaded) == pytest.approx(shades, abs=0.003)
    measured = geo.measure(torch.nn.Flatten(), loaded, layer="", estimator="exact")
    assert any("numbered by letters (10 before 2)" in note for note in measured.warnings)


# raw images


class Raw:
    """Six images of classes 0 to 5 in torchvision's form, each as grey as its class."""

    classes = tuple("abcdef")

    def __init__(self, targets=range(6), carried=None, target_transform=None):
        self.targets = targets if isinstance(targets, torch.Tensor) else list(targets)
        self.carried = self.targets if carried is None else carried
        self.target_transform = target_transform

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        label = self.carried[row]
        label = int(label) if isinstance(label, torch.Tensor) else label
        if self.target_transform is not None:
            label = self.target_transform(label)
        return Image.new("RGB", (9, 9), (40 * row,) * 3), label


PLAIN = LoadedModel(torch.nn.Flatten(), "plain")


def test_a_target_transform_is_applied():
    """``targets`` alone was read, so that coarse labels stayed fine ones."""
    coarse = prepare(PLAIN, Raw(target_transform=lambda label: label // 2))
    assert coarse.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert coarse.classes == ["0", "1", "2"]
    same = prepare(PLAIN, Raw(target_transform=int))
    assert same.classes == list("abcdef")


def test_names_of_classes_are_targets_too():
    assert prepare(PLAIN, Raw(list("abcfde"))).targets.tolist() == [0, 1, 2, 5, 3, 4]
    assert prepare(PLAIN, Raw(torch.arange(6))).targets.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            Raw(carried=[0, 1, 2, 3, 4, 0]),
            "targets: expected the labels that the examples carry, got 5 for example 5, which carr",
        ),
        (Raw([0, 1, 2, 3, 4, -100]), "targets: expected class numbers from 0 to 5, got -100 to 4"),
        (Raw([0, 1, 2, 3, 4, 6]), "targets: expected class numbers from 0 to 5, got 0 to 6"),
        (Raw([0, 1, 2, 3, 4, "z"]), "targets: expected class numbers or names of classes, got 'z'"),
        (Raw([0, 1, 2, 3, 4, 1.5]), "targets: expected class numbers or names of .* got 1.5"),
    ],
)
def test_targets_that_are_no_labels_are_refused(raw, message):
    with pytest.raises(ValueError, match=message):
        prepare(PLAIN, raw)


def test_a_label_that_contradicts_targets_is_refused_when_it_is_read():
    """Three examples were looked at, and those between them taken with the label of targets."""
    images = prepare(PLAIN, Raw(carried=[0, 0, 2, 3, 4, 5]))
    with pytest.raises(ValueError, match="got 1 for example 1, which carries 0; do correct targ"):
        images[1]


def test_a_target_transform_gets_plain_numbers():
    """A dict's lookup met a 0-d tensor where torchvision's MNIST gives it an int."""
    coarse = {label: label // 2 for label in range(6)}.__getitem__
    given = Raw(torch.arange(6), target_transform=coarse)
    assert prepare(PLAIN, given).targets.tolist() == [0, 0, 1, 1, 2, 2]


# another size for any model


def test_images_in_memory_are_resized_for_any_model():
    """An ImageNet network of one's own could not be measured at 224 on images in memory."""
    plain = data.load("digits", subset=20)
    resized = prepare(PLAIN, "digits", subset=20, image_size=24)
    assert isinstance(resized, data.LabelledImages)
    assert resized[0][0].shape == (1, 24, 24)
    assert (resized.mean, resized.std) == (plain.mean, plain.std)
    assert resized.preprocessing["resize"] == [24]
    same = prepare(PLAIN, "digits", subset=20, image_size=8)
    torch.testing.assert_close(same.in_memory().inputs, plain.inputs, atol=0.01, rtol=0)
    loaded = prepare(PLAIN, data.load("digits"), subset=20, image_size=24, std=(1.0,))
    assert (loaded[0][0].shape, loaded.std) == ((1, 24, 24), (1.0,))


def test_three_means_make_grey_images_rgb():
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    rgb = prepare(PLAIN, "digits", subset=20, image_size=32, **imagenet)
    assert rgb[0][0].shape == (3, 32, 32)
    assert (rgb.mean, rgb.std) == (imagenet["mean"], imagenet["std"])
    with pytest.raises(ValueError, match="std: expected 1 positive numbers, one for each channel"):
        data.load("digits", image_size=16, std=(0.5, 0.5))


def test_three_means_make_grey_images_rgb_at_their_own_size():
    """They were refused unless an image size was given too."""
    rgb = data.load("digits", subset=20, mean=(0.1, 0.2, 0.3))
    grey = data.load("digits", subset=20, mean=(0.2,))
    assert rgb[0][0].shape == (3, *grey[0][0].shape[1:])
    assert torch.equal(rgb[3][0][1], grey[3][0][0])
    assert rgb.std == grey.std * 3
    with pytest.raises(ValueError, match="mean: expected 1 numbers, one for each channel"):
        data.load("digits", mean=(0.5, 0.5))


def test_a_backbone_of_ones_own_on_small_images_at_its_size(tmp_path):
    """The command line of a new user: an ImageNet network on digits at 64 pixels."""
    (tmp_path / "net.py").write_text(
        "from torchvision.models import resnet18\ndef net():\n    return resnet18(num_classes=10)\n"
    )
    command = [sys.executable, "-m", "geocollapse", "measure", f"{tmp_path / 'net.py'}:net"]
    command += ["digits", "--subset", "20", "--image-size", "64", "--mean", "0.485,0.456,0.406"]
    command += ["--std", "0.229,0.224,0.225", "--max-samples", "20", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "fc:in: 20 examples" in done.stdout
