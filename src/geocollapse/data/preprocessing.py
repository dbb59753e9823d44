"""How images become the input of a model: resizing, cropping and normalisation, as one map from PIL
to a tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

IMAGE_SIZE = (
    224  # images are resized and cropped to this many pixels unless another size is asked for
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImagePreprocessing:
    """What a model, or a data set, does to an image.

    Attributes:
        transform: from a PIL image, grey for one channel and RGB for three, to (channels, height,
            width).
        image_size: (height, width) of its result.
        resize: the shorter side, or (height, width), to which an image is resized; None if it is
            not.
        crop: (height, width) of the centre that is kept, None if all of it is.
        interpolation: of the resizing.
        mean: subtracted from each channel of pixels in [0, 1].
        std: each channel is divided by it.
        source: whose values these are.
        make: the same from ``image_size``, ``mean`` and ``std``, each None for the source's own.
    """

    transform: Callable[[Any], Tensor]
    image_size: tuple[int, int]
    resize: tuple[int, ...] | None
    crop: tuple[int, int] | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    make: Callable[..., ImagePreprocessing]

    def __call__(self, image: Any) -> Tensor:
        """The input (channels, height, width) that a PIL image becomes."""
        return self.transform(image.convert("RGB" if len(self.mean) == 3 else "L"))

    def changed(
        self,
        *,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> ImagePreprocessing:
        """The source's own with another size or normalisation.

        Raises:
            ValueError: a size below 1, or not one positive deviation and one mean for each channel.
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

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what was in force."""
        names = ("image_size", "resize", "crop", "interpolation", "mean", "std", "source")
        values = {name: getattr(self, name) for name in names}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


def check_channels(name: str, values: Sequence[float] | None, n_channels: int) -> None:
    """Refuse a mean or deviation that is not one number, for ``std`` a positive one, for each
    channel.
    """
    if values is not None and (len(values) != n_channels or (name == "std" and min(values) <= 0)):
        raise ValueError(
            f"{name}: expected {n_channels} {'positive ' if name == 'std' else ''}numbers, one for "
            f"each channel, "
            f"got {list(values)}; do leave it out for the default"
        )


def of_channels(values: Sequence[float], n_channels: int) -> tuple[float, ...]:
    """One value a channel; where a model takes another number of channels, the average of
    ``values`` for each.

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
    """The shorter side to ``image_size``, its centre, and ImageNet's mean and deviation where no
    others are given.

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
    make = functools.partial(resize_and_crop, source, default_size, n_channels)
    transform = transforms.Compose(steps)
    return ImagePreprocessing(
        transform, (size, size), (size,), (size, size), "bilinear", means, stds, source, make
    )


def import_torchvision() -> Any:
    """torchvision, or an ImportError with the command that installs it."""
    try:
        import torchvision
    except ImportError as error:
        raise ImportError(
            "data: expected torchvision, which is not installed; do pip install "
            '"geocollapse[vision]"'
        ) from error
    return torchvision
