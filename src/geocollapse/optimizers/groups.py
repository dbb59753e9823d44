"""The gradients of an optimizer's parameter groups: checked, summed and applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from geocollapse.numerics import accumulation_dtype

Group = dict[str, object]
Closure = Callable[[], Tensor]
Parameters = ParamsT


def number_of(group: Mapping[str, object], key: str) -> float:
    """A setting of a parameter group as a number; None is infinity."""
    value = group[key]
    return math.inf if value is None else float(value)  # type: ignore[arg-type]


def check_setting(name: str, value: float | None, *, default: str) -> None:
    """Refuse a setting that is negative or no number."""
    if value is not None and not value >= 0.0:
        raise ValueError(f"{name}: expected at least 0, got {value}; do {name}={default}")


def trained(groups: Iterable[Mapping[str, object]]) -> list[tuple[str, Tensor]]:
    """The parameters of all groups with their names, or their places where they have none."""
    found: list[tuple[str, Tensor]] = []
    for number, group in enumerate(groups):
        parameters: Sequence[Tensor] = group["params"]  # type: ignore[assignment]
        names: Sequence[str] = group.get("param_names") or [  # type: ignore[assignment]
            f"parameter {place} of group {number}" for place in range(len(parameters))
        ]
        found += zip(names, parameters, strict=True)
    return found


def check_gradients(named: Sequence[tuple[str, Tensor]], remedy: str) -> None:
    """Refuse sparse gradients, and a parameter that requires a gradient and has none.

    Raises:
        RuntimeError: names the first parameter, with the remedy for a missing gradient.
    """
    for name, parameter in named:
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise RuntimeError(
                f"parameters: expected dense gradients, got a sparse one at {name!r}; do build the "
                f"embedding with sparse=False"
            )
    missing = [name for name, p in named if p.requires_grad and p.grad is None]
    if missing:
        raise RuntimeError(
            f"parameters: expected a gradient at each of {len(named)}, got none at {len(missing)}, "
            f"the first {missing[0]!r}; do {remedy}"
        )
    if all(parameter.grad is None for _, parameter in named):
        raise RuntimeError(
            f"parameters: expected some that require a gradient, got {len(named)} frozen ones; do "
            f"requires_grad_(True)"
        )


def squared_norm(tensors: Sequence[Tensor], *, foreach: bool) -> Tensor:
    """The sum of squares (0-d) of dense tensors, in float64 where the device has it."""
    wide = torch.float32 if any(t.dtype in _HALVES for t in tensors) else None
    norms = (
        torch._foreach_norm(list(tensors), 2, dtype=wide)
        if foreach
        else [torch.linalg.vector_norm(tensor, dtype=wide) for tensor in tensors]
    )
    device = norms[0].device
    return torch.stack([z.to(device, accumulation_dtype(device)) for z in norms]).square().sum()


_HALVES = (torch.float16, torch.bfloat16)


def uses_foreach(groups: Iterable[Mapping[str, object]]) -> bool:
    """True if all tensors are updated at once: where it was asked for, by default on a GPU."""
    parameters = [parameter for _, parameter in trained(groups)]
    settings = [group["foreach"] for group in groups]
    if None in settings:
        return all(parameter.device.type == "cuda" for parameter in parameters)
    return all(settings)


def descend(parameters: Sequence[Tensor], rate: float, *, foreach: bool) -> None:
    """theta <- theta - rate grad, for parameters with a gradient."""
    moved = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in moved if p.grad is not None]
    if foreach and moved:
        torch._foreach_add_(moved, gradients, alpha=-rate)
        return
    for parameter, gradient in zip(moved, gradients, strict=True):
        parameter.add_(gradient, alpha=-rate)
