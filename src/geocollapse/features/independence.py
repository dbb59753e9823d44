"""A check that a map treats its examples one by one, by its behaviour and not its layer types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from geocollapse.features.moved import Moved, first_to_move
from geocollapse.features.rounding import equal, half_of, rounding_of
from geocollapse.inputs import Enter, Inputs, Take, dtype_of, n_rows, rows_of
from geocollapse.modules.borrow import borrowed, random_state

_Run = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class _Comparison:
    """A row of one pass and a row of another, whose tensors must agree up to rounding.

    The same row of two passes of one shape goes through the same kernels, which on a CPU agree to
    the last bit (unless a router sends other rows along). There every coordinate has a tolerance of
    its own size, so that a large coordinate hides nothing. Different rows may be summed in another
    order, with errors as large as the terms: there the tolerance is that of the largest coordinate.
    """

    one: str
    row: int
    other: str
    other_row: int

    def agree(self, one: list[Tensor], other: list[Tensor], *, tolerance: float) -> bool:
        """Compare the row of each tensor in ``one`` with the other row of its like in ``other``."""
        if [a.shape for a in one] != [b.shape for b in other]:
            return False
        rows = [
            (half_of(a, self.row), half_of(b, self.other_row))
            for a, b in zip(one, other, strict=True)
        ]
        is_same_row = self.row == self.other_row
        return all(equal(a, b, tolerance, by_coordinate=is_same_row) for a, b in rows)


_WITH_ANOTHER = (
    _Comparison("as given", 0, "first twice", 0),
    _Comparison("as given", 1, "second twice", 1),
)
_COPIES = _Comparison("second twice", 0, "second twice", 1)
_MORE_PASSES = 16  # a draw that shows in one of ten is missed with probability 0.2
_AGAIN = (_Comparison("as given", 0, "as given", 0), _Comparison("as given", 1, "as given", 1))


def check_independence(
    enter: Enter,
    inputs: Inputs,
    module: nn.Module | None = None,
    *,
    dtype: torch.dtype | None = None,
    is_random: bool = False,
    remedy: str | None = None,
) -> None:
    """Refuse a map in which an example's features depend on the rest of its batch, or on chance.

    The Jacobian of one example exists only if its features are a function of that example alone.
    Two examples go through the map three times: as given, with a copy of the first in place of the
    second, and with a copy of the second in place of the first. The features of an example must be
    the same in all passes, and the same as those of its copy (unless the copies draw different
    random numbers). In the last pass the copy comes first, and may take up the capacity of a router
    before the second example. Copies are inputs that the map is sure to accept. If both examples
    are equal, noise is added to the first one's copy, or the second pass would repeat the first.

    A map that draws at random, however seldom it shows, is refused in training mode. In evaluation
    mode, where a layer may draw a number and not use it, 16 more passes must agree.

    This does not detect changes below rounding, or mixing that appears in larger batches only (a
    router with room for two examples). One example has nothing to mix with, and is not checked.

    Cost: three forward passes of two examples, 19 for a map that draws. Model, buffers and random
    state are left as they were.

    Source: definitions 1.

    Args:
        enter: from inputs to the map of these examples, x (n, ...) to the features (n, p) of each
            layer and an output, and the x at which it starts.
        inputs: the first two examples are used.
        module: the module behind the map, so that the error can name a layer; None for a callable.
        dtype: the coarsest precision inside the map (autocast); by default that of the module, or
            of x.
        is_random: the map may draw at random, as in training: every pass draws the same numbers.
        remedy: what the error tells the user to do; by default advice for a measurement.

    Raises:
        RuntimeError: names the first module whose output moved although its input did not, and the
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
        before = random_state(module)
        features = {name: run() for name, run in runs.items()}
        draws = not is_random and not torch.equal(before, random_state(module))
        if not all(bool(torch.isfinite(z).all()) for z in features["as given"]):
            return  # refused where they are measured
        # with random draws, the copies in a batch draw different numbers
        comparisons = _WITH_ANOTHER if is_random else (*_WITH_ANOTHER, _COPIES)
        found = _first_difference(comparisons, features, features, tolerance)
        if found is not None:
            again = {"as given": runs["as given"]()}
            if _first_difference(_AGAIN, features, again, tolerance) is not None:
                raise _by_chance(_first_to_move(module, runs, _AGAIN[0], tolerance), remedy)
        if draws:
            _check_draws(runs["as given"], features, module, tolerance, remedy)
        if found is not None:
            raise _mixed(_first_to_move(module, runs, found, tolerance), remedy)


