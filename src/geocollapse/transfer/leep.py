"""LEEP from the outputs of a source head, and NLEEP from a Gaussian mixture of the features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels, as_features
from geocollapse.transfer.sample import Sample, principal_components

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import ThreadpoolController

# Li et al. (2021) and the code of later comparisons
COMPONENTS_PER_CLASS = 5
VARIANCE_SHARE = 0.8
MAX_DIRECTIONS = 64
EXAMPLES_PER_COMPONENT = 10
MAX_STEPS = 20
REFIT_STEPS = 4
_SUM = 1e-3  # by which a row of probabilities may miss 1, as in half precision


def leep(probabilities: Array, labels: Labels) -> float:
    """LEEP: log likelihood of the labels, predicted through the classes of the source head.

        LEEP = 1/n sum_i log sum_z P(y_i | z) theta_z(x_i),
            P(y | z) = sum_{i: y_i = y} theta_z(x_i)/sum_i theta_z(x_i)

    theta(x) are the probabilities that the source head gives to its own classes z. Source classes
    that no example gets any probability of are left out.

    Range (-inf, 0], at least minus the entropy of the labels but for rounding. In nats. Invariant
    under permutation of the examples and of the source classes, relabelling and gaps in the labels.

    It misleads where the head is far from the task, over-confident, or where models have heads of
    different size: more source classes fit more labels. It says nothing about what a new head could
    read from the features. O(n k) time for k source classes.

    Source: Nguyen, Hassner, Seeger, Archambeau (2020), ICML, arXiv 2002.12462, eq. 1 and 2.

    Args:
        probabilities: (n, k) of the source head, rows that sum to 1: softmax of its logits.
        labels: (n,) integers or names, target classes.

    Raises:
        TypeError: probabilities that are not floating point, labels that are neither integers nor
            names.
        ValueError: wrong shapes, NaN, fewer than two classes, rows that are no probabilities.

    Examples:
        >>> theta = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8]])
        >>> round(leep(theta, torch.tensor([0, 0, 1, 1])), 4)
        -0.2955
    """
    theta = as_features(probabilities)
    sample = Sample.of(theta, labels)
    _check_probabilities(sample.features)
    return float(expected_log_likelihood(sample.features, sample, sample.weights))


def nleep(
    features: Array, labels: Labels, *, n_components: int | None = None, seed: int = 0
) -> float:
    """NLEEP: LEEP with a Gaussian mixture of the features in place of the source head.

        theta_z(x) = P(z | f(x)),    z the components of a mixture fitted without labels

    The mixture is fitted by expectation maximisation (scikit-learn, k-means++ start, 20 steps) on
    the principal components that hold 80 % of the variance, at most 64, with **diagonal
    covariances**: full ones, as published, have more parameters than a class has examples. By
    default there are 5 components a class, at most one for 10 examples.

    Range (-inf, 0]; in nats. Invariant under permutation (another start, so another mixture),
    relabelling, gaps in the labels, translation, rotation (to rounding) and scaling.

    It misleads because the mixture knows no classes: with few components it cannot, with many it
    fits any labels, also shuffled ones; a maximum that is not the best moves it by some percent
    between seeds. O(steps n components directions) time: 10,000 examples and 500 components take
    some seconds.

    Source: Li et al. (2021), CVPR, arXiv 2011.11200, section 3.2; five components a class:
    Shao et al. (2022), arXiv 2207.03036.

    Args:
        features: (n, p) floating point.
        labels: (n,) integers, or names of classes.
        n_components: of the mixture; None for the default above.
        seed: of the start; the global random state is left alone.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor
            names.
        ValueError: wrong shapes, NaN features, fewer than two classes, the same features for all
            examples, a number of components that is not 2 to n.

    Examples:
        >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> y = torch.arange(200) % 2
        >>> nleep(x + 5 * y[:, None], y, n_components=2) > -0.01
        True
    """
    sample = Sample.of(features, labels)
    posteriors = Mixture.of(sample, n_components, seed).posteriors.to(sample.features.device)
    return float(expected_log_likelihood(posteriors, sample, sample.weights))


def expected_log_likelihood(theta: Tensor, sample: Sample, weights: Tensor) -> Tensor:
    """LEEP (0-d) of weighted examples from probabilities (n, k) of z."""
    joint = sample.class_sums(weights[:, None] * theta)
    marginal = joint.sum(dim=0)
    conditional = joint / torch.where(marginal > 0.0, marginal, 1.0)  # 0/1 where z is never seen
    likelihood = torch.linalg.vecdot(theta, conditional[sample.index])
    return (weights * likelihood.log()).sum() / weights.sum()


@dataclass(frozen=True, eq=False)
class Mixture:
    """A Gaussian mixture of the principal components; see ``nleep``.

    Attributes:
        coordinates: principal components of the examples, numpy (n, q).
        fitted: scikit-learn's mixture.
    """

    coordinates: np.ndarray
    fitted: GaussianMixture

    @classmethod
    def of(cls, sample: Sample, n_components: int | None = None, seed: int = 0) -> Mixture:
        """Fit a mixture.

        Raises:
            ValueError: the same features for all examples, a number of components that is not 2
                to n.
        """
        n = len(sample.index)
        if n_components is None:
            by_class = COMPONENTS_PER_CLASS * sample.n_classes
            n_components = max(2, min(by_class, n // EXAMPLES_PER_COMPONENT))
        if not 2 <= n_components <= n:
            raise ValueError(
                f"n_components: expected 2 to {n} (n) components, got {n_components}; do "
                "n_components=None"
            )
        coordinates = principal_components(sample, MAX_DIRECTIONS, VARIANCE_SHARE).cpu().numpy()
        settings = {"init_params": "k-means++", "max_iter": MAX_STEPS, "random_state": seed}
        return cls(coordinates, _fitted(coordinates, n_components, settings))

    @property
    def posteriors(self) -> Tensor:
        """P(z | f(x)) (n, components)."""
        with _one_blas_thread():
            return torch.from_numpy(self.fitted.predict_proba(self.coordinates)).contiguous()

    def refitted(self, rows: Tensor) -> Mixture:
        """The mixture of some examples: a few steps on from this one."""
        coordinates = self.coordinates[rows.cpu().numpy()]
        settings = {
            "init_params": "random_from_data",  # not used: all parameters are given
            "weights_init": self.fitted.weights_,
            "means_init": self.fitted.means_,
            "precisions_init": self.fitted.precisions_,
            "max_iter": REFIT_STEPS,
            "random_state": 0,
        }
        return Mixture(coordinates, _fitted(coordinates, len(self.fitted.weights_), settings))


def _fitted(
    coordinates: np.ndarray, n_components: int, settings: Mapping[str, object]
) -> GaussianMixture:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(n_components, covariance_type="diag", **settings)
    with warnings.catch_warnings(), _one_blas_thread():
        warnings.simplefilter("ignore", ConvergenceWarning)  # so many steps are the definition
        return mixture.fit(coordinates)


def _one_blas_thread() -> AbstractContextManager[object]:
    """Keep numpy's own threads out: after a product they spin, and torch waits for their cores."""
    return _thread_pools().limit(limits=1, user_api="blas")


@lru_cache(maxsize=1)
def _thread_pools() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _check_probabilities(theta: Tensor) -> None:
    sums = theta.sum(dim=1)
    wrong = ((sums - 1.0).abs() > _SUM) | (theta < 0.0).any(dim=1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"probabilities: expected rows of numbers from 0 that sum to 1, got "
            f"{int(wrong.sum())} others (first at row {row}, sum {float(sums[row]):.3g}); do "
            "logits.softmax(dim=1)"
        )
