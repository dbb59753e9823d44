"""Normalisation of images: all at once in memory, or one at a time through a model's steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from geocollapse.data.labelled import (
    About,
    ImageInputs,
    LabelledData,
    LabelledImages,
    PilImages,
)
from geocollapse.data.preprocessing import (
    ImagePreprocessing,
    check_channels,
    of_channels,
    resize_and_crop,
)


@dataclass(frozen=True)
class Normalisation:
    """How images in memory are normalised and padded; None keeps the data set's own values.

    Attributes:
        mean: subtracted from each channel.
        std: each channel is divided by it.
        pad_to: pixels a side to which images are padded with black.
        image_size: pixels a side to which images are resized and cropped.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    pad_to: int | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class Pixels:
    """What a caller asks of the pixels of images, None where nothing is asked; see ``load``."""

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    pad_to: int | None = None
    image_size: int | None = None
    preprocessing: ImagePreprocessing | None = None

    def refuse(self) -> None:
        """Raise a ValueError if anything is asked: texts have no pixels."""
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
        """The steps for images read one at a time: the model's, else a resize to 224 pixels."""
        if self.pad_to is not None:
            raise ValueError(
                f"pad_to: expected None for images that are resized, got {self.pad_to}; do "
                f"image_size={self.pad_to}"
            )
        own = self.preprocessing or resize_and_crop("the default of image folders")
        return own.changed(image_size=self.image_size, mean=self.mean, std=self.std)


def normalised(
    images: Tensor, labels: Tensor, about: About, pixels: Pixels
) -> LabelledData | LabelledImages:
    """Tensors in memory, or images that go through a model's own preprocessing one at a time.

    Args:
        images: (n, channels, h, w) in [0, 1]; changed in place.
        labels: (n,).
        about: with the normalisation to use unless ``pixels`` names another.
        pixels: what is asked of them.

    Raises:
        ValueError: values that do not fit the channels.
    """
    if pixels.preprocessing is not None or pixels.image_size is not None:
        own = (pixels if pixels.preprocessing else _resized(pixels, about)).of_files()
        return one_at_a_time(PilImages(images, own), labels, about, own)
    n_channels = _n_channels(pixels, images.shape[1])
    check_channels("mean", pixels.mean, n_channels)
    check_channels("std", pixels.std, n_channels)
    means = tuple(pixels.mean or of_channels(about.mean or (), n_channels))
    stds = tuple(pixels.std or of_channels(about.std or (), n_channels))
    if images.shape[1] < n_channels:
        images = images.repeat(1, n_channels, 1, 1)
    if pixels.pad_to is not None:
        images = _padded(images, pixels.pad_to)
    images.sub_(torch.tensor(means)[:, None, None]).div_(torch.tensor(stds)[:, None, None])
    return LabelledData(images, labels, replace(about, mean=means, std=stds))


def one_at_a_time(
    images: ImageInputs, labels: Tensor, about: About, own: ImagePreprocessing
) -> LabelledImages:
    """Images that are read when they are asked for, described by their preprocessing ``own``."""
    about = replace(about, mean=own.mean, std=own.std, preprocessing=own.as_dict())
    return LabelledImages(images, torch.arange(len(labels)), labels, about)


def _resized(pixels: Pixels, about: About) -> Pixels:
    """A resize that keeps the normalisation of the data set."""
    n_channels = _n_channels(pixels, len(about.mean or ()))
    return replace(
        pixels,
        preprocessing=resize_and_crop("image_size", n_channels=n_channels),
        mean=pixels.mean or of_channels(about.mean or (), n_channels),
        std=pixels.std or of_channels(about.std or (), n_channels),
    )


def _n_channels(pixels: Pixels, n_channels: int) -> int:
    """The channels of images of ``n_channels``: three values make grey images RGB."""
    is_rgb = 3 in (len(pixels.mean or ()), len(pixels.std or ()))
    return 3 if n_channels == 1 and is_rgb else n_channels


def _padded(images: Tensor, side: int) -> Tensor:
    extra = [side - size for size in images.shape[-2:]]
    if min(extra) < 0:
        raise ValueError(
            f"pad_to: expected at least {max(images.shape[-2:])} pixels, got {side}; do pad_to=32"
        )
    left = [size // 2 for size in extra]
    return F.pad(images, (left[1], extra[1] - left[1], left[0], extra[0] - left[0]))