def _check_draws(
    run: _Run,
    features: Mapping[str, list[Tensor]],
    module: nn.Module | None,
    tolerance: float,
    remedy: str | None,
) -> None:
    """Refuse a map that has drawn at random, unless it is in evaluation mode and keeps its output.

    Raises:
        RuntimeError: with the remedy.
    """
    if module is not None and any(part.training for part in module.modules()):
        raise _by_chance(None, remedy or "do model.eval() first")
    for _ in range(_MORE_PASSES):
        if _first_difference(_AGAIN, features, {"as given": run()}, tolerance) is not None:
            raise _by_chance(None, remedy)


def _first_difference(
    comparisons: tuple[_Comparison, ...],
    ones: Mapping[str, list[Tensor]],
    others: Mapping[str, list[Tensor]],
    tolerance: float,
) -> _Comparison | None:
    """The first comparison that fails, of the features of passes by their names."""
    for comparison in comparisons:
        one, other = ones[comparison.one], others[comparison.other]
        if not comparison.agree(one, other, tolerance=tolerance):
            return comparison
    return None


def _passes(
    enter: Enter, inputs: Inputs, module: nn.Module | None, *, is_random: bool
) -> tuple[dict[str, _Run], Tensor]:
    """The three passes by name, and the x of the first one."""
    rows = {"as given": [0, 1], "first twice": [0, 0], "second twice": [1, 1]}
    entered = {
        name: enter(rows_of(inputs, torch.tensor(numbers))) for name, numbers in rows.items()
    }
    starts = {name: x.detach() for name, (_, x) in entered.items()}
    if torch.equal(starts["as given"], starts["first twice"]):
        starts["first twice"] = _with_noise(starts["first twice"])
    runs: dict[str, _Run] = {
        name: partial(_features, take, starts[name], module, is_random=is_random)
        for name, (take, _) in entered.items()
    }
    return runs, starts["as given"]


def _features(take: Take, x: Tensor, module: nn.Module | None, *, is_random: bool) -> list[Tensor]:
    """One pass; if it draws at random, it starts from the same random state each time."""
    with borrowed(module, evaluation=False) if is_random else nullcontext():
        return [features.detach().clone() for features in take(x.clone())[0]]  # may work in place


def _with_noise(pair: Tensor) -> Tensor:
    """The pair with noise on its second example, as large as that example."""
    noise = torch.randn(pair[1].shape, generator=torch.Generator().manual_seed(0)).to(pair)
    size = pair[1].abs().max() if pair[1].numel() else pair.new_ones(())
    changed = pair.clone()
    changed[1] += noise * torch.where(size > 0, size, torch.ones_like(size))
    return changed


def _first_to_move(
    module: nn.Module | None, runs: Mapping[str, _Run], failed: _Comparison, tolerance: float
) -> Moved | None:
    """The module that makes a comparison fail, None if there is none or it cannot be seen."""
    if module is None:
        return None
    agree = partial(failed.agree, tolerance=tolerance)
    return first_to_move(module, runs[failed.one], runs[failed.other], agree)


def _by_chance(moved: Moved | None, remedy: str | None) -> RuntimeError:
    is_training = moved is not None and moved.module.training
    usual = (
        "do model.eval() first" if is_training else "do switch it off (F.dropout takes training=)"
    )
    return RuntimeError(
        f"model: expected the same features of the same examples each time, got features that "
        f"change by chance, {_place(moved)}; {remedy or usual}"
    )


def _mixed(moved: Moved | None, remedy: str | None) -> RuntimeError:
    is_training = moved is not None and moved.module.training
    usual = (
        "do model.eval() first"
        if is_training
        else "do measure a layer before it, or one example at a time"
    )
    # RReLU draws one number for each negative entry
    is_draw = moved is not None and isinstance(moved.module, nn.RReLU)
    cause = "random draws that depend on the data" if is_draw else "a batch-wise layer"
    return RuntimeError(
        f"model: expected examples that do not influence each other, got features of one example "
        f"that change with another one, {_place(moved)}: {cause}; {remedy or usual}"
    )


def _place(moved: Moved | None) -> str:
    return "somewhere in the map" if moved is None else f"first at {moved}"
