"""The network of a recipe: one of this package by its name, or what a factory of yours makes."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geocollapse.experiments.recipe.settings import ModelConfig

if TYPE_CHECKING:
    from torch import nn


def fingerprinted(config: ModelConfig) -> ModelConfig:
    """The configuration with the SHA-256 of the file that makes the network.

    The digest is part of a run's identity: another network is another run. A factory of an
    installed module has no digest, and is known by its name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the configuration states another digest: the file has changed since.
    """
    path = _file(config)
    if path is None:
        return config
    if not path.is_file():
        raise FileNotFoundError(
            f"recipe: model.factory: expected a Python file, got {str(path)!r}, which does not "
            "exist; do give its path from the current folder"
        )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if config.sha256 not in (None, sha256):
        raise ValueError(
            f"recipe: model.sha256: expected the digest of {path}, {sha256[:12]}..., got "
            f"{str(config.sha256)[:12]}...: the file has changed; do bring the old one back"
        )
    return config.model_copy(update={"sha256": sha256})


def build_network(
    config: ModelConfig, *, num_classes: int, input_shape: Sequence[int]
) -> nn.Module:
    """The network, initialised from torch's random state.

    A factory gets ``args``, and ``num_classes`` if it has a parameter of that name.

    Args:
        config: its name or factory, and the arguments.
        num_classes: outputs.
        input_shape: shape of one example, (channels, h, w) for images.

    Raises:
        ValueError: an unknown name, factory or argument, or a factory that returns no Module.
        FileNotFoundError: the file of the factory is missing.
    """
    from geocollapse import models
    from geocollapse.models.factories import find_factory, make_model

    if config.factory is None:
        return models.build(
            config.name, num_classes=num_classes, input_shape=input_shape, **config.args
        )
    fingerprinted(config)
    parameters = inspect.signature(find_factory(config.factory)).parameters
    given = {"num_classes": num_classes} if "num_classes" in parameters else {}
    return make_model(config.factory, given | config.args)


def _file(config: ModelConfig) -> Path | None:
    """The Python file of the factory; None for a network by name and an installed module."""
    source = (config.factory or "").rpartition(":")[0]
    return Path(source) if source.endswith(".py") else None
