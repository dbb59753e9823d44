"""What each example adds to the measures of collapse, gathered in one pass over the residuals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.arrays import row_slices
from geocollapse.collapse.decisions import NearestMeans
from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.collapse.projections import Chunk
from geocollapse.collapse.variability import BetweenSpectrum, between_spectrum

MAX_LINEARISED_CLASSES = 2048  # with more, the (C, C) matrices are too many
_SUBSET_ROWS = 2048  # examples whose products give those of the covariances
_SUBSET_NUMBERS = 1 << 23  # of their residuals, which are kept at once
_MOST_OF_A_CLASS = 32
_FEWEST_OF_A_CLASS = 4


@dataclass(frozen=True)
class Subset:
    """Moments from the same few examples of every class.

    Only corrections of order 1/n need them: rough values will do.

    Attributes:
        traces: tr(Sigma_i Sigma_j) of all pairs of classes (C, C).
        traces_outside: that of the covariances outside the span of the class means (C, C).
        margin_scale: standard deviation of the margin to the nearest other mean.
    """

    traces: Tensor
    traces_outside: Tensor
    margin_scale: float


def subset_moments(data: LabelledFeatures, nearest: NearestMeans, basis: Tensor) -> Subset:
    """Products of covariances and the scale of margins, from up to 32 examples of each class.

    Args:
        data: features and labels, two examples of each class at least.
        nearest: the class means as a classifier.
        basis: orthonormal columns (p, R) that span the centred means.
    """
    n_classes, n_features = data.statistics.offsets.shape
    limit = min(_SUBSET_ROWS // n_classes, _SUBSET_NUMBERS // max(1, n_classes * n_features))
    rows = _spread_rows(data, min(_MOST_OF_A_CLASS, max(_FEWEST_OF_A_CLASS, limit)))
    z, index = data.residuals_of(rows)
    outside = torch.addmm(z, z @ basis, basis.T, alpha=-1.0)
    scale = _margin_scale(z.to(data.projection_dtype), index, nearest)
    of_all, of_outside = (_traces(part, index, data) for part in (z, outside))
    return Subset(of_all, of_outside, scale)


def _traces(z: Tensor, index: Tensor, data: LabelledFeatures) -> Tensor:
    """tr(Sigma_i Sigma_j) = E <z, z'>^2 over independent pairs of z from i and z' from j (C, C).

    The residuals of one class sum to 0, so <z, z'> has mean -Var_i/n_i there, whose square is
    taken off.
    """
    z = z.to(data.projection_dtype)
    counts = data.statistics.counts
    sums = z.new_zeros(len(counts), len(counts))
    for part in row_slices(len(z), len(z), z.device):
        products = (z @ z[part].T).square_()
        by_class = z.new_zeros(len(counts), products.shape[1]).index_add_(0, index, products)
        sums.index_add_(0, index[part], by_class.T)
    squares = torch.linalg.vecdot(z, z)
    own = sums.new_zeros(len(counts)).index_add_(0, index, squares.square())
    n = index.bincount(minlength=len(counts))
    sums.diagonal().sub_(own)
    traces = sums.double() / (torch.outer(n, n) - n.diag())
    variances = sums.new_zeros(len(counts)).index_add_(0, index, squares).double() / n
    traces.diagonal().sub_((variances / counts).square()).clamp_(min=0.0)
    return traces


def _spread_rows(data: LabelledFeatures, n_each: int) -> Tensor:
    """Rows of at most ``n_each`` examples of every class, spread evenly over it."""
    order = data.index.argsort(stable=True)
    counts = data.statistics.counts.long()
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(order), device=order.device) - starts.repeat_interleave(counts)
    step = (counts / n_each).ceil().clamp(min=1.0).long().repeat_interleave(counts)
    return order[place % step == 0]


def _margin_scale(z: Tensor, index: Tensor, nearest: NearestMeans) -> float:
    """Standard deviation of the margin to the nearest other mean."""
    means = nearest.means.to(z.dtype)
    steps = z @ means.T
    steps -= steps.gather(1, index[:, None])
    steps -= nearest.half_distances.index_select(0, index)
    return float(steps.scatter_(1, index[:, None], -torch.inf).amax(dim=1).std())


class ExampleTerms:
    """Reads what each example adds to CDNV, directional CDNV, NC1 and the nearest-mean error.

    Every class needs two examples. Besides some numbers of each example it sums matrices (C, p) and
    (p, K), which tell how the measures change with the class means.

    Attributes:
        norms: ||z||^2 (n,).
        whitened: sum_{k <= R} <z, v_k>^2 / s_k^2 (n,), the example's term of NC1.
        along: sum_j <z, mu_i - mu_j>^2 / d_ij^4 (n,), its term of directional CDNV.
        margins: the largest <z, mu_b - mu_i> - d_ib^2/2 over the other classes b (n,): above 0 the
            nearest mean is that of another class.
        rivals: that class b (n,).
        within: Sigma_W v_k (p, K), with equal class weights.
        spanned: sum of ||a||^2 over each class (C,), a_k = <z, v_k> for k <= R.
        moves: u_c / s (C, R), of M = U S V^T: how much of a class is in each direction.
        moved: sum of a <a, u_c / s> over each class (C, R).
        skewed: sum of a times the whitened term over each class (C, R).
        skewed_outside: sum of a (||z||^2 - ||a||^2) over each class (C, R).
        squares: sum of <z, mu_i - mu_j>^2 over the examples of class i (C, C).
    """

    @classmethod
    def of(cls, data: LabelledFeatures) -> ExampleTerms | None:
        """The reader; None if the means coincide, for a class of one example, or many classes."""
        counts = data.statistics.counts
        if len(counts) > MAX_LINEARISED_CLASSES or bool((counts < 2).any()):
            return None
        spectrum = between_spectrum(data.centred_means)
        return None if spectrum is None or spectrum.rank == 0 else cls(data, spectrum)

    def __init__(self, data: LabelledFeatures, spectrum: BetweenSpectrum) -> None:
        statistics = data.statistics
        dtype = data.projection_dtype
        n_classes, n_features = statistics.offsets.shape
        width = spectrum.basis.shape[1]
        n_examples = len(data.features)
        self.spectrum = spectrum
        self.nearest = NearestMeans(data)
        self.subset = subset_moments(data, self.nearest, spectrum.basis[:, : spectrum.rank])
        self.width = 6 * n_classes
        counts = statistics.counts
        squared = data.squared_distances
        equal = squared <= statistics.rounding_squared()
        self.inverse = squared.masked_fill(equal, torch.nan).reciprocal().fill_diagonal_(0.0)
        self._inverse_square = self.inverse.square().to(dtype)
        self._whitening = spectrum.values[: spectrum.rank].reciprocal().to(dtype)
        self._per_class = (1.0 / (counts - 1.0) / n_classes).to(dtype)
        self._per_example = (2.0 / counts).to(dtype)
        # Silverman's rule for the density of margins at 0
        self._bandwidth = 1.06 * self.subset.margin_scale * n_examples**-0.2
        empty = counts.new_empty
        self.norms = empty(n_examples)
        self.whitened = empty(n_examples)
        self.along = empty(n_examples)
        self.margins = empty(n_examples)
        self.rivals = empty(n_examples, dtype=torch.int64)
        self.within = torch.zeros(n_features, width, dtype=dtype, device=counts.device)
        self.spanned = counts.new_zeros(n_classes)
        left = data.centred_means @ spectrum.whitening
        self.moves = left / spectrum.values[: spectrum.rank]
        self._rounded_moves = self.moves.to(dtype)
        self.moved = torch.zeros_like(self._rounded_moves)
        self.skewed = torch.zeros_like(self.moved)
        self.skewed_outside = torch.zeros_like(self.moved)
        self.squares = counts.new_zeros(n_classes, n_classes)
        self._directional = self.within.new_zeros(n_classes, n_features)
        self._decisions = self.within.new_zeros(n_classes, n_features)
        self._moves = self.within.new_zeros(n_classes, n_classes)

    def add(self, chunk: Chunk) -> None:
        """Add the examples of one chunk."""
        z = chunk.residuals
        inside = chunk.coordinates[:, : self.spectrum.rank]
        norms = chunk.norms.square()
        self.norms[chunk.rows] = norms.double()
        weights = self._per_class.index_select(0, chunk.index)[:, None]
        self.within.addmm_(z.T, chunk.coordinates * weights)
        spanned = torch.linalg.vecdot(inside, inside)
        whitened = (inside * self._whitening).square().sum(dim=1)
        along = torch.linalg.vecdot(inside, self._rounded_moves.index_select(0, chunk.index))
        self.whitened[chunk.rows] = whitened.double()
        self.spanned.index_add_(0, chunk.index, spanned.double())
        self.moved.index_add_(0, chunk.index, inside * along[:, None])
        self.skewed.index_add_(0, chunk.index, inside * whitened[:, None])
        self.skewed_outside.index_add_(0, chunk.index, inside * (norms - spanned)[:, None])
        self._add_steps(chunk)
        self._add_margins(chunk)

    def _add_steps(self, chunk: Chunk) -> None:
        """Add <z, mu_j - mu_i> of all classes j, for directional CDNV."""
        steps = chunk.steps
        weighted = steps * self._inverse_square.index_select(0, chunk.index)
        self.along[chunk.rows] = torch.linalg.vecdot(weighted, steps).double()
        self.squares.index_add_(0, chunk.index, steps.double().square())
        weighted *= self._per_example.index_select(0, chunk.index)[:, None]
        weighted.scatter_(1, chunk.index[:, None], -weighted.sum(dim=1, keepdim=True))
        self._directional.addmm_(weighted.T, chunk.residuals)

    def _add_margins(self, chunk: Chunk) -> None:
        """Add the margins, and how fast the error grows where a mean moves: the density at 0."""
        own = chunk.index[:, None]
        margins, rivals = self.nearest.margins(chunk).scatter_(1, own, -torch.inf).max(dim=1)
        self.margins[chunk.rows] = margins.double()
        self.rivals[chunk.rows] = rivals
        if self._bandwidth <= 0.0:
            return
        density = torch.exp(-0.5 * (margins / self._bandwidth).square())
        density *= 1.0 / (self._bandwidth * (2.0 * torch.pi) ** 0.5 * len(self.margins))
        moves = torch.zeros_like(chunk.steps)
        moves.scatter_(1, rivals[:, None], density[:, None])
        self._moves.index_add_(0, chunk.index, moves)
        moves.scatter_(1, own, -density[:, None])
        self._decisions.addmm_(moves.T, chunk.residuals)

    @property
    def directional_slopes(self) -> Tensor:
        """C(C-1) d/d mu_i of the numerators of directional CDNV (C, p)."""
        return self._directional.double()

    @property
    def decision_slopes(self) -> Tensor:
        """d/d mu_i of the nearest-mean error (C, p).

        f - mu_b = z + mu_i - mu_b for a rival b of an example of class i.
        """
        moves = self._moves.double()
        means = self.nearest.means
        return self._decisions.double() + moves.T @ means - moves.sum(dim=0)[:, None] * means
