"""The first module that gives one input two outputs, found from the calls of two passes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from geocollapse.features.hooks import hooked


@dataclass(frozen=True)
class Moved:
    """A module whose output for an example differs between two passes, though its input does not.

    Attributes:
        name: of the module in its model.
        module: the module itself.
    """

    name: str
    module: nn.Module

    def __str__(self) -> str:
        name = repr(self.name) if self.name else "the model itself"
        return f"{name} ({type(self.module).__name__})"


def first_to_move(
    model: nn.Module,
    one: Callable[[], object],
    other: Callable[[], object],
    agree: Callable[[list[Tensor], list[Tensor]], bool],
) -> Moved | None:
    """The first module, in the order in which calls end, that gives one input two outputs.

    Args:
        model: the module that both passes run.
        one: the first pass.
        other: the second pass.
        agree: compares the tensors of a call in the first pass with those in the second.
    """
    calls = _calls(model, one)
    others = _calls(model, other)
    for (name, number), a in calls.items():
        b = others.get((name, number))
        if b is None or not a.inputs or not agree(a.inputs, b.inputs):
            continue
        if not agree(a.outputs, b.outputs):
            return Moved(name, model.get_submodule(name))
    return None


@dataclass(frozen=True)
class _Call:
    """The tensors that went into one call of a module, and those that came out."""

    inputs: list[Tensor]
    outputs: list[Tensor]


class _Recorder:
    """Every call of every module, by name and number, in the order in which they end."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, int], _Call] = {}
        self._open: defaultdict[str, list[list[Tensor]]] = defaultdict(list)
        self._n_ended: Counter[str] = Counter()

    def begin(
        self, name: str, _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        """Copy the inputs, since the module may work in place."""
        self._open[name].append(_clones((args, kwargs)))

    def end(self, name: str, _module: nn.Module, _args: tuple[object, ...], output: object) -> None:
        """Copy the outputs, and file the call."""
        self.calls[name, self._n_ended[name]] = _Call(self._open[name].pop(), _clones(output))
        self._n_ended[name] += 1


def _calls(model: nn.Module, run: Callable[[], object]) -> dict[tuple[str, int], _Call]:
    """The calls of all modules of ``model`` during ``run``."""
    recorder = _Recorder()
    named = list(model.named_modules())
    before = [(module, partial(recorder.begin, name)) for name, module in named]
    after = [(module, partial(recorder.end, name)) for name, module in named]
    with hooked(before=before, after=after):
        run()
    return recorder.calls


def _clones(value: object) -> list[Tensor]:
    """Copies of the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return [value.detach().clone()]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in _clones(part)]
    return []
