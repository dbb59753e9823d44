"""A place in a model, by name, and taps on the tensors that pass through it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from geocollapse.features.hooks import ForwardHook, PreHook, hooked
from geocollapse.features.outputs import part_names, part_of
from geocollapse.modules.wrapped import uncompiled_name

_PART = re.compile(r"(?P<name>[^\[\]]*)\[(?P<part>\w+)\]")


@dataclass(frozen=True)
class Layer:
    """The output of the module ``name``, written ``NAME``, or its input, written ``NAME:in``.

    A ``part`` is one entry of an output that is a tuple or a mapping: ``NAME[0]``,
    ``NAME[last_hidden_state]``, or ``[pooler_output]`` of the model's own output. Names are those
    before ``torch.compile``.
    """

    name: str
    side: Literal["out", "in"] = "out"
    part: str | None = None

    def __str__(self) -> str:
        part = "" if self.part is None else f"[{self.part}]"
        return f"{uncompiled_name(self.name)}{part}{':in' if self.side == 'in' else ''}"

    @property
    def is_output(self) -> bool:
        """True for the model's own output, or a part of it."""
        return not self.name and self.side == "out"

    @classmethod
    def find(cls, model: nn.Module, text: str) -> Layer:
        """Find the layer that ``text`` names.

        Raises:
            ValueError: no module has that name; the nearest names are listed.
        """
        side: Literal["out", "in"] = "in" if text.endswith(":in") else "out"
        found = _PART.fullmatch(text) if side == "out" else None
        name, part = (found["name"], found["part"]) if found else (text.removesuffix(":in"), None)
        names: dict[str, str] = {}
        for known, _ in model.named_modules(remove_duplicate=False):
            names.setdefault(uncompiled_name(known), known)
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or list(names)[1:4]
            hint = " or ".join(repr(known) for known in near)
            raise ValueError(f"layer: expected the name of a module, got {name!r}; do layer={hint}")
        return cls(names[name], side, part)


def taps(model: nn.Module, taken: Mapping[Layer, list[object]]) -> AbstractContextManager[None]:
    """Append what passes through each layer to its list in ``taken``, while the block runs.

    What is taken is a copy: later in-place operations do not change it, and the model goes on with
    its own tensors, which may share memory. The model's own output does not pass through a hook,
    and is left to the caller.
    """
    before: list[tuple[nn.Module, PreHook]] = []
    after: list[tuple[nn.Module, ForwardHook]] = []
    for layer, seen in taken.items():
        if layer.is_output:
            continue
        module = model.get_submodule(layer.name)
        if layer.side == "in":
            before.append((module, partial(_take_input, seen)))
        elif layer.part is None:
            after.append((module, partial(_take_output, seen)))
        else:
            after.append((module, partial(_take_part, seen, layer)))
    return hooked(before=before, after=after)


def only_tensor(layer: Layer, seen: Sequence[object]) -> Tensor:
    """The one tensor that passed through a layer.

    Raises:
        RuntimeError: the layer ran more than once, or never.
        TypeError: it returned something other than one tensor.
    """
    if len(seen) != 1:
        raise RuntimeError(
            f"layer: expected {str(layer)!r} to run once in a forward pass, got {len(seen)} runs; "
            f"do name a layer that is used once"
        )
    tensor = seen[0]
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"layer: expected {str(layer)!r} to return one tensor, got {type(tensor).__name__}; "
            f"do name a part of it{_listed(str(layer), tensor)}, or a layer inside or after it"
        )
    return tensor


def _take_input(
    seen: list[object], _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Take the first argument."""
    seen.append(_copy(next(iter([*args, *kwargs.values()]), None)))


def _take_output(
    seen: list[object], _module: nn.Module, _args: tuple[object, ...], output: object
) -> None:
    """Take the output."""
    seen.append(_copy(output))


def _take_part(
    seen: list[object],
    layer: Layer,
    _module: nn.Module,
    _args: tuple[object, ...],
    output: object,
) -> None:
    """Take one part of the output."""
    seen.append(_copy(part_of(output, str(layer.part), uncompiled_name(layer.name))))


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


def _listed(layer: str, output: object) -> str:
    """The parts of an output that are tensors, as a caller would name them."""
    names = [repr(f"{layer}[{name}]") for name in part_names(output)]
    return f" ({', '.join(names)})" if names else ""
