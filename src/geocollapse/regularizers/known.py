"""A model that a penalty has looked at, known again until something about it changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ModelState:
    """A model, the modes of its modules, and which of its parameters are trained.

    Attributes:
        model: held weakly.
        training: of each module.
        trained: of each parameter.
    """

    model: weakref.ref[nn.Module]
    training: Sequence[bool]
    trained: Sequence[bool]

    @classmethod
    def of(cls, model: nn.Module) -> ModelState:
        """The present state of a model."""
        training = tuple(module.training for module in model.modules())
        trained = tuple(parameter.requires_grad for parameter in model.parameters())
        return cls(weakref.ref(model), training, trained)

    def is_of(self, model: nn.Module) -> bool:
        """True for the same model in the same state."""
        return self.model() is model and self == ModelState.of(model)


class CheckedModels:
    """Remembers the last models that were checked, in the state in which they were."""

    def __init__(self) -> None:
        self._states: Sequence[ModelState] = ()

    def __getstate__(self) -> dict[str, object]:
        """Knowledge of a model belongs to this process: it is not copied or saved."""
        return {"_states": ()}

    def check(self, models: Sequence[nn.Module], look: Callable[[], None]) -> None:
        """Call ``look`` unless these models have passed it in their present state."""
        states = self._states
        is_known = len(states) == len(models) and all(
            state.is_of(model) for state, model in zip(states, models, strict=True)
        )
        if not is_known:
            look()
            self._states = [ModelState.of(model) for model in models]
