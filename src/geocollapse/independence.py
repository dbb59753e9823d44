"""Whether a map treats its examples one by one: seen from what it does, not from the names of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from geocollapse.batches import Inputs, n_rows, rows_of
from geocollapse.borrow import borrowed, dtype_of

_Take = Callable[[Tensor], tuple[list[Tensor], Any]]  # jacobian.Take, which is further down
_Run = Callable[[], list[Tensor]]
_Look = tuple[str, int, str, int]  # a pass and the row looked at, and another pass and row in which it must be the same

_LOOKS: tuple[_Look, ...] = (("as given", 0, "second perturbed", 0), ("as given", 1, "second twice", 1))
_COPIES: _Look = ("second twice", 0, "second twice", 1)


def check_rows_independent(
    enter: Callable[[Any], tuple[_Take, Tensor]],
    inputs: Inputs,
    module: nn.Module | None = None,
    *,
    dtype: torch.dtype | None = None,
    is_random: bool = False,
    remedy: str | None = None,
) -> None:
    """Refuse a map in which one example's features depend on the others of its batch, or on chance.

    The Jacobian of one example exists only if its features are a function of itself alone. Two examples go through the
    map. Then the second one is perturbed at random, by as much as it is large: the first one's features must stay. Then
    the first one becomes a copy of the second, which takes a router's places before it: the second one's features must
    stay, and be those of its copy. Not seen: what moves the features by less than rounding, or shows in larger batches
    only (a router with places for two). With one example there is nothing to mix, and nothing is checked.

    Cost: three forward passes of two examples. Model, buffers and random state are left as they were.

    Source: definitions 1.

    Args:
        enter: from inputs to the map of these examples, x (n, ...) to the features (n, p) of each layer and an
            output, and the x that it starts from.
        inputs: the first two examples are used.
        module: the model behind the map, whose modules can be named; None for a callable.
        dtype: the coarsest precision inside the map (autocast); by default that of the model, or of x.
        is_random: the map may draw at random, as in training: every pass draws the same numbers.
        remedy: what to do instead, by default for a measurement.

    Raises:
        RuntimeError: names the first module whose output moved while its input did not, and the remedy.

    Examples:
        >>> f = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
        >>> check_rows_independent(lambda x: (lambda z: ([f(z)], None), x), torch.randn(5, 3), f)
        >>> def centred(z):
        ...     return [f(z - z.mean(dim=0))], None
        >>> try:
        ...     check_rows_independent(lambda x: (centred, x), torch.randn(5, 3))
        ... except RuntimeError as error:
        ...     print(str(error).split(",")[0])
        model: expected examples that do not influence each other
    """
    if n_rows(inputs) < 2:
        return
    with borrowed(module, evaluation=False), torch.no_grad():
        runs, x = _passes(enter, inputs, module, is_random=is_random)
        tolerance = _tolerance(dtype or dtype_of(module) or x.dtype)
        features = {name: run() for name, run in runs.items()}
        given = features["as given"]
        if not all(bool(torch.isfinite(z).all()) for z in given):
            return  # refused where they are measured
        for first, row, second, other in (*_LOOKS, *(() if is_random else (_COPIES,))):  # copies draw other numbers
            if not _same(features[first], row, features[second], other, tolerance):
                again, run = runs["as given"](), runs["as given"]
                if not all(_same(given, each, again, each, tolerance) for each in (0, 1)):
                    raise _by_chance(_first_to_move(module, (run, 0), (run, 0), tolerance), remedy)
                raise _mixed(_first_to_move(module, (runs[first], row), (runs[second], other), tolerance), remedy)


def _passes(
    enter: Callable[[Any], tuple[_Take, Tensor]], inputs: Inputs, module: nn.Module | None, *, is_random: bool
) -> tuple[dict[str, _Run], Tensor]:
    """The three passes by name, and x of the first."""
    take, x = enter(rows_of(inputs, slice(2)))
    x = x.detach()
    take_copies, copies = enter(rows_of(inputs, torch.tensor([1, 1])))

    def run(take: _Take, z: Tensor) -> list[Tensor]:
        with borrowed(module, evaluation=False) if is_random else nullcontext():
            return [features.detach().clone() for features in take(z.clone())[0]]  # it may work in place

    runs: dict[str, _Run] = {
        "as given": partial(run, take, x),
        "second perturbed": partial(run, take, _perturbed(x)),
        "second twice": partial(run, take_copies, copies.detach()),
    }
    return runs, x


def _tolerance(dtype: torch.dtype) -> float:
    """What rounding may move, relative to the largest feature.

    Passes of one shape run the same kernels, which on a CPU agree to the last bit. The tolerance is for sums that an
    accelerator adds in no fixed order, or for another row in another order, through all layers: a thousand roundings
    of float64 and float32, eight of half precision, whose sums are float32 inside. Statistics of a batch of two move
    features by their own size.
    """
    return torch.finfo(dtype).eps * (1024 if torch.finfo(dtype).bits >= 32 else 8)


def _perturbed(pair: Tensor) -> Tensor:
    """The pair with noise on its second example, as large as the example is."""
    noise = torch.randn(pair[1].shape, generator=torch.Generator().manual_seed(0)).to(pair)
    size = pair[1].abs().max() if pair[1].numel() else pair.new_ones(())
    changed = pair.clone()
    changed[1] += noise * torch.where(size > 0, size, torch.ones_like(size))
    return changed


def _same(a: list[Tensor], row: int, b: list[Tensor], other: int, tolerance: float) -> bool:
    """Whether all that belongs to an example in one pass is, to rounding, what belongs to it in another."""
    return len(a) == len(b) and all(
        x.shape == y.shape and _equal(_part(x, row), _part(y, other), tolerance) for x, y in zip(a, b, strict=True)
    )


def _equal(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.numel() == 0 or not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    a, b = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (a, b))
    return bool((a - b).abs().max() <= tolerance * torch.maximum(a.abs().max(), b.abs().max()))


def _part(tensor: Tensor, row: int) -> Tensor:
    """One example's half: of the batch, or of windows or tokens that lie behind each other; else all of it."""
    is_split = tensor.ndim > 0 and len(tensor) > 0 and len(tensor) % 2 == 0
    return tensor.reshape(2, -1)[row] if is_split else tensor


