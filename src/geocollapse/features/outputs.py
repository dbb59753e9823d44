"""The parts of an output, of a model or a layer: one tensor, a tuple or a mapping."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def part_of(output: object, part: str, layer: str) -> object:
    """The entry ``layer[part]`` of a tuple, or of a mapping such as a transformers output.

    Raises:
        ValueError: there is no such entry; the entries that are tensors are listed.
    """
    entries = _entries(output)
    if part not in entries:
        listed = " or ".join(repr(f"{layer}[{name}]") for name in _tensors(entries)) or repr(layer)
        raise ValueError(
            f"layer: expected a part of the output of {layer!r}, got {part!r}; do layer={listed}"
        )
    return entries[part]


def part_names(output: object) -> list[str]:
    """The names of the entries of an output that are tensors."""
    return list(_tensors(_entries(output)))


def main_output(output: object) -> object:
    """The output of the classifier: ``logits``, a mapping's only tensor, or a tuple's first one.

    A single tensor is its own main output; anything else is returned unchanged.

    Examples:
        >>> import torch
        >>> logits, hidden = torch.zeros(2, 3), torch.zeros(2, 5)
        >>> main_output({"hidden": hidden, "logits": logits}) is logits
        True
        >>> main_output((logits, hidden)) is logits
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


def _entries(output: object) -> dict[str, object]:
    """The entries by name in a mapping or a named tuple, and by place in a tuple."""
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if not isinstance(output, tuple | list):
        return {}
    named = dict(zip(getattr(output, "_fields", ()), output))
    return {str(place): value for place, value in enumerate(output)} | named


def _tensors(entries: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: value for name, value in entries.items() if isinstance(value, Tensor)}
