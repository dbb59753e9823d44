"""Labelled features as the transferability scores read them: float64, classes 0..C - 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels, labelled_arrays
from geocollapse.transfer.label_free import LabelFree, label_free

# a squared singular value up to this many roundings of the largest is none
_ROUNDINGS = 8.0
_BLOCK = 128  # columns of a Gram matrix made at a time


class Spectrum(NamedTuple):
    """Eigenvalues of a Gram matrix X^T X above rounding, descending (r,), and vectors (p, r)."""

    eigenvalues: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Spectrum:
        """Decompose X^T X for the rows of ``x`` (n, p)."""
        eigenvalues, vectors = torch.linalg.eigh(_lower_gram(x))
        kept = eigenvalues > eigenvalue_cut(eigenvalues, len(x))
        return cls(eigenvalues[kept].flip(0), vectors[:, kept].flip(1))


@dataclass(frozen=True, eq=False)
class Sample:
    """Features (n, p) in float64 with the row of each example's class.

    Attributes:
        features: (n, p), never changed in place: they may share the caller's memory.
        index: class of each example (n,), 0..C - 1 in the order of the labels.
        counts: examples of each class, float64 (C,).
        known_baselines: label-free baselines of these features, if they are known already.
    """

    features: Tensor
    index: Tensor
    counts: Tensor
    known_baselines: LabelFree | None = None

    @classmethod
    def of(cls, features: Array, labels: Labels) -> Sample:
        """Check features and labels; gaps in the labels do not matter.

        Raises:
            TypeError: features that are not floating point, labels that are neither integers nor
                names.
            ValueError: wrong shapes, NaN features, negative labels, fewer than two classes.
        """
        x, y = labelled_arrays(features, labels)
        classes, index, counts = torch.unique(y, return_inverse=True, return_counts=True)
        if len(classes) < 2:
            found = f"label {int(classes[0])} only" if len(classes) else "no examples"
            raise ValueError(
                f"labels: expected at least two classes, got {found}; do pass examples of another "
                "class"
            )
        return cls(x.double(), index, counts.double())

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.counts)

    @property
    def weights(self) -> Tensor:
        """One for each example (n,)."""
        return self.features.new_ones(len(self.features))

    def relabelled(self, index: Tensor) -> Sample:
        """The same features with the classes ``index`` (n,), of the same counts."""
        return replace(self, index=index)

    def subset(self, rows: Tensor, features: Tensor) -> Sample:
        """The examples at ``rows``, with their ``features``; a class may lose all of them."""
        index = self.index[rows]
        return Sample(features, index, torch.bincount(index, minlength=self.n_classes).double())

    @cached_property
    def reduced(self) -> Tensor:
        """Features in coordinates of their span (n, min(n, p)): all distances and angles stay."""
        n, p = self.features.shape
        if p <= n:
            return self.features
        return torch.linalg.qr(self.features.T, mode="r").R.T.contiguous()

    @cached_property
    def centred(self) -> Tensor:
        """``reduced`` less its mean.

        Raises:
            ValueError: features that are the same for all examples.
        """
        mean = self.reduced.mean(dim=0)
        z = self.reduced - mean
        rounding = _ROUNDINGS * torch.finfo(z.dtype).eps * float(mean.norm())
        if float(torch.linalg.vector_norm(z, ord=torch.inf)) <= rounding:
            raise ValueError(
                "features: expected examples that differ by more than rounding, got the same "
                "features for all; do check the layer"
            )
        return z

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigenvalues and eigenvectors of the total scatter, of ``centred``."""
        return Spectrum.of(self.centred)

    @cached_property
    def baselines(self) -> LabelFree:
        """The label-free baselines."""
        return self.known_baselines or label_free(self.reduced)

    @cached_property
    def leverages(self) -> Tensor:
        """(f - mu)^T (sum_x (f - mu)(f - mu)^T)^+ (f - mu) of each example (n,), 0 to 1."""
        eigenvalues, vectors = self.spectrum
        return (self.centred @ vectors).square() @ (1.0 / eigenvalues)

    @cached_property
    def raw_spectrum(self) -> Spectrum:
        """Eigenvalues and eigenvectors of F^T F, of ``reduced``: nothing is subtracted."""
        return Spectrum.of(self.reduced)

    def class_sums(self, values: Tensor) -> Tensor:
        """Sums of ``values`` (n, ...) over the classes (C, ...)."""
        return values.new_zeros(self.n_classes, *values.shape[1:]).index_add(0, self.index, values)


def _lower_gram(x: Tensor) -> Tensor:
    """X^T X on and below its diagonal blocks, of which ``eigh`` reads the lower triangle."""
    width = x.shape[1]
    gram = x.new_zeros(width, width)
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        gram[start:stop, :stop] = x[:, start:stop].T @ x[:, :stop]
    return gram


def eigenvalue_cut(eigenvalues: Tensor, n: int) -> float:
    """Value up to which an eigenvalue of a Gram matrix of ``n`` examples may be rounding."""
    size = max(n, len(eigenvalues))
    return _ROUNDINGS * size * torch.finfo(eigenvalues.dtype).eps * float(eigenvalues[-1])


def class_standard_error(influences: Tensor, sample: Sample) -> float:
    """Standard error of a value from its influences (n,), for examples drawn within classes.

        SE^2 = sum_c n_c/(n_c - 1) sum_{x of c} (I(x) - mean_c I)^2,    I(x) = d value / d weight

    The infinitesimal jackknife: what a bootstrap of examples within classes tends to for many
    replicates and small changes, without the copies that leave-one-out scores take for neighbours.
    A class of one example adds nothing.

    Source: Jaeckel (1972); Efron (1982), chapter 6.
    """
    means = sample.class_sums(influences) / sample.counts
    squares = sample.class_sums((influences - means[sample.index]).square())
    factors = sample.counts / (sample.counts - 1.0).clamp_min(1.0)
    return float((factors * squares).sum().sqrt())


def influences(value: Callable[[Tensor], Tensor], sample: Sample) -> Tensor:
    """Derivatives of ``value`` in the weights of the examples (n,), at weights of one."""
    weights = sample.weights.requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(value(weights), weights)
    return gradient


def principal_components(sample: Sample, most: int, share: float = 1.0) -> Tensor:
    """Coordinates (n, q) of the leading principal components, in units of the total variance.

    q is the least number that holds ``share`` of the variance, at most ``most`` and at most the
    components above rounding.
    """
    eigenvalues, vectors = sample.spectrum
    total = eigenvalues.sum()
    wanted = int((eigenvalues.cumsum(dim=0) / total < share).sum()) + 1
    kept = vectors[:, : min(most, wanted)]
    return sample.centred @ kept / (total / len(sample.index)).sqrt()
