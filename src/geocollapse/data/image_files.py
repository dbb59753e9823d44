"""Images in files and tables, decoded one at a time when they are asked for."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from torch import Tensor

from geocollapse.data.preprocessing import ImagePreprocessing, eight_bits

if TYPE_CHECKING:
    from PIL.Image import Image

_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error)


class UndecodableImage(ValueError):
    """An image that does not decode.

    Args:
        problem: the image and the reason.
        advice: what to do about it.
    """

    def __init__(self, problem: str, advice: str = "replace or remove it") -> None:
        super().__init__(f"{problem}; do {advice}")
        self.problem = problem
        self.advice = advice


class EncodedImages(Protocol):
    """The bytes of images as they lie in files, such as those of a folder."""

    def open(self, row: int, /) -> BinaryIO:
        """The encoded image as an open file, which the caller closes."""

    def name(self, row: int, /) -> str:
        """A short name for a list of images."""

    def place(self, row: int, /) -> str:
        """The file of an image, for an error."""

    def of_rows(self, rows: Tensor, /) -> EncodedImages:
        """These images for a reader who will ask for some rows only."""


@dataclass(frozen=True)
class FilesOfFolder:
    """The image files of a folder.

    Attributes:
        folder: their names are relative to it.
        paths: of the files.
    """

    folder: Path
    paths: tuple[str, ...]

    def open(self, row: int, /) -> BinaryIO:
        """The file, open."""
        return Path(self.paths[row]).open("rb")

    def name(self, row: int, /) -> str:
        """The path below the folder."""
        return Path(self.paths[row]).relative_to(self.folder).as_posix()

    def place(self, row: int, /) -> str:
        """The path."""
        return self.paths[row]

    def of_rows(self, rows: Tensor, /) -> FilesOfFolder:
        """These files."""
        del rows
        return self


@dataclass(frozen=True)
class ImageFiles:
    """Encoded images that go through a preprocessing when they are read.

    Attributes:
        encoded: the images as they lie in files.
        preprocessing: from an image to the input of a model.
    """

    encoded: EncodedImages
    preprocessing: ImagePreprocessing

    def __getitem__(self, row: int, /) -> tuple[Tensor]:
        return (self.preprocessing(self._image(row)),)

    def name(self, row: int, /) -> str:
        """A short name of the image."""
        return self.encoded.name(row)

    def decodes(self, row: int, /) -> bool:
        """False for an image that is damaged, too large or missing."""
        return decodes(self._image, row)

    def content(self, row: int, /) -> bytes:
        """The bytes of the encoded image; empty for one that is missing."""
        try:
            with self.encoded.open(row) as file:
                return file.read()
        except UndecodableImage:
            return b""

    def of_rows(self, rows: Tensor, /) -> ImageFiles:
        """These images for a reader who will ask for some rows only."""
        return ImageFiles(self.encoded.of_rows(rows), self.preprocessing)

    def _image(self, row: int) -> Image:
        with self.encoded.open(row) as file:
            return decode(file, self.encoded.place(row))


def decodes(read: Callable[[int], Image], row: int) -> bool:
    """False for an image that ``read`` finds to be damaged, too large or missing."""
    try:
        read(row)
    except UndecodableImage:
        return False
    return True


def read_image(path: str) -> Image:
    """The image in a file, with 8 bits a channel; see ``decode``."""
    with Path(path).open("rb") as file:
        return decode(file, path)


def decode(file: BinaryIO, place: str) -> Image:
    """The image in an open file, with 8 bits a channel.

    Args:
        file: the encoded image.
        place: its file, for errors.

    Raises:
        UndecodableImage: damaged, no image, or too large; ``place`` is named.
        ValueError: a depth without a known range; ``place`` is named.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            image.load()
            return eight_bits(image)
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UndecodableImage(
            f"data: expected an image of at most {limit} pixels, got a larger one in {place}",
            "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS",
        ) from error
    except UnidentifiedImageError as error:  # whose text shows the object that was opened
        raise UndecodableImage(
            f"data: expected an image in {place}, got a damaged file or another format (not known "
            f"to PIL)"
        ) from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ValueError) and reason.startswith("image: "):
            raise ValueError(f"{reason} (in {place})") from error
        raise UndecodableImage(
            f"data: expected an image in {place}, got a damaged file or another format ({reason})"
        ) from error
