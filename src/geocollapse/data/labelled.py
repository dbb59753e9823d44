"""Labelled data with what a measurement records of it: class names, split, normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from geocollapse.data.preprocessing import PreprocessingDict
from geocollapse.data.selection import parse_classes, select_rows

if TYPE_CHECKING:
    from PIL.Image import Image

Classes = str | Sequence[int | str] | None


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


class Described:
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


class ImageInputs(Protocol):
    """Images as inputs of a model, each the first entry of a tuple."""

    def __getitem__(self, row: int, /) -> tuple[Tensor, *tuple[object, ...]]: ...


class PilImages:
    """Images in memory that go through a transform as PIL images when they are read, as files do.

    Args:
        images: (n, channels, h, w) in [0, 1], grey or RGB; kept in the 8 bits that PIL knows.
        transform: from a PIL image to the input of a model.
    """

    def __init__(self, images: Tensor, transform: Callable[[Image], Tensor]) -> None:
        self._pixels = (
            (images * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(3).numpy()
        )
        self._transform = transform

    def __getitem__(self, row: int, /) -> tuple[Tensor]:
        from PIL import Image

        return (self._transform(Image.fromarray(self._pixels[row])),)


class LabelledImages(Described, Dataset[tuple[Tensor, int]]):
    """Images that are read, resized and normalised one at a time, when they are asked for.

    Args:
        folder: the images with their transform: ``PilImages`` or ``ImageFiles``.
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
        return self.folder[int(self.rows[position])][0], int(self.targets[position])

    def select(
        self, *, classes: Classes = None, subset: int | None = None, seed: int = 0
    ) -> LabelledImages:
        """Some classes, renumbered 0..k-1 in the order given, and a balanced subset of them."""
        rows, labels, about = self.chosen(classes, subset, seed)
        return LabelledImages(self.folder, self.rows[rows], labels, about)

    def in_memory(self) -> LabelledData:
        """All images read into tensors, for training."""
        return LabelledData(
            torch.stack([self[row][0] for row in range(len(self))]), self.targets, self.about
        )
