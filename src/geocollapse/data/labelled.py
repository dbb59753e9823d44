"""Labelled data with what a measurement must know of it: names of classes, split, normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from geocollapse.data.selection import parse_classes, select_rows

Classes = str | Sequence[int | str] | None


@dataclass(frozen=True)
class About:
    """What belongs to a data set beside its examples.

    Attributes:
        name: the data set.
        split: which part of it.
        classes: name of class 0, 1, ...
        mean: subtracted from each channel; None where there are no channels.
        std: each channel was divided by it.
        preprocessing: what else was done to an image, for JSON; None for images as they are.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None


class Described:
    """The attributes that measurements look for, and the choice of classes and examples."""

    about: About
    targets: Tensor

    @property
    def name(self) -> str:
        """The data set."""
        return self.about.name

    @property
    def split(self) -> str:
        """Which part of it."""
        return self.about.split

    @property
    def classes(self) -> list[str]:
        """Name of class 0, 1, ..."""
        return list(self.about.classes)

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Subtracted from each channel."""
        return self.about.mean

    @property
    def std(self) -> tuple[float, ...] | None:
        """Each channel was divided by it."""
        return self.about.std

    @property
    def preprocessing(self) -> Mapping[str, Any] | None:
        """What was done to an image: sizes, interpolation, normalisation; None for images as they
        are.
        """
        return self.about.preprocessing

    @property
    def n_classes(self) -> int:
        """Number of classes, also of those without examples here."""
        return len(self.about.classes)

    def chosen(
        self, classes: Classes, subset: int | None, seed: int
    ) -> tuple[Tensor, Tensor, About]:
        """Rows of some classes and a balanced subset of them, their labels renumbered 0..k-1, and
        their description.
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
        """Some classes, renumbered 0..k-1 in the order given, and a seeded, class-balanced subset
        of them.
        """
        rows, labels, about = self.chosen(classes, subset, seed)
        return LabelledData(self.inputs[rows], labels, about)

    def to(self, device: torch.device | str) -> LabelledData:
        """The same on another device."""
        return LabelledData(self.inputs.to(device), self.targets.to(device), self.about)


class PilImages:
    """Images in memory, each a PIL image that goes through a transform when it is read, as a file
    does.

    Args:
        images: (n, channels, h, w) in [0, 1], grey or RGB; kept in the 8 bits that PIL knows.
        transform: from a PIL image to the input of a model.
    """

    def __init__(self, images: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self._pixels = (
            (images * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(3).numpy()
        )
        self._transform = transform

    def __getitem__(self, row: int) -> tuple[Tensor]:
        from PIL import Image

        return (self._transform(Image.fromarray(self._pixels[row])),)


class LabelledImages(Described, Dataset[tuple[Tensor, int]]):
    """Images, each read, resized and normalised when it is asked for.

    Args:
        folder: ``PilImages`` or a torchvision ``ImageFolder``, with their transform.
        rows: positions taken from it.
        labels: (n,) of these positions, 0..C-1.
        about: names and normalisation.
    """

    def __init__(self, folder: Any, rows: Tensor, labels: Tensor, about: About) -> None:
        self.folder, self.rows, self.targets, self.about = folder, rows, labels, about

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.folder[int(self.rows[position])][0], int(self.targets[position])

    def select(
        self, *, classes: Classes = None, subset: int | None = None, seed: int = 0
    ) -> LabelledImages:
        """Some classes, renumbered 0..k-1 in the order given, and a seeded, class-balanced subset
        of them.
        """
        rows, labels, about = self.chosen(classes, subset, seed)
        return LabelledImages(self.folder, self.rows[rows], labels, about)

    def in_memory(self) -> LabelledData:
        """All images read into tensors, for training."""
        return LabelledData(
            torch.stack([self[row][0] for row in range(len(self))]), self.targets, self.about
        )
