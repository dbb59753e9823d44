"""The penalty: one forward pass for the model's output and the weighted geometric complexity of its embedding."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from geocollapse import probes
from geocollapse.borrow import check_batch_norm, check_independent, is_batch_norm
from geocollapse.estimate import Estimate
from geocollapse.features import FeatureMap, Layer, find_embedding
from geocollapse.independence import check_rows_independent
from geocollapse.jacobian import check_floating
from geocollapse.processes import share
from geocollapse.regularizers.methods import (
    METHODS,
    Method,
    NumberOfProbes,
    Pass,
    Probes,
    check_derivatives,
    check_precision,
)
from geocollapse.regularizers.reading import Reading
from geocollapse.regularizers.wrapped import Wrapped

BatchNorm = Literal["refuse", "running"]

_STRIDE = 1 << 24  # examples of different steps and processes have different probes
_PIECE_BYTES = 1 << 20  # on a CPU: inputs that go through together, so that what they leave behind is reused memory
_MIN_PIECE = 32  # examples
_REMEDIES = {  # by whether the method may meet random layers
    True: "do name a layer before it",
    False: "do method='forward_mode' with dropout, or name a layer before it",
}


@dataclass
class _Met:
    """A model that was penalised: the layer found in it, and whether it was looked at with two examples."""

    model: weakref.ref[nn.Module]
    settings: tuple[str | None, str, str]
    layer: Layer
    is_checked: bool = False


class GeometricComplexityPenalty(nn.Module):
    """The weighted geometric complexity of a model's embedding on a batch, differentiable in the parameters.

    loss = cross-entropy + weight * GC(f, batch),  GC(f, batch) = 1/n sum_x ||J_f(x)||_F^2

    estimated with own Rademacher probes for each example and step. The gradient is that of an unbiased estimate, so its
    expectation over the probes is the gradient of GC on the batch. With ReLU or max-pooling it is the almost-everywhere
    gradient. The network can lower GC by shrinking its features: give ``labels`` and watch ``last_collapse``. Unit of
    the weight: (input unit / feature unit)^2. Cost: one forward pass, shared with the main loss, and about one more
    step's worth of work for the penalised share of the batch.

    Source: Munn, Dherin, Gonzalvo (2024), explicit regularisation; Dherin et al. (2022); definitions 6.

    Args:
        weight: the strength lambda, at least 0; at 0 nothing is added, and ``last`` is still measured.
        layer: ``NAME``, ``NAME:in``, ``""`` or None for the input of the classifier.
        method: ``forward_mode``: ||J u||^2 of input probes u, reverse over forward mode, the cheapest that is unbiased;
            ``double_backward``: ||J^T v||^2 of output probes v, unbiased too, where an operation has no forward mode;
            ``finite_difference``: ||f(x + eps u) - f(x)||^2 / eps^2, for smooth maps without second derivatives: biased
            by about 0.1 % in float32, and with ReLU its gradient is mostly noise.
        n_probes: probes for each example; ``exact`` takes all axes, of the inputs or, with ``double_backward``,
            of the features.
        batch_fraction: share of the batch, drawn at random, that the penalty is estimated on.
        every: the penalty is added every so many calls, with ``every`` times the weight.
        seed: of the probes and of the share.
        batch_norm: batch normalisation in training mode is refused; ``running`` evaluates the penalty in a second
            forward pass of the penalised share with the running statistics, and the output in one of the whole batch.

    Raises:
        ValueError: an argument out of its range, a layer without a gradient path to the inputs or the parameters, an
            output without a row for each example.
        TypeError: no module; inputs that are not floating; half precision with ``finite_difference``.
        RuntimeError: batch normalisation in training mode, a layer that mixes examples or, with ``finite_difference``,
            draws at random, a compiled module inside, gradients switched off.
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
        method: Method = "forward_mode",
        n_probes: NumberOfProbes = 1,
        batch_fraction: float = 1.0,
        every: int = 1,
        seed: int = 0,
        batch_norm: BatchNorm = "refuse",
    ) -> None:
        super().__init__()
        _check_numbers(weight, n_probes, batch_fraction, every)
        _check_choices(method, batch_norm, n_probes)
        self.weight = weight
        self.layer = layer
        self.method = method
        self.n_probes = n_probes
        self.batch_fraction = batch_fraction
        self.every = every
        self.seed = seed
        self.batch_norm = batch_norm
        self._reading: Reading | None = None
        self._met: _Met | None = None
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def last(self) -> Estimate | None:
        """Unweighted geometric complexity at the last penalised step, of this process's examples."""
        return None if self._reading is None else self._reading.complexity

    @property
    def last_collapse(self) -> Estimate | None:
        """Geometric collapse of the examples penalised last, if ``labels`` were given; NaN where a class is missing."""
        return None if self._reading is None else self._reading.collapse

    def forward(self, model: nn.Module, x: Tensor, labels: Tensor | None = None) -> tuple[Any, Tensor]:
        """The model's output (n, ...) for ``x`` (n, ...) and the weighted penalty, a scalar; counts one step.

        ``labels`` (n,) are for ``last_collapse`` alone.
        """
        _check_call(x, labels)
        step = int(self.step)
        found = (
            self._penalise(Wrapped.of(model), x, labels, step)
            if step % self.every == 0
            else (model(x), x.new_zeros(()))
        )
        self.step += 1  # not for a call that was refused
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What is known of the model belongs to this process, and is not copied."""
        return self.__dict__ | {"_met": None}

    def _penalise(self, wrapped: Wrapped, x: Tensor, labels: Tensor | None, step: int) -> tuple[Any, Tensor]:
        _check_layers(wrapped.plain, self.batch_norm)
        if self.method == "finite_difference":
            check_precision(wrapped.plain, x)
        met = self._meet(wrapped.plain, x)
        wrapped.check_differentiable(met.layer.name, self.method)
        feature_map = FeatureMap(wrapped.plain, [met.layer])
        if not met.is_checked:
            self._check_map(feature_map, x.detach())
            met.is_checked = len(x) > 1
        return wrapped.run(lambda x: self._penalised(wrapped, feature_map, x, labels, step), x)

    def _meet(self, model: nn.Module, x: Tensor) -> _Met:
        """The layer penalised, found with the first example that a model sees."""
        settings = (self.layer, self.method, self.batch_norm)
        if self._met is None or self._met.model() is not model or self._met.settings != settings:
            layer = find_embedding(model, x[:1].detach(), layer=self.layer).layer
            self._met = _Met(weakref.ref(model), settings, layer)
        return self._met

    def _check_map(self, feature_map: FeatureMap, x: Tensor) -> None:
        """At the first step of a model: examples that do not mix, and operations that can be differentiated."""
        is_random, model = self.method != "finite_difference", feature_map.model
        with _running_statistics(model):
            check_rows_independent(feature_map.enter, x, model, is_random=is_random, remedy=_REMEDIES[is_random])
            if self.batch_norm == "refuse":
                _check_output(feature_map, x)
            if is_random:
                check_derivatives(feature_map, x[:1], self.method)

    def _penalised(
        self, wrapped: Wrapped, feature_map: FeatureMap, x: Tensor, labels: Tensor | None, step: int
    ) -> tuple[Any, Tensor]:
        """The penalised rows go through the plain module, the others, or with ``running`` all, through the main one."""
        indices = _indices(step, len(x), x.device)
        order = self._order(indices)
        rows = order[: self._n_rows(len(x))]
        if self.batch_norm == "running":
            output = wrapped.main(x)
            with _running_statistics(wrapped.plain):
                passes = self._passes(feature_map, x[rows], indices[rows])
        else:
            passes = self._passes(feature_map, x[rows], indices[rows])
            outputs = [part.output for part in passes]
            if len(rows) < len(x):
                outputs.append(wrapped.main(x[order[len(rows) :]]))
            output = _joined(outputs, order)
        terms = torch.cat([part.terms for part in passes], dim=1)
        gc = terms.mean()
        self._keep(terms, passes, rows, labels)
        return output, self.weight * self.every * gc if self.weight > 0.0 else torch.zeros_like(gc)

    def _passes(self, feature_map: FeatureMap, x: Tensor, indices: Tensor) -> list[Pass]:
        """The penalised examples in pieces, each with its part of the probes."""
        size = _piece(x)
        parts = zip(x.split(size), indices.split(size), strict=True)
        return [METHODS[self.method](feature_map, z, Probes(self.seed, i, self.n_probes)) for z, i in parts]

    def _keep(self, terms: Tensor, passes: list[Pass], rows: Tensor, labels: Tensor | None) -> None:
        is_exact = self.n_probes == "exact"
        estimator = "exact" if is_exact else "rademacher" if self.method == "double_backward" else "input"
        self._reading = Reading(
            terms.detach(),
            torch.cat([part.features.detach() for part in passes]),
            {"estimator": estimator, "n_probes": 1 if is_exact else self.n_probes},
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


def _indices(step: int, n_examples: int, device: torch.device) -> Tensor:
    """What the probes of a batch are a hash of: step, process and row."""
    rank, n_processes = share()
    return (step * n_processes + rank) * _STRIDE + torch.arange(n_examples, device=device)


def _piece(x: Tensor) -> int:
    """Examples that go through together: all on an accelerator, on a CPU about 1 MB of inputs.

    The graph of a batch takes the same memory in pieces, but its tensors are small enough for the allocator to reuse;
    large ones are mapped and cleared by the system at each step, a tenth of the step's time.
    """
    if x.device.type != "cpu":
        return len(x)
    n_pieces = math.ceil(x.numel() * x.element_size() / _PIECE_BYTES)
    return max(_MIN_PIECE, math.ceil(len(x) / max(1, n_pieces)))


def _joined(outputs: list[Any], order: Tensor) -> Any:
    """The parts of an output, of the rows in ``order``, as one in the order of the rows."""
    if len(outputs) == 1:
        return outputs[0]  # all rows, in their own order
    places = order.argsort()
    return tree_map(lambda *parts: None if parts[0] is None else torch.cat(parts)[places], *outputs)


def _check_output(feature_map: FeatureMap, x: Tensor) -> None:
    """Refuse an output that is not that of the whole batch when it is put together from parts of it."""
    remedy = "do batch_norm='running', which takes the output from a forward pass of the whole batch"

    def take(z: Tensor) -> tuple[list[Tensor], Any]:
        output = feature_map.with_output(z)[1]
        leaves = [leaf for leaf in tree_leaves(output) if leaf is not None]
        for leaf in leaves:
            if not (isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == len(z)):
                got = f"shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
                raise ValueError(
                    f"model: expected outputs with a row for each of {len(z)} examples, got {got}; {remedy}"
                )
        return leaves, output

    with torch.no_grad():
        take(x[:2])
    check_rows_independent(lambda z: (take, z), x, feature_map.model, is_random=True, remedy=remedy)


@contextmanager
def _running_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation layers use, and do not update, their running statistics; all else stays in its mode.

    They use copies: the graph keeps what they use, and the next forward pass in training mode changes the statistics.
    """
    layers = [module for module in model.modules() if is_batch_norm(module) and module.training]
    buffers = [dict(layer._buffers) for layer in layers]
    try:
        for layer in layers:
            layer.training = False  # and not eval(), which reaches what is inside the layer
            layer._buffers.update({name: None if b is None else b.clone() for name, b in layer._buffers.items()})
        yield
    finally:
        for layer, own in zip(layers, buffers, strict=True):
            layer.training = True
            layer._buffers.update(own)


