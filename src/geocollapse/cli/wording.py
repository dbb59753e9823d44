"""Errors of the library in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

# arguments of the library that are options, and the options that have another name
_ARGUMENTS = (
    "classes",
    "data_root",
    "image_column",
    "image_size",
    "input_layer",
    "label_column",
    "layer",
    "max_length",
    "model_args",
    "next_tokens",
    "n_seeds",
    "only",
    "pool",
    "results",
    "skip_broken",
    "store",
    "subset",
    "text_column",
    "tokenizer",
    "weights",
    "weights_key",
    "weights_prefix",
)
_OPTIONS = {"model_args": "model_arg", "n_seeds": "seeds"}
_ITEM = re.compile(r"\bmodel_args=\{'(\w+)': ([^}]*)\}")


@contextmanager
def named_as_options(parameters: Collection[str]) -> Iterator[None]:
    """Let errors about arguments of the library name the options among ``parameters`` instead.

    Examples:
        >>> with named_as_options(["max_length"]):
        ...     raise ValueError("max_length: expected at least 1, got 0; do max_length=128")
        Traceback (most recent call last):
        ValueError: --max-length: expected at least 1, got 0; do --max-length 128
    """
    try:
        yield
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if error.args == (str(error),):  # else its text is made of several arguments
            error.args = (_in_options(str(error), parameters),)
        raise


def _in_options(text: str, parameters: Collection[str]) -> str:
    for argument in _ARGUMENTS:
        name = _OPTIONS.get(argument, argument)
        if name not in parameters:
            continue
        option = option_of(name)
        text = re.sub(rf"^{argument}: ", f"{option}: ", text)
        if argument == "model_args":
            text = _ITEM.sub(rf"{option} \1=\2", text)
            text = re.sub(r" model_args\b(?!=)", f" {option}", text)
        text = re.sub(rf"(?<= ){argument}=True\b", option, text)
        text = re.sub(rf"(?<= ){argument}=(?=,)", option, text)
        text = re.sub(rf"(?<= ){argument}=", f"{option} ", text)
    if "data" in parameters:  # whose text names the split
        text = re.sub(r"^split: expected one of ", "DATA: expected one of the splits ", text)
    return text


def option_of(argument: str) -> str:
    """The option of the command line for ``argument``."""
    return f"--{argument.replace('_', '-')}"
