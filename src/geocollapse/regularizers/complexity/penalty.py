"""The penalty: the model's output and the weighted geometric complexity of its embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geocollapse.complexity.means import EstimateSettings
from geocollapse.estimate import Estimate
from geocollapse.features import FeatureMap, Pool
from geocollapse.features.entry import run_model
from geocollapse.inputs import Inputs, rows_of
from geocollapse.models import LoadedModel, module_of
from geocollapse.modules.mixing import running_statistics
from geocollapse.modules.wrapped import Wrapping
from geocollapse.regularizers.call import check_call, uncompiled
from geocollapse.regularizers.complexity.checks import check_settings
from geocollapse.regularizers.complexity.map import (
    BatchNorm,
    MapSettings,
    PenalisedMaps,
)
from geocollapse.regularizers.complexity.methods import (
    METHODS,
    Method,
    NumberOfProbes,
    PenalisedPass,
    ProbeVectors,
)
from geocollapse.regularizers.complexity.reading import PenaltyReading
from geocollapse.regularizers.penalty import Penalty
from geocollapse.regularizers.pieces import (
    BatchShare,
    beside,
    example_numbers,
    no_penalty,
    pieces,
    plain_outputs,
)


class GeometricComplexityPenalty(Penalty):
    """The weighted geometric complexity of a model's embedding on a batch, differentiable.

        loss = cross-entropy + weight * GC(f, batch),  GC(f, batch) = 1/n sum_x ||J_f(x)||_F^2

    GC is estimated with Rademacher probes, new ones for each example and step. The gradient in the
    parameters is that of an unbiased estimate, so its expectation over the probes is the gradient
    of GC on the batch; with ReLU or max-pooling, the almost-everywhere gradient. The network can
    lower GC by shrinking its features: pass ``labels`` and watch ``last_collapse``. Unit of the
    weight: (input unit / feature unit)^2. Cost: one forward pass, shared with the main loss, and
    about one more step's worth of work for the penalised share of the batch.

    Source: Munn, Dherin, Gonzalvo (2024), explicit regularisation; Dherin et al. (2022);
    definitions 6.

    Args:
        weight: strength lambda of the penalty, at least 0; at 0 nothing is added, and ``last`` is
            still measured.
        layer: ``NAME``, ``NAME:in``, ``""`` or None for the input of the classifier.
        pool: ``mean``, ``cls`` or ``last`` of the positions of a map or the tokens of a sequence,
            None for all.
        input_layer: for integer inputs, the layer that embeds them; Jacobians are taken with
            respect to its output. None for the inputs themselves or, in a transformers model, for
            its own embedding of tokens.
        method: ``forward_mode``: ||J u||^2 for input probes u, by reverse over forward mode, the
            cheapest unbiased method; ``double_backward``: ||J^T v||^2 for output probes v, unbiased
            too, for operations without a forward mode; ``finite_difference``: ||f(x + eps u) -
            f(x)||^2 / eps^2, for smooth maps without second derivatives: biased by 0.1 to 2 % in
            float32, and with ReLU its gradient is mostly noise.
        n_probes: probes for each example; ``exact`` takes all axes, of the inputs or, with
            ``double_backward``, of the features.
        batch_fraction: share of the batch, drawn at random, that the penalty is estimated on.
        every: the penalty is added at every m-th call, with ``every`` times the weight.
        seed: of the probes and of the share.
        batch_norm: ``refuse`` batch normalisation in training mode, or take its ``running``
            statistics: the penalty then costs a second forward pass of the penalised share, and the
            output comes from one of the whole batch.

    Raises:
        ValueError: an argument outside its range, a layer without a gradient path to the inputs or
            the parameters, an output without a row for each example.
        TypeError: a model that is no module; inputs that are not floating; half precision with
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
        super().__init__(weight, every=every)
        check_settings(method, n_probes, batch_fraction, batch_norm)
        self.layer = layer
        self.pool = pool
        self.input_layer = input_layer
        self.method = method
        self.n_probes = n_probes
        self.batch_fraction = batch_fraction
        self.seed = seed
        self.batch_norm = batch_norm
        self._maps = PenalisedMaps()
        self._reading: PenaltyReading | None = None

    @property
    def last(self) -> Estimate | None:
        """Unweighted geometric complexity of this process's examples at the last penalised step."""
        return None if self._reading is None else self._reading.complexity

    @property
    def last_collapse(self) -> Estimate | None:
        """Geometric collapse of the last penalised examples, if ``labels`` were given.

        NaN if they lack a class of the batch.
        """
        return None if self._reading is None else self._reading.collapse

    def forward(
        self, model: nn.Module | LoadedModel, x: Inputs, labels: Tensor | None = None
    ) -> tuple[object, Tensor]:
        """The model's output (n, ...) for ``x`` and the weighted penalty (0-d); counts one step.

        Args:
            model: the model that is trained, or what ``models.load`` gives.
            x: one tensor (n, ...), or tensors by the names of the model's arguments, such as
                ``input_ids`` and ``attention_mask``.
            labels: (n,) classes, for ``last_collapse`` alone.
        """
        return self._call(module_of(model), x, labels)

    @uncompiled
    def _call(self, model: nn.Module, x: Inputs, labels: Tensor | None) -> tuple[object, Tensor]:
        check_call(x, labels)
        return self.counted(
            lambda step: self._penalise(model, x, labels, step),
            lambda: (run_model(model, x), no_penalty(x)),
        )

    def _penalise(
        self, model: nn.Module, x: Inputs, labels: Tensor | None, step: int
    ) -> tuple[object, Tensor]:
        wrapped = Wrapping.of(model)
        settings = MapSettings(
            self.layer, self.pool, self.input_layer, self.method, self.batch_norm
        )
        feature_map = self._maps.of(wrapped, x, settings)

        def work(x: Inputs) -> tuple[object, Tensor]:
            numbers = example_numbers(step, x)
            share = BatchShare.drawn(self.batch_fraction, numbers, self.seed)
            output, passes = self._run(wrapped, feature_map, x, numbers, share)
            terms = torch.cat([part.terms for part in passes], dim=1)
            features = torch.cat([part.features.detach() for part in passes])
            drawn = None if labels is None else labels[share.rows.to(labels.device)]
            self._reading = PenaltyReading(
                terms.detach(), features, self._estimate_settings(feature_map), drawn, labels
            )
            return output, self.weighted(terms.mean())

        return wrapped.run(work, x)

    def _run(
        self,
        wrapped: Wrapping,
        feature_map: FeatureMap,
        x: Inputs,
        numbers: Tensor,
        share: BatchShare,
    ) -> tuple[object, list[PenalisedPass]]:
        """The output of the batch, and the passes of the penalised rows through the plain module.

        The other rows, or all of them with ``batch_norm="running"``, go through the main module.
        """
        penalised = rows_of(x, share.rows)
        numbers = numbers[share.rows]
        if self.weight == 0.0 or self.batch_norm == "running":
            return beside(
                wrapped,
                x,
                lambda: self._passes(feature_map, penalised, numbers),
                within=running_statistics(wrapped.plain),
                draws_apart=self.weight == 0.0,  # as without the penalty
            )
        passes = self._passes(feature_map, penalised, numbers)
        others = plain_outputs(wrapped, rows_of(x, share.others))
        return share.joined([*(part.output for part in passes), *others]), passes

    def _passes(self, feature_map: FeatureMap, x: Inputs, numbers: Tensor) -> list[PenalisedPass]:
        """The penalised examples in pieces, each with its own probes."""
        method = METHODS[self.method]
        return [
            method(feature_map, rows_of(x, p), ProbeVectors(self.seed, numbers[p], self.n_probes))
            for p in pieces(x)
        ]

    def _estimate_settings(self, feature_map: FeatureMap) -> EstimateSettings:
        layer = str(feature_map.layers[0])
        if self.n_probes == "exact":
            return EstimateSettings("exact", 1, "distribution", layer=layer)
        estimator = "rademacher" if self.method == "double_backward" else "input"
        return EstimateSettings(estimator, self.n_probes, "distribution", layer=layer)
