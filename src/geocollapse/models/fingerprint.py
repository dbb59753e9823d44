"""What determines the output of a model, as one hash: its code, its settings and its weights."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from geocollapse.modules.wrapped import COMPILED

_PLAIN = (bool, int, float, complex, str, bytes, type(None), slice, range, Path)
_PLAIN_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_CONTAINERS = (list, tuple, dict, set, frozenset)
_OWN = __name__.partition(".")[0]


def fingerprint(model: nn.Module) -> str | None:
    """SHA-256 of a module's code, settings, hooks and tensors; None where it cannot be told.

    Two modules with the same fingerprint compute the same features, unless their code reads
    something else that has changed while it runs, such as a global variable. The code is that of
    their classes and functions and, outside of installed packages, of the files that define these
    and of the files that those import. An attribute that has no description, such as an object of
    a compiled class, gives None. Cost: one reading of the weights and of these files.

    Examples:
        >>> a = nn.Linear(2, 2)
        >>> b = nn.Linear(2, 2)
        >>> fingerprint(a) == fingerprint(b)
        False
        >>> _ = b.load_state_dict(a.state_dict())
        >>> fingerprint(a) == fingerprint(b)
        True
    """
    model = getattr(model, COMPILED, model)
    description = _Description(model)
    try:
        description.add_modules(model)
        description.add_files()
    except (_Unknown, RecursionError, OSError):
        return None
    return description.digest.hexdigest()


class _Unknown(Exception):
    """An object whose content cannot be told."""


class _Description:
    """Hashes values by their content.

    Attributes:
        digest: of all that was added.
    """

    def __init__(self, model: nn.Module) -> None:
        self.digest = hashlib.sha256()
        self._names = {id(module): name for name, module in model.named_modules()}
        self._seen: dict[int, tuple[int, object]] = {}  # kept alive, so that no id comes twice
        self._modules: set[str] = set()

    def add(self, value: object) -> None:
        """Add a value by its content.

        Raises:
            _Unknown: an object without one that can be told.
        """
        if isinstance(value, (*_PLAIN, *_PLAIN_OF_TORCH, enum.Enum, np.generic)):
            self._put(type(value).__qualname__, repr(value))
        elif isinstance(value, Tensor):
            self._put("tensor", value.dtype, tuple(value.shape))
            self.digest.update(_bytes(value))
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self._put("array", value.dtype.str, value.shape)
            self.digest.update(np.ascontiguousarray(value).tobytes())
        elif id(value) in self._names:
            self._put("module", self._names[id(value)])
        elif id(value) in self._seen:
            self._put("again", self._seen[id(value)][0])
        else:
            if not isinstance(value, _CONTAINERS):
                self._seen[id(value)] = len(self._seen), value
            self._add_compound(value)

    def add_modules(self, model: nn.Module) -> None:
        """Add all modules of a model, by their names."""
        for name, module in model.named_modules():
            self.add(name)
            self._add_module(module)

    def _add_module(self, module: nn.Module) -> None:
        """Add the class, the attributes, the forward hooks and the own tensors of a module."""
        self.add(type(module))
        ours = vars(nn.Module()).keys() - {"training"}
        settings = {k: v for k, v in vars(module).items() if k not in ours}
        self.add({"training": module.training, **dict(sorted(settings.items()))})
        for hooks, named in (
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
            (module._forward_hooks, module._forward_hooks_with_kwargs),
        ):
            self.add([(hook, number in named) for number, hook in hooks.items()])
        self.add(list(chain(module._parameters.items(), module._buffers.items())))

    def add_files(self) -> None:
        """Add the files behind all classes and functions so far, and those that they import."""
        found = {path for name in sorted(self._modules) for path in _files_of(name)}
        self._put("files", *sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in found))

    def _add_compound(self, value: object) -> None:
        kind = type(value)
        self._put(kind.__module__, kind.__qualname__)
        if isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, types.MethodType):
            self._add_all(value.__func__, value.__self__)
        elif isinstance(value, functools.partial):
            self._add_all(value.func, value.args, value.keywords)
        elif isinstance(value, types.ModuleType):
            self._refer_to(value.__name__)
        elif isinstance(value, types.BuiltinFunctionType):
            if not isinstance(value.__self__, types.ModuleType | type | None):
                raise _Unknown
            self._put(value.__module__, value.__qualname__)
        elif isinstance(value, types.CodeType):
            self._add_all(value.co_code, value.co_names, value.co_varnames, *value.co_consts)
        elif isinstance(value, set | frozenset):
            self._add_all(*sorted(value, key=repr))
        elif isinstance(value, nn.Module):  # held in a list or a closure
            self.add_modules(value)
        else:
            self._add_object(value)

    def _add_object(self, value: object) -> None:
        """Add the items of a container and the attributes of any object."""
        kind = type(value)
        if isinstance(value, Mapping):
            self._add_all(*chain.from_iterable(value.items()))
        elif isinstance(value, list | tuple):
            self._add_all(*value)
        elif not hasattr(value, "__dict__") or kind.__reduce_ex__ is not object.__reduce_ex__:
            raise _Unknown
        if kind.__module__ != "builtins":
            self.add(kind)
            self._add_all(*chain.from_iterable(sorted(getattr(value, "__dict__", {}).items())))

    def _add_class(self, kind: type) -> None:
        """Add a class and those it inherits from: their source, else their functions."""
        for ancestor in kind.__mro__:
            if ancestor in (nn.Module, object):
                break
            self._refer_to(ancestor.__module__, ancestor.__qualname__)
            text = _text(ancestor)
            self._put(text)
            if not text and not _is_installed(ancestor.__module__):
                members = vars(ancestor).values()
                own = (getattr(v, "__func__", getattr(v, "fget", v)) for v in members)
                self._add_all(*(v for v in own if isinstance(v, types.FunctionType)))

    def _add_function(self, function: types.FunctionType) -> None:
        """Add what a function holds and, outside of installed packages, its code."""
        self._refer_to(function.__module__, function.__qualname__)
        self._add_all(function.__defaults__, function.__kwdefaults__)
        for cell in function.__closure__ or ():
            if cell != types.CellType():  # an empty one has no contents yet
                self.add(cell.cell_contents)
        if not _is_installed(function.__module__):
            self.add(function.__code__)

    def _refer_to(self, module: str | None, *name: str) -> None:
        """Add a name in a module, whose file counts; made by ``exec``, it may be in none."""
        self._put(module, *name)
        self._modules.add(module or "")

    def _add_all(self, *values: object) -> None:
        self._put(len(values))
        for value in values:
            self.add(value)

    def _put(self, *parts: object) -> None:
        self.digest.update(repr(parts).encode())


@functools.cache
def _text(kind: type) -> str:
    """The source of one class, found by parsing its whole file; empty where there is none."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed into a console, or compiled
        return ""


def _files_of(module: str) -> Iterator[Path]:
    """The file of a module and those of the modules that it has imported, installed ones apart."""
    waiting, seen = [module], {module}
    while waiting:
        found = sys.modules.get(waiting.pop())
        path = getattr(found, "__file__", None)
        if found is None or path is None or _is_installed(found.__name__):
            continue
        yield Path(path)
        values = list(vars(found).values())
        defined = (v if isinstance(v, type | types.FunctionType) else type(v) for v in values)
        names = {v.__name__ for v in values if isinstance(v, types.ModuleType)}
        names |= {str(v.__module__) for v in defined}
        waiting += names - seen
        seen |= names


@functools.cache
def _is_installed(module: str) -> bool:
    """True for modules of Python, of installed packages and of this one; their releases tell them.

    A module without a file was typed into a console, or is part of Python.
    """
    if module.partition(".")[0] == _OWN or module in sys.builtin_module_names:
        return True
    path = getattr(sys.modules.get(module), "__file__", None)
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return path is not None and any(Path(path).is_relative_to(folder) for folder in folders)


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data
