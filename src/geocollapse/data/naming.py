"""Classes made from names: equal names are one class, and numeric names sort as numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from decimal import Decimal

import torch
from torch import Tensor

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def number_classes(names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Labels (n,) of the examples with these class names, and the name of class 0, 1, ...

    Spaces around a name do not count.

    Examples:
        >>> labels, names = number_classes(["10", "2", " 10", "0"])
        >>> labels.tolist(), names
        ([2, 1, 2, 0], ('0', '2', '10'))
    """
    stripped = [name.strip() for name in names]
    classes = in_order(set(stripped))
    number = {name: place for place, name in enumerate(classes)}
    labels = torch.tensor([number[name] for name in stripped], dtype=torch.int64)
    return labels, tuple(classes)


def in_order(names: Collection[str]) -> list[str]:
    """Names of classes in the order of their numbers: by value if all are numbers, else by letters.

    Examples:
        >>> in_order(["10", "9", "-1"]), in_order(["b", "10", "9"])
        (['-1', '9', '10'], ['10', '9', 'b'])
    """
    if all(_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (Decimal(name), name))
    return sorted(names)
