"""Penalties and input noise of a recipe, which a step has beside the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geocollapse.modules.borrow import in_mode
from geocollapse.modules.mixing import check_batch_norm
from geocollapse.regularizers import (
    GeometricComplexityPenalty,
    GradientNorm,
    L2Penalty,
    SpectralNormPenalty,
)

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import (
        GradientPenaltyConfig,
        PenaltyConfig,
        TrainingConfig,
    )

_SINGULAR = "singular_vector/"  # of a weight, among the saved tensors


@dataclass(frozen=True)
class WeightPenalties:
    """The penalties of a recipe that need no inputs; None for a weight of 0."""

    l2: L2Penalty | None = None
    spectral: SpectralNormPenalty | None = None

    @classmethod
    def of(cls, settings: TrainingConfig, *, seed: int) -> WeightPenalties:
        """Those with a positive weight; ``seed`` is of the first singular vectors."""
        l2 = settings.l2_penalty
        spectral = settings.spectral_norm_penalty
        return cls(
            L2Penalty(l2) if l2 > 0.0 else None,
            SpectralNormPenalty(spectral, seed=seed) if spectral > 0.0 else None,
        )

    def added_to(self, loss: Tensor, model: nn.Module) -> Tensor:
        """The loss with the penalties; the loss itself without any."""
        for penalty in (self.l2, self.spectral):
            if penalty is not None:
                loss = loss + penalty(model)
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that the next step depends on, by names for a checkpoint."""
        vectors = {} if self.spectral is None else self.spectral.get_extra_state()
        return {f"{_SINGULAR}{name}": vector for name, vector in vectors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors of a checkpoint; others among them do not count."""
        if self.spectral is not None:
            vectors = {
                name.removeprefix(_SINGULAR): vector
                for name, vector in tensors.items()
                if name.startswith(_SINGULAR)
            }
            self.spectral.set_extra_state(vectors)


def gc_penalty(config: PenaltyConfig, *, seed: int) -> GeometricComplexityPenalty | None:
    """The penalty on geometric complexity; None for a weight of 0."""
    if config.weight == 0.0:
        return None
    return GeometricComplexityPenalty(
        config.weight,
        n_probes=config.n_probes,
        batch_fraction=config.batch_fraction,
        every=config.every,
        batch_norm=config.batch_norm,
        seed=seed,
    )


def gradient_penalty(config: GradientPenaltyConfig, *, seed: int) -> GradientNorm | None:
    """The penalty on the gradient norm that the recipe asks for; None for a weight of 0."""
    if config.weight == 0.0:
        return None
    return GradientNorm(
        config.weight,
        n_micro_batches=config.n_micro_batches,
        batch_fraction=config.batch_fraction,
        every=config.every,
        batch_norm=config.batch_norm,
        seed=seed,
    )


def check_penalties(model: nn.Module, training: TrainingConfig) -> None:
    """Refuse a network with batch normalisation that a penalty of the recipe refuses.

    Raises:
        ValueError: names the penalty, the layers and the remedies.
    """
    for name in ("gc_penalty", "gradient_penalty"):
        penalty: PenaltyConfig | GradientPenaltyConfig = getattr(training, name)
        if penalty.weight == 0.0 or penalty.batch_norm != "refuse":
            continue
        try:
            with in_mode(model, training=True):
                check_batch_norm(model)
        except RuntimeError as error:
            raise ValueError(f"training.{name}: {error}") from error


def with_noise(inputs: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Inputs with Gaussian noise, drawn on the CPU: the same numbers on every device.

    In expectation over the noise e, with f the network, the output moves by
    E||f(x + e) - f(x)||^2 = deviation^2 GC(f) + O(deviation^4). A squared loss ||f - y||^2 gains
    deviation^2 (GC(f) + E<f - y, Laplacian f>): GC alone where residuals are zero on average.

    Source: Bishop (1995), "Training with noise is equivalent to Tikhonov regularization".

    Args:
        inputs: (n, ...).
        deviation: standard deviation of the noise, in the unit of the inputs.
        generator: on the CPU.
    """
    noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
    return inputs + deviation * noise.to(inputs.device)
