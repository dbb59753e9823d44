"""Named arrays and one text in a file: ``.safetensors``, ``.npz``, and ``.pt`` for reading only.

A ``.safetensors`` file is mapped when it is read.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from geocollapse.arrays import numbered

_TEXT = "geocollapse"  # the name of the text among the arrays
_LABELS = "labels"


class Content(NamedTuple):
    """The arrays that were asked for, the names of the others, and the text, if any.

    Labels that are names of classes are numbered; ``class_names`` are then those of class 0, 1, ...
    """

    arrays: dict[str, Tensor]
    others: list[str]
    text: str | None
    class_names: tuple[str, ...] | None = None


def check_ending(path: str | Path, *, argument: str = "path") -> None:
    """Raise a ValueError for a file that ``write_arrays`` cannot write."""
    if Path(path).suffix not in _WRITERS:
        raise ValueError(
            f"{argument}: expected a file ending in {' or '.join(_WRITERS)}, got {str(path)!r}; do "
            f"features.safetensors"
        )


def write_arrays(path: Path, ending: str, arrays: Mapping[str, Tensor], text: str) -> None:
    """Write a file of the kind of ``ending`` to ``path``, which may end otherwise."""
    _WRITERS[ending](path, arrays, text)


def read_arrays(path: Path, names: Collection[str]) -> Content:
    """The arrays of ``names`` that a file holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a damaged file, pickled code (never run).
        TypeError: an array that does not hold numbers, other than names as labels.
    """
    from safetensors import SafetensorError

    if not path.is_file():
        raise FileNotFoundError(
            f"features: expected a file, got {str(path)!r}, which does not exist; do check it"
        )
    if path.suffix not in _READERS:
        raise ValueError(
            f"features: expected a file ending in {', '.join(_READERS)}, got {path.name!r}; do "
            f"convert it"
        )
    try:
        return _READERS[path.suffix](path, names)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"features: expected tensors only, got pickled code (not run) or a damaged file in "
            f"{path.name}; "
            f"do torch.save({{'features': features, 'labels': labels}}, 'features.pt') where the "
            f"file was made"
        ) from error
    except (
        SafetensorError,
        zipfile.BadZipFile,
        EOFError,
        KeyError,
        RuntimeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"features: expected a readable file, got {path.name} ({type(error).__name__}: "
            f"{error}); "
            f"do write it again, with arrays of numbers, or of np.str_ for labels"
        ) from error


def _read_safetensors(path: Path, names: Collection[str]) -> Content:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        present = list(file.keys())
        arrays = {name: file.get_tensor(name) for name in present if name in names}
        return _content(arrays, present, (file.metadata() or {}).get(_TEXT))


def _read_npz(path: Path, names: Collection[str]) -> Content:
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files if name in names}
        return _with_names(found, file.files, str(file[_TEXT]) if _TEXT in file.files else None)


def _read_pt(path: Path, names: Collection[str]) -> Content:
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping):
        raise ValueError(f"it holds a {type(found).__name__}, not a dictionary of tensors")
    arrays = {name: found[name] for name in found if name in names}
    return _with_names(arrays, [str(name) for name in found], None)


def _with_names(found: Mapping[str, object], present: Collection[str], text: str | None) -> Content:
    """The content of a file whose labels may be names."""
    named = numbered(found[_LABELS]) if _LABELS in found else None
    arrays = {
        name: _as_tensor(name, array)
        for name, array in found.items()
        if named is None or name != _LABELS
    }
    if named is None:
        return _content(arrays, present, text)
    labels, class_names = named
    return _content({**arrays, _LABELS: labels}, present, text)._replace(class_names=class_names)


def _content(arrays: dict[str, Tensor], present: Collection[str], text: str | None) -> Content:
    return Content(arrays, [name for name in present if name not in arrays and name != _TEXT], text)


def _as_tensor(name: str, array: object) -> Tensor:
    try:
        return torch.as_tensor(array)
    except TypeError:
        raise TypeError(
            f"{name}: expected numbers, got {np.asarray(array).dtype}; do store class numbers"
        ) from None


def _write_safetensors(path: Path, arrays: Mapping[str, Tensor], text: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(arrays), path, metadata={_TEXT: text})
    except SafetensorError as error:  # "... No space left on device (os error 28)"
        number = re.search(r"os error (\d+)", str(error))
        code = errno.EIO if number is None else int(number[1])
        raise OSError(code, os.strerror(code)) from error


def _write_npz(path: Path, arrays: Mapping[str, Tensor], text: str) -> None:
    plain: dict[str, Any] = {_TEXT: np.array(text)}
    for name, array in arrays.items():  # numpy has no bfloat16; float32 holds the same numbers
        plain[name] = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    with path.open("wb") as file:
        np.savez(file, **plain)


_WRITERS: dict[str, Callable[[Path, Mapping[str, Tensor], str], None]] = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
}
_READERS: dict[str, Callable[[Path, Collection[str]], Content]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pt": _read_pt,
}
