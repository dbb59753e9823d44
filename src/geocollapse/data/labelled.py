"""Labelled data with what a measurement records of it: class names, split, normalisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from geocollapse.data.fingerprint import Fingerprint, description
from geocollapse.data.image_files import UndecodableImage
from geocollapse.data.preprocessing import ImagePreprocessing, PreprocessingDict
from geocollapse.data.selection import parse_classes, select_rows

_MOST_COUNTED = 10_000  # images that are decoded to count the broken ones once one is found
_DIGITS = 16  # of the digest of an example: enough for millions of them
_MOST_NAMED = 20  # broken images that a note names

Classes = str | Sequence[int | str] | None

UNLABELLED = "unlabelled"  # the one class of examples without labels


@dataclass(frozen=True)
class About:
    """The description of a data set.

    Attributes:
        name: of the data set.
        split: the part of it.
        classes: name of class 0, 1, ...
        mean: subtracted from each channel; None where there are no channels.
        std: each channel was divided by it.
        preprocessing: how the images were resized and cropped, for JSON; None if they were not.
        notes: what a reader of the results must know about the data.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preprocessing: PreprocessingDict | None = None
    notes: tuple[str, ...] = ()


class Described(ABC):
    """The attributes that measurements read, and the choice of classes and examples."""

    about: About
    targets: Tensor

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.about.name

    @property
    def split(self) -> str:
        """The part of the data set."""
        return self.about.split

    @property
    def classes(self) -> list[str]:
        """Name of class 0, 1, ..."""
        return list(self.about.classes)

    @property
    def mean(self) -> tuple[float, ...] | None:
        """The mean that was subtracted from each channel."""
        return self.about.mean

    @property
    def std(self) -> tuple[float, ...] | None:
        """The standard deviation that each channel was divided by."""
        return self.about.std

    @property
    def preprocessing(self) -> PreprocessingDict | None:
        """Sizes, interpolation and normalisation of images; None for images as they are."""
        return self.about.preprocessing

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know about the data."""
        return self.about.notes

    def fingerprint(self) -> str:
        """The SHA-256 of what determines the inputs, labels and class names, as hexadecimal digits.

        Images in files are hashed as they are encoded, with the settings of their preprocessing;
        tensors and tokens by their numbers. Split and names of classes count; the name of the data
        set and its place on disk do not. The same on every machine. Reads all files once, decodes
        none.
        """
        fingerprint = Fingerprint()
        about = self.about
        fingerprint.add_value([type(self).__name__, about.split, about.classes])
        fingerprint.add_value([about.mean, about.std])
        fingerprint.add_tensor(self.targets)
        self._add_content(fingerprint)
        return fingerprint.hexdigest()

    def example_digests(self) -> list[str]:
        """The first 16 hexadecimal digits of the SHA-256 of each example, without its label.

        The same example has the same digest in any subset, order or choice of classes. Images in
        files are hashed as they are encoded, before any preprocessing; tensors by their numbers.
        """
        found = []
        for row in range(len(self.targets)):
            fingerprint = Fingerprint()
            self._add_example(fingerprint, row)
            found.append(fingerprint.hexdigest()[:_DIGITS])
        return found

    @abstractmethod
    def _add_content(self, fingerprint: Fingerprint) -> None:
        """Add the examples themselves."""

    @abstractmethod
    def _add_example(self, fingerprint: Fingerprint, row: int) -> None:
        """Add one of the examples."""

    @property
    def n_classes(self) -> int:
        """Number of classes, including those without examples here."""
        return len(self.about.classes)

    def chosen(
        self, classes: Classes, subset: int | None, seed: int
    ) -> tuple[Tensor, Tensor, About]:
        """Rows of some classes and a balanced subset of them, with their labels and description.

        Labels are renumbered 0..k-1 in the order of ``classes``.
        """
        chosen = None if classes is None else parse_classes(classes, self.classes)
        rows = select_rows(self.targets.cpu(), chosen, subset, seed).to(self.targets.device)
        if chosen is None:
            return rows, self.targets[rows], self.about
        new = torch.full((self.n_classes,), -1, dtype=torch.int64, device=rows.device)
        new[torch.tensor(chosen, device=rows.device)] = torch.arange(
            len(chosen), device=rows.device
        )
        names = tuple(self.about.classes[label] for label in chosen)
        return rows, new[self.targets[rows]], replace(self.about, classes=names)


class LabelledData(Described, TensorDataset):
    """Examples as normalised tensors in memory.

    Args:
        inputs: (n, ...) float32, already (x - mean) / std for each channel.
        labels: (n,) int64, 0..C-1.
        about: names and normalisation.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, about: About) -> None:
        super().__init__(inputs, labels)
        self.about = about

    @property
    def inputs(self) -> Tensor:
        """(n, ...)."""
        return self.tensors[0]

    @property
    def targets(self) -> Tensor:  # type: ignore[override]
        """(n,) labels."""
        return self.tensors[1]

    def select(
        self, *, classes: Classes = None, subset: int | None = None, seed: int = 0
    ) -> LabelledData:
        """Some classes, renumbered 0..k-1 in the order given, and a balanced subset of them."""
        rows, labels, about = self.chosen(classes, subset, seed)
        return LabelledData(self.inputs[rows], labels, about)

    def to(self, device: torch.device | str) -> LabelledData:
        """These examples on another device."""
        return LabelledData(self.inputs.to(device), self.targets.to(device), self.about)

    def _add_content(self, fingerprint: Fingerprint) -> None:
        fingerprint.add_tensor(self.inputs)

    def _add_example(self, fingerprint: Fingerprint, row: int) -> None:
        fingerprint.add_tensor(self.inputs[row])


