"""A model split at its embedding: the feature map from inputs to a named layer, and the head behind it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from geocollapse.batches import Inputs
from geocollapse.borrow import borrowed, is_compiled, uncompiled_name
from geocollapse.entry import Entry, enter, padding_without_mask, run_model
from geocollapse.jacobian import Take, check_floating, flatten_features, unshared
from geocollapse.outputs import main_output, part_names, part_of

Pool = Literal["mean", "cls", "last"]

_HIDDEN = "last_hidden_state"  # what an encoder of transformers gives, by that name
_EAGER = "model: torch.compile was left aside, the same weights ran without its graphs"
_NO_MASK = (
    "attention_mask: padding was found among the tokens and no mask that says so, so that it counts as text; "
    "do give attention_mask with input_ids"
)


_PART = re.compile(r"(?P<name>[^\[\]]*)\[(?P<part>\w+)\]")


@dataclass(frozen=True)
class Layer:
    """A place in a model: the output of the module ``name``, or its input. Written ``NAME`` or ``NAME:in``.

    Of an output that is a tuple or a mapping one ``part`` is taken: ``NAME[0]``, ``NAME[last_hidden_state]``, and of
    the model's own output ``[pooler_output]``. The names are those of a model before ``torch.compile``.
    """

    name: str
    side: Literal["out", "in"] = "out"
    part: str | None = None

    def __str__(self) -> str:
        part = "" if self.part is None else f"[{self.part}]"
        return f"{uncompiled_name(self.name)}{part}{':in' if self.side == 'in' else ''}"

    @property
    def is_output(self) -> bool:
        """Whether this is the model's own output, or a part of it."""
        return not self.name and self.side == "out"

    @classmethod
    def find(cls, model: nn.Module, text: str) -> Layer:
        """The layer that ``text`` names.

        Raises:
            ValueError: no module of that name; the nearest names are listed.
        """
        side: Literal["out", "in"] = "in" if text.endswith(":in") else "out"
        found = _PART.fullmatch(text) if side == "out" else None
        name, part = (found["name"], found["part"]) if found else (text.removesuffix(":in"), None)
        names: dict[str, str] = {}
        for known, _ in model.named_modules(remove_duplicate=False):
            names.setdefault(uncompiled_name(known), known)
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or list(names)[1:4]
            hint = " or ".join(repr(known) for known in near)
            raise ValueError(f"layer: expected the name of a module, got {name!r}; do layer={hint}")
        return cls(names[name], side, part)


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
        class_outputs: (C,) which of the model's outputs each class is, pooled as the features are; None for all.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        pool: Pool | None = None,
        input_layer: str | None = None,
        class_outputs: Tensor | None = None,
    ) -> None:
        if pool not in (None, *get_args(Pool)):
            raise ValueError(f"pool: expected None, 'mean', 'cls' or 'last', got {pool!r}; do pool='mean'")
        self.model = model
        self.layers = tuple(layers)
        self.pool = pool
        self.input_layer = input_layer
        self.class_outputs = class_outputs
        # what a reader of the features must know, in the order it was met
        self.notes: dict[str, None] = {_EAGER: None} if is_compiled(model) else {}

    def __call__(self, inputs: Inputs) -> Tensor:
        """Features (n, p) of the first layer."""
        take, x = self.enter(inputs)
        return take(x)[0][0]

    def enter(self, inputs: Inputs) -> tuple[Take, Tensor]:
        """The map of these examples, from the floating tensor that it starts from, and that tensor.

        Of the model's output it gives the main tensor, its logits.
        """
        entry = enter(self.model, inputs, self.input_layer)
        if padding_without_mask(self.model, inputs, self.input_layer):
            self.notes[_NO_MASK] = None

        def take(x: Tensor) -> tuple[list[Tensor], Any]:
            features, whole = self._features(entry, x)
            output = main_output(whole)
            if self.class_outputs is not None and isinstance(output, Tensor):
                output = pooled(output, self.pool, entry.mask)[:, self.class_outputs]
            return features, output

        return take, entry.x

    def with_output(self, x: Tensor) -> tuple[list[Tensor], Any]:
        """Features (n, p) of every layer from one floating tensor, and the model's own output."""
        return self._features(enter(self.model, x, self.input_layer), x)

    def take(self, x: Tensor) -> tuple[list[Tensor], Any]:
        """What passes through every layer, in its own shape, and the model's own output."""
        return self._run(enter(self.model, x, self.input_layer).run, x)

    def _features(self, entry: Entry, x: Tensor) -> tuple[list[Tensor], Any]:
        taken, output = self._run(entry.run, x)
        return [flatten_features(pooled(z, self.pool, entry.mask), len(x)) for z in taken], output

    def _run(self, run: Callable[[Tensor], Any], x: Tensor) -> tuple[list[Tensor], Any]:
        """The same, with the way to run the model.

        Raises:
            RuntimeError: a layer ran more than once, or never.
            TypeError: a layer gives something else than one tensor.
        """
        taken: dict[Layer, list[Any]] = {layer: [] for layer in self.layers}
        with _taps(self.model, taken):
            output = run(x)
        for layer in taken:
            if layer.is_output:
                taken[layer] = [output if layer.part is None else part_of(output, layer.part, "")]
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
        self.pool = self.input_layer = self.class_outputs = None
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

    By default the input of the Linear or 1x1 convolution whose output IS the model's output (its ``logits``, or the
    first of a tuple); where there is none and the output is one (n, p) tensor, that output, or what an encoder calls
    its ``last_hidden_state``, with no classifier. Found by one forward pass of ``inputs``.

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
        classifier = _find_classifier(model, classifier)
    found, candidates, output = (classifier, [], None) if classifier and layer else _trace(model, inputs)
    name = classifier or found
    if layer is not None:
        return Embedding(Layer.find(model, layer), name)
    if name is not None:
        return Embedding(Layer(name, "in"), name)
    if isinstance(output, Tensor) and output.ndim == 2:
        return Embedding(Layer(""), None)
    if _HIDDEN in part_names(output):
        return Embedding(Layer("", part=_HIDDEN), None)
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    named = [f"[{name}]" for name in part_names(output)] + [str(Layer(name, "in")) for name in candidates[-5:]]
    listed = ", ".join(map(repr, named)) or "none"
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
        (raw,), whole = FeatureMap(self.model, [self.layer]).take(x)
        output = main_output(whole)
        features = flatten_features(raw, len(x))
        self._shape = tuple(raw.shape[1:])
        self.output_shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
        return features

    def rest(self) -> tuple[list[nn.Module], tuple[int, ...]]:
        """The modules behind the layer, and the shape in which they take one example's features."""
        if self.layer is None or self._shape is None:
            raise RuntimeError("head: expected a known embedding, the model has seen no input; do feature_map(x) first")
        if self.layer.is_output:
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
        if layer.is_output:
            continue
        module = model.get_submodule(layer.name)
        if layer.side == "in":
            handles.append(module.register_forward_pre_hook(_take_input(seen), with_kwargs=True))
        else:
            hook = _take_output(seen) if layer.part is None else _take_part(seen, layer)
            handles.append(module.register_forward_hook(hook))
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
            f"do name a part of it{_listed(str(layer), seen[0])}, or a layer inside or after it"
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


