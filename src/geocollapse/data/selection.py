"""The choice of classes and examples: the options ``--classes`` and ``--subset``."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_DIGITS = re.compile(r"[0-9]{1,18}")


def parse_classes(text: str | Sequence[int | str], names: Sequence[str]) -> list[int]:
    """Class numbers from numbers, ranges and names, in the order given.

    Args:
        text: ``"0-4,7"``, ``"cat,dog"``, or a sequence of numbers and names.
        names: the name of class 0, 1, ...

    Raises:
        ValueError: an unknown name or number (the nearest is named), a class twice.

    Examples:
        >>> parse_classes("0-1,dog", ["ant", "bee", "cat", "dog"])
        [0, 1, 3]
    """
    parts = text.split(",") if isinstance(text, str) else [str(part) for part in text]
    known = {name: number for number, name in reversed(list(enumerate(names)))}
    chosen = [number for part in parts for number in _numbers(part.strip(), known)]
    twice = {number for number, count in Counter(chosen).items() if count > 1}
    if twice or not chosen:
        got = f"{names[min(twice)]!r} twice" if twice else "none"
        raise ValueError(f"classes: expected each class once, got {got}; do classes='0-4'")
    return chosen


def select_rows(
    labels: Tensor, classes: Sequence[int] | None, subset: int | None, seed: int
) -> Tensor:
    """Rows (k,) of some classes in ascending order, at most ``subset`` of them, balanced.

    Classes of a subset have the same number of examples, as far as there are enough.

    Raises:
        ValueError: a subset below one example a class or above what there is.
    """
    rows = torch.arange(len(labels))
    if classes is not None:
        rows = rows[torch.isin(labels, torch.tensor(list(classes)))]
    if subset is None:
        return rows
    n_classes = len(labels[rows].unique())
    if not n_classes <= subset <= len(rows):
        raise ValueError(
            f"subset: expected {n_classes} to {len(rows)} examples, got {subset}; do "
            f"subset={len(rows)}"
        )
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    rank = _rank_in_class(labels[order])
    return order[rank.argsort(stable=True)[:subset]].sort().values


def _rank_in_class(labels: Tensor) -> Tensor:
    """How many examples of its class stand before each (n,)."""
    by_class = labels.argsort(stable=True)
    counts = labels.unique(return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(by_class)
    rank[by_class] = torch.arange(len(labels)) - starts.repeat_interleave(counts)
    return rank


def _numbers(part: str, names: Mapping[str, int]) -> Sequence[int]:
    """The class numbers that one part of the text names; ``names`` gives the number of a name."""
    if part in names:
        return [names[part]]
    first, dash, last = part.partition("-")
    if _DIGITS.fullmatch(first) and (_DIGITS.fullmatch(last) or not dash):
        numbers = range(int(first), int(last or first) + 1)
        if numbers and numbers[-1] < len(names):
            return numbers
        raise ValueError(
            f"classes: expected numbers from 0 to {len(names) - 1}, got {part!r}; do classes='0-4'"
        )
    near = difflib.get_close_matches(part, names, n=1, cutoff=0.3) or list(names)[-1:]
    raise ValueError(f"classes: expected class numbers or names, got {part!r}; do {near[0]!r}")
