"""Data sets that a caller has loaded, made ready for a model."""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from geocollapse.arrays import as_list
from geocollapse.data.image_files import decodes, read_image
from geocollapse.data.labelled import About, Described, LabelledData, LabelledImages
from geocollapse.data.pixels import Pixels, normalised, one_at_a_time
from geocollapse.data.preprocessing import ImagePreprocessing
from geocollapse.data.texts import LabelledTexts

if TYPE_CHECKING:
    from PIL.Image import Image


@runtime_checkable
class RawImages(Protocol):
    """A data set of (PIL image, label) without a transform, such as torchvision's."""

    targets: Sequence[int]
    classes: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> tuple[Image, int]: ...


Labelled = LabelledData | LabelledImages | LabelledTexts


def made_ready(data: Labelled | RawImages, pixels: Pixels) -> Labelled:
    """A loaded data set with its pixels as asked.

    The normalisation of ``LabelledData`` is undone and replaced. ``LabelledImages`` have gone
    through a preprocessing that cannot be undone: they are taken only where nothing is asked.

    Raises:
        TypeError: no data set of these kinds.
        ValueError: images that are already prepared, values that do not fit the channels, or
            anything asked of the pixels of texts.
    """
    if isinstance(data, LabelledTexts):
        pixels.refuse()
        return data
    if isinstance(data, LabelledData | LabelledImages) and pixels == Pixels():
        return data
    if isinstance(data, LabelledData):
        return normalised(_undone(data), data.targets.cpu(), data.about, pixels)
    if isinstance(data, LabelledImages):
        raise ValueError(
            f"data: expected raw images or the name of a data set, got images of {data.name} that "
            f"are already resized and normalised; do pass the name, or load them without a "
            f"preprocessing"
        )
    _check_images(data)
    own = pixels.of_files()
    labels, names = _labels(data)
    about = About(type(data).__name__, str(getattr(data, "split", "all")), names)
    return one_at_a_time(_Transformed(data, own, labels.tolist()), labels, about, own)


def _labels(data: RawImages) -> tuple[Tensor, tuple[str, ...]]:
    """The labels that the examples carry, read from ``targets``, and the names of the classes.

    A ``target_transform`` is applied; classes that it makes are named by their numbers. Three
    examples are looked at here, and each one when it is read.

    Raises:
        ValueError: targets that are no class numbers, or other than what the examples carry.
    """
    names = tuple(map(str, data.classes))
    number = {name: place for place, name in enumerate(names)}
    given = as_list(data.targets)
    targets = [_number(target, number) for target in given]
    transform = getattr(data, "target_transform", None)
    if transform is not None:
        changed = [_number(transform(target), number) for target in given]
        if changed != targets:
            names = tuple(map(str, range(max(changed) + 1)))
        targets = changed
    for row in sorted({0, len(data) // 2, len(data) - 1}):
        _check_carried(data, data[row][1], targets[row], row)
    if not 0 <= min(targets) <= max(targets) < len(names):
        raise ValueError(
            f"targets: expected class numbers from 0 to {len(names) - 1}, got "
            f"{min(targets)} to {max(targets)}; do leave out examples without a class"
        )
    return torch.tensor(targets, dtype=torch.int64), names


def _check_carried(data: RawImages, label: object, target: int, row: int) -> None:
    """Refuse an example that carries another label than ``targets`` has for it."""
    carried = _number(label, {str(name): place for place, name in enumerate(data.classes)})
    if carried != target:
        raise ValueError(
            f"targets: expected the labels that the examples carry, got {target} for "
            f"example {row}, which carries {carried}; do correct targets"
        )


def _number(target: object, number: Mapping[str, int]) -> int:
    """A class number, given as one or as the name of a class."""
    if isinstance(target, str) and target in number:
        return number[target]
    try:
        return operator.index(target)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(
            f"targets: expected class numbers or names of classes, got {target!r}; do give one for "
            f"each example"
        ) from None


def _check_images(data: object) -> None:
    """Raise a TypeError unless ``data`` holds pairs of a PIL image and a label."""
    is_described = isinstance(data, Described)  # tokens, for instance
    is_raw = isinstance(data, RawImages) and len(data) > 0 and hasattr(data[0][0], "convert")
    if is_described or not is_raw:  # a PIL image can be converted, a tensor cannot
        raise TypeError(
            f"data: expected the name of a data set, LabelledData, LabelledTexts, or (PIL image, "
            f"label) pairs with targets and classes, got {type(data).__name__}; do "
            f"geocollapse.data.load(NAME)"
        )


@dataclass(frozen=True)
class _Transformed:
    """Images that go through a preprocessing when they are read."""

    images: RawImages
    preprocessing: ImagePreprocessing
    targets: list[int]

    def __getitem__(self, row: int, /) -> tuple[Tensor]:
        image = self._image(row)
        try:
            return (self.preprocessing(image),)
        except ValueError as error:
            if not str(error).startswith("image: "):
                raise
            raise ValueError(f"{error} (example {row})") from error

    def name(self, row: int, /) -> str:
        return _path_of(self.images, row) or f"example {row}"

    def decodes(self, row: int, /) -> bool:
        return decodes(self._image, row)

    def content(self, row: int, /) -> bytes:
        path = _path_of(self.images, row)
        return _pixels(self.images[row][0]) if path is None else Path(path).read_bytes()

    def of_rows(self, rows: Tensor, /) -> _Transformed:
        del rows
        return self

    def _image(self, row: int) -> Image:
        path = _path_of(self.images, row)
        if path is not None:
            return read_image(path)
        image, label = self.images[row]
        _check_carried(self.images, label, self.targets[row], row)
        return image


def _pixels(image: Image) -> bytes:
    """The size, mode and pixels of an image, and the colours that a palette stands for."""
    head = f"{image.mode} {image.size} {image.getpalette()} {image.info.get('transparency')}\n"
    return head.encode() + image.tobytes()


def _path_of(images: RawImages, row: int) -> str | None:
    """The file of an image of torchvision's ImageFolder, whose own loader cuts 16 bits off at 8."""
    folder = sys.modules.get("torchvision.datasets.folder")
    if folder is None or getattr(images, "loader", None) is not folder.default_loader:
        return None
    if getattr(images, "transform", None) is not None:
        return None
    samples: Sequence[tuple[str, int]] = images.samples  # type: ignore[attr-defined]
    return samples[row][0]


def _undone(data: LabelledData) -> Tensor:
    """The images (n, channels, h, w) in [0, 1] before they were normalised."""
    if data.mean is None or data.std is None:
        raise ValueError(
            f"data: expected images whose normalisation is known, got {data.name} without mean "
            f"and std; do give About(mean=..., std=...)"
        )
    return (
        data.inputs.cpu() * torch.tensor(data.std)[:, None, None]
        + torch.tensor(data.mean)[:, None, None]
    )
