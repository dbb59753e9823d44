"""Errors that a model's own code raises in a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from traceback import walk_tb

import torch
from torch import Tensor, nn

from geocollapse.inputs import Inputs

# what a model raises for inputs of another shape, size or kind than it takes
_OF_INPUTS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError)


@contextmanager
def forward_pass(inputs: Inputs) -> Iterator[None]:
    """Turn an error of the model's own into a ValueError that names the shape of ``inputs``.

    Raises:
        ValueError: the model raised an error of any kind, except for being out of memory, which is
            raised unchanged.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a model is other people's code, which may raise anything
        is_out_of_memory = "allocate memory" in str(error)  # on a CPU it has no type of its own
        if is_out_of_memory or not _is_of_a_module(error):
            raise
        reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise ValueError(
            f"model: expected a forward pass of inputs of shape {_shape(inputs)}, got "
            f"{reason.rstrip('.')}; "
            f"do {_remedy(error, inputs)}"
        ) from error


def _is_of_a_module(error: Exception) -> bool:
    """True if a module's call raised the error, and no code of this package inside that call.

    This package's models and hooks run inside such calls, and raise errors of their own.
    """
    names = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    ours = max(place for place, name in enumerate(names) if name.startswith("geocollapse."))
    return nn.Module.__module__ in names[ours:]


def _shape(inputs: Inputs) -> str:
    if isinstance(inputs, Mapping):
        return ", ".join(f"{tuple(tensor.shape)} of {name}" for name, tensor in inputs.items())
    return str(tuple(inputs.shape))


def _remedy(error: Exception, inputs: Inputs) -> str:
    """What to check: the inputs, or the line of the model for an error that they do not explain."""
    if isinstance(error, _OF_INPUTS) and not isinstance(error, NotImplementedError):
        return f"check {_settings(inputs)}"
    code, line = [(frame.f_code, number) for frame, number in walk_tb(error.__traceback__)][-1]
    return f"correct the model at line {line} of {code.co_filename}"


def _settings(inputs: Inputs) -> str:
    """The likely causes of a failure on such inputs, for a message."""
    if isinstance(inputs, Tensor) and inputs.ndim == 4:
        size = "such as image_size=224 or model_args={'img_size': 32}"
        return f"that the model takes images, and their size, {size}"
    if isinstance(inputs, Mapping) or not inputs.is_floating_point():
        size = "such as max_length=128"
        return f"that the model needs no other inputs, and the number of tokens, {size}"
    return "the shape that the model takes"