class ImageInputs(Protocol):
    """Images as inputs of a model, each the first entry of a tuple."""

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """From an image to the input of a model."""

    def __getitem__(self, row: int, /) -> tuple[Tensor, *tuple[object, ...]]: ...

    def name(self, row: int, /) -> str:
        """A short name of an image."""

    def decodes(self, row: int, /) -> bool:
        """False for an image that cannot be read."""

    def content(self, row: int, /) -> bytes:
        """Bytes that determine the image before its preprocessing."""

    def of_rows(self, rows: Tensor, /) -> ImageInputs:
        """These images for a reader who will ask for some rows only."""


class PilImages:
    """Images in memory that go through a preprocessing as PIL images when read, as files do.

    Args:
        images: (n, channels, h, w) in [0, 1], grey or RGB; kept in the 8 bits that PIL knows.
        preprocessing: from a PIL image to the input of a model.
    """

    def __init__(self, images: Tensor, preprocessing: ImagePreprocessing) -> None:
        self._pixels = (
            (images * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(3).numpy()
        )
        self.preprocessing = preprocessing

    def __getitem__(self, row: int, /) -> tuple[Tensor]:
        from PIL import Image

        return (self.preprocessing(Image.fromarray(self._pixels[row])),)

    def name(self, row: int, /) -> str:
        """The position of an image."""
        return f"example {row}"

    def decodes(self, row: int, /) -> bool:
        """True: these images are decoded."""
        del row
        return True

    def content(self, row: int, /) -> bytes:
        """The shape and the pixels of an image."""
        pixels = self._pixels[row]
        return f"{pixels.shape}\n".encode() + pixels.tobytes()

    def of_rows(self, rows: Tensor, /) -> PilImages:
        """These images."""
        del rows
        return self


class LabelledImages(Described, Dataset[tuple[Tensor, int]]):
    """Images that are read, resized and normalised one at a time, when they are asked for.

    Args:
        folder: the images with their preprocessing: ``PilImages`` or ``ImageFiles``.
        rows: positions taken from it.
        labels: (n,) of these positions, 0..C-1.
        about: names and normalisation.
    """

    def __init__(self, folder: ImageInputs, rows: Tensor, labels: Tensor, about: About) -> None:
        self.folder = folder
        self.rows = rows
        self.targets = labels
        self.about = about

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """The input of a model made from an image, and its label.

        Raises:
            ValueError: an image that does not decode: the first one is named, and among at most
                10,000 images all are counted.
        """
        try:
            image = self.folder[int(self.rows[position])][0]
        except UndecodableImage as error:
            raise self._counted(error) from error
        return image, int(self.targets[position])

    def select(
        self, *, classes: Classes = None, subset: int | None = None, seed: int = 0
    ) -> LabelledImages:
        """Some classes, renumbered 0..k-1 in the order given, and a balanced subset of them."""
        rows, labels, about = self.chosen(classes, subset, seed)
        rows = self.rows[rows]
        return LabelledImages(self.folder.of_rows(rows), rows, labels, about)

    def without_broken(self) -> LabelledImages:
        """The images that decode, with a note that counts and names the others.

        Every image is decoded once for this.

        Raises:
            ValueError: a class without an image that decodes.
        """
        is_whole = torch.tensor([self.folder.decodes(row) for row in self.rows.tolist()])
        if is_whole.all():
            return self
        kept = self.targets[is_whole]
        lost = sorted(set(self.targets.tolist()) - set(kept.tolist()))
        if lost:
            raise ValueError(
                f"data: expected an image that decodes in each class, got none of "
                f"{int((self.targets == lost[0]).sum())} in {self.classes[lost[0]]!r}; do replace "
                f"them, or leave the class out"
            )
        names = [self.folder.name(row) for row in self.rows[~is_whole].tolist()]
        about = replace(self.about, notes=(*self.about.notes, _left_out(names, len(self))))
        return LabelledImages(self.folder, self.rows[is_whole], kept, about)

    def in_memory(self) -> LabelledData:
        """All images read into tensors, for training."""
        return LabelledData(
            torch.stack([self[row][0] for row in range(len(self))]), self.targets, self.about
        )

    def _add_content(self, fingerprint: Fingerprint) -> None:
        preprocessing = self.folder.preprocessing
        settings = {key: v for key, v in preprocessing.as_dict().items() if key != "source"}
        fingerprint.add_value([settings, description(preprocessing.transform)])
        for row in range(len(self.targets)):
            self._add_example(fingerprint, row)

    def _add_example(self, fingerprint: Fingerprint, row: int) -> None:
        fingerprint.add_bytes(self.folder.content(int(self.rows[row])))

    def _counted(self, error: UndecodableImage) -> ValueError:
        """An error that names one image and counts all that do not decode."""
        n = len(self)
        count = ""
        if n <= _MOST_COUNTED:
            n_broken = sum(not self.folder.decodes(row) for row in self.rows.tolist())
            count = f", {n_broken:,} of {n:,} images that do not decode"
        return ValueError(
            f"{error.problem}{count}; do {error.advice}, or leave such images out with skip_broken "
            f"(--skip-broken)"
        )


def _left_out(names: Sequence[str], n_images: int) -> str:
    """A note on images that do not decode."""
    shown = ", ".join(names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    verbs = "does not decode and is" if len(names) == 1 else "do not decode and are"
    return (
        f"{len(names):,} of {n_images:,} images {verbs} left out: {shown}"
        f"{f' and {more:,} more' if more > 0 else ''}"
    )
