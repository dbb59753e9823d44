"""Image processors of transformers as preprocessing of images."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from geocollapse.data import ImagePreprocessing
from geocollapse.data.preprocessing import IMAGE_SIZE

if TYPE_CHECKING:
    from PIL.Image import Image

_RESAMPLING = {  # PIL's numbers
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}


class ImageProcessor(Protocol):
    """An image processor of transformers.

    Read where they exist: ``crop_size``, ``do_center_crop``, ``resample``.
    """

    size: Mapping[str, int]
    do_resize: bool
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: Sequence[float]
    image_std: Sequence[float]

    def __call__(
        self, *, images: Image, return_tensors: str, **settings: object
    ) -> Mapping[str, Sequence[Tensor]]: ...


def processor_preprocessing(
    processor: ImageProcessor,
    n_channels: int,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImagePreprocessing:
    """The steps of a transformers image processor.

    With another size it crops the same share of the image.
    """
    from PIL import Image

    sizes = _sizes(processor, image_size)
    values = {"image_mean": mean, "image_std": std}
    given = {key: list(value) for key, value in values.items() if value is not None}
    means, stds = _normalisation(processor, n_channels, given)
    transform = functools.partial(_processed, processor, {**sizes, **given})
    blank = transform(Image.new("RGB" if n_channels == 3 else "L", (IMAGE_SIZE, IMAGE_SIZE)))
    size_taken = (blank.shape[1], blank.shape[2])
    return ImagePreprocessing(
        transform=transform,
        image_size=size_taken,
        resize=_side(sizes.get("size", processor.size)) if processor.do_resize else None,
        crop=size_taken if getattr(processor, "do_center_crop", None) else None,
        interpolation=_RESAMPLING.get(int(getattr(processor, "resample", None) or 0), "unknown"),
        mean=means,
        std=stds,
        source=type(processor).__name__,
        make=functools.partial(processor_preprocessing, processor, n_channels),
    )


def _processed(processor: ImageProcessor, settings: Mapping[str, object], image: Image) -> Tensor:
    return processor(images=image, return_tensors="pt", **settings)["pixel_values"][0]


def _sizes(processor: ImageProcessor, image_size: int | None) -> dict[str, Mapping[str, int]]:
    """Settings of a processor whose results have ``image_size`` pixels a side."""
    if image_size is None:
        return {}
    square = {"height": image_size, "width": image_size}
    size = _side(processor.size)
    crop: Mapping[str, int] | None = getattr(processor, "crop_size", None)
    if len(size) == 2:
        return {"size": square, "crop_size": square} if crop else {"size": square}
    share = size[0] / _side(crop)[0] if crop else 1.0
    resized = {"shortest_edge": round(image_size * share)}
    return {"size": resized, "crop_size": square} if crop else {"size": resized}


def _side(size: Mapping[str, int]) -> tuple[int, ...]:
    """(height, width), or the shorter side alone."""
    values = dict(size)
    if values.get("shortest_edge"):
        return (values["shortest_edge"],)
    return (values["height"], values["width"])


def _normalisation(
    processor: ImageProcessor, n_channels: int, given: Mapping[str, Sequence[float]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of pixels in [0, 1].

    A processor gives x = (255 r p - m) / s of a pixel p, with its factor r, m and s.
    """
    scale = 255.0 * (processor.rescale_factor if processor.do_rescale else 1.0)
    if not processor.do_normalize:
        return (0.0,) * n_channels, (1.0 / scale,) * n_channels
    means = given.get("image_mean", processor.image_mean)
    stds = given.get("image_std", processor.image_std)
    return tuple(float(m) / scale for m in means), tuple(float(s) / scale for s in stds)
