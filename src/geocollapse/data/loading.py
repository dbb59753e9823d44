"""A data set by name: ``cifar10``, ``cifar10:test``, ``folder:PATH``."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from geocollapse.data.labelled import About, LabelledData, LabelledImages, PilImages
from geocollapse.data.preprocessing import (
    ImagePreprocessing,
    check_channels,
    import_torchvision,
    resize_and_crop,
)
from geocollapse.data.sources import CIFAR_FS_CLASSES, SOURCES, DataSource
from geocollapse.data.texts import LabelledTexts, load_named_texts, read_texts

_DIGITS_SEED = 0
_TORCHVISION = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


def load(
    spec: str,
    *,
    split: str | None = None,
    default_split: str = "train",
    data_root: str | Path | None = None,
    classes: str | Sequence[int | str] | None = None,
    subset: int | None = None,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pad_to: int | None = None,
    preprocessing: ImagePreprocessing | None = None,
    image_size: int | None = None,
    download: bool = True,
) -> LabelledData | LabelledImages | LabelledTexts:
    """The examples that ``spec`` names: images normalised for each channel, or texts.

    Files are looked for under ``data_root``, else ``$GEOCOLLAPSE_DATA``, else the user's cache, in
    torchvision's folder layout; what is missing is downloaded from its official source where there
    is a network.

    Args:
        spec: ``NAME``, ``NAME:split``, ``folder:PATH``, ``folder:PATH:split`` or ``csv:FILE``.
        split: instead of one in ``spec``.
        default_split: where neither names one; a source without splits has one, ``all``.
        data_root: folder of the data.
        classes: ``"0-4,7"`` or names; labels are renumbered 0..k-1 in this order.
        subset: this many examples, seeded and balanced over classes.
        seed: of the subset.
        mean: subtracted from each channel; the training images' own by default (ImageNet's for a
            folder).
        std: each channel is divided by it.
        pad_to: pad images with black to this many pixels a side.
        preprocessing: of a model, for images that are to go through it one at a time, when they are
            read.
        image_size: another side than the model's, or than 224 for a folder, to which images are
            resized and cropped.
        download: fetch what is missing.

    Returns:
        Tensors in memory; for a folder a data set that reads each file when it is asked for; texts,
        whose ``tokens`` a model's tokenizer makes.

    Raises:
        ValueError: an unknown name, split or class (the nearest is named).
        FileNotFoundError: missing files (the places looked in are named).
        ImportError: torchvision is missing (the pip command is named).

    Examples:
        >>> data = load("digits", classes="0-4")
        >>> data.inputs.shape[1:], data.classes
        (torch.Size([1, 8, 8]), ['0', '1', '2', '3', '4'])
    """
    name, in_spec = parse_spec(spec)
    wanted = split or in_spec
    pixels = _Pixels(mean, std, pad_to, image_size, preprocessing)
    if name.startswith("csv:") or _is_text(name):
        pixels.refuse()
        data: Any = _texts(name, wanted, default_split, find_root(data_root), download)
    elif name.startswith("folder:"):
        data = _folder(name, wanted, default_split, pixels.of_files())
    else:
        source = _source(name)
        part = _split(source.name, source.splits, wanted, default_split)
        images, labels, names = _read(source, part, find_root(data_root), download)
        data = _labelled(source, About(source.name, part, tuple(names)), images, labels, pixels)
    if classes is None and subset is None:
        result: LabelledData | LabelledImages | LabelledTexts = data
        return result
    selected: LabelledData | LabelledImages | LabelledTexts = data.select(
        classes=classes, subset=subset, seed=seed
    )
    return selected


def parse_spec(spec: str) -> tuple[str, str | None]:
    """The name and the split of a DATA text.

    Examples:
        >>> parse_spec("cifar10:test"), parse_spec("digits"), parse_spec("folder:photos:val")
        (('cifar10', 'test'), ('digits', None), ('folder:photos', 'val'))
    """
    kind, _, rest = spec.partition(":")
    if kind in ("folder", "csv"):
        path, colon, split = rest.rpartition(":")
        is_split = bool(colon) and not Path(f"{path}:{split}").exists()
        return (f"{kind}:{path}", split) if is_split else (spec, None)
    name, _, split = spec.partition(":")
    return name, split or None


def find_root(data_root: str | Path | None = None) -> Path:
    """The folder of the data: as given, else ``$GEOCOLLAPSE_DATA``, else the user's cache."""
    if data_root is not None:
        return Path(data_root)
    if os.environ.get("GEOCOLLAPSE_DATA"):
        return Path(os.environ["GEOCOLLAPSE_DATA"])
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    return base / "geocollapse"


