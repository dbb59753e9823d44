"""A model split at its embedding: the feature map from inputs to a named layer, and the head behind it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from geocollapse.batches import Inputs
from geocollapse.borrow import borrowed
from geocollapse.entry import enter, padding_without_mask, run_model
from geocollapse.jacobian import Take, check_floating, flatten_features, unshared

Pool = Literal["mean", "cls", "last"]

_NO_MASK = (
    "attention_mask: padding was found among the tokens and no mask that says so, so that it counts as text; "
    "do give attention_mask with input_ids"
)


@dataclass(frozen=True)
class Layer:
    """A place in a model: the output of the module ``name``, or its input. Written ``NAME`` or ``NAME:in``."""

    name: str
    side: Literal["out", "in"] = "out"

    def __str__(self) -> str:
        return f"{self.name}:in" if self.side == "in" else self.name

    @classmethod
    def find(cls, model: nn.Module, text: str) -> Layer:
        """The layer that ``text`` names.

        Raises:
            ValueError: no module of that name; the nearest names are listed.
        """
        name = text.removesuffix(":in")
        names = [known for known, _ in model.named_modules()]
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[1:4]
            hint = " or ".join(repr(known) for known in near)
            raise ValueError(f"layer: expected the name of a module, got {name!r}; do layer={hint}")
        return cls(name, "in" if text.endswith(":in") else "out")


class FeatureMap:
    """The maps from a model's input to some of its layers, all from one forward pass.

    Features are flattened to (n, p). With ``pool="mean"`` they are averaged over positions: over the dimensions after
    the channels of a map (n, channels, ...), over the tokens of a sequence (n, tokens, channels). ``cls`` takes the
    first token of a sequence and ``last`` the last one. What is padded, by ``attention_mask``, is no token.

    Args:
        model: the module; it is not changed.
        layers: where to take features.
        pool: ``mean``, ``cls`` or ``last``, None to flatten.
        input_layer: the layer whose output Jacobians are taken with respect to; None for the inputs themselves.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[Layer], pool: Pool | None = None, input_layer: str | None = None
    ) -> None:
        if pool not in (None, *get_args(Pool)):
            raise ValueError(f"pool: expected None, 'mean', 'cls' or 'last', got {pool!r}; do pool='mean'")
        self.model = model
        self.layers = tuple(layers)
        self.pool = pool
        self.input_layer = input_layer
        self.notes: dict[str, None] = {}  # what a reader of the features must know, in the order it was met

    def __call__(self, inputs: Inputs) -> Tensor:
        """Features (n, p) of the first layer."""
        take, x = self.enter(inputs)
        return take(x)[0][0]

    def enter(self, inputs: Inputs) -> tuple[Take, Tensor]:
        """The map of these examples, from the floating tensor that it starts from, and that tensor."""
        entry = enter(self.model, inputs, self.input_layer)
        if padding_without_mask(self.model, inputs, self.input_layer):
            self.notes[_NO_MASK] = None

        def take(x: Tensor) -> tuple[list[Tensor], Any]:
            taken, output = self._run(entry.run, x)
            return [flatten_features(pooled(z, self.pool, entry.mask), len(x)) for z in taken], output

        return take, entry.x

    def with_output(self, x: Tensor) -> tuple[list[Tensor], Any]:
        """Features (n, p) of every layer from one floating tensor, and the model's own output."""
        return self.enter(x)[0](x)

    def take(self, x: Tensor) -> tuple[list[Tensor], Any]:
        """What passes through every layer, in its own shape, and the model's own output."""
        return self._run(enter(self.model, x, self.input_layer).run, x)

    def _run(self, run: Callable[[Tensor], Any], x: Tensor) -> tuple[list[Tensor], Any]:
        """The same, with the way to run the model.

        Raises:
            RuntimeError: a layer ran more than once, or never.
            TypeError: a layer gives something else than one tensor.
        """
        taken: dict[Layer, list[Any]] = {layer: [] for layer in self.layers}
        with _taps(self.model, taken):
            output = run(x)
        if Layer("") in taken:
            taken[Layer("")] = [output]
        return [_the_tensor(layer, taken[layer]) for layer in self.layers], output


def pooled(features: Tensor, pool: Pool | None, mask: Tensor | None = None) -> Tensor:
    """What is kept of a layer's positions: all of them, their mean, the first or the last token.

    Args:
        features: (n, channels, ...) of a map, (n, tokens, channels) of a sequence; (n, p) has no positions.
        pool: ``mean``, ``cls`` or ``last``, or None for all.
        mask: (n, tokens), 0 where a sequence is padded.

    Raises:
        ValueError: all positions of sequences that have a mask, so each its own length; the first or last token of a
            map; a sequence without tokens.
    """
    if features.ndim <= 2:
        return features
    is_masked = features.ndim == 3 and mask is not None and mask.shape == features.shape[:2]
    if pool is None:
        if is_masked:
            raise ValueError(
                f"pool: expected one of {', '.join(get_args(Pool))} for sequences with a mask, whose lengths differ, "
                f"got None; do pool='mean'"
            )
        return features
    if features.ndim > 3:
        if pool != "mean":
            raise ValueError(f"pool: expected 'mean' for a map {tuple(features.shape)}, got {pool!r}; do pool='mean'")
        return features.flatten(2).mean(dim=2)
    if not is_masked:
        return features.mean(dim=1) if pool == "mean" else features[:, 0 if pool == "cls" else -1]
    return _pooled_tokens(features, pool, mask)  # type: ignore[arg-type]


