"""Data sets that a caller has loaded, made ready for a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

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
    about = About(
        type(data).__name__, str(getattr(data, "split", "all")), tuple(map(str, data.classes))
    )
    labels = torch.as_tensor(data.targets, dtype=torch.int64)
    return one_at_a_time(_Transformed(data, own), labels, about, own)


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
    transform: ImagePreprocessing

    def __getitem__(self, row: int, /) -> tuple[Tensor]:
        return (self.transform(self.images[row][0]),)


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
