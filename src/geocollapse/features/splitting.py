"""A model split at its embedding, into a feature map and the head behind it."""

from __future__ import annotations

from torch import Tensor, nn

from geocollapse.features.embedding import find_embedding
from geocollapse.features.feature_map import FeatureMap
from geocollapse.features.layer import Layer
from geocollapse.features.outputs import main_output
from geocollapse.inputs import flatten_features
from geocollapse.models import LoadedModel, module_of


class Head(nn.Module):
    """The part of a model behind its embedding: ``head(feature_map(x)) == model(x)``."""

    def __init__(self, feature_map: SplitFeatureMap) -> None:
        super().__init__()
        # in a list, so that the model's parameters do not become the head's
        self._feature_map = [feature_map]

    def forward(self, features: Tensor) -> Tensor:
        """The model's output from its features.

        Raises:
            RuntimeError: the feature map has seen no input yet and the default layer is not known,
                or what follows the layer is not one module.
        """
        modules, shape = self._feature_map[0].rest()
        features = features.clone().reshape(len(features), *shape)  # modules may work in place
        for module in modules:
            features = module(features)
        output_shape = self._feature_map[0].output_shape
        return features if output_shape is None else features.reshape(len(features), *output_shape)


class SplitFeatureMap:
    """A feature map that finds its layer with the first inputs it sees, unless one was named."""

    def __init__(self, model: nn.Module, layer: str | None) -> None:
        self.model = model
        self.layer = None if layer is None else Layer.find(model, layer)
        self._shape: tuple[int, ...] | None = None
        self.output_shape: tuple[int, ...] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, p), differentiable in the inputs and the parameters."""
        if self.layer is None:
            self.layer = find_embedding(self.model, x[:1].detach()).layer
        (raw,), whole = FeatureMap(self.model, [self.layer]).take(x)
        output = main_output(whole)
        features = flatten_features(raw, len(x))
        self._shape = tuple(raw.shape[1:])
        self.output_shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
        return features

    def rest(self) -> tuple[list[nn.Module], tuple[int, ...]]:
        """The modules behind the layer, and the shape of one example's features as they take it.

        Raises:
            RuntimeError: no input was seen yet, or what follows the layer is not one module.
        """
        if self.layer is None or self._shape is None:
            raise RuntimeError(
                "head: expected a known embedding, got a model that has seen no input; do "
                "feature_map(x) first"
            )
        if self.layer.is_output:
            return [], self._shape
        if self.layer.side == "in":
            return self._from(self.layer.name), self._shape
        return self._from(self.layer.name)[1:], self._shape

    def _from(self, name: str) -> list[nn.Module]:
        """The modules of a Sequential from ``name`` on, or else ``name`` as the last module."""
        if isinstance(self.model, nn.Sequential) and "." not in name:
            children = dict(self.model.named_children())
            return list(children.values())[list(children).index(name) :]
        if self.layer is not None and self.layer.side == "in":
            return [self.model.get_submodule(name)]
        raise RuntimeError(
            f"head: expected a layer that feeds the last module, got {str(self.layer)!r}; "
            f"do layer='NAME:in' with the name of the classifier"
        )


def split(model: nn.Module | LoadedModel, layer: str | None = None) -> tuple[SplitFeatureMap, Head]:
    """Split a model at its embedding: ``head(feature_map(x)) == model(x)``.

    Args:
        model: any module, or what ``models.load`` gives; both parts use its parameters, no copy is
            made.
        layer: ``NAME``, ``NAME:in``, ``""`` for the output, or None for the input of the
            classifier, which is found with the first inputs.

    Returns:
        The feature map (n, ...) -> (n, p) and the head (n, p) -> output.

    Raises:
        ValueError: no module has that name.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> feature_map, head = split(model)
        >>> x = torch.randn(5, 4)
        >>> feature_map(x).shape, bool(torch.equal(head(feature_map(x)), model(x)))
        (torch.Size([5, 3]), True)
    """
    feature_map = SplitFeatureMap(module_of(model), layer)
    return feature_map, Head(feature_map)