def _check_layers(model: nn.Module, batch_norm: BatchNorm) -> None:
    check_independent(model, evaluation=True)
    if batch_norm == "refuse":
        check_batch_norm(model)


def _check_call(x: Tensor, labels: Tensor | None) -> None:
    check_floating(x)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x: expected a batch of at least one example, got shape {tuple(x.shape)}; do drop it")
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "penalty: expected gradients to be on, got torch.no_grad(); do model(x) there, or geocollapse.measure"
        )
    if labels is not None and (labels.is_floating_point() or labels.shape != x.shape[:1]):
        raise ValueError(
            f"labels: expected {len(x)} integers, one for each example, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}; do pass class numbers"
        )


def _check_numbers(weight: float, n_probes: NumberOfProbes, batch_fraction: float, every: int) -> None:
    if not (math.isfinite(weight) and weight >= 0.0):
        raise ValueError(f"weight: expected a number of at least 0, got {weight}; do weight=1e-4")
    if n_probes != "exact" and not _is_count(n_probes):
        raise ValueError(f"n_probes: expected at least 1, or 'exact', got {n_probes!r}; do n_probes=1")
    if not 0.0 < batch_fraction <= 1.0:
        raise ValueError(f"batch_fraction: expected a share in (0, 1], got {batch_fraction}; do batch_fraction=0.25")
    if not _is_count(every):
        raise ValueError(f"every: expected a number of steps of at least 1, got {every}; do every=1")


def _is_count(number: object) -> bool:
    return isinstance(number, Integral) and int(number) >= 1


def _check_choices(method: str, batch_norm: str, n_probes: NumberOfProbes) -> None:
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}; do method='forward_mode'")
    if method == "finite_difference" and n_probes == "exact":
        raise ValueError(
            "n_probes: expected a number with finite differences, whose error of first order only random signs average "
            "out, got 'exact'; do method='double_backward'"
        )
    if batch_norm not in ("refuse", "running"):
        raise ValueError(f"batch_norm: expected 'refuse' or 'running', got {batch_norm!r}; do batch_norm='running'")
