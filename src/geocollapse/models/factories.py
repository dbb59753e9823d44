"""Models made by a factory: a function of a Python file or of an installed module."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn

from geocollapse.models.loaded import ModelArgs

_SHOWN = 5


def make_model(spec: str, model_args: ModelArgs) -> nn.Module:
    """The model that ``FILE.py:FACTORY`` or ``PACKAGE.MODULE:FACTORY`` makes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such module or factory, one that fails or returns no Module.
    """
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


def _factory(spec: str) -> Callable[..., object]:
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
    result: Callable[..., object] = factory
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
