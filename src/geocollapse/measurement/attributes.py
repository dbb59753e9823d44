"""Measures as typed attributes: of a layer, and of a measurement that has one layer only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from geocollapse.measurement.layer import LayerMeasurement

Value = TypeVar("Value", covariant=True)


class HasLayer(Protocol):
    """An object that stands for one layer, at least where it has no more than one."""

    def _only(self, name: str, /) -> LayerMeasurement:
        """The layer, or an AttributeError about the attribute ``name``."""


class OfTheLayer(Generic[Value]):
    """A read-only attribute that is read from the layer.

    Args:
        read: the value of a layer.
    """

    def __init__(self, read: Callable[[LayerMeasurement], Value]) -> None:
        self.read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> OfTheLayer[Value]: ...

    @overload
    def __get__(self, instance: HasLayer, owner: type) -> Value: ...

    def __get__(self, instance: HasLayer | None, owner: type) -> OfTheLayer[Value] | Value:
        return self if instance is None else self.read(instance._only(self.name))


class CollapseMeasures:
    """The fields of ``NeuralCollapse`` as attributes."""

    cdnv = OfTheLayer(lambda layer: layer.neural_collapse.cdnv)
    cdnv_bias_corrected = OfTheLayer(lambda layer: layer.neural_collapse.cdnv_bias_corrected)
    directional_cdnv = OfTheLayer(lambda layer: layer.neural_collapse.directional_cdnv)
    nc1 = OfTheLayer(lambda layer: layer.neural_collapse.nc1)
    nc1_rank = OfTheLayer(lambda layer: layer.neural_collapse.nc1_rank)
    nc1_pooled = OfTheLayer(lambda layer: layer.neural_collapse.nc1_pooled)
    nc1_trace_ratio = OfTheLayer(lambda layer: layer.neural_collapse.nc1_trace_ratio)
    nc2_equinorm = OfTheLayer(lambda layer: layer.neural_collapse.nc2_equinorm)
    nc2_equiangular = OfTheLayer(lambda layer: layer.neural_collapse.nc2_equiangular)
    nc2_max_angle = OfTheLayer(lambda layer: layer.neural_collapse.nc2_max_angle)
    hyperspherical_uniformity = OfTheLayer(
        lambda layer: layer.neural_collapse.hyperspherical_uniformity
    )
    nearest_mean_error = OfTheLayer(lambda layer: layer.neural_collapse.nearest_mean_error)
    nc2_weight_equinorm = OfTheLayer(lambda layer: layer.neural_collapse.nc2_weight_equinorm)
    nc2_weight_equiangular = OfTheLayer(lambda layer: layer.neural_collapse.nc2_weight_equiangular)
    nc2_weight_max_angle = OfTheLayer(lambda layer: layer.neural_collapse.nc2_weight_max_angle)
    nc3 = OfTheLayer(lambda layer: layer.neural_collapse.nc3)
    nc3_squared = OfTheLayer(lambda layer: layer.neural_collapse.nc3_squared)
    self_duality_gram = OfTheLayer(lambda layer: layer.neural_collapse.self_duality_gram)
    nc4 = OfTheLayer(lambda layer: layer.neural_collapse.nc4)
