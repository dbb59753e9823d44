"""What determines the output of a model, as one hash: its code, its settings and its weights."""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from itertools import chain

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a module's classes, their source, their settings and all its tensors.

    Two modules with the same fingerprint compute the same features, unless their code reads
    something else, such as a global variable. Cost: one reading of the weights.

    Examples:
        >>> a = nn.Linear(2, 2)
        >>> b = nn.Linear(2, 2)
        >>> fingerprint(a) == fingerprint(b)
        False
        >>> _ = b.load_state_dict(a.state_dict())
        >>> fingerprint(a) == fingerprint(b)
        True
    """
    digest = hashlib.sha256()
    sources = {kind: _source(kind) for kind in map(type, model.modules())}
    for name, module in model.named_modules():
        kind = type(module)
        parts = (name, kind.__module__, kind.__qualname__, sources[kind], _settings(module))
        digest.update(repr(parts).encode())
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _settings(module: nn.Module) -> list[tuple[str, object]]:
    """The plain attributes of a module, such as a stride, a rate or its mode."""
    plain = (bool, int, float, str, tuple, type(None))
    return sorted((k, v) for k, v in vars(module).items() if isinstance(v, plain))


def _source(kind: type) -> str:
    """The source of a class and of the classes it inherits from, as far as it can be had."""
    texts = []
    for ancestor in kind.__mro__:
        if ancestor in (nn.Module, object):
            break
        texts.append(_text(ancestor))
    return "\n".join(texts)


@cache
def _text(kind: type) -> str:
    """The source of one class, found by parsing its whole file; empty where there is none."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed into a console, or compiled
        return ""


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data