def _take_part(seen: list[Any], layer: Layer) -> Any:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        part = part_of(output, str(layer.part), uncompiled_name(layer.name))
        seen.append(part.clone() if isinstance(part, Tensor) else part)  # the layers behind go on with the original

    return hook


def _listed(layer: str, output: Any) -> str:
    """The parts of an output that are tensors, as they are asked for."""
    names = [repr(f"{layer}[{name}]") for name in part_names(output)]
    return f" ({', '.join(names)})" if names else ""


@dataclass(frozen=True)
class _Ran:
    """The output of a linear layer that ran, and how often it had been written to then."""

    name: str
    output: Tensor
    version: int

    def gave(self, output: Tensor) -> bool:
        """Whether this is the model's output, up to its shape, with nothing done to it in place."""
        is_there = self.output.numel() == output.numel() and self.output.data_ptr() == output.data_ptr()
        return is_there and self.output._version == self.version

    def equals(self, output: Tensor) -> bool:
        """Whether the model's output is a copy of this one, as logits in another precision are."""
        is_alike = self.output.numel() == output.numel() and self.output._version == self.version
        return is_alike and torch.equal(self.output.reshape(output.shape).to(output.dtype), output)


def _trace(model: nn.Module, inputs: Inputs) -> tuple[str | None, list[str], Any]:
    """Run the model once: the linear layer whose output is the model's, all linear layers that ran, the output."""
    ran: list[_Ran] = []

    def remember(name: str) -> Any:
        return lambda _module, _args, output: ran.append(_Ran(name, output, output._version))

    handles = [
        module.register_forward_hook(remember(name)) for name, module in model.named_modules() if is_linear(module)
    ]
    try:
        with borrowed(model), torch.no_grad():
            output = run_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    main = main_output(output)
    found = [layer.name for layer in ran if isinstance(main, Tensor) and layer.gave(main)]
    found = found or [layer.name for layer in ran if isinstance(main, Tensor) and layer.equals(main)]
    return (found[-1] if found else None), [layer.name for layer in ran], output


def is_linear(module: nn.Module) -> bool:
    """A Linear layer or a 1x1 convolution: what can be a classifier on an embedding."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))


def _find_classifier(model: nn.Module, classifier: str) -> str:
    """The name of the module, which must be linear."""
    name = Layer.find(model, classifier).name
    module = model.get_submodule(name)
    if not is_linear(module):
        got = type(module).__name__
        raise ValueError(
            f"classifier: expected a Linear or a 1x1 convolution, got {got} at {classifier!r}; do name such a module"
        )
    return name
