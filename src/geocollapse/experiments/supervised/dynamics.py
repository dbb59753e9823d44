"""How training moves at a record: curvature, straightness, and the gradients of mini-batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geocollapse.data import LabelledData
from geocollapse.dynamics import corridor_diagnostics, implicit_bias, sharpness
from geocollapse.experiments.supervised.losses import loss_of
from geocollapse.modules.borrow import in_mode

if TYPE_CHECKING:
    from geocollapse.dynamics import Loss
    from geocollapse.experiments.recipe import DynamicsConfig, TrainingConfig
    from geocollapse.experiments.results.records import DynamicsRecord
    from geocollapse.experiments.supervised.state import Training

_TOLERANCE = 1e-2  # relative, of the sharpness


def dynamics_record(training: Training, wanted: DynamicsConfig, lr: float | None) -> DynamicsRecord:
    """How training moves at the present parameters, in evaluation mode.

    Of the loss that is trained on (with its label smoothing), without penalties and weight decay,
    on fixed examples: a balanced subset, and the first mini-batches of a fixed order. Every record
    starts anew, so that a resumed run has the same ones. Cost: see ``DynamicsConfig``.

    Args:
        training: the run.
        wanted: settings of the record.
        lr: h; None where none is known, as before the first step of an optimizer that chooses it.
    """
    settings = training.config.training
    subset = training.source.select(subset=min(wanted.subset, len(training.source)))
    loss = _loss_on(subset.inputs, subset.targets, settings)
    notes: list[str] = []
    with in_mode(training.model, training=False), _noting(notes):
        path = corridor_diagnostics(training.model, loss, lr or 1.0)
        top = _sharpness(training.model, loss, notes) if wanted.sharpness else (None, None)
        batches = implicit_bias(training.model, _mini_batches(training, wanted.n_batches))
    edge = _edge(settings, lr)
    is_known = lr is not None
    return {
        "n_samples": len(subset),
        "learning_rate": lr,
        "gradient_norm": path.speed,
        "corridor_rate": path.corridor_lr,
        "curvature": 2.0 * path.drift_ratio / path.lr,
        "drift_ratio": path.drift_ratio if is_known else None,
        "linearity_defect": path.linearity_defect if is_known else None,
        "straightness": path.straightness if is_known else None,
        "sharpness": top[0],
        "sharpness_residual": top[1],
        "edge": edge,
        "edge_ratio": None if edge is None or top[0] is None else top[0] / edge,
        "mini_batch_norm": batches.mini_batch_norm,
        "mean_gradient_norm": batches.full_norm,
        "mini_batch_variance": batches.variance,
        "n_batches": batches.n_batches,
        "batch_size": settings.batch_size,
        "warnings": notes,
    }


def _edge(settings: TrainingConfig, lr: float | None) -> float | None:
    """The sharpness above which descent of rate h is unstable on a quadratic: 2 (1 + momentum)/h.

    None for AdamW, whose steps are scaled.

    Source: Cohen et al. (2021), arXiv 2103.00065, section 2.
    """
    if lr is None or settings.optimizer == "adamw":
        return None
    return 2.0 * (1.0 + settings.momentum) / lr


def _sharpness(
    model: nn.Module, loss: Loss, notes: list[str]
) -> tuple[float, float] | tuple[None, None]:
    """Lambda_max and its residual; None with a note where it does not converge."""
    try:
        top = sharpness(model, loss, tolerance=_TOLERANCE)
    except RuntimeError as error:
        notes.append(f"sharpness: {error}")
        return None, None
    return top.largest, float(top.residuals[0])


def _mini_batches(training: Training, n_batches: int) -> list[Loss]:
    """The losses of the first mini-batches of an order that is the same for every run."""
    settings = training.config.training
    data = training.source
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    size = settings.batch_size
    n = min(n_batches, len(data) // size)
    parts = order[: n * size].to(data.inputs.device).split(size)
    return [_of_rows(data, rows, settings) for rows in parts]


def _of_rows(data: LabelledData, rows: Tensor, settings: TrainingConfig) -> Loss:
    return _loss_on(data.inputs[rows], data.targets[rows], settings)


def _loss_on(x: Tensor, y: Tensor, settings: TrainingConfig) -> Loss:
    return lambda model: loss_of(model(x), y, settings)


@contextmanager
def _noting(notes: list[str]) -> Iterator[None]:
    """Warnings as notes of the record."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    notes += [str(warning.message) for warning in caught]
