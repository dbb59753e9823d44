"""Layer types whose output for one example depends on the rest of its batch, or on chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_DROPOUT = nn.modules.dropout._DropoutNd
_RANDOM_DEPTH = ("DropPath", "StochasticDepth", "DropBlock", "DropBlock2d", "DropBlock3d")


def check_mixing_layers(model: nn.Module | None, *, evaluation: bool = False) -> None:
    """Refuse layers whose output for one example depends on the rest of its batch, or on chance.

    The Jacobian of one example exists only without batch statistics, dropout and random depth.

    Source: definitions 1.

    Args:
        model: the module, or None for a callable whose modules cannot be seen.
        evaluation: the model will be measured in evaluation mode, so that only layers which use
            batch statistics even there are refused.

    Raises:
        RuntimeError: names the modules and the remedy.
    """
    if model is None:
        return
    named = list(model.named_modules())
    stateless = [
        name for name, module in named if is_batch_norm(module) and module.running_mean is None
    ]
    if stateless:
        raise RuntimeError(
            f"model: expected examples that do not influence each other, got batch normalisation "
            f"without running statistics in {quoted(stateless)}; do build these layers with "
            f"track_running_stats=True"
        )
    active = [
        name for name, module in named if not evaluation and module.training and _mixes(module)
    ]
    if active:
        raise RuntimeError(
            f"model: expected evaluation mode, got batch normalisation or dropout in training mode "
            f"in {quoted(active)}; do model.eval() first"
        )


def check_batch_norm(model: nn.Module) -> None:
    """Refuse batch normalisation in training mode, with which no example has its own Jacobian.

    Raises:
        RuntimeError: names the layers and the remedies.
    """
    active = [
        name for name, module in model.named_modules() if is_batch_norm(module) and module.training
    ]
    if active:
        raise RuntimeError(
            f"model: expected no batch normalisation in training mode, got {quoted(active)}; "
            f"do batch_norm='running', which takes a second forward pass, or build the model "
            f"without it"
        )


def is_batch_norm(module: nn.Module) -> bool:
    """True for a layer that normalises by the statistics of its batch in training mode."""
    return isinstance(module, _BATCH_NORM)


@contextmanager
def running_statistics(model: nn.Module) -> Iterator[None]:
    """Make batch normalisation use its running statistics without updating them.

    All other modules stay in their mode. The layers use copies of the statistics: the graph keeps
    what they use, and the next forward pass in training mode changes the statistics.
    """
    layers = [module for module in model.modules() if is_batch_norm(module) and module.training]
    buffers = [dict(layer._buffers) for layer in layers]
    try:
        for layer in layers:
            layer.training = False  # eval() would reach the modules inside the layer as well
            layer._buffers.update(
                {name: None if b is None else b.clone() for name, b in layer._buffers.items()}
            )
        yield
    finally:
        for layer, own in zip(layers, buffers, strict=True):
            layer.training = True
            layer._buffers.update(own)


def padding_rows(model: nn.Module) -> dict[str, int]:
    """The rows of embedding weights that stand for padding and are not trained, by parameter.

    A weight that another module shares is trained there, and left out.
    """
    shared = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    return {
        f"{name}.weight" if name else "weight": module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and module.padding_idx is not None
        and shared.count(id(module.weight)) == 1
    }


def drawing_layers(model: nn.Module) -> list[str]:
    """The names of the layers of ``model`` that draw at random in their present mode."""
    return [name for name, module in model.named_modules() if module.training and _draws(module)]


def _mixes(module: nn.Module) -> bool:
    """True for a layer that, in training mode, mixes examples or draws at random."""
    return is_batch_norm(module) or _draws(module)


def _draws(module: nn.Module) -> bool:
    """True for a layer that, in training mode, drops entries, or whole branches by its name.

    A rare drop is not seen by the check with two examples.
    """
    if isinstance(module, _DROPOUT):
        return module.p > 0
    if not type(module).__name__.endswith(_RANDOM_DEPTH):
        return False
    rates = [getattr(module, name, None) for name in ("p", "drop_prob", "drop_rate")]
    return next((rate > 0 for rate in rates if rate is not None), True)


def quoted(names: Sequence[str]) -> str:
    """The first three names in quotes, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
