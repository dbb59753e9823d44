"""A place in a model by its name, and what passes through it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from geocollapse.features.outputs import part_names, part_of
from geocollapse.features.wrapped import uncompiled_name

_PART = re.compile(r"(?P<name>[^\[\]]*)\[(?P<part>\w+)\]")


@dataclass(frozen=True)
class Layer:
    """A place in a model: the output of the module ``name``, or its input. Written ``NAME`` or
    ``NAME:in``.

    Of an output that is a tuple or a mapping one ``part`` is taken: ``NAME[0]``,
    ``NAME[last_hidden_state]``, and of the model's own output ``[pooler_output]``. The names are
    those of a model before ``torch.compile``.
    """

    name: str
    side: Literal["out", "in"] = "out"
    part: str | None = None

    def __str__(self) -> str:
        part = "" if self.part is None else f"[{self.part}]"
        return f"{uncompiled_name(self.name)}{part}{':in' if self.side == 'in' else ''}"

    @property
    def is_output(self) -> bool:
        """Whether this is the model's own output, or a part of it."""
        return not self.name and self.side == "out"

    @classmethod
    def find(cls, model: nn.Module, text: str) -> Layer:
        """The layer that ``text`` names.

        Raises:
            ValueError: no module of that name; the nearest names are listed.
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


@contextmanager
def taps(model: nn.Module, taken: dict[Layer, list[Any]]) -> Iterator[None]:
    """Append to ``taken`` what passes through its layers; later in-place operations do not reach
    what was taken.
    """
    handles = []
    for layer, seen in taken.items():
        if layer.is_output:
            continue
        module = model.get_submodule(layer.name)
        if layer.side == "in":
            handles.append(module.register_forward_pre_hook(_take_input(seen), with_kwargs=True))
        else:
            hook = _take_output(seen) if layer.part is None else _take_part(seen, layer)
            handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def the_tensor(layer: Layer, seen: list[Any]) -> Tensor:
    if len(seen) != 1:
        raise RuntimeError(
            f"layer: expected {str(layer)!r} to run once in a forward pass, it ran {len(seen)} "
            f"times; "
            f"do name a layer that is used once"
        )
    if not isinstance(seen[0], Tensor):
        raise TypeError(
            f"layer: expected {str(layer)!r} to give one tensor, got {type(seen[0]).__name__}; "
            f"do name a part of it{_listed(str(layer), seen[0])}, or a layer inside or after it"
        )
    return seen[0]


def _take_input(seen: list[Any]) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen.append(next(iter([*args, *kwargs.values()]), None))
        if not args or not isinstance(args[0], Tensor):
            return None
        return (args[0].clone(), *args[1:]), kwargs

    return hook


def _take_output(seen: list[Any]) -> Any:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        seen.append(output)
        return output.clone() if isinstance(output, Tensor) else None

    return hook


def _take_part(seen: list[Any], layer: Layer) -> Any:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        part = part_of(output, str(layer.part), uncompiled_name(layer.name))
        seen.append(
            part.clone() if isinstance(part, Tensor) else part
        )  # the layers behind go on with the original

    return hook


def _listed(layer: str, output: Any) -> str:
    """The parts of an output that are tensors, as they are asked for."""
    names = [repr(f"{layer}[{name}]") for name in part_names(output)]
    return f" ({', '.join(names)})" if names else ""
