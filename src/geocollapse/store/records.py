"""Records of numbers and tensors as named arrays and one JSON text, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor

Kinds = Mapping[str, Callable[..., object]]


def packed(record: object) -> tuple[dict[str, Tensor], str]:
    """The tensors of a record by number, and all else as JSON.

    A record is made of dataclasses and named tuples, mappings, tuples, texts, numbers, None and
    tensors.

    Raises:
        TypeError: a value of another type.
    """
    arrays: dict[str, Tensor] = {}
    return arrays, json.dumps(_packed(record, arrays))


def unpacked(arrays: Mapping[str, Tensor], text: str, kinds: Kinds) -> object:
    """The record that was packed.

    Args:
        arrays: by number.
        text: the JSON.
        kinds: the classes of the record by their names.

    Raises:
        ValueError: a text that ``packed`` did not write, or of other classes.
    """
    try:
        return _unpacked(json.loads(text), arrays, kinds)
    except (KeyError, TypeError) as error:
        raise ValueError(f"text: expected that of a packed record, got {text[:80]!r}") from error


def _packed(value: object, arrays: dict[str, Tensor]) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = str(len(arrays))
        arrays[name] = value.detach().cpu().contiguous().clone()  # no two may share memory
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[_packed(k, arrays), _packed(v, arrays)] for k, v in value.items()]}
    if is_dataclass(value) and not isinstance(value, type):
        found = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        found = value._asdict()
    elif isinstance(value, tuple):
        return [_packed(part, arrays) for part in value]
    else:
        raise TypeError(f"record: expected numbers, texts and tensors, got {type(value).__name__}")
    parts = {name: _packed(part, arrays) for name, part in found.items()}
    return {"kind": type(value).__name__, "fields": parts}


def _unpacked(value: object, arrays: Mapping[str, Tensor], kinds: Kinds) -> object:
    if isinstance(value, list):
        return tuple(_unpacked(part, arrays, kinds) for part in value)
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return arrays[value["tensor"]]
    if "items" in value:
        return {_unpacked(k, arrays, kinds): _unpacked(v, arrays, kinds) for k, v in value["items"]}
    parts = {name: _unpacked(part, arrays, kinds) for name, part in value["fields"].items()}
    return kinds[value["kind"]](**parts)
