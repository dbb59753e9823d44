"""The penalty: one forward pass for the model's output and the weighted geometric complexity of its
embedding.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from geocollapse.complexity.means import EstimateSettings
from geocollapse.estimate import Estimate, GeocollapseWarning
from geocollapse.features import FeatureMap, Layer, Pool
from geocollapse.features.entry import run_model
from geocollapse.features.located import check_map, locate
from geocollapse.features.mixing import check_batch_norm, check_mixing_layers, is_batch_norm
from geocollapse.features.padding import NO_MASK, padding_without_mask
from geocollapse.features.wrapped import Wrapping
from geocollapse.inputs import Inputs, n_rows, rows_of, tensors_of
from geocollapse.jacobian import probes
from geocollapse.regularizers.complexity.checks import (
    check_call,
    check_choices,
    check_numbers,
    check_output,
)
from geocollapse.regularizers.complexity.derivatives import check_derivatives
from geocollapse.regularizers.complexity.methods import (
    METHODS,
    Method,
    NumberOfProbes,
    PenalisedPass,
    ProbeVectors,
    check_precision,
)
from geocollapse.regularizers.complexity.reading import PenaltyReading
from geocollapse.runtime.processes import share

BatchNorm = Literal["refuse", "running"]

_STRIDE = 1 << 24  # examples of different steps and processes have different probes
# on a CPU: inputs that go through together, so that what they leave behind is reused memory
_PIECE_BYTES = 1 << 20
_MIN_PIECE = 32  # examples
_REMEDIES = {  # by whether the method may meet random layers
    True: "do name a layer before it",
    False: "do method='forward_mode' with dropout, or name a layer before it",
}


@dataclass
class _Met:
    """A model that was penalised: the layers found in it, and with how many examples it was looked
    at, 2 at most.
    """

    model: weakref.ref[nn.Module]
    settings: tuple[Any, ...]
    layer: Layer
    input_layer: str | None
    n_looked: int = 0


class GeometricComplexityPenalty(nn.Module):
    """The weighted geometric complexity of a model's embedding on a batch, differentiable in the
    parameters.

    loss = cross-entropy + weight * GC(f, batch),  GC(f, batch) = 1/n sum_x ||J_f(x)||_F^2

    estimated with own Rademacher probes for each example and step. The gradient is that of an
    unbiased estimate, so its expectation over the probes is the gradient of GC on the batch. With
    ReLU or max-pooling it is the almost-everywhere gradient. The network can lower GC by shrinking
    its features: give ``labels`` and watch ``last_collapse``. Unit of the weight: (input unit /
    feature unit)^2. Cost: one forward pass, shared with the main loss, and about one more step's
    worth of work for the penalised share of the batch.

    Source: Munn, Dherin, Gonzalvo (2024), explicit regularisation; Dherin et al. (2022);
    definitions 6.

    Args:
        weight: the strength lambda, at least 0; at 0 nothing is added, and ``last`` is still
            measured.
        layer: ``NAME``, ``NAME:in``, ``""`` or None for the input of the classifier.
        pool: what is kept of the positions of a map or the tokens of a sequence: ``mean``, ``cls``,
            ``last``, None for all.
        input_layer: the layer whose output Jacobians are taken with respect to, for integer inputs:
            the embedding of the tokens. None for the inputs themselves, and for a transformers
            model, which names its own.
        method: ``forward_mode``: ||J u||^2 of input probes u, reverse over forward mode, the
            cheapest that is unbiased; ``double_backward``: ||J^T v||^2 of output probes v, unbiased
            too, where an operation has no forward mode; ``finite_difference``: ||f(x + eps u) -
            f(x)||^2 / eps^2, for smooth maps without second derivatives: biased by 0.1 to 2 % in
            float32, and with ReLU its gradient is mostly noise.
        n_probes: probes for each example; ``exact`` takes all axes, of the inputs or, with
            ``double_backward``, of the features.
        batch_fraction: share of the batch, drawn at random, that the penalty is estimated on.
        every: the penalty is added every so many calls, with ``every`` times the weight.
        seed: of the probes and of the share.
        batch_norm: batch normalisation in training mode is refused; ``running`` evaluates the
            penalty in a second forward pass of the penalised share with the running statistics, and
            the output in one of the whole batch.

    Raises:
        ValueError: an argument out of its range, a layer without a gradient path to the inputs or
            the parameters, an output without a row for each example.
        TypeError: no module; inputs that are not floating; half precision with
        ``finite_difference``.
        RuntimeError: batch normalisation in training mode, a layer that mixes examples or, with
            ``finite_difference``, draws at random, a compiled module inside, gradients switched
            off.
        NotImplementedError: an operation without the derivatives that the method takes.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> penalty = GeometricComplexityPenalty(weight=1e-2)
        >>> logits, gc_loss = penalty(model, torch.randn(16, 4))
        >>> logits.shape, bool(abs(gc_loss.detach() - 1e-2 * penalty.last.value) < 1e-6)
        (torch.Size([16, 3]), True)
    """

    step: Tensor

    def __init__(
        self,
        weight: float,
        layer: str | None = None,
        *,
        pool: Pool | None = None,
        input_layer: str | None = None,
        method: Method = "forward_mode",
        n_probes: NumberOfProbes = 1,
        batch_fraction: float = 1.0,
        every: int = 1,
        seed: int = 0,
        batch_norm: BatchNorm = "refuse",
    ) -> None:
        super().__init__()
        check_numbers(weight, n_probes, batch_fraction, every)
        check_choices(method, batch_norm, n_probes)
        self.weight = weight
        self.layer = layer
        self.pool = pool
        self.input_layer = input_layer
        self.method = method
        self.n_probes = n_probes
        self.batch_fraction = batch_fraction
        self.every = every
        self.seed = seed
        self.batch_norm = batch_norm
        self._reading: PenaltyReading | None = None
        self._met: _Met | None = None
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def last(self) -> Estimate | None:
        """Unweighted geometric complexity at the last penalised step, of this process's examples."""
        return None if self._reading is None else self._reading.complexity

    @property
    def last_collapse(self) -> Estimate | None:
        """Geometric collapse of the examples penalised last, if ``labels`` were given; NaN where a
        class is missing.
        """
        return None if self._reading is None else self._reading.collapse

    def forward(
        self, model: nn.Module, x: Inputs, labels: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """The model's output (n, ...) for ``x`` and the weighted penalty, a scalar; counts one
        step.

        ``x`` is one tensor (n, ...), or tensors by the names of the model's arguments, such as
        ``input_ids`` and ``attention_mask``. ``labels`` (n,) are for ``last_collapse`` alone.
        """
        if (
            torch.compiler.is_compiling()
        ):  # a step compiled as a whole: the penalty in it runs as it is written
            found: tuple[Any, Tensor] = torch.compiler.disable(self._call)(model, x, labels)
            return found
        return self._call(model, x, labels)

    def _call(self, model: nn.Module, x: Inputs, labels: Tensor | None) -> tuple[Any, Tensor]:
        check_call(x, labels)
        step = int(self.step)
        found = (
            self._penalise(Wrapping.of(model), x, labels, step)
            if step % self.every == 0
            else (run_model(model, x), _nothing(x))
        )
        self.step += 1  # not for a call that was refused
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What is known of the model belongs to this process, and is not copied."""
        return self.__dict__ | {"_met": None}

    def _penalise(
        self, wrapped: Wrapping, x: Inputs, labels: Tensor | None, step: int
    ) -> tuple[Any, Tensor]:
        _check_layers(wrapped.plain, self.batch_norm)
        if self.method == "finite_difference":
            check_precision(wrapped.plain, x)
        met = self._meet(wrapped.plain, x)
        wrapped.check_differentiable(met.layer.name, self.method)
        graphs = self.method == "finite_difference"
        feature_map = FeatureMap(
            wrapped.plain, [met.layer], self.pool, met.input_layer, keeps_graphs=graphs
        )
        if met.n_looked < min(2, n_rows(x)):
            self._check_map(feature_map, x)
            met.n_looked = min(2, n_rows(x))
            # of weights cast without gradients meanwhile, which torch 2.6 would use
            torch.clear_autocast_cache()
        return wrapped.run(lambda x: self._penalised(wrapped, feature_map, x, labels, step), x)

    def _meet(self, model: nn.Module, x: Inputs) -> _Met:
        """The layers between which the penalty is taken, found with the first example that a model
        sees.
        """
        modes = [module.training for module in model.modules()]
        trained = [parameter.requires_grad for parameter in model.parameters()]
        settings = (
            self.layer,
            self.pool,
            self.input_layer,
            self.method,
            self.batch_norm,
            modes,
            trained,
        )
        if self._met is None or self._met.model() is not model or self._met.settings != settings:
            first = rows_of(x, slice(1))
            found = locate(model, first, self.layer, input_layer=self.input_layer)
            layer = found.embedding.layer
            self._met = _Met(weakref.ref(model), settings, layer, found.input_layer)
        return self._met

    def _check_map(self, feature_map: FeatureMap, x: Inputs) -> None:
        """At the first step of a model: examples that do not mix, and operations that can be
        differentiated.
        """
        is_random = self.method != "finite_difference"
        model = feature_map.model
        if padding_without_mask(model, x, feature_map.input_layer):
            warnings.warn(NO_MASK, GeocollapseWarning, stacklevel=2)
        with _running_statistics(model):
            check_map(
                feature_map.enter_whole,
                x,
                model,
                feature_map.input_layer,
                is_random=is_random,
                remedy=_REMEDIES[is_random],
            )
            if self.batch_norm == "refuse":
                check_output(feature_map, x)
            if is_random:
                check_derivatives(feature_map, rows_of(x, slice(2)), self.method)

    def _penalised(
        self,
        wrapped: Wrapping,
        feature_map: FeatureMap,
        x: Inputs,
        labels: Tensor | None,
        step: int,
    ) -> tuple[Any, Tensor]:
        """The penalised rows go through the plain module, the others, or with ``running`` all,
        through the main one.
        """
        indices = _indices(step, x)
        order = self._order(indices)
        rows, others = order.tensor_split([self._n_rows(len(order))])
        if self.batch_norm == "running":
            output = run_model(wrapped.main, x)
            with _running_statistics(wrapped.plain):
                passes = self._passes(feature_map, rows_of(x, rows), indices[rows])
        else:
            passes = self._passes(feature_map, rows_of(x, rows), indices[rows])
            outputs = _outputs(wrapped, rows_of(x, others)) if len(others) else []
            output = _joined([*(part.output for part in passes), *outputs], order)
        terms = torch.cat([part.terms for part in passes], dim=1)
        gc = terms.mean()
        self._keep(terms, passes, feature_map.layers[0], rows, labels)
        return output, self.weight * self.every * gc if self.weight > 0.0 else torch.zeros_like(gc)

    def _passes(self, feature_map: FeatureMap, x: Inputs, indices: Tensor) -> list[PenalisedPass]:
        """The penalised examples in pieces, each with its part of the probes."""
        method = METHODS[self.method]
        return [
            method(feature_map, rows_of(x, p), ProbeVectors(self.seed, indices[p], self.n_probes))
            for p in _pieces(x)
        ]

    def _keep(
        self,
        terms: Tensor,
        passes: list[PenalisedPass],
        layer: Layer,
        rows: Tensor,
        labels: Tensor | None,
    ) -> None:
        is_exact = self.n_probes == "exact"
        n_probes = 1 if self.n_probes == "exact" else self.n_probes
        estimator = (
            "exact" if is_exact else "rademacher" if self.method == "double_backward" else "input"
        )
        self._reading = PenaltyReading(
            terms.detach(),
            torch.cat([part.features.detach() for part in passes]),
            EstimateSettings(estimator, n_probes, "distribution", layer=str(layer)),
            None if labels is None else labels[rows.to(labels.device)],
            labels,
        )

    def _n_rows(self, n_examples: int) -> int:
        return max(1, round(self.batch_fraction * n_examples))

    def _order(self, indices: Tensor) -> Tensor:
        """The rows of the batch, those that are penalised first: drawn at random for each step."""
        if self._n_rows(len(indices)) == len(indices):
            return torch.arange(len(indices), device=indices.device)
        return probes.random_order(self.seed, indices) - indices[0]


def _indices(step: int, x: Inputs) -> Tensor:
    """What the probes of a batch are a hash of: step, process and row."""
    rank, n_processes = share()
    return (step * n_processes + rank) * _STRIDE + torch.arange(
        n_rows(x), device=tensors_of(x)[0].device
    )


def _nothing(x: Inputs) -> Tensor:
    """The penalty of a step that is not due."""
    first = tensors_of(x)[0]
    return torch.zeros(
        (), dtype=first.dtype if first.is_floating_point() else None, device=first.device
    )


def _outputs(wrapped: Wrapping, x: Inputs) -> list[Any]:
    """The outputs of examples that are not penalised; a compiled model takes them at once, as few
    shapes as can be.
    """
    pieces = _pieces(x) if wrapped.main is wrapped.plain else [slice(None)]
    return [run_model(wrapped.main, rows_of(x, piece)) for piece in pieces]


def _pieces(x: Inputs) -> list[slice]:
    """Examples that go through together: all on an accelerator, on a CPU about 1 MB of inputs.

    The graph of a batch takes the same memory in pieces, but its tensors are small enough for the
    allocator to reuse; large ones are mapped and cleared by the system at each step, a tenth of the
    step's time.
    """
    tensors = tensors_of(x)
    if tensors[0].device.type != "cpu":
        return [slice(None)]
    n_pieces = math.ceil(
        sum(tensor.numel() * tensor.element_size() for tensor in tensors) / _PIECE_BYTES
    )
    size = max(_MIN_PIECE, math.ceil(n_rows(x) / max(1, n_pieces)))
    return [slice(start, start + size) for start in range(0, n_rows(x), size)]


def _joined(outputs: list[Any], order: Tensor) -> Any:
    """The parts of an output, of the rows in ``order``, as one in the order of the rows."""
    if len(outputs) == 1:
        return outputs[0]  # all rows, in their own order
    places = order.argsort()
    return tree_map(lambda *parts: None if parts[0] is None else torch.cat(parts)[places], *outputs)


@contextmanager
def _running_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation layers use, and do not update, their running statistics; all else stays
    in its mode.

    They use copies: the graph keeps what they use, and the next forward pass in training mode
    changes the statistics.
    """
    layers = [module for module in model.modules() if is_batch_norm(module) and module.training]
    buffers = [dict(layer._buffers) for layer in layers]
    try:
        for layer in layers:
            layer.training = False  # and not eval(), which reaches what is inside the layer
            layer._buffers.update(
                {name: None if b is None else b.clone() for name, b in layer._buffers.items()}
            )
        yield
    finally:
        for layer, own in zip(layers, buffers, strict=True):
            layer.training = True
            layer._buffers.update(own)


def _check_layers(model: nn.Module, batch_norm: BatchNorm) -> None:
    check_mixing_layers(model, evaluation=True)
    if batch_norm == "refuse":
        check_batch_norm(model)
