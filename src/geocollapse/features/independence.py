"""Whether a map treats its examples one by one: seen from what it does, not from the names of its
layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from geocollapse.features.borrow import borrowed
from geocollapse.features.rounding import equal, half_of, rounding_of
from geocollapse.inputs import Enter, Inputs, Take, dtype_of, n_rows, rows_of

_Run = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class _Look:
    """A pass and a row of it, and another pass and row in which all must be the same, to rounding.

    In one row of passes of one shape the same kernels run, which on a CPU agree to the last bit
    (where a router does not send other rows along): there every coordinate is held to its own size,
    so that a large one hides nothing. Other rows add in another order, with errors as large as the
    terms: there it is the largest coordinate's size.
    """

    one: str
    row: int
    other: str
    other_row: int

    def is_same(self, one: list[Tensor], other: list[Tensor], tolerance: float) -> bool:
        """Whether what belongs to the row in one pass is what belongs to the other row in the other
        pass.
        """
        if [a.shape for a in one] != [b.shape for b in other]:
            return False
        parts = [
            (half_of(a, self.row), half_of(b, self.other_row))
            for a, b in zip(one, other, strict=True)
        ]
        return all(
            equal(a, b, tolerance, by_coordinate=self.row == self.other_row) for a, b in parts
        )


_LOOKS = (_Look("as given", 0, "first twice", 0), _Look("as given", 1, "second twice", 1))
_COPIES = _Look("second twice", 0, "second twice", 1)
_AGAIN = (_Look("as given", 0, "as given", 0), _Look("as given", 1, "as given", 1))


def check_independence(
    enter: Enter,
    inputs: Inputs,
    module: nn.Module | None = None,
    *,
    dtype: torch.dtype | None = None,
    is_random: bool = False,
    remedy: str | None = None,
) -> None:
    """Refuse a map in which one example's features depend on the others of its batch, or on chance.

    The Jacobian of one example exists only if its features are a function of itself alone. Two
    examples go through the map. Then a copy of the first one takes the second one's place: the
    first one's features must stay. Then a copy of the second one takes the first one's place, and a
    router's places before it: the second one's features must stay, and be those of its copy. Copies
    are examples that the map takes; where both examples are the same, noise on the second one
    stands for the first copy. Not seen: what moves the features by less than rounding, or shows in
    larger batches only (a router with places for two). With one example there is nothing to mix,
    and nothing is checked.

    Cost: three forward passes of two examples. Model, buffers and random state are left as they
    were.

    Source: definitions 1.

    Args:
        enter: from inputs to the map of these examples, x (n, ...) to the features (n, p) of each
            layer and an output, and the x that it starts from.
        inputs: the first two examples are used.
        module: the model behind the map, whose modules can be named; None for a callable.
        dtype: the coarsest precision inside the map (autocast); by default that of the model, or of
            x.
        is_random: the map may draw at random, as in training: every pass draws the same numbers.
        remedy: what to do instead, by default for a measurement.

    Raises:
        RuntimeError: names the first module whose output moved while its input did not, and the
        remedy.

    Examples:
        >>> f = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
        >>> check_independence(lambda x: (lambda z: ([f(z)], None), x), torch.randn(5, 3), f)
        >>> def centred(z):
        ...     return [f(z - z.mean(dim=0))], None
        >>> try:
        ...     check_independence(lambda x: (centred, x), torch.randn(5, 3))
        ... except RuntimeError as error:
        ...     print(str(error).split(",")[0])
        model: expected examples that do not influence each other
    """
    if n_rows(inputs) < 2:
        return
    with borrowed(module, evaluation=False), torch.no_grad():
        runs, x = _passes(enter, inputs, module, is_random=is_random)
        tolerance = rounding_of(dtype or dtype_of(module) or x.dtype)
        features = {name: run() for name, run in runs.items()}
        if not all(bool(torch.isfinite(z).all()) for z in features["as given"]):
            return  # refused where they are measured
        looks = _LOOKS if is_random else (*_LOOKS, _COPIES)  # copies draw other numbers
        moved = [
            look
            for look in looks
            if not look.is_same(features[look.one], features[look.other], tolerance)
        ]
        if not moved:
            return
        given, again = features["as given"], runs["as given"]()
        if all(look.is_same(given, again, tolerance) for look in _AGAIN):
            raise _mixed(_first_to_move(module, runs, moved[0], tolerance), remedy)
        raise _by_chance(_first_to_move(module, runs, _AGAIN[0], tolerance), remedy)


def _passes(
    enter: Enter, inputs: Inputs, module: nn.Module | None, *, is_random: bool
) -> tuple[dict[str, _Run], Tensor]:
    """The three passes by name, and x of the first."""

    def run(take: Take, z: Tensor) -> list[Tensor]:
        with borrowed(module, evaluation=False) if is_random else nullcontext():
            return [
                features.detach().clone() for features in take(z.clone())[0]
            ]  # it may work in place

    rows = {"as given": [0, 1], "first twice": [0, 0], "second twice": [1, 1]}
    entered = {
        name: enter(rows_of(inputs, torch.tensor(numbers))) for name, numbers in rows.items()
    }
    starts = {name: x.detach() for name, (_, x) in entered.items()}
    if torch.equal(starts["as given"], starts["first twice"]):
        starts["first twice"] = _with_noise(starts["first twice"])
    runs: dict[str, _Run] = {
        name: partial(run, take, starts[name]) for name, (take, _) in entered.items()
    }
    return runs, starts["as given"]


def _with_noise(pair: Tensor) -> Tensor:
    """The pair with noise on its second example, as large as the example is."""
    noise = torch.randn(pair[1].shape, generator=torch.Generator().manual_seed(0)).to(pair)
    size = pair[1].abs().max() if pair[1].numel() else pair.new_ones(())
    changed = pair.clone()
    changed[1] += noise * torch.where(size > 0, size, torch.ones_like(size))
    return changed


_Found = tuple[str, nn.Module] | None


def _by_chance(found: _Found, remedy: str | None) -> RuntimeError:
    is_training = found is not None and found[1].training
    usual = (
        "do model.eval() first" if is_training else "do switch it off (F.dropout takes training=)"
    )
    return RuntimeError(
        f"model: expected the same features of the same examples each time, got features that "
        f"change by chance, "
        f"{_place(found)}; {remedy or usual}"
    )


def _mixed(found: _Found, remedy: str | None) -> RuntimeError:
    is_training = found is not None and found[1].training
    usual = (
        "do model.eval() first"
        if is_training
        else "do measure a layer before it, or one example at a time"
    )
    draws = found is not None and isinstance(
        found[1], nn.RReLU
    )  # one number for each negative entry
    return RuntimeError(
        f"model: expected examples that do not influence each other, got features of one example "
        f"that move with "
        f"another one, {_place(found)}: "
        f"{'random draws that hang on the data' if draws else 'a batch-wise layer'}; "
        f"{remedy or usual}"
    )


def _place(found: _Found) -> str:
    if found is None:
        return "somewhere in the map"
    name, module = found
    return f"first at {repr(name) if name else 'the model itself'} ({type(module).__name__})"


@dataclass(frozen=True)
class _Call:
    """What went into one call of a module, and what came out."""

    inputs: list[Tensor]
    outputs: list[Tensor]


def _first_to_move(
    module: nn.Module | None, runs: Mapping[str, _Run], look: _Look, tolerance: float
) -> _Found:
    """The first module, in the order they end, whose output moved for an example although its input
    did not.
    """
    if module is None:
        return None
    passes = []
    for name in (look.one, look.other):
        with _calls(module) as calls:
            runs[name]()
        passes.append(calls)
    for (name, number), a in passes[0].items():
        b = passes[1].get((name, number))
        if b is None or not a.inputs or not look.is_same(a.inputs, b.inputs, tolerance):
            continue
        if not look.is_same(a.outputs, b.outputs, tolerance):
            return name, module.get_submodule(name)
    return None


@contextmanager
def _calls(model: nn.Module) -> Iterator[dict[tuple[str, int], _Call]]:
    """Every call of every module, by name and number, in the order in which they end."""
    calls: dict[tuple[str, int], _Call] = {}
    open_calls: dict[str, list[list[Tensor]]] = {name: [] for name, _ in model.named_modules()}
    ended = dict.fromkeys(open_calls, 0)

    def begin(name: str) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            open_calls[name].append(_clones((args, kwargs)))  # a copy: the module may work in place

        return hook

    def end(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            calls[name, ended[name]] = _Call(open_calls[name].pop(), _clones(output))
            ended[name] += 1

        return hook

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(begin(name), with_kwargs=True))
        handles.append(module.register_forward_hook(end(name)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _clones(value: Any) -> list[Tensor]:
    """Copies of the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return [value.detach().clone()]
    parts = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, tuple | list)
        else ()
    )
    return [tensor for part in parts for tensor in _clones(part)]