_Found = tuple[str, nn.Module] | None


def _by_chance(found: _Found, remedy: str | None) -> RuntimeError:
    is_training = found is not None and found[1].training
    usual = "do model.eval() first" if is_training else "do switch it off (F.dropout takes training=)"
    return RuntimeError(
        f"model: expected the same features of the same examples each time, got features that change by chance, "
        f"{_place(found)}; {remedy or usual}"
    )


def _mixed(found: _Found, remedy: str | None) -> RuntimeError:
    is_training = found is not None and found[1].training
    usual = "do model.eval() first" if is_training else "do measure a layer before it, or one example at a time"
    return RuntimeError(
        f"model: expected examples that do not influence each other, got features of one example that move with "
        f"another one, {_place(found)}: a batch-wise layer; {remedy or usual}"
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


def _first_to_move(module: nn.Module | None, one: tuple[_Run, int], two: tuple[_Run, int], tolerance: float) -> _Found:
    """The first module, in the order they end, whose output moved for an example although its input did not."""
    if module is None:
        return None
    passes = []
    for run, _ in (one, two):
        with _calls(module) as calls:
            run()
        passes.append(calls)
    row, other = one[1], two[1]
    for (name, number), a in passes[0].items():
        b = passes[1].get((name, number))
        if b is None or not a.inputs or not _same(a.inputs, row, b.inputs, other, tolerance):
            continue
        if not _same(a.outputs, row, b.outputs, other, tolerance):
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
            open_calls[name].append(_copies((args, kwargs)))  # a copy: the module may work in place

        return hook

    def end(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            calls[name, ended[name]] = _Call(open_calls[name].pop(), _copies(output))
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


def _copies(value: Any) -> list[Tensor]:
    """Copies of the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return [value.detach().clone()]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in _copies(part)]
