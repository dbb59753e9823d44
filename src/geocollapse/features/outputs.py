"""What a model, or a layer, returns: one tensor, or a tuple or a mapping of which one part is
meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def part_of(output: Any, part: str, layer: str) -> Any:
    """The entry of a tuple, or of a mapping such as a transformers output, that ``layer[part]``
    names.

    Raises:
        ValueError: no such entry (those there are listed).
    """
    entries = _entries(output)
    if part not in entries:
        listed = " or ".join(repr(f"{layer}[{name}]") for name in _tensors(entries)) or repr(layer)
        raise ValueError(
            f"layer: expected a part of what {layer!r} gives, got {part!r}; do layer={listed}"
        )
    return entries[part]


def part_names(output: Any) -> list[str]:
    """The entries of an output that are tensors."""
    return list(_tensors(_entries(output)))


def main_output(output: Any) -> Any:
    """The output that a classifier gives: ``logits``, the only tensor of a mapping, or the first
    one of a tuple.

    An output that is one tensor is that; anything else comes back as it is.

    Examples:
        >>> import torch
        >>> logits = torch.zeros(2, 3)
        >>> main_output({"loss": torch.zeros(()), "logits": logits}) is main_output((logits, logits[0])) is logits
        True
    """
    if isinstance(output, Tensor):
        return output
    entries = _entries(output)
    tensors = _tensors(entries)
    if isinstance(entries.get("logits"), Tensor):
        return entries["logits"]
    if tensors and (len(tensors) == 1 or isinstance(output, tuple | list)):
        return next(iter(tensors.values()))
    return output


def _entries(output: Any) -> dict[str, Any]:
    """By their names in a mapping or a named tuple, by their places in a tuple."""
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if not isinstance(output, tuple | list):
        return {}
    named = dict(zip(getattr(output, "_fields", ()), output))
    return {str(place): value for place, value in enumerate(output)} | named


def _tensors(entries: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in entries.items() if isinstance(value, Tensor)}