def _pooled_tokens(features: Tensor, pool: Pool, mask: Tensor) -> Tensor:
    """(n, p) of sequences (n, tokens, p) that are padded where the mask is 0."""
    is_token = mask != 0
    if not bool(is_token.any(dim=1).all()):
        raise ValueError("attention_mask: expected at least one token in each sequence, got none; do drop empty texts")
    if pool == "mean":
        weights = is_token.to(features.dtype)[:, :, None]
        return (features * weights).sum(dim=1) / weights.sum(dim=1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    found = (
        torch.where(is_token, positions, -1).amax(dim=1) if pool == "last" else is_token.to(torch.int8).argmax(dim=1)
    )
    return features[torch.arange(len(features), device=features.device), found]


class CallableMap:
    """A callable that returns features, with the face of a ``FeatureMap``: one unnamed layer, no model behind."""

    def __init__(self, f: Any) -> None:
        self.f = f
        self.layers = (Layer(""),)
        self.pool = self.input_layer = None
        self.notes: dict[str, None] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, p)."""
        return flatten_features(self.f(unshared(x)), len(x))

    def enter(self, inputs: Inputs) -> tuple[Take, Tensor]:
        """The map, and its input.

        Raises:
            TypeError: not one floating tensor.
        """
        check_floating(inputs)
        return self.with_output, inputs  # type: ignore[return-value]

    def with_output(self, x: Tensor) -> tuple[list[Tensor], Any]:
        """The features, and None in place of a model's output."""
        return [self(x)], None


@dataclass(frozen=True)
class Embedding:
    """Where a model is split: the layer taken as its embedding, and the linear classifier behind it, if any."""

    layer: Layer
    classifier: str | None

    def head_of(self, model: nn.Module) -> tuple[Tensor, Tensor | None] | None:
        """Weight (C, p) and bias (C,) of the classifier."""
        if self.classifier is None:
            return None
        module = model.get_submodule(self.classifier)
        weight, bias = module.weight, module.bias
        if not isinstance(weight, Tensor):
            return None
        return weight.detach().flatten(1), bias.detach() if isinstance(bias, Tensor) else None


def find_embedding(
    model: nn.Module, inputs: Inputs, *, layer: str | None = None, classifier: str | None = None
) -> Embedding:
    """The embedding of a model: what feeds the classifier whose output is the model's output.

    By default the input of the Linear or 1x1 convolution whose output IS the model's output; where there is none and
    the output is one (n, p) tensor, that output, with no classifier. Found by one forward pass of ``inputs``.

    Args:
        model: the module, run in evaluation mode and handed back as it was.
        inputs: a few examples.
        layer: the layer asked for, or None for the default.
        classifier: the name of the linear classifier, or None to look for it.

    Raises:
        ValueError: an unknown name, a classifier without a weight matrix, or no embedding to be found (the candidates
            are listed).
    """
    if classifier is not None:
        _check_classifier(model, classifier)
    found, candidates, output = (classifier, [], None) if classifier and layer else _trace(model, inputs)
    name = classifier or found
    if layer is not None:
        return Embedding(Layer.find(model, layer), name)
    if name is not None:
        return Embedding(Layer(name, "in"), name)
    if isinstance(output, Tensor) and output.ndim == 2:
        return Embedding(Layer(""), None)
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    listed = ", ".join(repr(f"{candidate}:in") for candidate in candidates[-5:]) or "none"
    raise ValueError(
        f"layer: expected a linear classifier whose output is the model's, or an output of shape (n, p), got {got}; "
        f"do name the embedding with layer=, candidates: {listed}"
    )


class Head(nn.Module):
    """What a model does behind its embedding: ``head(feature_map(x)) == model(x)``."""

    def __init__(self, feature_map: SplitFeatureMap) -> None:
        super().__init__()
        self._feature_map = [feature_map]  # in a list: the head holds no copy of the model's parameters

    def forward(self, features: Tensor) -> Tensor:
        """The model's output from its features.

        Raises:
            RuntimeError: the feature map was not called yet and the default layer is not known, or what follows the
                layer is not one module.
        """
        modules, shape = self._feature_map[0].rest()
        features = features.reshape(len(features), *shape)
        for module in modules:
            features = module(features)
        output_shape = self._feature_map[0].output_shape
        return features if output_shape is None else features.reshape(len(features), *output_shape)


