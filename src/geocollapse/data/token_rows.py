"""Rows of unpadded tokens with labels, as the data sets of Hugging Face hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from geocollapse.data.labelled import About
from geocollapse.data.naming import number_classes
from geocollapse.data.tokens import LabelledTokens

_IDS = "input_ids"
_LABELS = ("labels", "label")


class TokenRows(Protocol):
    """One mapping an example: ``input_ids``, and ``labels`` or ``label``."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Mapping[str, object]: ...


def holds_tokens(data: object) -> bool:
    """True for a data set whose first example is a mapping with lists of tokens."""
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or isinstance(data, Mapping):
        return False
    first = data[0] if len(data) else None
    return isinstance(first, Mapping) and isinstance(first.get(_IDS), Sequence)


def labelled_tokens(data: TokenRows, padding: int) -> LabelledTokens:
    """Token rows as a data set whose batches are padded, with a mask.

    Columns that do not belong to the tokens, such as the text, are left out.

    Args:
        data: one mapping an example.
        padding: the token that fills up ``input_ids``.

    Raises:
        ValueError: no label in each row, or labels that are neither numbers nor names.

    Examples:
        >>> rows = [{"input_ids": [5, 6, 7], "label": "b"}, {"input_ids": [8], "label": "a"}]
        >>> found = labelled_tokens(rows, padding=0)
        >>> batch = found.collate_fn([found[0], found[1]])
        >>> batch["input_ids"].tolist(), batch["labels"].tolist()
        ([[5, 6, 7], [8, 0, 0]], [1, 0])
    """
    rows = [data[row] for row in range(len(data))]
    column = next((name for name in _LABELS if all(name in row for row in rows)), None)
    if column is None:
        raise ValueError(
            f"data: expected a label in each row of tokens, got {', '.join(rows[0])}; do name the "
            f"column label"
        )
    values = [row[column] for row in rows]
    labels, names = number_classes([_name(value) for value in values])
    encoded = [{name: row[name] for name in row if _is_of_tokens(row, name)} for row in rows]
    declared = getattr(getattr(data, "features", {}).get(column), "names", None)
    if declared is not None:  # of a ClassLabel, by number
        labels, names = torch.tensor(values), tuple(declared)
    about = About(type(data).__name__, str(getattr(data, "split", None) or "all"), names)
    return LabelledTokens(encoded, labels, about, padding=padding)  # type: ignore[arg-type]


def _name(label: object) -> str:
    """The name of a class: a text, or a number."""
    if isinstance(label, torch.Tensor) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise ValueError(
            f"labels: expected the number or the name of a class in each row, got {label!r}; do "
            f"give one for each example"
        )
    return str(label)


def _is_of_tokens(row: Mapping[str, object], name: str) -> bool:
    """True for the tokens, and for whatever there is one number of for each token."""
    ids, value = row[_IDS], row[name]
    if name in _LABELS or not isinstance(value, Sequence) or isinstance(value, str):
        return False
    return isinstance(ids, Sequence) and len(value) == len(ids)
