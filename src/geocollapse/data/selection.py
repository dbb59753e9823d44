"""The choice of classes and examples: the options ``--classes`` and ``--subset``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor


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
    chosen = [number for part in parts for number in _numbers(part.strip(), names)]
    twice = {number for number in chosen if chosen.count(number) > 1}
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
    rank = torch.zeros(len(order), dtype=torch.int64)
    for label in labels[rows].unique():
        mine = labels[order] == label
        rank[mine] = torch.arange(int(mine.sum()))
    return order[rank.argsort(stable=True)[:subset]].sort().values


def _numbers(part: str, names: Sequence[str]) -> list[int]:
    if part in names:
        return [list(names).index(part)]
    first, dash, last = part.partition("-")
    if first.isdigit() and (last.isdigit() or not dash):
        numbers = list(range(int(first), int(last or first) + 1))
        if numbers and numbers[-1] < len(names):
            return numbers
        raise ValueError(
            f"classes: expected numbers from 0 to {len(names) - 1}, got {part!r}; do classes='0-4'"
        )
    near = difflib.get_close_matches(part, names, n=1, cutoff=0.3) or list(names[:1])
    raise ValueError(f"classes: expected class numbers or names, got {part!r}; do {near[0]!r}")