class SplitFeatureMap:
    """A feature map that finds its layer with the first inputs it sees, where none was named."""

    def __init__(self, model: nn.Module, layer: str | None) -> None:
        self.model = model
        self.layer = None if layer is None else Layer.find(model, layer)
        self._shape: tuple[int, ...] | None = None
        self.output_shape: tuple[int, ...] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, p), differentiable in the inputs and the parameters."""
        if self.layer is None:
            self.layer = find_embedding(self.model, x[:1].detach()).layer
        (raw,), output = FeatureMap(self.model, [self.layer]).take(x)
        features = flatten_features(raw, len(x))
        self._shape = tuple(raw.shape[1:])
        self.output_shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
        return features

    def rest(self) -> tuple[list[nn.Module], tuple[int, ...]]:
        """The modules behind the layer, and the shape in which they take one example's features."""
        if self.layer is None or self._shape is None:
            raise RuntimeError("head: expected a known embedding, the model has seen no input; do feature_map(x) first")
        if self.layer == Layer(""):
            return [], self._shape
        if self.layer.side == "in":
            return self._from(self.layer.name), self._shape
        return self._from(self.layer.name)[1:], self._shape

    def _from(self, name: str) -> list[nn.Module]:
        """The modules from ``name`` on: in a Sequential all that follow, else the last module alone."""
        if isinstance(self.model, nn.Sequential) and "." not in name:
            children = dict(self.model.named_children())
            return list(children.values())[list(children).index(name) :]
        if self.layer is not None and self.layer.side == "in":
            return [self.model.get_submodule(name)]
        raise RuntimeError(
            f"head: expected a layer that feeds the last module, got {str(self.layer)!r}; "
            f"do layer='NAME:in' with the name of the classifier"
        )


def split(model: nn.Module, layer: str | None = None) -> tuple[SplitFeatureMap, Head]:
    """Split a model at its embedding: ``head(feature_map(x)) == model(x)``.

    Args:
        model: any module; both parts use its parameters, no copy is made.
        layer: ``NAME``, ``NAME:in``, ``""`` or None for the input of the classifier, which is found with the first
            inputs.

    Returns:
        The feature map (n, ...) -> (n, p) and the head (n, p) -> output.

    Raises:
        ValueError: no module of that name.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> feature_map, head = split(model)
        >>> x = torch.randn(5, 4)
        >>> feature_map(x).shape, bool(torch.equal(head(feature_map(x)), model(x)))
        (torch.Size([5, 3]), True)
    """
    feature_map = SplitFeatureMap(model, layer)
    return feature_map, Head(feature_map)


@contextmanager
def _taps(model: nn.Module, taken: dict[Layer, list[Any]]) -> Iterator[None]:
    """Append to ``taken`` what passes through its layers; later in-place operations do not reach what was taken."""
    handles = []
    for layer, seen in taken.items():
        if layer == Layer(""):
            continue
        module = model.get_submodule(layer.name)
        if layer.side == "in":
            handles.append(module.register_forward_pre_hook(_take_input(seen), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(_take_output(seen)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _the_tensor(layer: Layer, seen: list[Any]) -> Tensor:
    if len(seen) != 1:
        raise RuntimeError(
            f"layer: expected {str(layer)!r} to run once in a forward pass, it ran {len(seen)} times; "
            f"do name a layer that is used once"
        )
    if not isinstance(seen[0], Tensor):
        raise TypeError(
            f"layer: expected {str(layer)!r} to give one tensor, got {type(seen[0]).__name__}; "
            f"do name a layer inside or after it, or pass a callable that picks the tensor"
        )
    return seen[0]


def _take_input(seen: list[Any]) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen.append(next(iter([*args, *kwargs.values()]), None))
        if not args or not isinstance(args[0], Tensor):
            return None
        return (args[0].clone(), *args[1:]), kwargs

    return hook


def _take_output(seen: list[Any]) -> Any:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        seen.append(output)
        return output.clone() if isinstance(output, Tensor) else None

    return hook


def _trace(model: nn.Module, inputs: Inputs) -> tuple[str | None, list[str], Any]:
    """Run the model once: the linear layer whose output is the model's, all linear layers that ran, the output."""
    ran: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda _m, _a, out, name=name: ran.append((name, out)))
        for name, module in model.named_modules()
        if is_linear(module)
    ]
    try:
        with borrowed(model), torch.no_grad():
            output = run_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = [name for name, out in ran if isinstance(output, Tensor) and _is_same(out, output)]
    return (found[-1] if found else None), [name for name, _ in ran], output


def is_linear(module: nn.Module) -> bool:
    """A Linear layer or a 1x1 convolution: what can be a classifier on an embedding."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))


def _is_same(out: object, output: Tensor) -> bool:
    """Whether a layer's output is the model's output, up to its shape."""
    return isinstance(out, Tensor) and out.numel() == output.numel() and out.data_ptr() == output.data_ptr()


def _check_classifier(model: nn.Module, classifier: str) -> None:
    layer = Layer.find(model, classifier)
    module = model.get_submodule(layer.name)
    if not is_linear(module):
        got = type(module).__name__
        raise ValueError(
            f"classifier: expected a Linear or a 1x1 convolution, got {got} at {classifier!r}; do name such a module"
        )
