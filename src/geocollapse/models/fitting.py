"""State dicts compared with a model: names, shapes, types, and prefixes that make all names fit."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]

_SHOWN = 5
_COUNT = "num_batches_tracked"


class Target:
    """A model that a state dict is to fit. The model itself is not changed.

    Args:
        model: the module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.wanted: State = model.state_dict()

    def fits(self, state: State) -> bool:
        """True if the model takes all of ``state``, and nothing in it is missing."""
        return not self.misfits(state) or self._takes(state)

    def misfits(self, state: State) -> list[str]:
        """The reasons why a state dict does not fit by its own names, shapes and types."""
        wanted = self.wanted
        both = [name for name in wanted if name in state]
        texts = {
            "missing": self._needed(name for name in wanted if name not in state),
            "unexpected": [name for name in state if name not in wanted],
            "other shape": [
                f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
                for name in both
                if state[name].shape != wanted[name].shape
            ],
            "other type": [
                f"{name} {state[name].dtype} instead of {wanted[name].dtype}"
                for name in both
                if not _is_kept(name, state[name], wanted[name])
            ],
        }
        return [f"{text} {some(names)}" for text, names in texts.items() if names]

    def prefixes(self, state: State) -> list[str]:
        """The prefixes under which all of the model's tensors are found."""
        parts = Counter(
            name[:place] for name in state for place in _places(name) if name[place:] in self.wanted
        )
        return [prefix for prefix, _ in parts.most_common() if self.fits(under(prefix, state))]

    def _needed(self, missing: Iterable[str]) -> list[str]:
        """The missing names that are needed.

        Batch normalisation's count of batches is not: files older than PyTorch 0.4.1 have none, and
        evaluation does not use it. Nor is a tensor tied to one that is there: safetensors holds it
        once.
        """
        absent = set(missing)
        there = {tensor.data_ptr() for name, tensor in self.wanted.items() if name not in absent}
        return [
            name
            for name in self.wanted
            if name in absent
            and self.wanted[name].data_ptr() not in there
            and not name.endswith(_COUNT)
        ]

    def _takes(self, state: State) -> bool:
        """True if ``load_state_dict`` itself makes the state fit.

        It renames the tensors of older versions, such as ``weight_g`` and ``weight_v`` of
        ``weight_norm``.
        """
        try:
            report = self._skeleton.load_state_dict(state, strict=False, assign=True)
        except RuntimeError:  # other shapes
            return False
        taken = self._skeleton.state_dict()
        is_whole = not report.unexpected_keys and not self._needed(report.missing_keys)
        return is_whole and all(_is_kept(name, taken[name], self.wanted[name]) for name in taken)

    @cached_property
    def _skeleton(self) -> nn.Module:
        """A copy of the model without numbers."""
        bare: dict[int, object] = {}
        for tensor in chain(self._model.parameters(), self._model.buffers()):
            empty = torch.empty_like(tensor, device="meta")
            is_parameter = isinstance(tensor, nn.Parameter)
            bare[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return copy.deepcopy(self._model, bare)


def under(prefix: str, state: State) -> State:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def some(names: list[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _places(name: str) -> list[int]:
    """The places behind each dot."""
    return [place + 1 for place, letter in enumerate(name) if letter == "."]


def _is_kept(name: str, tensor: Tensor, wanted: Tensor) -> bool:
    """True if a tensor keeps its values in the type of ``wanted``, up to their precision."""
    return _kind(tensor) == _kind(wanted) or name.endswith(_COUNT)


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "floating" if tensor.is_floating_point() else "whole"
