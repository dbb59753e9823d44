"""A data set by name: ``cifar10``, ``cifar10:test``, ``folder:PATH``, ``parquet:GLOB``."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from geocollapse.data import mini_imagenet
from geocollapse.data.columns import Columns
from geocollapse.data.folders import read_folder
from geocollapse.data.labelled import About, Classes, LabelledImages
from geocollapse.data.parquet import by_split, find_files, read_parquet, split_name
from geocollapse.data.pixels import Pixels, normalised
from geocollapse.data.preprocessing import ImagePreprocessing, import_torchvision
from geocollapse.data.raw import Labelled
from geocollapse.data.sources import CIFAR_FS_CLASSES, SOURCES, DataSource
from geocollapse.data.text_files import load_named_texts, read_texts
from geocollapse.runtime.folders import user_cache

_DIGITS_SEED = 0
_OF_FILES = ("folder", "parquet")  # kinds of data whose images may be damaged
_COLUMNS = {"csv": ("text_column", "label_column"), "parquet": ("image_column", "label_column")}
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
    classes: Classes = None,
    subset: int | None = None,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pad_to: int | None = None,
    preprocessing: ImagePreprocessing | None = None,
    image_size: int | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    skip_broken: bool = False,
    require_labels: bool = True,
    download: bool = True,
) -> Labelled:
    """The examples that ``spec`` names: images normalised for each channel, or texts.

    Files are looked for under ``data_root``, else ``$GEOCOLLAPSE_DATA``, else the user's cache, in
    torchvision's folder layout. Missing files are downloaded from their official source if there is
    a network.

    Args:
        spec: ``NAME``, ``folder:PATH``, ``parquet:GLOB`` or ``csv:FILE``; ``:split`` may follow.
        split: takes the place of one in ``spec``.
        default_split: if neither names one; a source without splits has one, ``all``.
        data_root: folder of the data.
        classes: ``"0-4,7"`` or names; labels are renumbered 0..k-1 in this order.
        subset: this many examples, seeded and balanced over classes.
        seed: of the subset.
        mean: subtracted from each channel; the training images' own by default (ImageNet's for a
            folder).
        std: each channel is divided by it.
        pad_to: pixels a side to which images are padded with black.
        preprocessing: of a model; images then go through it one at a time, when they are read.
        image_size: pixels a side to which images are resized and cropped, instead of the model's
            own size, of 224 for a folder, or of the images' own for a named data set.
        text_column: of the texts of a ``csv:FILE``; ``text`` by default.
        label_column: of the classes of a ``csv:FILE`` or ``parquet:GLOB``; ``label`` by default,
            else ``category`` or ``labels``.
        image_column: of the images of a ``parquet:GLOB``; ``image`` or ``img`` by default.
        skip_broken: leave out images of a ``folder:`` or ``parquet:`` that do not decode, with a
            note that counts and names them. Each chosen image is decoded once more for this.
        require_labels: refuse a ``folder:`` of images without class folders and a ``csv:FILE``
            without a column of classes; else their examples are of one class, ``unlabelled``.
        download: fetch missing files.

    Returns:
        Tensors in memory; for a folder or .parquet files, or with a preprocessing, images that are
        read one at a time; or texts, which a model's tokenizer turns into tokens.

    Raises:
        ValueError: an unknown name, split or class (the nearest is named).
        FileNotFoundError: missing files (the places looked in are named).
        ImportError: torchvision or pyarrow is missing (the pip command is named).

    Examples:
        >>> data = load("digits", classes="0-4")
        >>> data.inputs.shape[1:], data.classes
        (torch.Size([1, 8, 8]), ['0', '1', '2', '3', '4'])
    """
    name, in_spec = parse_spec(spec)
    if name == mini_imagenet.NAME:
        name = mini_imagenet.folder_of(find_root(data_root))
    wanted = split or in_spec
    pixels = Pixels(mean, std, pad_to, image_size, preprocessing)
    kind = name.partition(":")[0]
    columns = Columns(text_column, label_column, image_column)
    columns.refuse(name, taken=_COLUMNS.get(kind, ()))
    if skip_broken and kind not in _OF_FILES:
        raise ValueError(
            f"skip_broken: expected False for {name}, which is no folder:PATH or parquet:GLOB, got "
            f"True; do leave it out"
        )
    data: Labelled
    if kind == "csv":
        pixels.refuse()
        part = _split(name, ["all"], wanted, default_split)
        path = Path(name.removeprefix("csv:"))
        data = read_texts(path, name, part, columns, require_labels=require_labels)
    elif _is_text(name):
        pixels.refuse()
        part = _split(name, SOURCES[name].splits, wanted, default_split)
        data = load_named_texts(SOURCES[name], part, find_root(data_root), download)
    elif kind == "folder":
        path, part = _folder(name, wanted, default_split)
        own = pixels.of_files()
        data = read_folder(path, name, part, own, require_labels=require_labels)
    elif kind == "parquet":
        data = _parquet(name, wanted, default_split, columns, pixels.of_files())
    else:
        source = _source(name)
        part = _split(source.name, source.splits, wanted, default_split)
        images, labels, names = _read(source, part, find_root(data_root), download)
        about = About(source.name, part, tuple(names), source.mean, source.std)
        data = normalised(images, labels, about, pixels)
    if classes is not None or subset is not None:
        data = data.select(classes=classes, subset=subset, seed=seed)
    if skip_broken and isinstance(data, LabelledImages):
        return data.without_broken()
    return data


def parse_spec(spec: str) -> tuple[str, str | None]:
    """The name and the split of a DATA text.

    Examples:
        >>> parse_spec("cifar10:test"), parse_spec("digits"), parse_spec("folder:photos:val")
        (('cifar10', 'test'), ('digits', None), ('folder:photos', 'val'))
    """
    kind, _, rest = spec.partition(":")
    if kind in ("folder", "csv", "parquet"):
        path, colon, split = rest.rpartition(":")
        is_there = Path(rest).exists() or (kind == "parquet" and bool(glob.glob(rest)))
        is_split = bool(colon) and not is_there
        return (f"{kind}:{path}", split) if is_split else (spec, None)
    name, _, split = spec.partition(":")
    return name, split or None


def find_root(data_root: str | Path | None = None) -> Path:
    """The folder of the data: ``data_root``, else ``$GEOCOLLAPSE_DATA``, else the user's cache."""
    if data_root is not None:
        return Path(data_root)
    if os.environ.get("GEOCOLLAPSE_DATA"):
        return Path(os.environ["GEOCOLLAPSE_DATA"])
    return user_cache()