def _source(name: str) -> DataSource:
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.3) or ["digits"]
        known = ", ".join([*SOURCES, "folder:PATH", "csv:FILE"])
        raise ValueError(f"data: expected one of {known}, got {name!r}; do {near[0]}")
    return SOURCES[name]


def _split(name: str, splits: Sequence[str], wanted: str | None, default: str) -> str:
    """The split asked for, else the default one; ``val`` stands in for a ``test`` that is not
    there.
    """
    if wanted is None:
        for choice in (default, *(["val"] if default == "test" else [])):
            if choice in splits:
                return choice
        if len(splits) == 1:
            return splits[0]
    elif wanted in splits:
        return wanted
    raise ValueError(
        f"split: expected one of {', '.join(splits)} of {name}, got {wanted or default!r}; do "
        f"{name}:{splits[0]}"
    )


def _read(
    source: DataSource, split: str, root: Path, download: bool
) -> tuple[Tensor, Tensor, list[str]]:
    """Images (n, channels, h, w) in [0, 1], labels and class names of one split."""
    if source.name == "digits":
        return _digits(split)
    if source.name == "cifar-fs":
        return _cifar_fs(split, root, download)
    return _torchvision(source, split, root, download)


def _cifar_fs(split: str, root: Path, download: bool) -> tuple[Tensor, Tensor, list[str]]:
    """All 600 images of the split's CIFAR-100 classes, training images first."""
    images, labels, names = _torchvision(SOURCES["cifar100"], "train", root, download)
    more_images, more_labels, _ = _torchvision(SOURCES["cifar100"], "test", root, download)
    chosen = torch.tensor(CIFAR_FS_CLASSES[split])
    kept, kept_more = torch.isin(labels, chosen), torch.isin(more_labels, chosen)
    both = torch.cat([labels[kept], more_labels[kept_more]])
    return (
        torch.cat([images[kept], more_images[kept_more]]),
        torch.searchsorted(chosen, both),
        [names[c] for c in chosen],
    )


def _digits(split: str) -> tuple[Tensor, Tensor, list[str]]:
    """scikit-learn's digits, split 80 / 20, seeded and stratified."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        range(len(labels)), test_size=0.2, random_state=_DIGITS_SEED, stratify=labels
    )
    rows = sorted(parts[0] if split == "train" else parts[1])
    images = torch.tensor(pixels[rows] / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return (
        images,
        torch.tensor(labels[rows], dtype=torch.int64),
        [str(digit) for digit in range(10)],
    )


def _torchvision(
    source: DataSource, split: str, root: Path, download: bool
) -> tuple[Tensor, Tensor, list[str]]:
    factory = getattr(import_torchvision().datasets, _TORCHVISION[source.name])
    missing = [file for file in source.files if not (root / file).exists()]
    try:
        raw = factory(str(root), train=split == "train", download=download and bool(missing))
    except (RuntimeError, OSError) as error:
        looked_for = ", ".join(missing) or "none, but a file is damaged"
        raise FileNotFoundError(
            f"data: expected the files of {source.name} under {root}, missing {looked_for}, "
            f"and no download from {source.source} ({_first_line(error)}); "
            f"do put them there, or --data-root / GEOCOLLAPSE_DATA to where they are"
        ) from error
    images = torch.as_tensor(raw.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    names = [str(name).partition(" - ")[2] or str(name) for name in raw.classes]
    if source.name == "mnist":
        names = [str(digit) for digit in range(10)]
    return (
        images.contiguous().float().div_(255.0),
        torch.as_tensor(raw.targets, dtype=torch.int64),
        names,
    )


def _is_text(name: str) -> bool:
    return name in SOURCES and SOURCES[name].is_text


@dataclass(frozen=True)
class _Pixels:
    """What is asked of the pixels, None where nothing is; see ``load``."""

    mean: Sequence[float] | None
    std: Sequence[float] | None
    pad_to: int | None
    image_size: int | None
    preprocessing: ImagePreprocessing | None

    def refuse(self) -> None:
        """Nothing can be asked of texts."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                got = value.source if isinstance(value, ImagePreprocessing) else value
                raise ValueError(
                    f"{field.name}: expected None for texts, which have no pixels, got {got}; do "
                    f"leave it out, "
                    f"or take a text model"
                )

    def of_files(self) -> ImagePreprocessing:
        """Of images that are read one at a time: the model's, else the shorter side to 224 pixels
        and its centre.
        """
        if self.pad_to is not None:
            raise ValueError(
                f"pad_to: expected None for images that are resized, got {self.pad_to}; do "
                f"image_size={self.pad_to}"
            )
        own = self.preprocessing or resize_and_crop("the default of image folders")
        return own.changed(image_size=self.image_size, mean=self.mean, std=self.std)


