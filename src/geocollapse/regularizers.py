"""Geometric complexity as a differentiable penalty on the training loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from geocollapse import probes
from geocollapse.borrow import check_batch_norm, is_batch_norm
from geocollapse.complexity import mean_norm
from geocollapse.estimate import Estimate
from geocollapse.features import FeatureMap, Layer, find_embedding
from geocollapse.jacobian import mean_of_probes, track

BatchNorm = Literal["refuse", "running"]

_PENALTY_PROBE_STRIDE = 1 << 24  # examples of different steps have different probes


class GeometricComplexityPenalty(nn.Module):
    """The weighted geometric complexity of a model's embedding on a batch, differentiable in the parameters.

    loss = cross-entropy + weight * GC(f, batch),  GC(f, batch) = 1/n sum_x 1/r sum_k ||J_f(x)^T v_xk||^2

    with own Rademacher probes for each example and step. The gradient is that of an unbiased estimate, so its
    expectation over the probes is the gradient of GC on the batch. With ReLU or max-pooling it is the almost-everywhere
    gradient. The network can lower GC by shrinking its features: report geometric collapse beside it. Unit of the
    weight: (input unit / feature unit)^2. Cost: one forward pass shared with the main loss, and a double backward
    through the penalised share of the batch.

    Source: Munn, Dherin, Gonzalvo (2024), explicit regularisation; Dherin et al. (2022); definitions 6.

    Args:
        weight: the strength lambda, at least 0; at 0 nothing is added, and ``last`` is still measured.
        layer: ``NAME``, ``NAME:in``, ``""`` or None for the input of the classifier.
        n_probes: probes r for each example.
        batch_fraction: share of the batch, drawn at random, that the penalty is estimated on.
        every: the penalty is added every so many steps, with ``every`` times the weight.
        seed: of the probes and of the share.
        batch_norm: batch normalisation in training mode is refused; ``running`` evaluates the penalty in a second
            forward pass with the running statistics.

    Raises:
        ValueError: an argument out of its range, a layer without a gradient path to the inputs.
        RuntimeError: batch normalisation in training mode.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> penalty = GeometricComplexityPenalty(weight=1e-2)
        >>> logits, gc_loss = penalty(model, torch.randn(16, 4))
        >>> logits.shape, bool(gc_loss.detach() == 1e-2 * penalty.last.value)
        (torch.Size([16, 3]), True)
    """

    step: Tensor

    def __init__(
        self,
        weight: float,
        layer: str | None = None,
        *,
        n_probes: int = 1,
        batch_fraction: float = 1.0,
        every: int = 1,
        seed: int = 0,
        batch_norm: BatchNorm = "refuse",
    ) -> None:
        super().__init__()
        _check_settings(weight, n_probes, batch_fraction, every, batch_norm)
        self.weight = weight
        self.layer = layer
        self.n_probes = n_probes
        self.batch_fraction = batch_fraction
        self.every = every
        self.seed = seed
        self.batch_norm = batch_norm
        self.last: Estimate | None = None
        self._taken: Layer | None = None
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """The model's output (n, ...) for ``x`` (n, ...) and the weighted penalty, a scalar; counts one step."""
        step = int(self.step)
        self.step += 1
        if step % self.every:
            output = model(x)
            return output, output.new_zeros(())
        if self.batch_norm == "refuse":
            check_batch_norm(model)
        feature_map = FeatureMap(model, [self._layer(model, x)])
        rows = self._share(step, len(x), x.device)
        if self.batch_norm == "running":
            output = model(x)
            with _running_statistics(model):
                gc, _ = self._complexity(feature_map, x[rows], step, rows)
        else:
            output, gc = self._split_forward(feature_map, x, step, rows)
        return output, self.weight * self.every * gc

    def _split_forward(self, feature_map: FeatureMap, x: Tensor, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One forward pass: the penalised rows with gradients to their inputs, the others without."""
        gc, output = self._complexity(feature_map, x[rows], step, rows)
        if len(rows) == len(x):
            return output, gc
        others = torch.ones(len(x), dtype=torch.bool, device=x.device)
        others[rows] = False
        order = torch.cat([rows, others.nonzero().flatten()])
        return torch.cat([output, feature_map.model(x[others])])[order.argsort()], gc

    def _complexity(self, feature_map: FeatureMap, x: Tensor, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Differentiable estimate of geometric complexity on ``x``, and the model's output."""
        leaf = track(x)
        (features,), output = feature_map.with_output(leaf)
        if not features.requires_grad:
            raise ValueError(
                f"layer: expected features that depend on the inputs, got no gradient path at "
                f"{str(feature_map.layers[0])!r}; do name another layer"
            )
        vectors = probes.rademacher(self.seed, step * _PENALTY_PROBE_STRIDE + rows, self.n_probes, features.shape[1])
        terms = [_squared_pull_back(features, leaf, v.to(features.dtype)) for v in vectors.unbind(1)]
        values = torch.stack(terms).mean(dim=0)
        self.last = self._estimate(torch.stack(terms).detach())
        return values.mean(), output

    def _estimate(self, terms: Tensor) -> Estimate:
        norms = mean_of_probes(terms[:, None].to(device="cpu", dtype=torch.float64))
        return mean_norm(norms, len(norms), estimator="rademacher", n_probes=self.n_probes, population="distribution")

    def _layer(self, model: nn.Module, x: Tensor) -> Layer:
        if self._taken is None:
            self._taken = find_embedding(model, x[:1].detach(), layer=self.layer).layer
        return self._taken

    def _share(self, step: int, n_examples: int, device: torch.device) -> Tensor:
        """The rows of the batch that are penalised, drawn at random for each step."""
        rows = torch.arange(n_examples, device=device)
        n_rows = max(1, round(self.batch_fraction * n_examples))
        if n_rows == n_examples:
            return rows
        return (
            probes.random_order(self.seed, step * _PENALTY_PROBE_STRIDE + rows)[:n_rows] - step * _PENALTY_PROBE_STRIDE
        )


def _squared_pull_back(features: Tensor, leaf: Tensor, v: Tensor) -> Tensor:
    """||J^T v||^2 of each example, itself differentiable."""
    (gradient,) = torch.autograd.grad(features, leaf, v, create_graph=True, materialize_grads=True)
    return gradient.flatten(1).square().sum(dim=1)


@contextmanager
def _running_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation layers use, and do not update, their running statistics; all else stays in its mode."""
    layers = [module for module in model.modules() if is_batch_norm(module) and module.training]
    try:
        for layer in layers:
            layer.eval()
        yield
    finally:
        for layer in layers:
            layer.train()


def _check_settings(weight: float, n_probes: int, batch_fraction: float, every: int, batch_norm: str) -> None:
    if not (math.isfinite(weight) and weight >= 0.0):
        raise ValueError(f"weight: expected a number of at least 0, got {weight}; do weight=1e-4")
    if n_probes < 1:
        raise ValueError(f"n_probes: expected at least 1, got {n_probes}; do n_probes=1")
    if not 0.0 < batch_fraction <= 1.0:
        raise ValueError(f"batch_fraction: expected a share in (0, 1], got {batch_fraction}; do batch_fraction=0.25")
    if every < 1:
        raise ValueError(f"every: expected a number of steps of at least 1, got {every}; do every=1")
    if batch_norm not in ("refuse", "running"):
        raise ValueError(f"batch_norm: expected 'refuse' or 'running', got {batch_norm!r}; do batch_norm='running'")
