"""Probing the Jacobians of a batch by one of the estimators of ||J||_F^2."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geocollapse.features import CallableMap
from geocollapse.features.independence import check_independence
from geocollapse.inputs import Map, Take, check_floating, track
from geocollapse.jacobian import probes
from geocollapse.jacobian.checks import check_terms
from geocollapse.jacobian.estimators import (
    ALIGNED_DIRECTIONS,
    ALIGNED_EXAMPLES,
    OUTPUT_PROBES,
    WITHOUT_REPLACEMENT,
    Estimator,
    check_estimator,
)
from geocollapse.jacobian.forward import push_forward
from geocollapse.jacobian.masked import masked_entries
from geocollapse.jacobian.memory import examples_that_fit
from geocollapse.jacobian.norms import SquaredNorms, channel_scale, mean_of_probes
from geocollapse.jacobian.reverse import pull_back, unit_vectors
from geocollapse.modules.borrow import borrowed
from geocollapse.modules.mixing import check_mixing_layers
from geocollapse.numerics import accumulation_dtype, check_finite, sum_of_squares


def squared_jacobian_norms(
    f: Map,
    x: Tensor,
    *,
    estimator: Estimator = "exact",
    n_probes: int = 1,
    seed: int = 0,
    indices: Tensor | None = None,
    memory_limit: int | None = None,
) -> Tensor:
    """Squared Frobenius norms of each example's own Jacobian, ||df/dx (x_i)||_F^2.

    With A = J J^T, output probes v with E[v v^T] = I give ||J||_F^2 = E ||J^T v||^2. Variance of
    one probe: gaussian 2 ||A||_F^2; rademacher 2 (||A||_F^2 - sum_i A_ii^2); orthogonal, mean of r:
    2p/(p+2) (||A||_F^2 - tr(A)^2/p)/r (p-r)/(p-1); outputs, mean of r: (1 - r/p) S^2/r with S^2 the
    variance of p ||df_i/dx||^2. ``input`` probes u give E ||J u||^2 by forward mode, the variance
    of rademacher with A = J^T J. ``masked`` takes K = n_probes of the N = p d entries: N^2/K (1 -
    K/N) S_E^2, S_E^2 the variance of the squared entries. ``aligned`` is rademacher along the 16
    leading principal directions of the features of up to 256 examples, and along the axes of the
    rest: less variance where the Jacobians move the features along the directions in which they
    vary, at the cost of one forward pass of these examples.

    Range [0, inf). Invariant under rotations of the output and of the input; degree 2 in f, -2 in
    x. Unit: (output unit / input unit)^2. Cost: one forward pass, then n_probes vector-Jacobian
    products (``input``: forward-mode sweeps; ``masked``: up to p); ``exact`` takes p of them, or d
    sweeps if d < p. Memory: the graph of the batch; J is never formed.

    Source: Dherin, Munn, Rosca, Barrett (2022), definition of GC; Hutchinson (1990); Munn, Dherin,
    Gonzalvo (2024), outputs and masking; definitions 1.

    Args:
        f: a map (n, ...) -> (n, ...) that treats examples independently; a Module must not be in
            training mode if it holds batch normalisation or dropout.
        x: (n, ...) floating.
        estimator: ``exact``, ``rademacher``, ``aligned``, ``gaussian``, ``orthogonal``, ``input``,
            ``outputs`` (sampled output coordinates) or ``masked`` (sampled entries of the
            Jacobian).
        n_probes: probes, outputs or entries for each example; ``exact`` ignores it.
        seed: probes are a function of (seed, index, probe number).
        indices: (n,) positions of the examples in their data set; 0..n-1 by default.
        memory_limit: bytes that the graph may take; the examples go through f in parts that fit.

    Returns:
        (n,) float64.

    Raises:
        ValueError: unknown estimator, too many probes, non-finite outputs, outputs of another batch
            size, a memory limit too small for one example.
        TypeError: ``x`` is not floating.
        RuntimeError: ``f`` mixes the examples of a batch, or draws at random; names the module.
        NotImplementedError: ``input`` of a map with an operation that has no forward mode.

    Examples:
        >>> f = torch.nn.Linear(3, 2)
        >>> norms = squared_jacobian_norms(f, torch.randn(4, 3))
        >>> bool(torch.allclose(norms, f.weight.detach().double().square().sum().expand(4)))
        True
    """
    check_estimator(estimator, n_probes)
    check_floating(x)
    positions = torch.arange(len(x), device=x.device) if indices is None else indices
    module = f if isinstance(f, torch.nn.Module) else None
    check_mixing_layers(module)
    plan = ProbePlan(estimator, seed)
    enter = CallableMap(f).enter
    with borrowed(module, evaluation=False):
        check_independence(enter, x, module)
        take, _ = enter(x)
        plan = plan.fitted(take, x[:ALIGNED_EXAMPLES])
        n_together = len(x) if memory_limit is None else examples_that_fit(take, x, memory_limit)
        parts = zip(x.split(n_together), positions.split(n_together), strict=True)
        norms = [plan.probe(take, part, places, n_probes).norms[0] for part, places in parts]
    return SquaredNorms.cat(norms).values


@dataclass(frozen=True)
class ProbedBatch:
    """A batch that went through a map.

    Attributes:
        features: (n, p) of each layer, without a graph.
        output: the map's own output.
        terms: single probes' estimates of ||J||_F^2 of each layer (probes, 1, n); with an input
            scale, those in its units beside them (probes, 2, n).
        n_distinct: number of probes of each layer that are exact together, infinity if they are
            independent.
        norms: squared Jacobian norms of each layer, from the terms.
        forward_seconds: time of the forward pass.
    """

    features: list[Tensor]
    output: object
    terms: list[Tensor]
    n_distinct: list[float]
    norms: list[SquaredNorms]
    forward_seconds: float


@dataclass(frozen=True, eq=False)
class _Layer:
    """The graph from the inputs to the features of one layer.

    Attributes:
        number: place of the layer among those that the map takes.
        features: (n, p).
        leaf: the inputs (n, ...).
        indices: positions of the examples in their data set (n,).
        keep_graph: the layers behind this one need the graph, too.
    """

    number: int
    features: Tensor
    leaf: Tensor
    indices: Tensor
    keep_graph: bool

    @property
    def n_features(self) -> int:
        """p."""
        return self.features.shape[1]

    @property
    def n_inputs(self) -> int:
        """d, the numbers of one example."""
        return self.leaf[0].numel()


@dataclass(frozen=True)
class ProbePlan:
    """A way to probe Jacobians.

    Attributes:
        estimator: see ``squared_jacobian_norms``.
        seed: of the probes.
        input_std: the scale s of each input channel, or None.
        bases: directions (p, k) of aligned probes, one tensor for each layer; see ``fitted``.
    """

    estimator: Estimator = "rademacher"
    seed: int = 0
    input_std: Tensor | None = None
    bases: tuple[Tensor, ...] = ()

    def fitted(self, take: Take, x: Tensor) -> ProbePlan:
        """Return this plan with the directions of aligned probes, taken from ``x``.

        They are the leading principal directions of the features of ``x``. Any directions give an
        unbiased estimate, as long as they are the same for all examples of a data set.
        """
        if self.estimator != "aligned":
            return self
        with torch.no_grad():
            features, _ = take(x)
        _check_features(features)
        return replace(self, bases=tuple(map(_principal_directions, features)))

    def probe(
        self, take: Take, x: Tensor, indices: Tensor, n_probes: int, *, n_counted: int | None = None
    ) -> ProbedBatch:
        """Send ``x`` (n, ...) through a map once, and probe the Jacobian of each of its layers.

        The value is the mean of the first ``n_counted`` probes (all by default); the others only
        serve the variance.
        """
        check_floating(x)
        if self.estimator == "input":
            return self._probe_inputs(take, x, indices, n_probes, n_counted)
        start = time.perf_counter()
        with torch.enable_grad():
            leaf = track(x)
            features, output = take(leaf)
            _check_features(features, indices)  # waits for the accelerator, which the clock needs
            seconds = time.perf_counter() - start
            layers = [
                _Layer(number, z, leaf, indices, keep_graph=number + 1 < len(features))
                for number, z in enumerate(features)
            ]
            terms = [self._terms(take, layer, n_probes, n_counted) for layer in layers]
        check_terms(terms, take, x, features, indices)
        n_distinct = list(map(self._n_distinct, layers))
        norms = [
            self._norms(*found, n_counted) for found in zip(terms, layers, n_distinct, strict=True)
        ]
        plain = [z.detach() for z in features]
        return ProbedBatch(plain, output, terms, n_distinct, norms, seconds)

    def _terms(self, take: Take, layer: _Layer, n_probes: int, n_counted: int | None) -> Tensor:
        if not layer.features.requires_grad:  # the features do not depend on the inputs
            n_terms = 1 if self.estimator == "exact" else n_probes
            shape = (n_terms, self._n_units, len(layer.leaf))
            device = layer.leaf.device
            return torch.zeros(shape, dtype=accumulation_dtype(device), device=device)
        if self.estimator == "exact":
            return self._exact(take, layer)[None]
        if self.estimator == "masked":
            return self._masked(layer, n_probes)
        if n_counted is not None and self.estimator in WITHOUT_REPLACEMENT:
            # there may be no further probe for the variance alone
            n_probes = min(n_probes, max(n_counted, layer.n_features))
        return self._by_output_probes(layer, n_probes)

    def _by_output_probes(self, layer: _Layer, n_probes: int) -> Tensor:
        """||J^T v||^2 of each probe v: one vector-Jacobian product each."""
        places = layer.indices.to(layer.leaf.device)
        if self.estimator == "aligned":
            vectors = probes.aligned(self.seed, places, n_probes, self.bases[layer.number])
        else:
            draw = OUTPUT_PROBES[self.estimator]
            vectors = draw(self.seed, places, n_probes, layer.n_features)
        scale = 1.0
        if self.estimator == "outputs":
            # sqrt(p) e_j: rounded to half precision, sqrt(p) would scale every term
            vectors = vectors != 0
            scale = float(layer.n_features)
        gradients = pull_back(
            layer.features, layer.leaf, vectors.unbind(1), keep_graph=layer.keep_graph
        )
        return scale * torch.stack([self._squares(gradient) for gradient in gradients])

    def _norms(
        self, terms: Tensor, layer: _Layer, n_distinct: float, n_counted: int | None
    ) -> SquaredNorms:
        if self.estimator == "exact" or not layer.features.requires_grad:
            total = terms[0]
            return SquaredNorms.exact(total[0], total[1] if self.input_std is not None else None)
        return mean_of_probes(terms, n_counted, n_distinct)

    def _n_distinct(self, layer: _Layer) -> float:
        """The number of probes that are exact together, infinity if they are independent."""
        if self.estimator == "masked":
            return layer.n_features * layer.n_inputs
        return layer.n_features if self.estimator in WITHOUT_REPLACEMENT else math.inf

    def _probe_inputs(
        self, take: Take, x: Tensor, indices: Tensor, n_probes: int, n_counted: int | None
    ) -> ProbedBatch:
        """Probe the inputs: one forward-mode sweep for each probe gives all layers at once."""
        vectors = probes.rademacher(self.seed, indices.to(x.device), n_probes, x[0].numel())
        probed = [u.view_as(x).to(x.dtype) for u in vectors.unbind(1)]
        sweeps = [push_forward(take, x, u) for u in probed]
        features, output, _ = sweeps[0]
        _check_features(features, indices)
        tangents = [[tangent for _, _, tangent in sweeps]]
        if self.input_std is not None:
            scale = channel_scale(self.input_std, x)
            tangents.append([push_forward(take, x, u / scale)[2] for u in probed])
        terms = []
        for layer in range(len(features)):
            rows = [
                torch.stack([sum_of_squares(sweep[layer]) for sweep in kind]) for kind in tangents
            ]
            terms.append(torch.stack(rows, dim=1))
        check_terms(terms, take, x, features, indices)
        norms = [mean_of_probes(found, n_counted) for found in terms]
        n_distinct = [math.inf] * len(terms)
        return ProbedBatch(features, output, terms, n_distinct, norms, 0.0)

    def _exact(self, take: Take, layer: _Layer) -> Tensor:
        """Sum squares over the p output rows of J, or over its d input columns if d < p."""
        if layer.n_inputs < layer.n_features:
            try:
                return self._sum_columns(take, layer.number, layer.leaf.detach())
            except NotImplementedError:  # an operation without forward mode: the rows say the same
                pass
        vectors = unit_vectors(layer.n_features, layer.features)
        gradients = pull_back(layer.features, layer.leaf, vectors, keep_graph=layer.keep_graph)
        nothing = torch.zeros((), dtype=torch.float32, device=layer.leaf.device)
        return sum(map(self._squares, gradients), nothing)

    def _sum_columns(self, take: Take, layer: int, x: Tensor) -> Tensor:
        """Sum squares by forward mode: one Jacobian-vector product for each input coordinate."""
        scale = channel_scale(self.input_std, x).expand_as(x[:1]).flatten()
        shape = (self._n_units, len(x))
        total = torch.zeros(shape, dtype=accumulation_dtype(x.device), device=x.device)
        for coordinate, vector in enumerate(unit_vectors(x[0].numel(), x)):
            _, _, tangents = push_forward(take, x, vector.view_as(x[0]).expand_as(x))
            squares = sum_of_squares(tangents[layer])
            both = torch.stack([squares, squares / scale[coordinate] ** 2])
            total += both[: self._n_units]
        return total

    def _masked(self, layer: _Layer, n_entries: int) -> Tensor:
        """N times the squares of K sampled entries."""
        values, inputs = masked_entries(
            layer.features,
            layer.leaf,
            layer.indices.to(layer.leaf.device),
            seed=self.seed,
            n_entries=n_entries,
            keep_graph=layer.keep_graph,
        )
        squares = values.square() * (layer.n_inputs * layer.n_features)
        if self.input_std is None:
            return squares.mT[:, None]
        scale = channel_scale(self.input_std, layer.leaf).expand_as(layer.leaf[:1]).flatten()
        return torch.stack([squares.mT, (squares / scale[inputs] ** 2).mT], dim=1)

    def _squares(self, gradient: Tensor) -> Tensor:
        """Squared norm of each example's gradient, also in units of an input scale (1 or 2, n)."""
        plain = sum_of_squares(gradient)
        if self.input_std is None:
            return plain[None]
        scaled = sum_of_squares(gradient / channel_scale(self.input_std, gradient))
        return torch.stack([plain, scaled])

    @property
    def _n_units(self) -> int:
        """1, or 2 where norms are also taken in units of the input scale."""
        return 1 if self.input_std is None else 2


def _principal_directions(features: Tensor) -> Tensor:
    """Leading eigenvectors (p, k) of the covariance of ``features`` (n, p), without forming it."""
    centred = (features - features.mean(dim=0)).to(accumulation_dtype(features.device))
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:ALIGNED_DIRECTIONS]
    # half precision would round the directions to lengths other than 1
    return directions.mT.to(torch.promote_types(features.dtype, torch.float32))


def _check_features(features: list[Tensor], indices: Tensor | None = None) -> None:
    for z in features:
        check_finite("features", z.detach(), indices)
