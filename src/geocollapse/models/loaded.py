"""A model with where it came from and what its inputs go through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from geocollapse.data import ImagePreprocessing

RANDOM = "random"  # the weights of NAME@random


@dataclass(frozen=True)
class LoadedModel:
    """A model with where it came from.

    Attributes:
        model: the module, on the CPU.
        name: as it was asked for.
        weights: file or source of the weights, ``random`` for untrained ones that were asked for,
            None for a model as its factory made it.
        weights_key: entry of the file that held the state dict, None if the file is one.
        preprocessing: what the model does to images, None where nobody says.
        tokenizer: of a text model, where one lies with it.
    """

    model: nn.Module
    name: str
    weights: str | None = None
    weights_key: str | None = None
    preprocessing: ImagePreprocessing | None = None
    tokenizer: Any | None = None
