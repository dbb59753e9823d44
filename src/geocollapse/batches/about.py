"""The attributes of a data set that describe its examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AboutData:
    """The attributes of a data set that a measurement uses, each None if the data set lacks it.

    Attributes:
        classes: a name for class 0, 1, ..., the first if a class has several.
        split: the part of the data set, such as ``test``.
        mean: subtracted from each channel.
        std: divisor of each channel.
        preprocessing: what else was done to an image.
        notes: how the data were made, as far as a reader must know it.
        class_outputs: (C,) the output of a language model that stands for each class.
    """

    classes: Sequence[str] | None = None
    split: str | None = None
    mean: Sequence[float] | Tensor | None = None
    std: Sequence[float] | Tensor | float | None = None
    preprocessing: Mapping[str, object] | None = None
    notes: tuple[str, ...] = ()
    class_outputs: Tensor | None = None

    @classmethod
    def of(cls, dataset: object) -> AboutData:
        """Read the attributes of ``dataset``; methods with these names are ignored."""
        found = {name: getattr(dataset, name, None) for name in cls.__dataclass_fields__}
        found["classes"] = _names(found["classes"])
        return cls(**{k: v for k, v in found.items() if v is not None and not callable(v)})


def _names(classes: object) -> tuple[str, ...] | None:
    """The names of classes; the first of several for one class, as torchvision's ImageNet has.

    None for what is no sequence of names, such as their number.
    """
    classes = classes.tolist() if isinstance(classes, np.ndarray) else classes
    if not isinstance(classes, Sequence) or isinstance(classes, str):
        return None
    first = (name[0] if isinstance(name, tuple | list) and name else name for name in classes)
    return tuple(map(str, first))
