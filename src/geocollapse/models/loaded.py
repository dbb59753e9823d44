"""A model with its origin and with what its inputs go through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from geocollapse.data import ImagePreprocessing, Normalisation, Tokenizer
from geocollapse.estimate import Estimate

ModelArgs = Mapping[str, object]  # arguments of a factory, keys of a configuration

RANDOM = "random"  # the weights of NAME@random


@dataclass(frozen=True)
class TrainingRecord:
    """Scores that the training of a model recorded at the step of its weights.

    Attributes:
        step: of the training.
        layer: of the source features; None where the loss was not finite.
        scores: by name, see ``geocollapse.measures.FROM_TRAINING``; those that are defined.
    """

    step: int
    layer: str | None
    scores: Mapping[str, Estimate]


@dataclass(frozen=True)
class LoadedModel:
    """A model with its origin and with what its inputs go through.

    Called with inputs, it gives what the module gives for them. ``geocollapse.measure`` and the
    other measurements take it as the module.

    Attributes:
        model: the module, on the CPU and, if ``load`` made it, in evaluation mode.
        name: as it was asked for.
        weights: file or source of the weights; ``random`` for untrained ones that were asked for;
            None for a model as its factory made it.
        weights_key: entry of the file that held the state dict; None if the file is one.
        weights_prefix: of the names in the file that the model does not have; None without one.
        preprocessing: of its images; None if its source names none.
        tokenizer: of its texts, if one lies with it.
        normalisation: of the images it was trained on, for a run folder.
        classes: that it was trained on, by name; empty where its source tells none.
        record: of its training, for a run folder.
    """

    model: nn.Module
    name: str
    weights: str | None = None
    weights_key: str | None = None
    weights_prefix: str | None = None
    preprocessing: ImagePreprocessing | None = None
    tokenizer: Tokenizer | None = None
    normalisation: Normalisation = field(default_factory=Normalisation)
    classes: tuple[str, ...] = ()
    record: TrainingRecord | None = None

    def __call__(self, *inputs: object, **named_inputs: object) -> object:
        """The output of the module."""
        return self.model(*inputs, **named_inputs)


def module_of(model: nn.Module | LoadedModel) -> nn.Module:
    """The module of a ``LoadedModel``; a module itself."""
    return model.model if isinstance(model, LoadedModel) else model
