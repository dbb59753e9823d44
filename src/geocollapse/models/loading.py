"""Models by name or by the factory that makes them, and their weights from a file."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geocollapse.models.hugging_face import load_hugging_face
from geocollapse.models.loaded import RANDOM, LoadedModel
from geocollapse.models.vision import load_timm, load_torchvision

LIBRARIES: Mapping[str, Callable[..., LoadedModel]] = {
    "timm": load_timm,
    "torchvision": load_torchvision,
    "hf": load_hugging_face,
}
_FORM = re.compile(r"(timm|torchvision|hf):[^@]+|.+:[A-Za-z_]\w*")  # what an @ can stand behind
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile
_SHOWN = 5


def load(
    spec: str,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """The model that ``spec`` names, with its weights.

    Args:
        spec: ``timm:NAME``, ``torchvision:NAME``, ``hf:ID`` or ``hf:DIR``, which are pretrained
            unless ``weights`` are given, or ``NAME@random`` is; ``file.py:factory`` or
            ``package.module:factory``, which returns a Module. ``MODEL@FILE`` is MODEL with the
            weights of FILE.
        weights: safetensors, or a ``.pt``, ``.pth`` or ``.th`` state dict; None keeps those of the
            name or the factory.
        weights_key: entry of the file that holds the state dict; by default the only one that fits.
        model_args: keyword arguments of the factory or the architecture, keys of a transformers
            configuration.

    Raises:
        ValueError: a form or a name that is not known, a factory that is missing or returns no
            Module, weights that do not fit.
        FileNotFoundError: no such file, or pretrained weights that cannot be had.
        ImportError: a library is missing (the pip command is named).
    """
    name, at = parse_model(spec)
    if at is not None and weights is not None:
        raise ValueError(
            f"weights: expected none with {spec!r}, which names its own, got {weights}; do leave "
            f"one out"
        )
    is_random, file = at == RANDOM, weights if at in (None, RANDOM) else at
    library, _, rest = name.partition(":")
    if library in LIBRARIES:
        is_pretrained = file is None and not is_random
        loaded = LIBRARIES[library](rest, is_pretrained=is_pretrained, model_args=model_args or {})
    elif is_random:
        raise ValueError(
            f"model: expected {RANDOM} weights of a timm:, torchvision: or hf: model only, got "
            f"{spec!r}; "
            f"do {name}, whose factory makes its own"
        )
    else:
        loaded = LoadedModel(_made(name, model_args or {}), spec)
    if file is None:
        return replace(loaded, name=spec)
    key = load_weights(loaded.model, file, key=weights_key)
    return replace(loaded, name=name, weights=str(file), weights_key=key)


def parse_model(spec: str) -> tuple[str, str | None]:
    """MODEL, and what stands behind its ``@``: a file of weights, or ``random``.

    Examples:
        >>> parse_model("timm:resnet18@random"), parse_model("a@b/net.py:make@w.pt"), parse_model("a@b/net.py:make")
        (('timm:resnet18', 'random'), ('a@b/net.py:make', 'w.pt'), ('a@b/net.py:make', None))
    """
    folder = spec.removeprefix("hf:")
    if Path(folder).is_dir():
        return spec, None
    for place, letter in enumerate(spec):
        name = spec[:place]
        if letter == "@" and (_FORM.fullmatch(name) or Path(name.removeprefix("hf:")).is_dir()):
            return name, spec[place + 1 :]
    return spec, None


def _made(spec: str, model_args: Mapping[str, Any]) -> nn.Module:
    """What a factory makes."""
    factory = _factory(spec)
    try:
        model = factory(**model_args)
    except MemoryError:
        raise
    except Exception as error:  # a factory is code of others, which may raise anything
        reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise ValueError(
            f"model: expected {spec} to make a model of {dict(model_args) or 'no arguments'}, got "
            f"{reason}; "
            f"do check the factory, or its arguments (--model-arg KEY=VALUE)"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model: expected a factory that returns a Module, got {type(model).__name__} from "
            f"{spec!r}"
        )
    return model


def load_weights(model: nn.Module, path: str | Path, *, key: str | None = None) -> str | None:
    """Load a state dict into ``model``: every tensor must fit.

    The prefixes ``module.`` and ``_orig_mod.`` of a wrapped or a compiled model are stripped.
    Nothing is unpickled but tensors and plain containers (``weights_only=True``).

    Args:
        model: the module.
        path: safetensors, or a ``.pt``, ``.pth`` or ``.th`` file.
        key: entry of the file that holds the state dict; by default the only one that fits.

    Returns:
        The entry that was taken, None if the file is the state dict.

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


def _factory(spec: str) -> Callable[..., Any]:
    source, _, name = spec.rpartition(":")
    if not source or not name.isidentifier():
        raise ValueError(
            f"model: expected file.py:factory, package.module:factory, timm:NAME, "
            f"torchvision:NAME, hf:ID or a run "
            f"directory, got {spec!r}; do e.g. examples/cifar_resnet.py:resnet20"
        )
    module = _module_of_file(Path(source)) if source.endswith(".py") else _module_of_package(source)
    factory = getattr(module, name, None)
    if not callable(factory):
        own = [
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__
        ]
        known = [key for key in own if callable(getattr(module, key)) and not key.startswith("_")]
        raise ValueError(
            f"model: expected a factory in {source}, got {name!r}; do one of "
            f"{', '.join(known[:_SHOWN])}"
        )
    result: Callable[..., Any] = factory
    return result


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(
            f"model: expected a Python file, got {str(path)!r}, which does not exist; do check it"
        )
    spec = importlib.util.spec_from_file_location(f"_model_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"model: expected a Python file, got {str(path)!r}; do name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their own module up there
    spec.loader.exec_module(module)
    return module


def _module_of_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"model: expected an importable module, got {name!r} ({error}); do install it"
        ) from error


def _read(path: Path) -> Any:
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
    content: Any, key: str | None, wanted: Collection[str]
) -> dict[str, dict[str, Tensor]]:
    """State dicts in a file by their entry: "" for the file itself, ``a.b`` for one inside another."""
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
    content: Mapping[Any, Any], name: str, wanted: Collection[str]
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


def _stripped(state: Mapping[Any, Any], wanted: Collection[str]) -> dict[str, Tensor]:
    """The tensors without the prefix that a wrapper gave all of them; a model may have a part of
    that name itself.
    """
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
    """What keeps a state dict from fitting: missing and unexpected keys, other shapes.

    Batch normalisation's count of batches may be missing: files older than PyTorch 0.4.1 have none,
    and evaluation does not use it. So may a tensor that is tied to one that is there: safetensors
    holds it once.
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
