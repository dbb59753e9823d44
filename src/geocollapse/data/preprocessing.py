"""How a PIL image becomes the input of a model: resizing, cropping and normalisation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from typing_extensions import TypedDict

if TYPE_CHECKING:
    from PIL.Image import Image

_BITS_PER_SAMPLE = 258  # a tag of TIFF
IMAGE_SIZE = 224  # pixels a side to which images are resized and cropped by default
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PreprocessingDict(TypedDict):
    """The JSON form of an ``ImagePreprocessing``."""

    image_size: list[int]
    resize: list[int] | None
    crop: list[int] | None
    interpolation: str
    mean: list[float]
    std: list[float]
    source: str


@dataclass(frozen=True)
class ImagePreprocessing:
    """The steps from an image to the input of a model.

    Attributes:
        transform: maps a PIL image, grey for one channel and RGB for three, to (channels, height,
            width).
        image_size: (height, width) of the result.
        resize: the shorter side, or (height, width), to which an image is resized; None if it is
            not.
        crop: (height, width) of the centre that is kept; None if nothing is cut off.
        interpolation: of the resizing.
        mean: subtracted from each channel of pixels in [0, 1].
        std: each channel is divided by it.
        source: whose values these are.
        make: builds it anew from ``image_size``, ``mean`` and ``std``, each None for the source's
            own.
    """

    transform: Callable[[Image], Tensor]
    image_size: tuple[int, int]
    resize: tuple[int, ...] | None
    crop: tuple[int, int] | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    make: Callable[..., ImagePreprocessing]

    def __call__(self, image: Image) -> Tensor:
        """The input (channels, height, width) made from a PIL image."""
        return self.transform(eight_bits(image).convert("RGB" if len(self.mean) == 3 else "L"))

    def changed(
        self,
        *,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> ImagePreprocessing:
        """This preprocessing with another size or normalisation.

        Raises:
            ValueError: a size below 1, or not one mean and one positive deviation for each channel.
        """
        if image_size is not None and image_size < 1:
            raise ValueError(
                f"image_size: expected a positive number of pixels, got {image_size}; do "
                f"image_size=224"
            )
        check_channels("mean", mean, len(self.mean))
        check_channels("std", std, len(self.mean))
        if image_size is None and mean is None and std is None:
            return self
        return self.make(image_size=image_size, mean=mean, std=std)

    def as_dict(self) -> PreprocessingDict:
        """The values in force, for JSON."""
        return {
            "image_size": list(self.image_size),
            "resize": None if self.resize is None else list(self.resize),
            "crop": None if self.crop is None else list(self.crop),
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            "source": self.source,
        }


def eight_bits(image: Image) -> Image:
    """An image with 8 bits a channel: a grey one of 16 bits is scaled, 65535 to 255.

    PIL would cut off all above 255, and make such an image white.

    Raises:
        ValueError: 32-bit integers or floating point numbers, whose range the file does not tell.

    Examples:
        >>> from PIL import Image
        >>> eight_bits(Image.new("I;16", (1, 1), 257 * 100)).getpixel((0, 0))
        100
    """
    is_deep = image.mode.startswith("I;16")
    # some versions of PIL read 16 bits of these formats into 32
    if is_deep or (image.mode == "I" and image.format in ("PNG", "PPM")):
        from PIL import Image as images

        n_bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
        largest = 2**n_bits - 1
        scaled = (np.asarray(image).astype(np.int64) * 255 + largest // 2) // largest
        return images.fromarray(scaled.clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        got = "32-bit integers" if image.mode == "I" else "floating point numbers"
        raise ValueError(
            f"image: expected 8 or 16 bits a channel, got {got}, whose range is not known; do "
            f"scale the pixels to 0..255 and save them in 8 bits"
        )
    return image


def check_channels(name: str, values: Sequence[float] | None, n_channels: int) -> None:
    """Raise a ValueError unless there is one number a channel, and for ``std`` a positive one."""
    if values is not None and (len(values) != n_channels or (name == "std" and min(values) <= 0)):
        raise ValueError(
            f"{name}: expected {n_channels} {'positive ' if name == 'std' else ''}numbers, one for "
            f"each channel, "
            f"got {list(values)}; do leave it out for the default"
        )


def of_channels(values: Sequence[float], n_channels: int) -> tuple[float, ...]:
    """One value a channel: ``values``, or their average for each of another number of channels.

    Examples:
        >>> of_channels((0.25, 0.5, 0.75), 1)
        (0.5,)
    """
    if len(values) == n_channels:
        return tuple(values)
    return (sum(values) / len(values),) * n_channels


def resize_and_crop(
    source: str,
    default_size: int = IMAGE_SIZE,
    n_channels: int = 3,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImagePreprocessing:
    """Resize the shorter side, keep the centre, and normalise by ImageNet's values by default.

    Args:
        source: whose values these are, for the record.
        default_size: pixels a side unless ``image_size`` is given.
        n_channels: channels of the model.
        image_size: another side.
        mean: another mean of each channel.
        std: another standard deviation of each channel.

    Examples:
        >>> resize_and_crop("example", image_size=32).as_dict()["crop"]
        [32, 32]
    """
    transforms = import_torchvision().transforms
    size = image_size or default_size
    means = tuple(mean or of_channels(IMAGENET_MEAN, n_channels))
    stds = tuple(std or of_channels(IMAGENET_STD, n_channels))
    steps = [transforms.Resize(size), transforms.CenterCrop(size)]
    steps += [transforms.ToTensor(), transforms.Normalize(means, stds)]
    return ImagePreprocessing(
        transform=transforms.Compose(steps),
        image_size=(size, size),
        resize=(size,),
        crop=(size, size),
        interpolation="bilinear",
        mean=means,
        std=stds,
        source=source,
        make=functools.partial(resize_and_crop, source, default_size, n_channels),
    )


def import_torchvision() -> ModuleType:
    """torchvision, or an ImportError with the command that installs it."""
    try:
        import torchvision
    except ImportError as error:
        raise ImportError(
            "data: expected torchvision, which is not installed; do pip install "
            '"geocollapse[vision]"'
        ) from error
    module: ModuleType = torchvision
    return module