def _source(name: str) -> DataSource:
    if name not in SOURCES:
        kind = _kind_of_path(name)
        if kind is not None:
            raise ValueError(
                f"data: expected the name of a data set, or of a folder or file behind its kind, "
                f"got {name!r}; do {kind}:{name}"
            )
        near = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.3) or ["digits"]
        known = ", ".join([*SOURCES, "folder:PATH", "parquet:GLOB", "csv:FILE"])
        raise ValueError(f"data: expected one of {known}, got {name!r}; do {near[0]}")
    return SOURCES[name]


def _kind_of_path(name: str) -> str | None:
    """The kind of data at a path that was given without it; None for other names."""
    path = Path(name)
    ending = path.suffix.lower()
    if path.is_dir():
        return "parquet" if any(path.glob("*.parquet")) else "folder"
    if ending == ".parquet" and glob.glob(name):
        return "parquet"
    return "csv" if ending == ".csv" and path.is_file() else None


def _split(name: str, splits: Sequence[str], wanted: str | None, default: str) -> str:
    """The split asked for, else the default; ``val`` stands in for a missing ``test``."""
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
        f"{name if splits == ['all'] else f'{name}:{splits[0]}'}"
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
    kept = torch.isin(labels, chosen)
    kept_more = torch.isin(more_labels, chosen)
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
            f"do put them there, or set data_root=DIR or GEOCOLLAPSE_DATA to where they are"
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


def _folder(name: str, wanted: str | None, default: str) -> tuple[Path, str]:
    """The folder of a split and its name; splits are the folders train, val and test that exist."""
    path = Path(name.removeprefix("folder:"))
    if not path.is_dir():
        raise FileNotFoundError(
            f"data: expected a folder of class folders, got {str(path)!r}; do check the path"
        )
    splits = [part for part in ("train", "val", "test") if (path / part).is_dir()]
    split = _split(name, splits or ["all"], wanted, default)
    return (path / split if splits else path), split


def _parquet(
    name: str, wanted: str | None, default: str, columns: Columns, own: ImagePreprocessing
) -> LabelledImages:
    """Images in .parquet files; their splits are those that the names of the files tell."""
    files = by_split(find_files(name.removeprefix("parquet:")))
    split = _split(name, list(files), split_name(wanted), default)
    return read_parquet(files[split], (name, split), columns, own)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
