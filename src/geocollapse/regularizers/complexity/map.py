"""The penalised map of a model, from its inputs to a layer: found and checked once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from geocollapse.estimate import GeocollapseWarning
from geocollapse.features import FeatureMap, Layer, Pool
from geocollapse.features.located import check_map, locate
from geocollapse.features.padding import NO_MASK, padding_without_mask
from geocollapse.inputs import Inputs, n_rows, rows_of
from geocollapse.modules.borrow import cuda_devices
from geocollapse.modules.mixing import (
    check_batch_norm,
    check_mixing_layers,
    drawing_layers,
    quoted,
    running_statistics,
)
from geocollapse.modules.wrapped import Wrapping
from geocollapse.regularizers.complexity.checks import check_output
from geocollapse.regularizers.complexity.derivatives import check_derivatives
from geocollapse.regularizers.complexity.methods import Method, check_precision
from geocollapse.regularizers.known import ModelState

BatchNorm = Literal["refuse", "running"]

_REMEDY = "do name a layer before it"
_REMEDY_OF_DIFFERENCES = f"do method='forward_mode' with dropout, or {_REMEDY.removeprefix('do ')}"


@dataclass(frozen=True)
class MapSettings:
    """The settings of the penalty that a map depends on; see ``GeometricComplexityPenalty``."""

    layer: str | None
    pool: Pool | None
    input_layer: str | None
    method: Method
    batch_norm: BatchNorm


@dataclass
class KnownMap:
    """The layers found in a model, and with how many examples it was checked, 2 at most."""

    state: ModelState
    settings: MapSettings
    layer: Layer
    input_layer: str | None
    n_checked: int = 0


class PenalisedMaps:
    """Finds the penalised map of a model, and checks it with the first examples.

    Attributes:
        known: the last map, found again when the model, its modes, its trained parameters or the
            settings change.
    """

    def __init__(self) -> None:
        self.known: KnownMap | None = None

    def __getstate__(self) -> dict[str, object]:
        """Knowledge of a model belongs to this process: it is not copied or saved."""
        return {"known": None}

    def of(self, wrapped: Wrapping, x: Inputs, settings: MapSettings) -> FeatureMap:
        """The map of a model, after the checks that are due.

        Raises:
            TypeError, ValueError, RuntimeError, NotImplementedError: see
                ``GeometricComplexityPenalty``.
        """
        model = wrapped.plain
        is_difference = settings.method == "finite_difference"
        check_mixing_layers(model, evaluation=True)
        if settings.batch_norm == "refuse":
            check_batch_norm(model)
        if is_difference:
            check_precision(model, x)
        known = self._find(model, x, settings)
        wrapped.check_differentiable(known.layer.name, settings.method)
        feature_map = FeatureMap(
            model, [known.layer], settings.pool, known.input_layer, keeps_graphs=is_difference
        )
        n_examples = min(2, n_rows(x))
        if known.n_checked < n_examples:
            with torch.random.fork_rng(devices=cuda_devices(model)):
                _check(feature_map, x, settings)
            known.n_checked = n_examples
            # It holds weights cast without gradients meanwhile, which torch 2.6 would use.
            torch.clear_autocast_cache()
        return feature_map

    def _find(self, model: nn.Module, x: Inputs, settings: MapSettings) -> KnownMap:
        """The layers between which the penalty is taken, found with the first example."""
        known = self.known
        if known is None or known.settings != settings or not known.state.is_of(model):
            first = rows_of(x, slice(1))
            found = locate(model, first, settings.layer, input_layer=settings.input_layer)
            layer = found.embedding.layer
            known = KnownMap(ModelState.of(model), settings, layer, found.input_layer)
            self.known = known
        return known


def _check(feature_map: FeatureMap, x: Inputs, settings: MapSettings) -> None:
    """Refuse a map that mixes examples, or that the method cannot differentiate."""
    model = feature_map.model
    may_draw = settings.method != "finite_difference"
    if padding_without_mask(model, x, feature_map.input_layer):
        warnings.warn(NO_MASK, GeocollapseWarning, stacklevel=2)
    drawing = drawing_layers(model)
    if drawing:
        warnings.warn(_drawn(drawing), GeocollapseWarning, stacklevel=2)
    with running_statistics(model):
        check_map(
            feature_map.enter_whole,
            x,
            model,
            feature_map.input_layer,
            is_random=may_draw,
            remedy=_REMEDY if may_draw else _REMEDY_OF_DIFFERENCES,
        )
        if settings.batch_norm == "refuse":
            check_output(feature_map, x)
        if may_draw:
            check_derivatives(feature_map, rows_of(x, slice(2)), settings.method)


def _drawn(names: list[str]) -> str:
    return (
        f"penalty: {quoted(names)} drops at random, so that the penalty and penalty.last are of "
        f"the networks that are drawn, not of the whole one; do measure() for that"
    )