def _texts(
    name: str, wanted: str | None, default: str, root: Path, download: bool
) -> LabelledTexts:
    if name.startswith("csv:"):
        return read_texts(
            Path(name.removeprefix("csv:")), name, _split(name, ["all"], wanted, default)
        )
    source = SOURCES[name]
    return load_named_texts(source, _split(name, source.splits, wanted, default), root, download)


def _labelled(
    source: DataSource, about: About, images: Tensor, labels: Tensor, pixels: _Pixels
) -> LabelledData | LabelledImages:
    """As tensors in memory, or, where a model has a preprocessing of its own, through it one at a
    time.
    """
    if pixels.preprocessing is not None:
        own = pixels.of_files()
        return _prepared(PilImages(images, own), labels, about, own)
    if pixels.image_size is not None:
        raise ValueError(
            f"image_size: expected None for {source.name}, whose images this model takes as they "
            f"are, "
            f"got {pixels.image_size}; do leave it out"
        )
    check_channels("mean", pixels.mean, images.shape[1])
    check_channels("std", pixels.std, images.shape[1])
    means, stds = tuple(pixels.mean or source.mean), tuple(pixels.std or source.std)
    if pixels.pad_to is not None:
        images = _padded(images, pixels.pad_to)
    images.sub_(torch.tensor(means)[:, None, None]).div_(torch.tensor(stds)[:, None, None])
    return LabelledData(images, labels, replace(about, mean=means, std=stds))


def _prepared(images: Any, labels: Tensor, about: About, own: ImagePreprocessing) -> LabelledImages:
    """Images that are read one at a time, each through ``own``."""
    about = replace(about, mean=own.mean, std=own.std, preprocessing=own.as_dict())
    return LabelledImages(images, torch.arange(len(labels)), labels, about)


def _padded(images: Tensor, side: int) -> Tensor:
    extra = [side - size for size in images.shape[-2:]]
    if min(extra) < 0:
        raise ValueError(
            f"pad_to: expected at least {max(images.shape[-2:])} pixels, got {side}; do pad_to=32"
        )
    left = [size // 2 for size in extra]
    return F.pad(images, (left[1], extra[1] - left[1], left[0], extra[0] - left[0]))


def _folder(name: str, wanted: str | None, default: str, own: ImagePreprocessing) -> LabelledImages:
    """An ImageFolder; its splits are the folders train, val and test, where they exist."""
    path = Path(name.removeprefix("folder:"))
    if not path.is_dir():
        raise FileNotFoundError(
            f"data: expected a folder of class folders, got {str(path)!r}; do check the path"
        )
    splits = [part for part in ("train", "val", "test") if (path / part).is_dir()]
    split = _split(name, splits or ["all"], wanted, default)
    folder = import_torchvision().datasets.ImageFolder(
        str(path / split if splits else path), transform=own
    )
    labels = torch.tensor(folder.targets, dtype=torch.int64)
    return _prepared(folder, labels, About(name, split, tuple(folder.classes)), own)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
