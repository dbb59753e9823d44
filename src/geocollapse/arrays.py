"""Features and labels as arrays: checked once on entry, read in chunks that fit the cache."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geocollapse.numerics import NO_FLOAT64, check_finite

Array = Tensor | np.ndarray
# Class labels as a caller gives them, one for each example: integers, or names of classes.
Labels = Array | Sequence[int] | Sequence[str]

# float64 numbers held at a time on the CPU: 2 MiB, so that every pass over them is in cache
CHUNK_NUMBERS = 1 << 18
DEVICE_CHUNK_NUMBERS = 1 << 26  # on an accelerator large chunks keep the kernels busy: 512 MiB


def as_tensor(name: str, array: Array) -> Tensor:
    """Return ``array`` as a detached tensor that shares its memory.

    MPS has no float64, so its tensors are copied to the CPU.

    Raises:
        TypeError: neither a tensor nor a numpy array.
    """
    if isinstance(array, np.ndarray):
        array = array.astype(array.dtype.newbyteorder("="), copy=False)  # files may be big-endian
        with warnings.catch_warnings():  # a read-only (memory-mapped) array is only read here
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(np.ascontiguousarray(array))
    if not isinstance(array, Tensor):
        raise TypeError(
            f"{name}: expected a torch.Tensor or numpy.ndarray, got {type(array).__name__}; do "
            f"torch.tensor({name})"
        )
    return array.detach().cpu() if array.device.type in NO_FLOAT64 else array.detach()


def as_features(features: Array) -> Tensor:
    """Return ``features`` as a floating point tensor (n, p).

    Raises:
        TypeError: not floating point.
        ValueError: not two-dimensional, or without a column.
    """
    tensor = as_tensor("features", features)
    if not tensor.is_floating_point():
        raise TypeError(
            f"features: expected floating point numbers, got {tensor.dtype}; do features.float()"
        )
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ValueError(
            f"features: expected shape (n, p), got {tuple(tensor.shape)}; do features.flatten(1)"
        )
    return tensor


def as_labels(labels: object, n_examples: int | None = None) -> Tensor:
    """Return class labels, any integers or names, as an int64 tensor (n,).

    Names are numbered 0..C-1 in alphabetical order.

    Raises:
        TypeError: neither integers nor names.
        ValueError: not one label for each example.
    """
    return as_classes(labels, n_examples)[0]


def as_classes(
    labels: object, n_examples: int | None = None
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Return class labels as ``as_labels`` does, and the names of classes 0..C-1 if they are names.

    Raises:
        TypeError: neither integers nor names.
        ValueError: not one label for each example.
    """
    named = numbered(labels)
    if named is None:
        given = labels if isinstance(labels, Tensor | np.ndarray) else np.asarray(labels)
        return _checked_labels(as_tensor("labels", given), n_examples), None
    return _checked_labels(named[0], n_examples), named[1]


def numbered(labels: object) -> tuple[Tensor, tuple[str, ...]] | None:
    """Names of classes as numbers in alphabetical order, and the names; None for other labels.

    Raises:
        TypeError: names beside something else, or objects that are neither.
    """
    names = _names(labels)
    if names is None:
        return None
    classes, numbers = np.unique(names, return_inverse=True)
    return torch.from_numpy(numbers.reshape(names.shape)).long(), tuple(classes.tolist())


def refuse_names(labels: object, wanted: str) -> None:
    """Refuse names of classes where their numbers have a meaning.

    Raises:
        TypeError: says which numbers are ``wanted``.
    """
    named = numbered(labels)
    if named is not None:
        raise TypeError(
            f"labels: expected {wanted}, got names such as {named[1][0]!r}; do number the classes"
        )


def _names(labels: object) -> NDArray[np.str_] | None:
    """Labels that are names; None for numbers."""
    if isinstance(labels, Tensor):
        return None
    given = labels if isinstance(labels, np.ndarray) else np.asarray(labels)
    if given.dtype.kind not in "OUST" or not given.size:
        return None
    # numpy makes names of the numbers in a list of both
    is_list = isinstance(labels, list | tuple) and given.ndim == 1
    values = list(labels) if is_list else given.ravel().tolist()  # type: ignore[call-overload]
    others = [value for value in values if not isinstance(value, str)]
    if not others:
        return given.astype(np.str_)
    name = next((value for value in values if isinstance(value, str)), None)
    got = f"{others[0]!r}" if name is None else f"{name!r} beside {others[0]!r}"
    raise TypeError(
        f"labels: expected integers, or names alone, one class for each example, got {got}; do "
        f"np.array(labels, dtype=int), or dtype=str"
    )


