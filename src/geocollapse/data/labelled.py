"""Labelled data with what a measurement must know of it: names of classes, split, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from geocollapse.data.selection import parse_classes, select_rows


class LabelledData(TensorDataset):
    """Examples as normalised tensors in memory.

    Args:
        inputs: (n, ...) float32, already (x - mean) / std for each channel.
        labels: (n,) int64, 0..C-1.
        name: the data set.
        split: which part of it.
        classes: name of class 0, 1, ...
        mean: subtracted from each channel.
        std: each channel was divided by it.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        name: str,
        split: str,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(inputs, labels)
        self.name, self.split = name, split
        self.classes, self.mean, self.std = list(classes), tuple(mean), tuple(std)

    @property
    def inputs(self) -> Tensor:
        """(n, ...)."""
        return self.tensors[0]

    @property
    def targets(self) -> Tensor:
        """(n,) labels."""
        return self.tensors[1]

    @property
    def n_classes(self) -> int:
        """Number of classes, also of those without examples here."""
        return len(self.classes)

    def select(
        self, *, classes: str | Sequence[int | str] | None = None, subset: int | None = None, seed: int = 0
    ) -> LabelledData:
        """Some classes, renumbered 0..k-1 in the order given, and a seeded, class-balanced subset of them."""
        chosen = None if classes is None else parse_classes(classes, self.classes)
        rows = select_rows(self.targets.cpu(), chosen, subset, seed).to(self.targets.device)
        labels, names = self.targets[rows], self.classes
        if chosen is not None:
            labels, names = _renumbered(labels, chosen, len(self.classes)), [self.classes[label] for label in chosen]
        return self._with(self.inputs[rows], labels, names)

    def to(self, device: torch.device | str) -> LabelledData:
        """The same on another device."""
        return self._with(self.inputs.to(device), self.targets.to(device), self.classes)

    def _with(self, inputs: Tensor, labels: Tensor, classes: Sequence[str]) -> LabelledData:
        return LabelledData(
            inputs, labels, name=self.name, split=self.split, classes=classes, mean=self.mean, std=self.std
        )


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Image files, each read, resized and normalised when it is asked for.

    Args:
        folder: a torchvision ``ImageFolder`` with its transform.
        rows: positions taken from it.
        labels: (n,) of these positions, 0..C-1.
    """

    def __init__(
        self,
        folder: Any,
        rows: Tensor,
        labels: Tensor,
        *,
        name: str,
        split: str,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.folder, self.rows, self.targets = folder, rows, labels
        self.name, self.split = name, split
        self.classes, self.mean, self.std = list(classes), tuple(mean), tuple(std)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.folder[int(self.rows[position])][0], int(self.targets[position])

    def select(
        self, *, classes: str | Sequence[int | str] | None = None, subset: int | None = None, seed: int = 0
    ) -> LabelledImages:
        """Some classes, renumbered 0..k-1 in the order given, and a seeded, class-balanced subset of them."""
        chosen = None if classes is None else parse_classes(classes, self.classes)
        rows = select_rows(self.targets, chosen, subset, seed)
        labels, names = self.targets[rows], self.classes
        if chosen is not None:
            labels, names = _renumbered(labels, chosen, len(self.classes)), [self.classes[label] for label in chosen]
        return LabelledImages(
            self.folder,
            self.rows[rows],
            labels,
            name=self.name,
            split=self.split,
            classes=names,
            mean=self.mean,
            std=self.std,
        )

    def in_memory(self) -> LabelledData:
        """All images read into tensors, for training."""
        images = torch.stack([self[position][0] for position in range(len(self))])
        return LabelledData(
            images,
            self.targets,
            name=self.name,
            split=self.split,
            classes=self.classes,
            mean=self.mean,
            std=self.std,
        )


def _renumbered(labels: Tensor, chosen: Sequence[int], n_classes: int) -> Tensor:
    new = torch.full((n_classes,), -1, dtype=torch.int64, device=labels.device)
    new[torch.tensor(list(chosen), device=labels.device)] = torch.arange(len(chosen), device=labels.device)
    return new[labels]
