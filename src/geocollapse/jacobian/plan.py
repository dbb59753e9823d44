"""The estimators of ||J||_F^2, and how a batch is probed with one of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from geocollapse.features import CallableMap
from geocollapse.features.borrow import borrowed
from geocollapse.features.independence import check_independence
from geocollapse.features.mixing import check_mixing_layers
from geocollapse.inputs import Map, Take, check_floating, track
from geocollapse.jacobian import probes
from geocollapse.jacobian.checks import check_terms
from geocollapse.jacobian.forward import push_forward
from geocollapse.jacobian.masked import masked_entries
from geocollapse.jacobian.memory import examples_that_fit
from geocollapse.jacobian.norms import SquaredNorms, channel_scale, mean_of_probes
from geocollapse.jacobian.reverse import pull_back, unit_vectors
from geocollapse.numerics import check_finite, sum_of_squares

Estimator = Literal[
    "exact", "rademacher", "aligned", "gaussian", "orthogonal", "input", "outputs", "masked"
]

_OUTPUT_PROBES: dict[str, Callable[[int, Tensor, int, int], Tensor]] = {
    "rademacher": probes.rademacher,
    "gaussian": probes.gaussian,
    "orthogonal": probes.orthogonal,
    "outputs": probes.sampled_outputs,
}
ALIGNED_EXAMPLES = 256  # whose features give the directions of aligned probes
_ALIGNED_DIRECTIONS = 16
# probes of one example depend on each other; all p of them are exact
WITHOUT_REPLACEMENT = ("orthogonal", "outputs")


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
    vary, at the price of one forward pass of these examples.

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
        n_probes: probes, outputs or entries for each example; not used by ``exact``.
        seed: probes are a function of (seed, index, probe number).
        indices: (n,) positions of the examples in their data set; 0..n-1 by default.
        memory_limit: bytes that the graph may take: the examples go through f in parts that fit.

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
        terms: single probes' estimates of ||J||_F^2 of each layer (probes, 1, n), beside them in
            units of the input scale (probes, 2, n).
        norms: squared Jacobian norms of each layer, from the terms.
        forward_seconds: time of the forward pass.
    """

    features: list[Tensor]
    output: Any
    terms: list[Tensor]
    norms: list[SquaredNorms]
    forward_seconds: float


