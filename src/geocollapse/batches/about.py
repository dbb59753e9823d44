"""What a data set says of itself beside its examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class AboutData:
    """The attributes of a data set that a measurement looks for, each None where it has none.

    Attributes:
        classes: a name for class 0, 1, ...
        split: the part of the data set.
        mean: subtracted from each channel.
        std: each channel was divided by it.
        preprocessing: what else was done to an image.
        notes: what a reader must know of how the data were made.
        class_outputs: (C,) which of a language model's outputs each class is.
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
        """Read the attributes of ``dataset``; a method of such a name is none."""
        found = {name: getattr(dataset, name, None) for name in cls.__dataclass_fields__}
        return cls(**{k: v for k, v in found.items() if v is not None and not callable(v)})
