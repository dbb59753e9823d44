"""Weights from a file: a state dict, or the only entry of the file that fits the model."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile
_SHOWN = 5


def load_weights(model: nn.Module, path: str | Path, *, key: str | None = None) -> str | None:
    """Load a state dict into ``model``: every tensor must fit.

    The prefixes ``module.`` and ``_orig_mod.`` of a wrapped or a compiled model are stripped.
    Nothing is unpickled but tensors and plain containers (``weights_only=True``).

    Args:
        model: the module.
        path: safetensors, or a ``.pt``, ``.pth`` or ``.th`` file.
        key: entry of the file that holds the state dict; by default the only one that fits.

    Returns:
        The entry that was taken; None if the file is the state dict.

    Raises:
        FileNotFoundError: no such file.
        ValueError: pickled code, missing or unexpected keys, shapes that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights: expected a file, got {str(path)!r}, which does not exist; do check the path"
        )
    candidates = _state_dicts(_read(path), key, model.state_dict())
    fitting = [(name, state) for name, state in candidates.items() if not _misfits(model, state)]
    if len(fitting) != 1:
        _refuse(model, path, candidates, [name for name, _ in fitting])
    name, state = fitting[0]
    model.load_state_dict(state, strict=False)  # every key was compared above
    return name or None


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"weights: expected tensors only, got pickled code (not run) or a damaged file in "
            f"{path.name}; "
            f"do torch.save(model.state_dict(), 'weights.pt') where the file was made"
        ) from error
    except (SafetensorError, EOFError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"weights: expected a readable file, got {path.name}, which is damaged "
            f"({type(error).__name__}: {error}); "
            f"do copy or download it again"
        ) from error


def _state_dicts(
    content: object, key: str | None, wanted: Collection[str]
) -> dict[str, dict[str, Tensor]]:
    """State dicts of a file by their entry: "" for the file itself, ``a.b`` for a nested one."""
    if not isinstance(content, Mapping):
        raise ValueError(
            f"weights: expected a state dict, got {type(content).__name__}; do save "
            f"model.state_dict()"
        )
    found = _search(content, "", wanted)
    if key is None:
        return found
    if key not in found:
        known = ", ".join(filter(None, found)) or "none: leave weights_key out"
        raise ValueError(
            f"weights_key: expected an entry that is a state dict, got {key!r}; do one of {known}"
        )
    return {key: found[key]}


def _search(
    content: Mapping[object, object], name: str, wanted: Collection[str]
) -> dict[str, dict[str, Tensor]]:
    found = (
        {name: _stripped(content, wanted)}
        if any(isinstance(value, Tensor) for value in content.values())
        else {}
    )
    for key, entry in content.items():
        if isinstance(entry, Mapping):
            found |= _search(entry, f"{name}.{key}" if name else str(key), wanted)
    return found


def _stripped(state: Mapping[object, object], wanted: Collection[str]) -> dict[str, Tensor]:
    """The tensors, without prefixes of a wrapper that all names have and the model does not."""
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    while not any(name in wanted for name in tensors):
        prefix = next(
            (prefix for prefix in _WRAPPERS if all(name.startswith(prefix) for name in tensors)),
            None,
        )
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _misfits(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """The reasons why a state dict does not fit: missing and unexpected keys, other shapes.

    Batch normalisation's count of batches may be missing: files older than PyTorch 0.4.1 have none,
    and evaluation does not use it. So may a tensor tied to a present one: safetensors holds it
    once.
    """
    wanted = model.state_dict()
    there = {wanted[name].data_ptr() for name in wanted if name in state}
    missing = [
        name
        for name, tensor in wanted.items()
        if name not in state
        and tensor.data_ptr() not in there
        and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    texts = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
    return [f"{text} {_some(names)}" for text, names in texts.items() if names]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _refuse(
    model: nn.Module, path: Path, candidates: Mapping[str, Mapping[str, Tensor]], fitting: list[str]
) -> None:
    if fitting:
        raise ValueError(
            f"weights: expected one entry that fits, got {', '.join(fitting)}; do "
            f"weights_key={fitting[0]!r}"
        )
    if not candidates:
        raise ValueError(
            f"weights: expected a state dict in {path.name}, got none; do save model.state_dict()"
        )
    name, state = max(candidates.items(), key=lambda item: len(item[1]))
    entry = f" (entry {name!r})" if name else ""
    raise ValueError(
        f"weights: expected a state dict that fits {type(model).__name__}, got one{entry} with "
        f"{'; '.join(_misfits(model, state))}; do use the factory and arguments the weights were "
        f"made with"
    )
