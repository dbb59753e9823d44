"""The optimizer of a run: built from the recipe, its state saved as tensors and JSON.

To add one: a function here that builds it, its entry in `OPTIMIZERS`, and its name in
`TrainingConfig.optimizer`. If it chooses its own rate, its name goes into `OWN_RATE` as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geocollapse.optimizers import DAL, Corridor

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import TrainingConfig

Builder = Callable[[Iterable[nn.Parameter], "TrainingConfig"], torch.optim.Optimizer]


def _sgd(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def _adamw(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW with PyTorch's default betas and eps; its weight decay is apart from the gradient."""
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def _corridor(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    chosen = config.corridor
    return Corridor(
        parameters,
        f_star=chosen.smallest_loss,
        max_lr=chosen.max_learning_rate,
        eps=chosen.eps,
    )


def _dal(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    chosen = config.dal
    return DAL(parameters, p=chosen.power, max_lr=chosen.max_learning_rate, every=chosen.every)


OPTIMIZERS: Mapping[str, Builder] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "corridor": _corridor,
    "dal": _dal,
}
OWN_RATE = ("corridor", "dal")  # weight decay is a term of their loss


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer that the recipe names, for all parameters of ``model``."""
    return OPTIMIZERS[config.optimizer](model.parameters(), config)


def descend(optimizer: torch.optim.Optimizer, objective: Callable[[], Tensor]) -> None:
    """One step down an objective; DAL differentiates it by itself, twice.

    Args:
        optimizer: of all parameters.
        objective: computes the loss of the step, with its graph.
    """

    def with_gradient() -> Tensor:
        loss = objective()
        optimizer.zero_grad()
        loss.backward()
        return loss

    # a closure, the form that every optimizer takes
    if isinstance(optimizer, DAL):
        optimizer.step(objective)
    else:
        optimizer.step(with_gradient)  # type: ignore[arg-type]


def pack_state(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The whole state dict of an optimizer: its tensors by flat names, and the rest as JSON.

    A tensor is called `<entry>/<parameter>`, e.g. `exp_avg/0.weight`; in the JSON its name stands
    in its place.

    Raises:
        TypeError: the state holds something else than tensors and plain values.
    """
    names = _parameter_names(optimizer, model)
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    of_parameters = {
        names[index]: {
            key: _packed(value, f"{key}/{names[index]}", tensors) for key, value in entries.items()
        }
        for index, entries in state["state"].items()
    }
    groups = [
        {
            key: [names[index] for index in value]
            if key == "params"
            else _packed(value, f"{key}/group {number}", tensors)
            for key, value in group.items()
        }
        for number, group in enumerate(state["param_groups"])
    ]
    return tensors, {"state": of_parameters, "param_groups": groups}


def load_state(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    packed: Mapping[str, object],
) -> None:
    """Give an optimizer the state that `pack_state` packed.

    Raises:
        ValueError: it is the state of another optimizer or model; the optimizer is as before.
    """
    try:
        state = _unpacked_state(optimizer, model, tensors, packed)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"its optimizer's state does not fit ({error})") from error
    optimizer.load_state_dict(state)


def _unpacked_state(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    packed: Mapping[str, object],
) -> dict[str, object]:
    """The state dict of an optimizer from what `pack_state` made of it."""
    names = _parameter_names(optimizer, model)
    place = {name: index for index, name in enumerate(names)}
    of_parameters = packed["state"]
    groups = packed["param_groups"]
    if not isinstance(of_parameters, Mapping) or not isinstance(groups, list):
        raise ValueError("no state of an optimizer")
    return {
        "state": {
            place[name]: {key: _unpacked(value, tensors) for key, value in entries.items()}
            for name, entries in of_parameters.items()
        },
        "param_groups": [
            {
                key: [place[name] for name in value]
                if key == "params"
                else _unpacked(value, tensors)
                for key, value in group.items()
            }
            for group in groups
        ],
    }


def load_momentum(
    optimizer: torch.optim.Optimizer, model: nn.Module, buffers: Mapping[str, Tensor]
) -> None:
    """Give SGD its momentum buffers by the names of the parameters: state.json of version 1."""
    for name, parameter in model.named_parameters():
        if name in buffers:
            optimizer.state[parameter]["momentum_buffer"] = buffers[name].to(parameter.device)


def _parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """The names of the parameters in the order of the optimizer's state dict."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _packed(value: object, name: str, tensors: dict[str, Tensor]) -> object:
    """A value as JSON; tensors go into ``tensors`` and leave their name."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, list | tuple):
        items = [_packed(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
        return {type(value).__name__: items}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"optimizer: expected a state of tensors and plain values, got {type(value).__name__} in "
        f"{name}; do keep a tensor there"
    )


def _unpacked(value: object, tensors: Mapping[str, Tensor]) -> object:
    if not isinstance(value, Mapping):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float(content)
    items = [_unpacked(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