def _checked_labels(tensor: Tensor, n_examples: int | None) -> Tensor:
    if tensor.ndim != 1 or n_examples not in (None, len(tensor)):
        wanted = "(n,)" if n_examples is None else f"({n_examples},)"
        raise ValueError(
            f"labels: expected shape {wanted}, one class for each example, got "
            f"{tuple(tensor.shape)}; do {_flattening(tensor)}"
        )
    if tensor.is_floating_point() or tensor.is_complex():
        raise TypeError(
            f"labels: expected integers, one class for each example, got {tensor.dtype}; do "
            f"labels.long() if they are class numbers"
        )
    return tensor.long()


def _flattening(tensor: Tensor) -> str:
    """The expression that makes (n,) labels of ``tensor``."""
    if tensor.ndim == 2:
        return "labels.squeeze(1)" if tensor.shape[1] == 1 else "labels.argmax(dim=1) if one-hot"
    return "pass one class number for each example"


def as_list(values: Iterable[object]) -> list[object]:
    """The entries as plain Python values, as a data set hands them to its ``target_transform``."""
    if isinstance(values, Tensor | np.ndarray):
        entries: list[object] = values.tolist()
        return entries
    return list(values)


def check_no_negative(labels: Tensor, remedy: str) -> None:
    """Refuse negative labels, which often stand for "no class"; ``remedy`` may name the {value}.

    Raises:
        ValueError: names the first one, and how many there are.
    """
    is_negative = labels < 0
    if bool(is_negative.any()):
        negative = labels[is_negative]
        value = int(negative[0])
        raise ValueError(
            f"labels: expected classes 0, 1, ..., got {value} for {len(negative)} of {len(labels)} "
            f"examples; do {remedy.format(value=value)}"
        )


def labelled_arrays(
    features: Array, labels: Labels, num_classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return checked features (n, p) and labels (n,) on one device.

    The checks cost one synchronisation with an accelerator.

    Raises:
        TypeError: see ``as_features`` and ``as_labels``.
        ValueError: wrong shapes, NaN or infinite features, a negative label, or one outside
            0..num_classes - 1.
    """
    check_num_classes(num_classes)
    x = as_features(features)
    y = as_labels(labels, len(x)).to(x.device)
    if len(x) and not bool(_is_valid(x, y, num_classes)):
        check_finite("features", x)
        _check_range(y, num_classes)
    return x, y


def check_num_classes(num_classes: int | None) -> None:
    """Raise a ValueError for a declared number of classes below 1."""
    if num_classes is not None and num_classes < 1:
        raise ValueError(
            f"num_classes: expected a positive number or None, got {num_classes}; do "
            "num_classes=None"
        )


def row_slices(n_rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Yield consecutive slices of rows that make one chunk each, at ``width`` numbers a row."""
    numbers = CHUNK_NUMBERS if device.type == "cpu" else DEVICE_CHUNK_NUMBERS
    step = max(1, numbers // max(1, width))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _is_valid(x: Tensor, y: Tensor, num_classes: int | None) -> Tensor:
    valid = torch.isfinite(x.sum()) & (y.min() >= 0)
    return valid if num_classes is None else valid & (y.max() < num_classes)


def _check_range(y: Tensor, num_classes: int | None) -> None:
    check_no_negative(y, "keep = labels != {value}, then features[keep] and labels[keep]")
    if num_classes is None:
        return
    outside = y[y >= num_classes]
    if len(outside):
        raise ValueError(
            f"labels: expected integers from 0 to {num_classes - 1} (num_classes={num_classes}), "
            f"got {int(outside[0])} ({len(outside)} of {len(y)} outside); "
            "do drop these examples, or num_classes=None to discover the classes"
        )