@dataclass(frozen=True)
class ProbePlan:
    """How Jacobians are probed.

    Attributes:
        estimator: see ``squared_jacobian_norms``.
        seed: of the probes.
        input_std: the scale s of each input channel, or None.
        bases: directions (p, k) of aligned probes, one tensor a layer; see ``fitted``.
    """

    estimator: Estimator = "rademacher"
    seed: int = 0
    input_std: Tensor | None = None
    bases: tuple[Tensor, ...] = ()

    def fitted(self, take: Take, x: Tensor) -> ProbePlan:
        """The same plan with the directions of aligned probes: leading principal directions of the
        features of ``x``.

        Any directions give an unbiased estimate; they must be the same for all examples of a data
        set.
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

        The value is the mean of the first ``n_counted`` probes (default all of them); further ones
        only serve the variance.
        """
        check_floating(x)
        if self.estimator == "input":
            return self._probe_inputs(take, x, indices, n_probes, n_counted)
        start = time.perf_counter()
        with torch.enable_grad():
            leaf = track(x)
            features, output = take(leaf)
            _check_features(features)  # waits for the accelerator, which the clock needs
            seconds = time.perf_counter() - start
            terms = []
            for layer, z in enumerate(features):
                more = layer + 1 < len(features)
                if self.estimator == "exact" and z.requires_grad:
                    terms.append(self._exact(take, layer, z, leaf, more)[None])
                else:
                    terms.append(self._terms(layer, z, leaf, indices, n_probes, n_counted, more))
        check_terms(terms, take, x, features, indices)
        norms = [
            self._norms(row, n_counted, z, leaf) for row, z in zip(terms, features, strict=True)
        ]
        return ProbedBatch([z.detach() for z in features], output, terms, norms, seconds)

    def _terms(
        self,
        layer: int,
        features: Tensor,
        leaf: Tensor,
        indices: Tensor,
        n_probes: int,
        n_counted: int | None,
        keep_graph: bool,
    ) -> Tensor:
        if not features.requires_grad:  # the features do not depend on the inputs
            shape = (
                1 if self.estimator == "exact" else n_probes,
                1 if self.input_std is None else 2,
                len(leaf),
            )
            return torch.zeros(
                shape, dtype=probes.accumulation_dtype(leaf.device), device=leaf.device
            )
        if self.estimator == "masked":
            return self._masked(features, leaf, indices, n_probes, keep_graph)
        n_features = features.shape[1]
        if n_counted is not None and self.estimator in WITHOUT_REPLACEMENT:
            n_probes = min(
                n_probes, max(n_counted, n_features)
            )  # a probe for the variance alone may not exist
        places = indices.to(leaf.device)
        if self.estimator == "aligned":
            vectors = probes.aligned(self.seed, places, n_probes, self.bases[layer])
        else:
            vectors = _OUTPUT_PROBES[self.estimator](self.seed, places, n_probes, n_features)
        scale = 1.0
        if (
            self.estimator == "outputs"
        ):  # sqrt(p) e_j: rounded to half precision, sqrt(p) would scale every term
            vectors, scale = vectors != 0, float(n_features)
        gradients = pull_back(features, leaf, vectors.unbind(1), keep_graph=keep_graph)
        return scale * torch.stack([self._squares(gradient) for gradient in gradients])

    def _norms(
        self, terms: Tensor, n_counted: int | None, features: Tensor, leaf: Tensor
    ) -> SquaredNorms:
        if self.estimator == "exact" or not features.requires_grad:
            total = terms[0]
            return SquaredNorms.exact(total[0], total[1] if self.input_std is not None else None)
        n_distinct = {
            "orthogonal": features.shape[1],
            "outputs": features.shape[1],
            "masked": features.shape[1] * leaf[0].numel(),
        }
        return mean_of_probes(terms, n_counted, n_distinct.get(self.estimator, math.inf))

    def _probe_inputs(
        self, take: Take, x: Tensor, indices: Tensor, n_probes: int, n_counted: int | None
    ) -> ProbedBatch:
        """Input probes: one forward-mode sweep each, for all layers at once."""
        vectors = probes.rademacher(self.seed, indices.to(x.device), n_probes, x[0].numel())
        probed = [u.view_as(x).to(x.dtype) for u in vectors.unbind(1)]
        sweeps = [push_forward(take, x, u) for u in probed]
        features, output, _ = sweeps[0]
        _check_features(features)
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
        return ProbedBatch(
            features, output, terms, [mean_of_probes(row, n_counted) for row in terms], 0.0
        )

    def _exact(
        self, take: Take, layer: int, features: Tensor, leaf: Tensor, keep_graph: bool
    ) -> Tensor:
        """Sum of squares over the p output rows, or over the d input columns where there are fewer
        of them.
        """
        if leaf[0].numel() < features.shape[1]:
            try:
                return self._sum_columns(take, layer, leaf.detach())
            except NotImplementedError:  # an operation without forward mode: the rows say the same
                pass
        gradients = pull_back(
            features, leaf, unit_vectors(features.shape[1], features), keep_graph=keep_graph
        )
        return sum(
            map(self._squares, gradients), torch.zeros((), dtype=torch.float32, device=leaf.device)
        )

    def _sum_columns(self, take: Take, layer: int, x: Tensor) -> Tensor:
        """Forward mode: one Jacobian-vector product for each input coordinate."""
        scale = channel_scale(self.input_std, x).expand_as(x[:1]).flatten()
        n_rows = 1 if self.input_std is None else 2
        total = torch.zeros(
            n_rows, len(x), dtype=probes.accumulation_dtype(x.device), device=x.device
        )
        for coordinate, vector in enumerate(unit_vectors(x[0].numel(), x)):
            squares = sum_of_squares(
                push_forward(take, x, vector.view_as(x[0]).expand_as(x))[2][layer]
            )
            total += torch.stack([squares, squares / scale[coordinate] ** 2])[:n_rows]
        return total

    def _masked(
        self, features: Tensor, leaf: Tensor, indices: Tensor, n_entries: int, keep_graph: bool
    ) -> Tensor:
        """N times the squares of K sampled entries."""
        values, inputs = masked_entries(
            features,
            leaf,
            indices.to(leaf.device),
            seed=self.seed,
            n_entries=n_entries,
            keep_graph=keep_graph,
        )
        squares = values.square() * (leaf[0].numel() * features.shape[1])
        if self.input_std is None:
            return squares.mT[:, None]
        scale = channel_scale(self.input_std, leaf).expand_as(leaf[:1]).flatten()[inputs]
        return torch.stack([squares.mT, (squares / scale**2).mT], dim=1)

    def _squares(self, gradient: Tensor) -> Tensor:
        """Squared norm of each example's gradient, plain and in units of the input scale: (1 or 2,
        n).
        """
        plain = sum_of_squares(gradient)
        if self.input_std is None:
            return plain[None]
        return torch.stack(
            [plain, sum_of_squares(gradient / channel_scale(self.input_std, gradient))]
        )


def check_estimator(estimator: str, n_probes: int | Literal["auto"]) -> None:
    """Raise a ValueError for an unknown estimator or a count of probes below 1."""
    if estimator not in get_args(Estimator):
        names = ", ".join(get_args(Estimator))
        raise ValueError(
            f"estimator: expected one of {names}, got {estimator!r}; do estimator='rademacher'"
        )
    if estimator == "masked" and n_probes == "auto":
        raise ValueError(
            "n_probes: expected the number of entries to keep of each Jacobian for "
            "estimator='masked', got 'auto'; "
            "do n_probes=1000"
        )
    if n_probes != "auto" and (
        isinstance(n_probes, bool) or not isinstance(n_probes, int) or n_probes < 1
    ):
        raise ValueError(
            f"n_probes: expected a whole number of at least 1, got {n_probes!r}; do n_probes=1"
        )


def _principal_directions(features: Tensor) -> Tensor:
    """The leading eigenvectors (p, k) of the covariance of ``features`` (n, p), without forming it."""
    centred = (features - features.mean(dim=0)).to(probes.accumulation_dtype(features.device))
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:_ALIGNED_DIRECTIONS]
    # in half precision the directions would have other lengths than 1
    return directions.mT.to(torch.promote_types(features.dtype, torch.float32))


def _check_features(features: list[Tensor]) -> None:
    for z in features:
        check_finite("features", z.detach())
