"""The labels of .parquet files: class numbers, with or without names, or the names themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from geocollapse.data.naming import number_classes
from geocollapse.data.parquet_shards import Shard

Labels = tuple[Tensor, tuple[str, ...], tuple[str, ...]]


def read_labels(shards: Sequence[Shard]) -> Labels:
    """Labels (n,) of the rows of all files, the name of class 0, 1, ..., and notes.

    Numbers with names in the metadata of Hugging Face keep both. Other numbers and names are
    numbered in order.

    Raises:
        ValueError: no rows, a row without a label, other types, numbers without a name, or files
            that disagree.
    """
    rows_of = {shard.path: _values(shard) for shard in shards if shard.n_rows}
    values = [value for rows in rows_of.values() for value in rows]
    if not values:
        raise ValueError(
            f"data: expected rows in {_files([shard.path for shard in shards])}, got none; do "
            f"check the files"
        )
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        raise ValueError(
            f"label_column: expected numbers or names in all files, got both in "
            f"{_files(list(rows_of))}; do write one kind"
        )
    names = _declared(shards)
    if names is not None and kinds == {int}:
        for path, rows in rows_of.items():
            _check_numbers([int(value) for value in rows], len(names), path)
        return torch.tensor(values, dtype=torch.int64), names, ()
    labels, names = number_classes([str(value) for value in values])
    has_gaps = kinds == {int} and list(names) != [str(i) for i in range(len(names))]
    return labels, names, (_gaps(names),) if has_gaps else ()


def _values(shard: Shard) -> list[int] | list[str]:
    """The labels of a file."""
    import pyarrow as pa

    column = shard.read_labels()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not (is_text or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise ValueError(
            f"label_column: expected integers or strings, got {column.type} in column "
            f"{shard.label_column} of {shard.path.name}; do label_column=NAME of another column"
        )
    values: list[int] | list[str] = column.to_pylist()
    _check_given(values, shard)
    return values


def _check_given(values: Sequence[int | str | None], shard: Shard) -> None:
    """Raise a ValueError if a row has no label."""
    empty = [row for row, value in enumerate(values) if value is None or not str(value).strip()]
    if empty:
        raise ValueError(
            f"data: expected a {shard.label_column} in each row of {shard.path.name}, got none in "
            f"{len(empty):,} of {len(values):,} rows, first in row {empty[0]}; do label or remove "
            f"them"
        )


def _declared(shards: Sequence[Shard]) -> tuple[str, ...] | None:
    """The names of classes that the metadata declare."""
    declared = {shard.class_names: shard.path for shard in shards if shard.n_rows}
    if len(declared) > 1:
        raise ValueError(
            f"data: expected the same names of classes in all files, got others in "
            f"{_files(list(declared.values()))}; do write them with the same features"
        )
    return next(iter(declared), None)


def _check_numbers(values: Sequence[int], n_classes: int, path: Path) -> None:
    """Raise a ValueError for a number without a name, such as the -1 of unlabelled test images."""
    wrong = [row for row, value in enumerate(values) if not 0 <= value < n_classes]
    if wrong:
        raise ValueError(
            f"data: expected class numbers from 0 to {n_classes - 1}, got others in "
            f"{len(wrong):,} of {len(values):,} rows of {path.name}, first {values[wrong[0]]} in "
            f"row {wrong[0]}; do label or remove them"
        )


def _gaps(names: Sequence[str]) -> str:
    """A note on class numbers that are not 0, 1, ..."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (
        f"classes: the labels {shown} are numbered 0 to {len(names) - 1}; outputs of a model that "
        f"keeps their numbers fit other classes"
    )


def _files(paths: Sequence[Path]) -> str:
    """The first and the last file."""
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} to {paths[-1].name}"
