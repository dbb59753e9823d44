"""Models made by a factory: a function of a Python file or of an installed module."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from torch import nn

from geocollapse.data import Normalisation
from geocollapse.models.loaded import ModelArgs
from geocollapse.models.model_files import definitions, remedy_of, runnable

_SHOWN = 5
_WEIGHTS = (".safetensors", ".pt", ".pth", ".th")


def make_model(spec: str, model_args: ModelArgs) -> nn.Module:
    """The model that ``FILE.py:FACTORY`` or ``PACKAGE.MODULE:FACTORY`` makes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such module or factory, one that fails or returns no Module.
    """
    factory = find_factory(spec)
    try:
        model = factory(**model_args)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # code of others may raise anything, and exit
        reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        usual = "do check the factory, or its arguments, such as model_args={'KEY': VALUE}"
        raise ValueError(
            f"model: expected {spec} to make a model of {dict(model_args) or 'no arguments'}, got "
            f"{reason}; {remedy_of(error) or usual}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model: expected a factory that returns a Module, got {type(model).__name__} from "
            f"{spec!r}"
        )
    return model


def normalisation_of(model: nn.Module) -> Normalisation:
    """How a module says that its images are normalised and resized; nothing without a word.

    Raises:
        TypeError: an attribute ``normalisation`` of another type.
    """
    found = getattr(model, "normalisation", None)
    if found is not None and not isinstance(found, Normalisation):
        raise TypeError(
            f"model: expected a geocollapse.data.Normalisation as its attribute normalisation, got "
            f"{type(found).__name__}; do Normalisation(mean=[...], std=[...], image_size=224)"
        )
    return found or Normalisation()


def find_factory(spec: str) -> Callable[..., object]:
    """The factory that ``spec`` names, not called.

    Raises:
        FileNotFoundError, ValueError: as of ``make_model``.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name.isidentifier() or Path(spec).is_file():
        raise _no_factory(spec)
    module = (
        _module_of_file(Path(source), name)
        if source.endswith(".py")
        else _module_of_package(source, name)
    )
    factory = getattr(module, name, None)
    if not callable(factory):
        own = [
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__
        ]
        known = [key for key in own if callable(getattr(module, key)) and not key.startswith("_")]
        raise _unknown(source, name, known)
    result: Callable[..., object] = factory
    return result


def _no_factory(spec: str) -> ValueError:
    """The error for a text that is no FILE.py:FACTORY; an existing file is told its form."""
    remedy = "e.g. examples/cifar_resnet.py:resnet20"
    ending = Path(spec).suffix if Path(spec).is_file() else ""
    if ending == ".py":
        known = [f"{spec}:{name}" for name in definitions(Path(spec)).public[:_SHOWN]]
        remedy = " or ".join(known) or f"{spec}:FACTORY, a function of it that makes a model"
    elif ending == ".npz":
        remedy = f"features:{spec}"
    elif ending in _WEIGHTS:
        remedy = f"MODEL@{spec}, MODEL with these weights"
    return ValueError(
        f"model: expected file.py:factory, package.module:factory, timm:NAME, "
        f"torchvision:NAME, hf:ID or a run "
        f"directory, got {spec!r}; do {remedy}"
    )


def _unknown(source: str, name: str, known: Sequence[str]) -> ValueError:
    near = difflib.get_close_matches(name, known, n=_SHOWN, cutoff=0.6)
    shown = list(dict.fromkeys([*near, *known]))[:_SHOWN]
    return ValueError(
        f"model: expected a factory in {source}, got {name!r}; do one of {', '.join(shown)}"
    )


def _module_of_file(path: Path, name: str) -> ModuleType:
    """The module that a file is, run only if it may define ``name``."""
    if not path.is_file():
        raise FileNotFoundError(
            f"model: expected a Python file, got {str(path)!r}, which does not exist; do check it"
        )
    found = definitions(path)
    if not found.may_have(name):
        raise _unknown(str(path), name, found.public)
    spec = importlib.util.spec_from_file_location(f"_model_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"model: expected a Python file, got {str(path)!r}; do name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their own module up there
    with runnable(str(path)):
        spec.loader.exec_module(module)
    return module


def _module_of_package(module: str, name: str) -> ModuleType:
    """An installed module, imported only if it may define ``name``."""
    try:
        with runnable(module):  # the packages above it run
            spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            found = definitions(Path(spec.origin))
            if not found.may_have(name):
                raise _unknown(module, name, found.public)
        with runnable(module):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"model: expected an importable module, got {module!r} ({error}); do install it"
        ) from error
